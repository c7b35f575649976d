//! What clients are promised: order, freshness, watches, and locks that are lost in time.

use std::collections::{BTreeMap, BTreeSet};

use ringkeeper::tree::view::View;
use ringkeeper::wire::error::ErrorCode;
use ringkeeper::wire::jute::{Reader, Write as _};
use ringkeeper::wire::response::EventKind;
use ringkeeper::wire::txn::{self, Txn};
use ringkeeper::zxid::Zxid;

use crate::checker::history::{Change, History};
use crate::checker::{check, violated};
use crate::client::{Ask, Kept, Modes, PAIR, Sent};

/// The server's side of one connection's watches, as it should be.
#[derive(Clone, Debug, Default)]
pub struct Watching {
    pub paths: BTreeMap<String, Modes>,
    /// Changes up to here have been told, or concern nobody.
    told: usize,
    /// Missed changes that setWatches makes up for, once it is answered.
    replayed: Vec<(EventKind, String)>,
    seen: Zxid,
}

/// What is remembered of clients.
#[derive(Debug, Default)]
pub struct Clients {
    by_client: BTreeMap<usize, Watching>,
    /// When a session's client was last answered, in simulated nanoseconds.
    answered: BTreeMap<i64, u64>,
    /// Sessions whose clients were told that they are no more.
    over: BTreeSet<i64>,
    /// The newest write that any client knows to be done.
    pub done: Zxid,
    pub events: u64,
    pub reads: u64,
}

fn kind_of(raw: i32) -> EventKind {
    match raw {
        1 => EventKind::NodeCreated,
        2 => EventKind::NodeDeleted,
        3 => EventKind::NodeDataChanged,
        4 => EventKind::NodeChildrenChanged,
        _ => violated("WatchOrder", format!("an event of kind {raw}")),
    }
}

/// Whether a change is told to who watches `paths`; standard watches that fire are spent.
fn fires(paths: &mut BTreeMap<String, Modes>, change: &Change) -> bool {
    let mut is_told = false;
    let mut is_empty = false;
    if let Some(modes) = paths.get_mut(&*change.path) {
        let (data, child) = match change.kind {
            EventKind::NodeCreated | EventKind::NodeDataChanged => (true, false),
            EventKind::NodeChildrenChanged => (false, true),
            EventKind::NodeDeleted => (true, true),
        };
        is_told = data && (modes.data || modes.exist || modes.recursive)
            || child && modes.child
            || modes.persistent;
        modes.data &= !data;
        modes.exist &= !data;
        modes.child &= !child;
        is_empty = *modes == Modes::default();
    }
    if is_empty {
        paths.remove(&*change.path);
    }
    let below = |path: &str| match path {
        "/" => true,
        path => change.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('/')),
    };
    is_told
        || change.kind != EventKind::NodeChildrenChanged
            && paths.iter().any(|(path, modes)| modes.recursive && below(path))
}

impl Clients {
    /// A client, which has seen `seen`, has a new connection: nothing is watched there.
    pub fn handle_connected(&mut self, client: usize, seen: Zxid, history: &History) {
        let told = history.changes.partition_point(|change| change.zxid <= seen);
        self.by_client.insert(client, Watching { told, seen, ..Watching::default() });
    }

    /// What a client watches on its connection, for it to keep.
    pub fn watches(&self, client: usize) -> BTreeMap<String, Modes> {
        self.by_client.get(&client).map(|it| it.paths.clone()).unwrap_or_default()
    }

    /// A watch event has reached its client: WatchOrder, and WatchOnce.
    pub fn handle_event(
        &mut self,
        client: usize,
        (zxid, kind, path): (Zxid, i32, &str),
        history: &History,
    ) {
        let kind = kind_of(kind);
        self.events += 1;
        let watching = self.by_client.get_mut(&client).expect("it is connected");
        if zxid.raw() == -1 {
            watching.replayed.push((kind, path.to_owned()));
            return;
        }
        check(zxid > watching.seen, "WatchOrder", || {
            let seen = watching.seen;
            format!("client {client} hears of {path} at {zxid}, after a reply at {seen}")
        });
        while let Some(change) = history.changes.get(watching.told) {
            watching.told += 1;
            if fires(&mut watching.paths, change) {
                let expected = (change.zxid, change.kind, &*change.path);
                check(expected == (zxid, kind, path), "WatchOnce", || {
                    format!("client {client} hears {kind:?} of {path} at {zxid}, not {change:?}")
                });
                return;
            }
        }
        violated("WatchOnce", format!("client {client} hears {kind:?} of {path} at {zxid}"));
    }

