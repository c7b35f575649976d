//! What is committed: the one history that all servers share, and the tree that it makes.

use std::collections::BTreeMap;
use std::sync::Arc;

use ringkeeper::tree::view::View;
use ringkeeper::tree::writer::Writer;
use ringkeeper::wire::error::ErrorCode;
use ringkeeper::wire::response::EventKind;
use ringkeeper::wire::txn::{self, Txn};
use ringkeeper::zxid::Zxid;

use crate::checker::{check, violated};
use crate::client::Ask;

/// A change that watches wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub zxid: Zxid,
    pub kind: EventKind,
    pub path: Arc<str>,
}

/// A client's request that may become a transaction.
#[derive(Clone, Debug)]
pub struct Asked {
    pub ask: Ask,
    /// The client's connection that it went out on, counted.
    pub link: u64,
    /// The newest write that anybody knew to be done when it was sent.
    pub floor: Zxid,
}

/// A session's life.
#[derive(Clone, Copy, Debug)]
pub struct Life {
    pub timeout_ms: i32,
    pub closed: Option<Zxid>,
    /// The simulated time at which its end was first published.
    pub closed_at: u64,
}

/// Errors of requests whose sessions speak through another server, or have ended.
const LATE: [i32; 2] = [ErrorCode::SessionMoved.raw(), ErrorCode::SessionExpired.raw()];

/// The committed history.
pub struct History {
    writer: Writer,
    start: Zxid,
    pub last: Zxid,
    txns: BTreeMap<Zxid, Arc<[u8]>>,
    digests: BTreeMap<Zxid, u64>,
    pub changes: Vec<Change>,
    pub sessions: BTreeMap<i64, Life>,
    /// What leaders have proposed.
    proposed: BTreeMap<Zxid, Arc<[u8]>>,
    asked: BTreeMap<(i64, i32), Asked>,
    done: BTreeMap<(i64, i32), Zxid>,
    /// The last cxid of each session.
    newest: BTreeMap<i64, i32>,
    pub now: u64,
    /// Ends of sessions that no client asked for, as they become known.
    pub expired: Vec<i64>,
}

impl History {
    /// A history that begins with the state of `writer`.
    pub fn new(mut writer: Writer) -> History {
        writer.set_watched(true);
        let start = writer.last_zxid();
        let digest = writer.digest();
        History {
            writer,
            start,
            last: start,
            txns: BTreeMap::new(),
            digests: BTreeMap::from([(start, digest)]),
            changes: Vec::new(),
            sessions: BTreeMap::new(),
            proposed: BTreeMap::new(),
            asked: BTreeMap::new(),
            done: BTreeMap::new(),
            newest: BTreeMap::new(),
            now: 0,
            expired: Vec::new(),
        }
    }

