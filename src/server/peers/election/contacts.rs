//! Who is connected with whom on the election port (`QuorumCnxManager.java`), as a plain value.
//!
//! There is one connection between any two servers, and the one with the larger id dials it. The
//! other one may dial too, to say that it is there: it sends its greeting, closes, and is dialled
//! back. So no two servers ever keep two connections, or close each other's.
//!
//! ```text
//! newcomer ── greeting of a larger id ──► contact's connection
//!          └─ greeting of a smaller id ─► closed, dialled back
//! dialled  ── to a smaller id ──► greeting, contact's connection
//!          └─ to a larger id ───► greeting, closed; it dials back
//! ```
//!
//! Members are dialled from the start and whenever their connection is lost, not only when there
//! is something to say, so that it is known who can be reached before an election needs it. One
//! notification waits for each peer; a newer one replaces it, and the last is sent again on a new
//! connection, because nobody knows whether it has arrived.
//!
//! After each call that goes in, drain [`Contacts::poll_command`] and [`Contacts::poll_event`].

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use crate::time::Time;
use crate::wire::election::{Greeting, Notification, decode_frame};
use crate::wire::quorum::ServerId;

use super::refusals::Refusals;

/// The pause before the second dial in a row; it doubles.
const DIAL_PAUSE_MIN: Duration = Duration::from_millis(50);

/// The longest pause: so long it may take until two servers that were cut off from each other, and
/// have both stayed up, are connected again.
const DIAL_PAUSE_MAX: Duration = Duration::from_secs(2);

/// What there is to say cuts a pause short, down to this since the last dial.
const DIAL_PAUSE_URGENT: Duration = Duration::from_millis(200);

/// How long a server with a larger id is given to dial back before it is asked again. Asking tears
/// down what it has just made, so this is longer than any busy machine takes.
const DIAL_BACK_WAIT: Duration = Duration::from_secs(1);

/// A greeting that comes so shortly after we have connected was sent before that: both sides
/// dialled at once, and there is nothing to dial back for.
const CROSSING: Duration = Duration::from_millis(200);

/// A connection that was closed sooner did not hold: the pause before the next one grows. It is
/// what two servers with the same id do to each other's.
const HOLDS_FROM: Duration = Duration::from_secs(1);

/// Connections that have not greeted. One more, and the oldest is closed: who greets at once, as
/// servers do, gets through a crowd of those who do not.
const NEWCOMERS_MAX: usize = 64;

/// Servers that are no members, as those that are about to join and observers of old versions. One
/// more, and the one that has been there for longest is closed: it has heard who leads.
const STRANGERS_MAX: usize = 32;

/// One connection, named by the caller; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// Hosts, as names or addresses without brackets, and their election ports.
pub type Addresses = Vec<(String, u16)>;

/// What the caller does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Connect; [`Contacts::handle_dialed`] takes the outcome with this number.
    Dial { number: u64, server: ServerId, addresses: Addresses },
    /// Send all of it; [`Contacts::handle_sent`] follows. There is one at a time per connection.
    Send { connection: ConnectionId, bytes: Vec<u8> },
    /// Close. Nothing of this connection goes in any more.
    Close { connection: ConnectionId },
}

/// What agreement hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ElectionEvent {
    /// A server has said something.
    Notification { from: ServerId, notification: Notification },
    /// Whether a server can be reached: its connection has come up (`true`), or has closed or was
    /// refused (`false`). Said when it changes.
    Reachable(ServerId, bool),
}

/// Where a connection has come from, and what for.
#[derive(Debug)]
enum Purpose {
    /// It was accepted and has to greet until the deadline.
    Newcomer { deadline: Time },
    /// It is the contact's one.
    Contact(ServerId),
    /// Its greeting is being sent, until the deadline, and then it is closed.
    Farewell { deadline: Time },
}

#[derive(Debug)]
struct Connection {
    purpose: Purpose,
    /// The other end, for the log.
    address: String,
    /// The beginning of what has not come whole.
    input: Vec<u8>,
    is_sending: bool,
}