    /// Nothing that a reply at `zxid` shows may be untold: WatchBeforeReply.
    fn watch_before_reply(&mut self, client: usize, zxid: Zxid, history: &History) {
        let watching = self.by_client.get_mut(&client).expect("it is connected");
        watching.seen = watching.seen.max(zxid);
        while let Some(change) = history.changes.get(watching.told) {
            if change.zxid > zxid {
                break;
            }
            watching.told += 1;
            let fires = fires(&mut watching.paths, change);
            check(!fires, "WatchBeforeReply", || {
                format!("client {client} has a reply at {zxid} and was not told of {change:?}")
            });
        }
    }

    /// A reply has reached its client.
    pub fn handle_reply(
        &mut self,
        client: usize,
        session: i64,
        sent: &Sent,
        (zxid, error, body): (Zxid, i32, &[u8]),
        history: &History,
    ) {
        time_never_runs_back(client, self.by_client[&client].seen, zxid, sent);
        // The start of an epoch is no transaction: all that was before it is committed.
        check(zxid <= history.last || zxid.counter() == 0, "CommittedBeforeReply", || {
            format!("client {client} has a reply at {zxid}, the history ends at {}", history.last)
        });
        self.watch_before_reply(client, zxid, history);
        if sent.ask.is_write() {
            if error != ErrorCode::SessionExpired.raw() && error != ErrorCode::SystemError.raw() {
                acknowledged_writes_stay(session, sent, (zxid, error, body), history);
                let place = history.place(session, sent.xid);
                self.done = self.done.max(place.expect("it was just looked up"));
            }
            return;
        }
        self.reads += 1;
        reads_come_before_later_writes(client, session, sent, zxid, history);
        match &sent.ask {
            Ask::SetWatches(kept) => self.missed_changes(client, kept, zxid, history),
            ask => {
                let mut expected = Vec::new();
                let outcome = answer(ask, &history.view(zxid), &mut expected);
                reads_show_the_version(client, ask, zxid, (outcome, &expected), (error, body));
                self.register(client, ask, error);
            }
        }
    }

    /// A read after a sync's answer sees all that was done before the sync was sent.
    pub fn sync_is_linearizable(&self, client: usize, sent: &Sent, zxid: Zxid) {
        check(sent.floor <= zxid, "LinearizableSync", || {
            let floor = sent.floor;
            format!("client {client} synced and is answered at {zxid}; {floor} was done before")
        });
    }

    fn register(&mut self, client: usize, ask: &Ask, error: i32) {
        let watching = self.by_client.get_mut(&client).expect("it is connected");
        let mut set = |path: &String, add: fn(&mut Modes)| {
            add(watching.paths.entry(path.clone()).or_default());
        };
        let exists = error == ErrorCode::Ok.raw();
        match ask {
            Ask::Get { path, watch: true } if exists => set(path, |it| it.data = true),
            Ask::Exists { path, watch: true } if exists => set(path, |it| it.data = true),
            Ask::Exists { path, watch: true } => set(path, |it| it.exist = true),
            Ask::Children { path, watch: true } if exists => set(path, |it| it.child = true),
            Ask::AddWatch { path, is_recursive: false } => set(path, |it| it.persistent = true),
            Ask::AddWatch { path, is_recursive: true } => set(path, |it| it.recursive = true),
            _ => {}
        }
    }

