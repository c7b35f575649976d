//! The election port: notifications to and from the other servers.
//!
//! ```text
//! ring, dialer ─► handle, deliver ─► contacts ─► poll_event ─► agreement
//! agreement ─► notify ─► contacts ─► finish_turn ─► ring, dialer
//! ```
//!
//! [`contacts`] decides; this performs. After each call that goes in, drain
//! [`ElectionPort::poll_event`]; once a turn, after everything else, [`ElectionPort::finish_turn`].

pub mod contacts;

mod refusals;

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::io::listener::{limit_unacknowledged, peer_address, tune};
use crate::io::ring::{Completion, Ring, Token};
use crate::io::wake::Waker;
use crate::server::peers::dial::{Dialed, Dialer, PortKind, Target};
use crate::server::peers::election::contacts::{
    Addresses, Command, ConnectionId, Contacts, ElectionEvent,
};
use crate::time::Time;
use crate::wire::election::Notification;
use crate::wire::quorum::ServerId;

/// How long accepting pauses when descriptors or memory are short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// The period of TCP's probes, where they are configured.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// How long what was sent may stay without an acknowledgement of the other host. Without it a host
/// that is gone would be taken for reachable for some fifteen minutes.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(10);

/// What is set once.
#[derive(Clone, Debug)]
pub struct ElectionSettings {
    /// This server.
    pub me: ServerId,
    /// Where others reach its election port: what its own server line says.
    pub addresses: Addresses,
    /// How long connecting may take, and then greeting (`cnxTimeout`).
    pub connect_timeout: Duration,
    /// Whether sockets have `SO_KEEPALIVE`.
    pub keep_alive: bool,
}

/// See the module. It belongs to one core.
pub struct ElectionPort {
    contacts: Contacts,
    dialer: Dialer,
    connect_timeout: Duration,
    keep_alive: Option<Duration>,
    tokens: Tokens,
    listeners: Vec<Token>,
    /// Listeners that the ring has not been given.
    listening: Vec<(Token, OwnedFd)>,
    /// Since when accepting is paused.
    paused: Option<Time>,
    /// Connections that the ring has not been given, and those that it has.
    attaching: Vec<(Token, OwnedFd)>,
    attached: BTreeSet<ConnectionId>,
}

impl ElectionPort {
    /// A port that listens at `listeners` and dials `members`, which are all servers of the
    /// ensemble with their election addresses. The ring's tokens with a low
    /// half of `first_token` or more are its own; dials wake the core by `waker`.
    ///
    /// # Panics
    /// If `first_token` is no low half.
    pub fn new(
        settings: ElectionSettings,
        members: &[(ServerId, Addresses)],
        listeners: Vec<OwnedFd>,
        first_token: u64,
        waker: Waker,
        now: Time,
    ) -> ElectionPort {
        let mut contacts = Contacts::new(settings.me, settings.addresses, settings.connect_timeout);
        contacts.handle_members(members, now);
        let mut tokens = Tokens::new(first_token);
        let listening: Vec<_> =
            listeners.into_iter().map(|listener| (tokens.next(), listener)).collect();
        let mut port = ElectionPort {
            contacts,
            dialer: Dialer::new(waker),
            connect_timeout: settings.connect_timeout,
            keep_alive: settings.keep_alive.then_some(KEEP_ALIVE),
            tokens,
            listeners: listening.iter().map(|(token, _)| *token).collect(),
            listening,
            paused: None,
            attaching: Vec::new(),
            attached: BTreeSet::new(),
        };
        port.dial();
        port
    }

    /// Whether a completion for this token is this port's.
    pub fn owns(&self, token: Token) -> bool {
        self.tokens.has_given(token)
    }

    /// The ensemble has other members.
    pub fn handle_members(&mut self, members: &[(ServerId, Addresses)], now: Time) {
        self.contacts.handle_members(members, now);
    }

    /// Takes what the ring has for a token that this port owns.
    pub fn handle(&mut self, completion: Completion<'_>, now: Time) {
        match completion {
            Completion::Accepted { socket, .. } => self.accepted(socket, now),
            Completion::AcceptFailed { error, .. } => {
                tracing::warn!("the election port accepts nobody for a while: {error}");
                self.paused = Some(now);
            }
            Completion::Received { token, bytes } => {
                self.contacts.handle_received(connection(token), bytes, now);
            }
            Completion::Closed { token, error } => {
                let reason = error.map_or("it has closed".to_owned(), |error| error.to_string());
                self.contacts.handle_closed(connection(token), &reason, now);
            }
            Completion::Sent { token, .. } => self.contacts.handle_sent(connection(token)),
            Completion::SendFailed { token, error } => {
                self.contacts.handle_closed(connection(token), &error.to_string(), now);
            }
            Completion::Written { .. } | Completion::Synced { .. } | Completion::Woken => {
                unreachable!("they have no token of this port");
            }
        }
    }