/// Another server.
#[derive(Debug, Default)]
struct Contact {
    is_member: bool,
    addresses: Addresses,
    connection: Option<ConnectionId>,
    connected_at: Time,
    /// The number of the dial under way.
    dialing: Option<u64>,
    /// Whether that dial's connection replaces the one there is.
    is_dialing_back: bool,
    dialed_at: Time,
    /// When it is dialled next, if it is.
    dial_at: Option<Time>,
    /// Dials since a connection last held.
    dials: u32,
    /// The frame that is to be sent, and the last that was.
    waiting: Option<Vec<u8>>,
    last: Option<Vec<u8>>,
    /// What was said of it last.
    reachable: Option<bool>,
}

impl Contact {
    fn pause(&self) -> Duration {
        match self.dials {
            0 => Duration::ZERO,
            dials => DIAL_PAUSE_MIN.saturating_mul(1 << (dials - 1).min(16)).min(DIAL_PAUSE_MAX),
        }
    }
}

/// See the module.
pub struct Contacts {
    me: ServerId,
    greeting: Vec<u8>,
    timeout: Duration,
    contacts: BTreeMap<ServerId, Contact>,
    connections: BTreeMap<ConnectionId, Connection>,
    dials: u64,
    /// Observers without an id, so far: each is given one below zero.
    nameless: i64,
    refusals: Refusals,
    commands: VecDeque<Command>,
    events: VecDeque<ElectionEvent>,
}