    /// Each missed change gives exactly the right event, and nothing else does.
    fn missed_changes(&mut self, client: usize, kept: &Kept, zxid: Zxid, history: &History) {
        let view = history.view(zxid);
        let mut expected = Vec::new();
        let mut paths = kept.paths.clone();
        let lists: [fn(&mut Modes) -> &mut bool; 3] =
            [|it| &mut it.data, |it| &mut it.exist, |it| &mut it.child];
        for (list, mode) in lists.into_iter().enumerate() {
            for (path, modes) in &mut paths {
                let is_watched = mode(modes);
                if let Some(kind) =
                    is_watched.then(|| missed(list, path, kept.seen, &view)).flatten()
                {
                    *is_watched = false;
                    expected.push((kind, path.clone()));
                }
            }
        }
        paths.retain(|_, modes| *modes != Modes::default());
        let watching = self.by_client.get_mut(&client).expect("it is connected");
        let told = std::mem::take(&mut watching.replayed);
        check(told == expected, "MissedChanges", || {
            format!("client {client} comes back at {zxid} and hears {told:?}, not {expected:?}")
        });
        watching.paths = paths;
    }

    /// A server has answered a session's client at `now`.
    pub fn handle_answered(&mut self, session: i64, now: u64) {
        self.answered.insert(session, now);
    }

    /// A session's client was told that the session is no more.
    pub fn handle_over(&mut self, session: i64) {
        self.over.insert(session);
    }

    /// A session that its client was told the end of ends: whether all have.
    pub fn sessions_end(&self, history: &History) -> bool {
        let lives =
            |session: &i64| history.sessions.get(session).is_some_and(|life| life.closed.is_none());
        !self.over.iter().any(lives)
    }

    /// A client with a lock learns in time that it may have lost it: its session's end is
    /// published no sooner than half of its timeout after it was last told that it lives.
    pub fn locks_are_lost_in_time(&self, session: i64, now: u64, slack: u64, history: &History) {
        let Some(life) = history.sessions.get(&session) else { return };
        let Some(answered) = self.answered.get(&session) else { return };
        let half = u64::from(life.timeout_ms.unsigned_abs()) * 500_000;
        check(answered + half <= now + slack, "LocksAreLostInTime", || {
            let ms = (now - answered) / 1_000_000;
            let timeout_ms = life.timeout_ms;
            format!("{session:#x} ({timeout_ms} ms) ends {ms} ms after its client was answered")
        });
    }
}

/// A session's replies are each at least as new as those before.
fn time_never_runs_back(client: usize, seen: Zxid, zxid: Zxid, sent: &Sent) {
    check(zxid >= seen, "TimeNeverRunsBack", || {
        format!("client {client} has a reply at {zxid} to {sent:?}, after one at {seen}")
    });
}

/// A session's requests happen in the order in which they were sent: a read does not show a write
/// that was sent after it.
fn reads_come_before_later_writes(
    client: usize,
    session: i64,
    sent: &Sent,
    zxid: Zxid,
    history: &History,
) {
    if sent.xid < 0 || sent.ask == Ask::Sync {
        return;
    }
    for later in sent.xid + 1..sent.xid + 10 {
        let place = history.place(session, later);
        check(place.is_none_or(|place| place > zxid), "SessionOrder", || {
            format!("client {client}: {sent:?} is answered at {zxid}, and {later} is {place:?}")
        });
    }
}

/// A write that was answered is in the history, as it was answered.
fn acknowledged_writes_stay(
    session: i64,
    sent: &Sent,
    (zxid, error, body): (Zxid, i32, &[u8]),
    history: &History,
) {
    // The reply carries the zxid of when it was let out; the request has one of its own.
    let Some(place) = history.place(session, sent.xid) else {
        violated("AcknowledgedWritesStay", format!("{sent:?} at {zxid} is not in the history"));
    };
    check(place <= zxid, "AcknowledgedWritesStay", || {
        format!("{sent:?} is answered at {zxid}, and is {place}")
    });
    let zxid = place;
    let bytes = history.txn(zxid).expect("a place in the history");
    let logged = txn::decode(bytes).expect("it was decoded before");
    let logged_error = match &logged.txn {
        Txn::Error { code } => *code,
        _ => 0,
    };
    check(logged_error == error, "AcknowledgedWritesStay", || {
        format!("{sent:?} is answered with {error}, the history at {zxid} says {logged_error}")
    });
    if error != 0 {
        return;
    }
    let mut expected = Vec::new();
    let view = history.view(zxid);
    let stat = |path: &str, out: &mut Vec<u8>| {
        view.node(path).expect("it was just written").stat().encode(out);
    };
    match (&sent.ask, &logged.txn) {
        (Ask::Create { with_stat, .. }, Txn::Create(create)) => {
            expected.put_string(create.path);
            if *with_stat {
                stat(create.path, &mut expected);
            }
        }
        (Ask::Container { path }, _) => {
            expected.put_string(path);
            stat(path, &mut expected);
        }
        (Ask::Set { path, .. }, _) => stat(path, &mut expected),
        (Ask::Delete { .. }, _) => {}
        (Ask::Reconfig { .. }, Txn::SetData { path, data, .. }) => {
            expected.put_buffer(*data);
            stat(path, &mut expected);
        }
        _ => return pair_is_whole(sent, zxid, body, &logged.txn),
    }
    check(expected == body, "AcknowledgedWritesStay", || {
        format!("{sent:?} at {zxid} is answered with {body:x?}, not {expected:x?}")
    });
}