    /// Takes what the dialer has. Call it each turn: its news come with a wake.
    pub fn deliver(&mut self, now: Time) {
        while let Some(Dialed { number, result, .. }) = self.dialer.poll() {
            let outcome = result.and_then(|socket| {
                let address = peer_address(&socket)?;
                Ok((self.attach(socket)?, address))
            });
            self.contacts.handle_dialed(number, outcome.map_err(|error| error.to_string()), now);
        }
    }

    /// Sends a notification to a member, as soon as it is connected; a newer one replaces one that
    /// waits.
    pub fn notify(&mut self, to: ServerId, notification: &Notification, now: Time) {
        self.contacts.notify(to, notification, now);
    }

    /// The next thing that agreement is to hear.
    pub fn poll_event(&mut self) -> Option<ElectionEvent> {
        self.contacts.poll_event()
    }

    /// When [`ElectionPort::finish_turn`] has something to do.
    pub fn poll_timeout(&self) -> Option<Time> {
        let resume = self.paused.map(|since| since + ACCEPT_PAUSE);
        self.contacts.poll_timeout().into_iter().chain(resume).min()
    }

    /// Does what is due, and hands what there is to do to the ring and the dialer.
    pub fn finish_turn(&mut self, ring: &mut Ring, now: Time) {
        if self.contacts.poll_timeout().is_some_and(|due| due <= now) {
            self.contacts.handle_timeout(now);
        }
        for (token, socket) in self.listening.drain(..) {
            ring.listen(token, socket);
        }
        if self.paused.is_some_and(|since| now.since(since) >= ACCEPT_PAUSE) {
            self.paused = None;
            self.listeners.iter().for_each(|&token| ring.resume_accept(token));
        }
        for (token, socket) in self.attaching.drain(..) {
            ring.attach(token, socket);
            self.attached.insert(connection(token));
        }
        self.perform(ring);
    }

    /// Gives the ring back its tokens: nothing is sent or received any more.
    pub fn close(&mut self, ring: &mut Ring) {
        self.listening.clear();
        self.attaching.clear();
        self.listeners.drain(..).for_each(|token| ring.close(token));
        let attached = std::mem::take(&mut self.attached);
        attached.into_iter().for_each(|connection| ring.close(Token(connection.0)));
    }
}

impl ElectionPort {
    fn accepted(&mut self, socket: OwnedFd, now: Time) {
        // One that is gone already has no address.
        let Ok(address) = peer_address(&socket) else { return };
        match self.attach(socket) {
            Ok(connection) => self.contacts.handle_accepted(connection, address, now),
            Err(error) => tracing::debug!("{address} is gone already: {error}"),
        }
    }

    fn attach(&mut self, socket: OwnedFd) -> std::io::Result<ConnectionId> {
        tune(&socket, true, self.keep_alive)?;
        limit_unacknowledged(&socket, UNACKNOWLEDGED_MAX)?;
        let token = self.tokens.next();
        self.attaching.push((token, socket));
        Ok(connection(token))
    }

    fn perform(&mut self, ring: &mut Ring) {
        while let Some(command) = self.contacts.poll_command() {
            match command {
                Command::Dial { number, server, addresses } => {
                    self.start_dial(number, server, addresses);
                }
                Command::Send { connection, bytes } => ring.send(Token(connection.0), bytes),
                Command::Close { connection } => {
                    assert!(self.attached.remove(&connection), "it was attached");
                    ring.close(Token(connection.0));
                }
            }
        }
    }

    /// Starts the first dials: there is nothing else to do before the first turn.
    fn dial(&mut self) {
        while let Some(command) = self.contacts.poll_command() {
            let Command::Dial { number, server, addresses } = command else {
                unreachable!("there is no connection to send to or to close");
            };
            self.start_dial(number, server, addresses);
        }
    }

    fn start_dial(&mut self, number: u64, server: ServerId, addresses: Addresses) {
        let (port_kind, timeout) = (PortKind::Election, self.connect_timeout);
        self.dialer.dial(Target { server, port_kind, addresses, timeout, number });
    }
}

/// Tokens in order: first the listeners', then one for each connection. Their low halves stay in a
/// range that nobody else uses, however many connections there have been.
struct Tokens {
    first: u64,
    given: u64,
}

impl Tokens {
    fn new(first: u64) -> Tokens {
        assert!(first < 1 << 32, "it is a low half");
        Tokens { first, given: 0 }
    }

    /// How many there are with the same high half.
    fn width(&self) -> u64 {
        (1 << 32) - self.first
    }

    fn next(&mut self) -> Token {
        let number = self.given;
        self.given += 1;
        Token((number / self.width()) << 32 | (self.first + number % self.width()))
    }

    fn has_given(&self, token: Token) -> bool {
        let (high, low) = (token.0 >> 32, token.0 & 0xFFFF_FFFF);
        let number = || high.checked_mul(self.width())?.checked_add(low - self.first);
        low >= self.first && number().is_some_and(|number| number < self.given)
    }
}

fn connection(token: Token) -> ConnectionId {
    ConnectionId(token.0)
}

#[cfg(test)]
mod tests;
