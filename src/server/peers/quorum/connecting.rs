//! How links come to be: learners that connect, and the leader that is dialed.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::io::listener;
use crate::io::ring::Token;
use crate::server::peers::dial::{Dialed, PortKind, Target};
use crate::server::peers::link::{End, Link, Phase};
use crate::time::Time;
use crate::wire::quorum::ServerId;
use crate::zab::output::LinkId;

use super::{Command, EARLY_MAX, KEEP_ALIVE, PeerEvent, QuorumPort, token};

/// How often a leader that refuses is dialed again. With the delays between them that is half a
/// second, as long as Apache's learner tries (five times, 100 ms apart).
const TRIES_MAX: u32 = 8;

/// The delay after the first try, which doubles up to the largest: a leader that is about to open
/// its port is found at once, and one that is gone is not beset.
const RETRY_DELAY: Duration = Duration::from_millis(10);
const RETRY_DELAY_MAX: Duration = Duration::from_millis(100);

/// A leader that is being dialed.
pub(super) struct Dialing {
    to: ServerId,
    /// It is dialed at its port for observers.
    is_for_observers: bool,
    /// The dialer's name for the try under way.
    number: u64,
    begun: Time,
    tries: u32,
    /// When the next try is due; `None` while one is under way.
    pub retry_at: Option<Time>,
}

impl<R: Send + 'static> QuorumPort<R> {
    pub(super) fn set_accepting(&mut self, is_accepting: bool) {
        self.is_accepting = is_accepting;
        if is_accepting {
            for (_, peer, socket) in std::mem::take(&mut self.early) {
                self.attach(socket, peer, End::Learner);
                self.stats.accepted += 1;
            }
            return;
        }
        self.early.clear();
        self.lose_nameless("this server does not lead any more");
    }

    /// Ends the links of those who have not said who they are.
    pub(super) fn lose_nameless(&mut self, reason: &str) {
        let greeting = self.links.values().filter(|it| matches!(it.phase, Phase::Greeting));
        let greeting: Vec<LinkId> = greeting.map(|it| it.id).collect();
        for link in greeting {
            self.lose(link, reason);
        }
    }

    pub(super) fn accept(&mut self, listener: Token, socket: OwnedFd) {
        // A connection that is gone already has no peer, and needs no place.
        let Ok(peer) = listener::peer_address(&socket) else {
            return;
        };
        if let Some(reason) = self.refusal(peer) {
            self.stats.refused += 1;
            tracing::warn!("{peer} is refused at the quorum port: {reason}");
            return;
        }
        let is_early = !self.is_accepting && !self.door.takes(listener);
        if !is_early {
            self.stats.accepted += 1;
            self.attach(socket, peer, End::Learner);
        } else if self.listeners.iter().any(|(token, _)| *token == listener) {
            self.early.push_back((self.now + EARLY_MAX, peer, socket));
        }
    }

    fn refusal(&self, peer: SocketAddr) -> Option<&'static str> {
        if self.links.len() + self.early.len() >= self.settings.links_max {
            return Some("there are too many connections already");
        }
        let ip = peer.ip();
        let links = self.links.values().map(|it| it.peer);
        let early = self.early.iter().map(|(_, peer, _)| *peer);
        let same = links.chain(early).filter(|it| it.ip() == ip).count();
        (same >= self.settings.links_per_address_max)
            .then_some("its address has too many connections already")
    }

    fn attach(&mut self, socket: OwnedFd, peer: SocketAddr, end: End) -> LinkId {
        let keep_alive = self.settings.keep_alive.then_some(KEEP_ALIVE);
        if let Err(error) = listener::tune(&socket, true, keep_alive) {
            tracing::debug!("{peer}: {error}");
        }
        let id = LinkId(self.link_next);
        let token = token(self.link_next);
        self.link_next += 1;
        self.links.insert(id, Box::new(Link::new(id, token, peer, end, self.now)));
        self.commands.push(Command::Attach(token, socket));
        id
    }

    /// Dials a leader, or a server's port for observers, in place of any that is being dialed.
    pub(super) fn connect(&mut self, to: ServerId, is_for_observers: bool) {
        let (begun, number) = (self.now, self.link_next);
        self.link_next += 1;
        self.dialing =
            Some(Dialing { to, is_for_observers, number, begun, tries: 0, retry_at: Some(begun) });
        self.redial();
    }

    /// How long a leader is tried to be reached.
    fn connect_timeout(&self) -> Duration {
        let settings = &self.settings;
        let ticks = match settings.connect_limit_ticks {
            0 => settings.init_limit_ticks,
            ticks => ticks,
        };
        settings.tick * ticks.max(1)
    }

    /// Begins the next try, where one is due.
    pub(super) fn redial(&mut self) {
        let timeout = self.connect_timeout();
        let now = self.now;
        let Some(dialing) = &mut self.dialing else {
            return;
        };
        if dialing.retry_at.is_none_or(|at| at > now) {
            return;
        }
        dialing.retry_at = None;
        dialing.tries += 1;
        let server = dialing.to;
        let peer = self.settings.peers.iter().find(|(id, _)| *id == server);
        let Some((_, addresses)) = peer else {
            tracing::error!("server {server} leads, and the configuration does not have it");
            self.dialing = None;
            self.events.push_back(PeerEvent::ConnectFailed { to: server });
            return;
        };
        let mut addresses = addresses.clone();
        if dialing.is_for_observers {
            let port = self.settings.observer_port.expect("who dials that port has it configured");
            addresses.iter_mut().for_each(|address| address.1 = port);
        }
        self.dialer.dial(Target {
            server,
            port_kind: PortKind::Quorum,
            addresses,
            timeout: timeout.saturating_sub(now.since(dialing.begun)),
            number: dialing.number,
        });
    }

    /// Takes the outcome of a try. That of a leader that nobody wants any more is dropped, and
    /// with it the socket.
    pub(super) fn dialed(&mut self, dialed: Dialed) {
        let timeout = self.connect_timeout();
        let now = self.now;
        let Some(dialing) = &mut self.dialing else {
            return;
        };
        if dialing.number != dialed.number {
            return;
        }
        let to = dialing.to;
        let connected = dialed.result.and_then(|it| Ok((listener::peer_address(&it)?, it)));
        match connected {
            Ok((peer, socket)) => {
                self.dialing = None;
                self.stats.connected += 1;
                let link = self.attach(socket, peer, End::Leader);
                self.links.get_mut(&link).expect("it was just made").server = Some(to);
                self.events.push_back(PeerEvent::Connected { link, to });
            }
            Err(error) => {
                let delay = RETRY_DELAY * 2u32.saturating_pow(dialing.tries - 1);
                let retry_at = now + delay.min(RETRY_DELAY_MAX);
                // There are other servers to go to.
                let tries_max = if dialing.is_for_observers { 1 } else { TRIES_MAX };
                if dialing.tries < tries_max && retry_at.since(dialing.begun) < timeout {
                    dialing.retry_at = Some(retry_at);
                    return;
                }
                match dialing.is_for_observers {
                    true => tracing::info!("server {to} takes no observers: {error}"),
                    false => {
                        tracing::warn!("leader {to} cannot be reached at its quorum port: {error}");
                    }
                }
                self.dialing = None;
                self.stats.connects_failed += 1;
                self.events.push_back(PeerEvent::ConnectFailed { to });
            }
        }
    }
}