    /// The tree as it was after `zxid`.
    pub fn view(&self, zxid: Zxid) -> View<'_> {
        self.writer.tree().view(zxid)
    }

    /// The digest after `zxid`, where that is a committed transaction or an epoch's start.
    pub fn digest(&self, zxid: Zxid) -> Option<u64> {
        self.digests.range(..=zxid).next_back().map(|(_, digest)| *digest)
    }

    pub fn txn(&self, zxid: Zxid) -> Option<&Arc<[u8]>> {
        self.txns.get(&zxid)
    }

    /// All transactions later than `after` of epochs before this one.
    pub fn txns_between(
        &self,
        after: Zxid,
        epoch: u32,
    ) -> impl Iterator<Item = (Zxid, &Arc<[u8]>)> {
        let later = (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded);
        let later = self.txns.range(later).map(|(zxid, txn)| (*zxid, txn));
        later.take_while(move |(zxid, _)| zxid.epoch() < epoch)
    }

    pub fn len(&self) -> usize {
        self.txns.len()
    }

    /// A client has sent a request with an xid of its own.
    pub fn handle_asked(&mut self, session: i64, xid: i32, asked: Asked) {
        self.asked.insert((session, xid), asked);
    }

    /// Where the request has its place in the history.
    pub fn place(&self, session: i64, xid: i32) -> Option<Zxid> {
        self.done.get(&(session, xid)).copied()
    }

    /// A leader has proposed a transaction.
    pub fn handle_proposed(&mut self, server: usize, zxid: Zxid, txn: &Arc<[u8]>) {
        let known = self.proposed.entry(zxid).or_insert_with(|| Arc::clone(txn));
        check(known == txn, "LocalPrimaryOrder", || {
            format!("server {server} proposes {}, before that {}", describe(txn), describe(known))
        });
    }

    /// A leader is established, whose log goes on from a snapshot of `through`: what the snapshot
    /// holds is committed, and no server may ever publish it one by one.
    pub fn handle_established(&mut self, server: usize, through: Zxid) {
        while let Some(txn) = self.proposed.get(&self.last.next().unwrap_or(Zxid::MAX)) {
            let zxid = self.last.next().expect("there is a proposal of it");
            if zxid > through {
                break;
            }
            let txn = Arc::clone(txn);
            self.extend(server, zxid, &txn);
        }
    }

    /// A server has published `txn` under `zxid`, as the next one after what it published before.
    pub fn handle_published(&mut self, server: usize, zxid: Zxid, txn: &Arc<[u8]>) {
        if zxid <= self.last {
            self.prefix_consistency(server, zxid, txn);
        } else {
            self.extend(server, zxid, txn);
        }
    }

    /// What two servers have published is the same as far as both have come.
    fn prefix_consistency(&self, server: usize, zxid: Zxid, txn: &Arc<[u8]>) {
        if zxid <= self.start {
            return;
        }
        let known = self.txns.get(&zxid);
        check(known.is_some_and(|known| known == txn), "PrefixConsistency", || {
            let other = known.map(|known| describe(known));
            format!("server {server} has {} at {zxid}, others {other:?}", describe(txn))
        });
    }

    fn extend(&mut self, server: usize, zxid: Zxid, txn: &Arc<[u8]>) {
        self.global_primary_order(zxid);
        self.integrity(server, zxid, txn);
        let logged = txn::decode(txn).unwrap_or_else(|error| violated("Integrity", error));
        check(logged.header.zxid == zxid, "Integrity", || format!("{zxid} says {logged:?}"));
        let applied = self.writer.apply(&logged.header, &logged.txn);
        let effects = applied.unwrap_or_else(|error| violated("Integrity", error));
        let digest = self.writer.digest();
        check(logged.digest.is_none_or(|it| it == digest), "EqualDigests", || {
            format!("{zxid} carries {:x?}, the history makes {digest:#x}", logged.digest)
        });
        for event in effects.events {
            self.changes.push(Change { zxid, kind: event.kind, path: event.path().into() });
        }
        self.last = zxid;
        self.txns.insert(zxid, Arc::clone(txn));
        self.digests.insert(zxid, digest);
        let (session, cxid) = (logged.header.session, logged.header.cxid);
        match logged.txn {
            Txn::CreateSession { timeout_ms } => {
                let life = Life { timeout_ms, closed: None, closed_at: 0 };
                self.sessions.entry(session).or_insert(life);
            }
            Txn::CloseSession { .. } => self.end_session(session, cxid, zxid),
            // A request that came too late: its client has gone to another server, or is gone.
            Txn::Error { code } if LATE.contains(&code) => {}
            _ if session != 0 => {
                self.at_most_once(session, cxid, zxid);
                self.session_order(session, cxid, zxid);
                self.linearizable_writes(session, cxid, zxid);
            }
            _ => {}
        }
        self.owners_are_alive(zxid);
    }

    /// Epochs follow one another, and within one no number is left out.
    fn global_primary_order(&self, zxid: Zxid) {
        let last = self.last;
        let follows = last.next() == Some(zxid) || zxid == Zxid::new(zxid.epoch(), 1);
        check(follows && zxid > last, "GlobalPrimaryOrder", || format!("{zxid} follows {last}"));
    }

    /// What is delivered was broadcast by a primary.
    fn integrity(&self, server: usize, zxid: Zxid, txn: &[u8]) {
        let proposed = self.proposed.get(&zxid);
        check(proposed.is_some_and(|it| **it == *txn), "Integrity", || {
            format!(
                "server {server} publishes {zxid}, which nobody has proposed: {}",
                describe(txn)
            )
        });
    }

    /// A request becomes one transaction, or none.
    fn at_most_once(&mut self, session: i64, cxid: i32, zxid: Zxid) {
        let before = self.done.insert((session, cxid), zxid);
        check(before.is_none(), "AtMostOnce", || {
            format!("request {cxid} of {session:#x} is {before:?} and {zxid}")
        });
    }

    /// A session's requests happen in the order in which they were sent, and what was sent on one
    /// connection happens up to some point and not behind it.
    fn session_order(&mut self, session: i64, cxid: i32, zxid: Zxid) {
        let before = self.newest.insert(session, cxid).unwrap_or(0);
        check(before < cxid, "SessionOrder", || {
            format!("{zxid} is request {cxid} of {session:#x}, after {before}")
        });
        let Some(asked) = self.asked.get(&(session, cxid)) else {
            violated("Integrity", format!("{zxid}: nobody has sent {cxid} of {session:#x}"));
        };
        for earlier in before + 1..cxid {
            let Some(skipped) = self.asked.get(&(session, earlier)) else { continue };
            let is_gap = skipped.ask.is_write() && skipped.link == asked.link;
            check(!is_gap, "SessionOrder", || {
                format!("{zxid} is request {cxid} of {session:#x}, and {earlier} was left out")
            });
        }
    }

    /// What was done before a request was sent is before it in the history.
    fn linearizable_writes(&self, session: i64, cxid: i32, zxid: Zxid) {
        let floor = self.asked[&(session, cxid)].floor;
        check(floor < zxid, "LinearizableWrites", || {
            format!("request {cxid} of {session:#x} is {zxid}; {floor} was done before it was sent")
        });
    }

    /// A session's end may come twice, from its client and by its expiry, or from a client whose
    /// server has asked two leaders for it: the second one changes nothing.
    fn end_session(&mut self, session: i64, cxid: i32, zxid: Zxid) {
        let now = self.now;
        let Some(life) = self.sessions.get_mut(&session) else { return };
        if life.closed.is_some() {
            return;
        }
        life.closed = Some(zxid);
        life.closed_at = now;
        if cxid == 0 {
            self.expired.push(session);
        }
    }

    /// Who owns an ephemeral has a session that lives.
    fn owners_are_alive(&self, zxid: Zxid) {
        for (owner, count) in self.writer.owners() {
            let is_alive = self.sessions.get(&owner).is_some_and(|life| life.closed.is_none());
            check(is_alive || count == 0, "OwnersAreAlive", || {
                format!("after {zxid} {owner:#x}, which is no session, owns {count} znodes")
            });
        }
    }

    /// A server whose tree is at `zxid` has the tree of the history.
    pub fn equal_digests(&self, server: usize, zxid: Zxid, digest: u64) {
        let expected = self.digest(zxid);
        check(expected == Some(digest), "EqualDigests", || {
            format!("server {server} has {digest:#x} at {zxid}, the history {expected:x?}")
        });
    }
}

/// A transaction in words.
pub fn describe(txn: &[u8]) -> String {
    match txn::decode(txn) {
        Ok(logged) => {
            let header = logged.header;
            let mut what = format!("{:?}", logged.txn);
            what.truncate(100);
            format!("{:#x}/{} {what}", header.session, header.cxid)
        }
        Err(error) => format!("no transaction: {error}"),
    }
}
