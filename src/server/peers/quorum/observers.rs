//! The port for observers (`observerMasterPort`), which is open while this server follows.
//!
//! It is opened and closed each time rather than once, since a server that leads may leave the
//! address to a follower on the same host, and since who dials a server that takes no observers
//! should be refused and go on to the next.

use std::net::SocketAddr;
use std::time::Duration;

use crate::io::listener;
use crate::io::ring::Token;
use crate::server::peers::listen;
use crate::time::Time;

use super::{Command, KEEP_ALIVE, QuorumPort, token, warn_of_exposure};

/// How long to wait before an address that was taken is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The port's state.
#[derive(Default)]
pub(super) struct Door {
    /// Whether observers are taken.
    is_wanted: bool,
    open: Vec<(Token, SocketAddr)>,
    /// When what could not be opened is tried again.
    retry_at: Option<Time>,
}

impl Door {
    /// Whether a listener is this port's and takes observers.
    pub fn takes(&self, listener: Token) -> bool {
        self.open.iter().any(|(token, _)| *token == listener)
    }

    /// The listeners that there are.
    pub fn open(&self) -> impl Iterator<Item = &(Token, SocketAddr)> {
        self.open.iter()
    }

    pub fn poll_timeout(&self) -> Option<Time> {
        self.retry_at
    }
}

impl<R: Send + 'static> QuorumPort<R> {
    pub(super) fn set_accepting_observers(&mut self, is_accepting: bool) {
        self.door.is_wanted = is_accepting;
        if is_accepting {
            self.open_door();
            return;
        }
        self.door.retry_at = None;
        for (token, _) in std::mem::take(&mut self.door.open) {
            self.commands.push(Command::Close(token));
        }
        self.lose_nameless("this server does not follow any more");
    }

    /// Opens what is not open.
    fn open_door(&mut self) {
        self.door.retry_at = None;
        let keep_alive = self.settings.keep_alive.then_some(KEEP_ALIVE);
        for address in self.settings.listen_for_observers.clone() {
            if self.door.open.iter().any(|(_, open)| *open == address) {
                continue;
            }
            match listen::open(address, keep_alive) {
                Ok(socket) => {
                    let bound = listener::local_address(&socket).unwrap_or(address);
                    warn_of_exposure(bound);
                    tracing::info!("observers are served at {bound}");
                    let token = token(self.link_next);
                    self.link_next += 1;
                    self.door.open.push((token, address));
                    self.commands.push(Command::Listen(token, socket));
                }
                Err(error) => {
                    tracing::warn!("observers are not served: {error}");
                    self.door.retry_at = Some(self.now + RETRY);
                }
            }
        }
    }

    /// Tries again what could not be opened.
    pub(super) fn retry_door(&mut self) {
        if self.door.is_wanted && self.door.retry_at.is_some_and(|at| at <= self.now) {
            self.open_door();
        }
    }
}