/// What goes in.
impl Contacts {
    /// Server `me`, whom others reach at `addresses`. A connection that has not greeted is closed
    /// after `timeout`.
    pub fn new(me: ServerId, addresses: Addresses, timeout: Duration) -> Contacts {
        let mut greeting = Vec::new();
        Greeting { server: Some(me), addresses }.encode(&mut greeting);
        Contacts {
            me,
            greeting,
            timeout,
            contacts: BTreeMap::new(),
            connections: BTreeMap::new(),
            dials: 0,
            nameless: 0,
            refusals: Refusals::default(),
            commands: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Says who the other members of the ensemble are. Connections to those that are members no
    /// more go on, as to strangers; new members, and those at another address, are dialled.
    pub fn handle_members(&mut self, members: &[(ServerId, Addresses)], now: Time) {
        for contact in self.contacts.values_mut() {
            contact.is_member = false;
        }
        for (server, addresses) in members {
            if *server == self.me {
                continue;
            }
            let contact = self.contacts.entry(*server).or_default();
            contact.is_member = true;
            if contact.addresses != *addresses {
                contact.addresses.clone_from(addresses);
                contact.dials = 0;
                contact.dial_at = contact.connection.is_none().then_some(now);
            }
        }
        self.contacts.retain(|_, contact| contact.is_member || contact.connection.is_some());
        self.dial_due(now);
    }

    /// Somebody has connected from `address`.
    pub fn handle_accepted(&mut self, connection: ConnectionId, address: SocketAddr, now: Time) {
        let is_new = |it: &&Connection| matches!(it.purpose, Purpose::Newcomer { .. });
        if self.connections.values().filter(is_new).count() >= NEWCOMERS_MAX {
            let mut newcomers = self.connections.iter().filter(|(_, it)| is_new(it));
            let (&oldest, _) = newcomers.next().expect("there are many");
            self.refuse(oldest, "too many have not said who they are", now);
        }
        let purpose = Purpose::Newcomer { deadline: now + self.timeout };
        self.insert(connection, purpose, address.to_string());
    }

    /// A dial's outcome: a connection with its address, or why there is none.
    pub fn handle_dialed(
        &mut self,
        number: u64,
        outcome: Result<(ConnectionId, SocketAddr), String>,
        now: Time,
    ) {
        let found = self.contacts.iter_mut().find(|(_, it)| it.dialing == Some(number));
        let Some((&server, contact)) = found else {
            if let Ok((connection, _)) = outcome {
                self.commands.push_back(Command::Close { connection });
            }
            return;
        };
        contact.dialing = None;
        let is_dialing_back = std::mem::take(&mut contact.is_dialing_back);
        match outcome {
            Err(reason) => self.dial_failed(server, &reason, now),
            Ok((connection, _)) if contact.connection.is_some() && !is_dialing_back => {
                // It was faster.
                self.commands.push_back(Command::Close { connection });
            }
            Ok((connection, address)) if server > self.me => {
                contact.dial_at = Some(now + contact.pause().max(DIAL_BACK_WAIT));
                let purpose = Purpose::Farewell { deadline: now + self.timeout };
                self.insert(connection, purpose, address.to_string());
                let greeting = self.greeting.clone();
                self.send(connection, greeting);
            }
            Ok((connection, address)) => {
                self.insert(connection, Purpose::Contact(server), address.to_string());
                let greeting = self.greeting.clone();
                self.keep(server, connection, greeting, now);
            }
        }
    }

    /// Bytes have come.
    pub fn handle_received(&mut self, connection: ConnectionId, bytes: &[u8], now: Time) {
        let Some(it) = self.connections.get_mut(&connection) else { return };
        if matches!(it.purpose, Purpose::Farewell { .. }) {
            return;
        }
        it.input.extend_from_slice(bytes);
        if matches!(it.purpose, Purpose::Newcomer { .. }) {
            match Greeting::decode(&it.input) {
                Ok(None) => return,
                Err(error) => {
                    return self.refuse(connection, &format!("no greeting: {error}"), now);
                }
                Ok(Some((greeting, length))) => {
                    it.input.drain(..length);
                    self.handle_greeting(connection, greeting, now);
                }
            }
        }
        self.take_frames(connection, now);
    }

    /// What was to be sent is sent.
    pub fn handle_sent(&mut self, connection: ConnectionId) {
        let Some(it) = self.connections.get_mut(&connection) else { return };
        it.is_sending = false;
        match it.purpose {
            Purpose::Contact(server) => self.send_waiting(server),
            Purpose::Farewell { .. } => self.close(connection),
            Purpose::Newcomer { .. } => {}
        }
    }

    /// The other end has closed the connection, or it has failed.
    pub fn handle_closed(&mut self, connection: ConnectionId, reason: &str, now: Time) {
        let Some(it) = self.connections.get(&connection) else { return };
        match it.purpose {
            Purpose::Contact(server) => {
                tracing::info!("server {server} has left the election port: {reason}");
                self.close(connection);
                self.lose(server, now);
            }
            Purpose::Newcomer { .. } | Purpose::Farewell { .. } => self.close(connection),
        }
    }

    /// Sends a notification as soon as may be, instead of one that waits. It is lost if `to` is
    /// neither a member nor connected.
    pub fn notify(&mut self, to: ServerId, notification: &Notification, now: Time) {
        let Some(contact) = self.contacts.get_mut(&to) else { return };
        let mut frame = Vec::new();
        notification.encode(&mut frame);
        contact.waiting = Some(frame);
        if let Some(at) = &mut contact.dial_at {
            let urgent = if to > self.me { DIAL_BACK_WAIT } else { DIAL_PAUSE_URGENT };
            *at = (*at).min(contact.dialed_at + urgent);
        }
        self.send_waiting(to);
        self.dial_due(now);
    }

    /// Time has passed: see [`Contacts::poll_timeout`].
    pub fn handle_timeout(&mut self, now: Time) {
        let late = |it: &Connection| match it.purpose {
            Purpose::Newcomer { deadline } | Purpose::Farewell { deadline } => deadline <= now,
            Purpose::Contact(_) => false,
        };
        let late = self.connections.iter().filter(|(_, it)| late(it)).map(|(&id, _)| id);
        for connection in late.collect::<Vec<_>>() {
            self.refuse(connection, "the greeting took too long", now);
        }
        self.dial_due(now);
    }
}

/// What comes out.
impl Contacts {
    /// The next thing to do.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// The next thing to hear.
    pub fn poll_event(&mut self) -> Option<ElectionEvent> {
        self.events.pop_front()
    }

    /// When [`Contacts::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Time> {
        let deadlines = self.connections.values().filter_map(|it| match it.purpose {
            Purpose::Newcomer { deadline } | Purpose::Farewell { deadline } => Some(deadline),
            Purpose::Contact(_) => None,
        });
        deadlines.chain(self.contacts.values().filter_map(|contact| contact.dial_at)).min()
    }
}

/// What it leads to.
impl Contacts {
    fn handle_greeting(&mut self, connection: ConnectionId, greeting: Greeting, now: Time) {
        let server = greeting.server.unwrap_or_else(|| {
            self.nameless -= 1;
            ServerId(self.nameless)
        });
        if server == self.me {
            let reason = "it has this server's own id: is a myid wrong?";
            return self.refuse(connection, reason, now);
        }
        if !self.contacts.get(&server).is_some_and(|contact| contact.is_member) {
            self.admit_stranger(server, greeting.addresses, connection, now);
        }
        if server < self.me {
            self.close(connection);
            return self.dial_back(server, now);
        }
        let it = self.connections.get_mut(&connection).expect("it has greeted");
        it.purpose = Purpose::Contact(server);
        self.keep(server, connection, Vec::new(), now);
    }

