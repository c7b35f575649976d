//! The connections of this server's clients: which session each has, and for how long it may be
//! served without a leader.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::pipeline::Client;

/// A packet with so many sessions has 12 MB; an observer that names more has made them up.
const PASSED_ON_MAX: usize = 1 << 20;

/// The session that a connection has.
#[derive(Clone, Copy, Debug)]
struct Held {
    session: i64,
    timeout_ms: i32,
}

/// The connections that have sessions.
#[derive(Debug, Default)]
pub(super) struct Attached {
    by_client: BTreeMap<Client, Held>,
    /// Through which connection a session speaks.
    holders: HashMap<i64, Client>,
    /// The shortest timeouts first.
    by_timeout: BTreeSet<(i32, Client)>,
    /// Connections that this server has ended and that are not known to be closed: what is on its
    /// way from them came behind something that was not done.
    cut: BTreeSet<Client>,
    /// Sessions heard of since a leader was last told, with their timeouts.
    touched: BTreeMap<i64, i32>,
}

impl Attached {
    /// The connection has the session from here on.
    pub fn insert(&mut self, client: Client, session: i64, timeout_ms: i32) {
        self.by_client.insert(client, Held { session, timeout_ms });
        self.by_timeout.insert((timeout_ms, client));
        self.holders.insert(session, client);
        self.touched.insert(session, timeout_ms);
    }

    /// The same, for a connection that no leader's loss hurries and that no leader hears of.
    pub fn insert_unhurried(&mut self, client: Client, session: i64, timeout_ms: i32) {
        self.insert(client, session, timeout_ms);
        self.by_timeout.remove(&(timeout_ms, client));
        self.touched.remove(&session);
    }

    /// The connection is closed: the session that it had.
    pub fn remove(&mut self, client: Client) -> Option<i64> {
        self.cut.remove(&client);
        self.detach(client)
    }

    /// The connection is being ended by this server: the session that it had.
    pub fn cut(&mut self, client: Client) -> Option<i64> {
        let session = self.detach(client);
        if session.is_some() {
            self.cut.insert(client);
        }
        session
    }

    /// Every connection is being ended.
    pub fn cut_all(&mut self) {
        self.cut.extend(self.by_client.keys().copied());
        self.by_client.clear();
        self.holders.clear();
        self.by_timeout.clear();
        self.touched.clear();
    }

    fn detach(&mut self, client: Client) -> Option<i64> {
        let Held { session, timeout_ms } = self.by_client.remove(&client)?;
        self.by_timeout.remove(&(timeout_ms, client));
        if self.holders.get(&session) == Some(&client) {
            self.holders.remove(&session);
        }
        Some(session)
    }

    /// The session is over, or will be when that is committed. A connection that waits to be told
    /// so is kept until then, or until there has been no leader for too long.
    pub fn release(&mut self, session: i64) {
        self.touched.remove(&session);
        self.holders.remove(&session);
    }

    /// Whether what comes from the connection is not taken any more.
    pub fn is_cut(&self, client: Client) -> bool {
        !self.cut.is_empty() && self.cut.contains(&client)
    }

    /// Whether the connection has a session.
    pub fn contains(&self, client: Client) -> bool {
        self.by_client.contains_key(&client)
    }

    /// Through which connection of this server the session speaks.
    pub fn holder(&self, session: i64) -> Option<Client> {
        self.holders.get(&session).copied()
    }

    /// A client that this server has was heard of.
    pub fn touch(&mut self, session: i64) {
        if let Some(held) = self.holders.get(&session).and_then(|of| self.by_client.get(of)) {
            self.touched.insert(session, held.timeout_ms);
        }
    }

    /// The next answer to a leader tells of all.
    pub fn touch_all(&mut self) {
        self.touched.extend(self.by_client.values().map(|held| (held.session, held.timeout_ms)));
    }

    /// Sessions of other servers' clients that the leader hears of from this one, with their
    /// timeouts in milliseconds; at most [`PASSED_ON_MAX`] wait for that.
    pub fn pass_on(&mut self, sessions: &[(i64, i32)]) {
        for &(session, timeout_ms) in sessions {
            if self.touched.len() < PASSED_ON_MAX {
                self.touched.insert(session, timeout_ms);
            }
        }
    }

    /// The connections that have sessions.
    pub fn clients(&self) -> impl Iterator<Item = Client> {
        self.by_client.keys().copied()
    }

    /// The sessions that this server's clients have, with their timeouts in milliseconds.
    pub fn sessions(&self) -> impl Iterator<Item = (i64, i32)> {
        self.by_client.values().map(|held| (held.session, held.timeout_ms))
    }

    /// The sessions that were heard of since the last call.
    pub fn take_touched(&mut self) -> Vec<(i64, i32)> {
        std::mem::take(&mut self.touched).into_iter().collect()
    }

    /// The connection with the shortest timeout, in milliseconds.
    pub fn most_urgent(&self) -> Option<(i32, Client)> {
        self.by_timeout.first().copied()
    }
}