/// A multi happens whole or not at all, and its answer says which.
fn pair_is_whole(sent: &Sent, zxid: Zxid, body: &[u8], txn: &Txn<'_>) {
    let Txn::Multi(parts) = txn else {
        violated("PairIsWhole", format!("{sent:?} has become {txn:?}"));
    };
    let has_failed = parts.iter().any(|part| matches!(part, Txn::Error { .. }));
    let mut reader = Reader::new(body);
    let op = reader.i32().unwrap_or(-1);
    check((op == -1) == has_failed, "PairIsWhole", || {
        format!("{sent:?} at {zxid} is answered with {body:x?}, and is {parts:?}")
    });
}

/// What a read gives is the tree at the version that its reply names.
fn reads_show_the_version(
    client: usize,
    ask: &Ask,
    zxid: Zxid,
    (outcome, expected): (i32, &[u8]),
    (error, body): (i32, &[u8]),
) {
    let is_right = outcome == error && (error != 0 || expected == body);
    check(is_right, "ReadsShowTheVersion", || {
        format!("client {client}: {ask:?} at {zxid} gives {error} {body:x?}, not {outcome}")
    });
}

/// The error and body of a read of the history.
fn answer(ask: &Ask, view: &View<'_>, out: &mut Vec<u8>) -> i32 {
    let no_node = ErrorCode::NoNode.raw();
    match ask {
        Ask::Get { path, .. } => {
            let Some(node) = view.node(path) else { return no_node };
            out.put_buffer(node.data());
            node.stat().encode(out);
        }
        Ask::Exists { path, .. } => {
            let Some(node) = view.node(path) else { return no_node };
            node.stat().encode(out);
        }
        Ask::Children { path, .. } => {
            let Some(node) = view.node(path) else { return no_node };
            out.put_length(node.child_count());
            node.children().iter().for_each(|name| out.put_string(name));
            node.stat().encode(out);
        }
        Ask::GetPair => {
            for path in PAIR {
                let node = view.node(path);
                let error = if node.is_some() { 0 } else { no_node };
                out.put_i32(if node.is_some() { 4 } else { -1 });
                out.put_bool(false);
                out.put_i32(error);
                match node {
                    Some(node) => {
                        out.put_buffer(node.data());
                        node.stat().encode(out);
                    }
                    None => out.put_i32(error),
                }
            }
            out.put_i32(-1);
            out.put_bool(true);
            out.put_i32(-1);
        }
        Ask::AddWatch { .. } => out.put_i32(0),
        Ask::Sync => out.put_string("/a"),
        _ => {}
    }
    0
}

/// What a client that comes back is told of `path`, which it watched in a list of setWatches.
fn missed(list: usize, path: &str, seen: Zxid, view: &View<'_>) -> Option<EventKind> {
    let stat = view.node(path).map(|node| node.stat());
    match (list, stat) {
        (1, Some(_)) => Some(EventKind::NodeCreated),
        (1, None) => None,
        (_, None) => Some(EventKind::NodeDeleted),
        (0, Some(stat)) => (stat.mzxid > seen).then_some(EventKind::NodeDataChanged),
        (_, Some(stat)) => (stat.pzxid > seen).then_some(EventKind::NodeChildrenChanged),
    }
}