    /// Keeps a contact for a server that is no member. It is dialled back, where it needs to be, at
    /// the addresses that it gave, once.
    fn admit_stranger(
        &mut self,
        server: ServerId,
        addresses: Addresses,
        connection: ConnectionId,
        now: Time,
    ) {
        if let Some(contact) = self.contacts.get_mut(&server) {
            contact.addresses = addresses;
            return;
        }
        let strangers = self.contacts.iter().filter(|(_, contact)| !contact.is_member);
        if strangers.clone().count() >= STRANGERS_MAX {
            let oldest = strangers.min_by_key(|(_, contact)| contact.connected_at);
            let (&oldest, _) = oldest.expect("there are many");
            let contact = self.contacts.remove(&oldest).expect("it was found");
            if let Some(connection) = contact.connection {
                self.refuse(connection, "too many are here that are no members", now);
            }
        }
        let address = &self.connections[&connection].address;
        tracing::info!("server {server} at {address} is no member, and is answered");
        let contact = Contact { addresses, connected_at: now, ..Contact::default() };
        self.contacts.insert(server, contact);
    }

    /// A server with a smaller id has said that it is there: it has no connection, whatever we
    /// have.
    fn dial_back(&mut self, server: ServerId, now: Time) {
        let contact = self.contacts.get_mut(&server).expect("it is one");
        let is_crossing =
            contact.connection.is_some() && now.since(contact.connected_at) < CROSSING;
        if contact.dialing.is_some() || is_crossing {
            return;
        }
        contact.is_dialing_back = true;
        // Whoever greets without end costs no more than a dial for each of these pauses.
        contact.dial_at = Some(now.max(contact.dialed_at + DIAL_PAUSE_MIN));
        self.dial_due(now);
    }

    /// Makes a connection the contact's one, and sends `first` and what there is to say.
    fn keep(&mut self, server: ServerId, connection: ConnectionId, first: Vec<u8>, now: Time) {
        let contact = self.contacts.get_mut(&server).expect("its dial or greeting named it");
        let replaced = contact.connection.replace(connection);
        contact.connected_at = now;
        contact.dial_at = None;
        let frame = contact.waiting.take().or_else(|| contact.last.take());
        let bytes = [&first[..], frame.as_deref().unwrap_or_default()].concat();
        contact.last = frame;
        if let Some(replaced) = replaced {
            self.close(replaced);
        }
        if !bytes.is_empty() {
            self.send(connection, bytes);
        }
        self.tell_reachable(server, true);
    }

    fn take_frames(&mut self, connection: ConnectionId, now: Time) {
        let Some(it) = self.connections.get_mut(&connection) else { return };
        let Purpose::Contact(from) = it.purpose else { return };
        let input = std::mem::take(&mut it.input);
        let mut taken = 0;
        let failure = loop {
            let (contents, length) = match decode_frame(&input[taken..]) {
                Ok(Some(frame)) => frame,
                Ok(None) => break None,
                Err(error) => break Some(error),
            };
            taken += length;
            match Notification::decode(contents) {
                Ok(notification) => {
                    self.events.push_back(ElectionEvent::Notification { from, notification });
                }
                Err(error) => break Some(error),
            }
        };
        match failure {
            None => it.input = input[taken..].to_vec(),
            Some(error) => {
                self.refuse(
                    connection,
                    &format!("server {from} sends no notification: {error}"),
                    now,
                );
                self.lose(from, now);
            }
        }
    }

    /// A contact's connection is gone.
    fn lose(&mut self, server: ServerId, now: Time) {
        let contact = self.contacts.get_mut(&server).expect("it was connected");
        contact.connection = None;
        if now.since(contact.connected_at) >= HOLDS_FROM {
            contact.dials = 0;
        }
        self.tell_reachable(server, false);
        // A server with a larger id dials by itself, as a rule.
        let least = if server > self.me { DIAL_BACK_WAIT } else { Duration::ZERO };
        self.dial_later(server, least, now);
    }

    fn dial_failed(&mut self, server: ServerId, reason: &str, now: Time) {
        let contact = &self.contacts[&server];
        if contact.connection.is_some() {
            return;
        }
        // Once, and not for each dial of a night.
        if contact.reachable != Some(false) {
            tracing::warn!("server {server} cannot be reached at its election port: {reason}");
        }
        self.tell_reachable(server, false);
        self.dial_later(server, Duration::ZERO, now);
    }

    /// Dials a member again after a pause of `least` at least; a stranger comes back by itself.
    fn dial_later(&mut self, server: ServerId, least: Duration, now: Time) {
        let contact = self.contacts.get_mut(&server).expect("it was dialled or connected");
        if !contact.is_member {
            self.contacts.remove(&server);
            return;
        }
        contact.dial_at = Some(now + contact.pause().max(least));
        self.dial_due(now);
    }

    fn dial_due(&mut self, now: Time) {
        for (&server, contact) in &mut self.contacts {
            if contact.dialing.is_some() || contact.dial_at.is_none_or(|at| at > now) {
                continue;
            }
            self.dials += 1;
            contact.dialing = Some(self.dials);
            contact.dial_at = None;
            contact.dialed_at = now;
            contact.dials = contact.dials.saturating_add(1);
            let addresses = contact.addresses.clone();
            self.commands.push_back(Command::Dial { number: self.dials, server, addresses });
        }
    }

    fn send_waiting(&mut self, server: ServerId) {
        let contact = self.contacts.get_mut(&server).expect("it was looked up");
        let Some(connection) = contact.connection else { return };
        if self.connections[&connection].is_sending {
            return;
        }
        if let Some(frame) = contact.waiting.take() {
            contact.last = Some(frame.clone());
            self.send(connection, frame);
        }
    }

    fn send(&mut self, connection: ConnectionId, bytes: Vec<u8>) {
        let it = self.connections.get_mut(&connection).expect("it is open");
        assert!(!it.is_sending, "one send at a time");
        it.is_sending = true;
        self.commands.push_back(Command::Send { connection, bytes });
    }

    fn insert(&mut self, connection: ConnectionId, purpose: Purpose, address: String) {
        let it = Connection { purpose, address, input: Vec::new(), is_sending: false };
        let former = self.connections.insert(connection, it);
        assert!(former.is_none(), "a connection's name is never used again");
    }

    fn close(&mut self, connection: ConnectionId) {
        self.connections.remove(&connection).expect("it is open");
        self.commands.push_back(Command::Close { connection });
    }

    fn refuse(&mut self, connection: ConnectionId, reason: &str, now: Time) {
        let address = &self.connections[&connection].address;
        self.refusals.warn(address, reason, now);
        self.close(connection);
    }

    fn tell_reachable(&mut self, server: ServerId, is_reachable: bool) {
        let contact = self.contacts.get_mut(&server).expect("it is one");
        if contact.reachable.replace(is_reachable) != Some(is_reachable) {
            if is_reachable {
                tracing::info!("server {server} is connected at the election port");
            }
            self.events.push_back(ElectionEvent::Reachable(server, is_reachable));
        }
    }
}

#[cfg(test)]
mod tests;
