//! A little ensemble in one thread: several [`Zab`]s, what lies between them, and their disks.
//!
//! Everything that is under way waits in a queue: each direction of a connection is one, so are a
//! pair's notifications (of which the newest alone is kept) and each disk. A step takes the head of
//! one queue, chosen by the seed; when all are empty, time moves on to the next timeout. What is
//! not modelled: lost bytes within a connection, and disks that lie.
//!
//! After every step the invariants are checked (`invariants.rs`).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::time::Time;
use crate::wire::election::Notification;
use crate::wire::opcode::OpCode;
use crate::wire::quorum::{Extensions, FromLeader, FromLearner, ServerId};
use crate::wire::txn::{self, TxnHeader};
use crate::zab::Zab;
use crate::zab::ensemble::{Ensemble, Member, NextConfig};
use crate::zab::output::{Event, LinkId, Recovered, Role, Standing};
use crate::zab::tests::invariants::{LinkChecker, Oracle};
use crate::zxid::Zxid;

pub const TICK: Duration = Duration::from_millis(100);

pub type Txn = (Zxid, Arc<[u8]>);

/// A log: what stands before its first transaction, and the transactions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    pub base: Zxid,
    pub txns: Vec<Txn>,
}

impl Log {
    pub fn last(&self) -> Zxid {
        self.txns.last().map_or(self.base, |(zxid, _)| *zxid)
    }

    pub fn truncate(&mut self, after: Zxid) {
        self.txns.retain(|(zxid, _)| *zxid <= after);
    }

    pub fn zxids(&self) -> Vec<Zxid> {
        self.txns.iter().map(|(zxid, _)| *zxid).collect()
    }
}

/// Something that is under way to a disk.
#[derive(Clone, Debug)]
pub enum Work {
    Append(Txn),
    Truncate(Zxid),
    AcceptedEpoch(u32),
    CurrentEpoch(u32),
    Replace { link: LinkId, zxid: Zxid, state: Vec<Txn> },
    Sound,
}

/// What a disk holds for certain, and what is under way to it.
#[derive(Clone, Debug)]
pub struct Disk {
    /// The whole history: a snapshot is told from the log by `log.base` alone.
    pub state: Vec<Txn>,
    pub log: Log,
    pub accepted_epoch: u32,
    pub current_epoch: u32,
    pub standing: Standing,
    pub committed: Zxid,
    /// The file with the members in force.
    pub members: Option<Arc<[u8]>>,
    pub works: VecDeque<Work>,
    /// It does nothing until it is told to.
    pub is_slow: bool,
}

pub struct Node {
    pub id: ServerId,
    pub zab: Option<Zab>,
    pub disk: Disk,
    /// The tree: everything that was applied, durable or not.
    pub tree: Vec<Txn>,
    pub published: Zxid,
    pub role: Role,
    /// Below this the tree's journal does not reach back.
    pub journal_floor: Zxid,
    pub is_accepting: bool,
    /// The same at the port for observers.
    pub is_accepting_observers: bool,
    pub events: Vec<Event>,
    pub confirmed: Vec<u64>,
    /// What was committed anywhere when a confirmation was asked for, by token.
    pub asked: BTreeMap<u64, Zxid>,
    pub stopped: Option<String>,
    pub has_resigned: bool,
    pub next_counter: u32,
    /// How many snapshots it has been sent, DIFFs, TRUNCs: what the last sync was.
    pub synced_by: Option<&'static str>,
}

/// One end's view of what comes on a connection.
#[derive(Clone, Debug)]
pub enum Mail {
    /// To the quorum port, or to the port for observers.
    Connect {
        is_for_observers: bool,
    },
    Connected,
    Learner(FromLearner),
    Leader(FromLeader),
    Snapshot(Zxid, Vec<Txn>),
    Closed,
}

pub struct Link {
    pub learner: ServerId,
    pub leader: ServerId,
    pub to_leader: VecDeque<Mail>,
    pub to_learner: VecDeque<Mail>,
    /// Which ends know of it: the leader's, the learner's.
    pub is_open: [bool; 2],
    pub checker: LinkChecker,
    /// The learner expects a snapshot on it.
    pub is_receiving: bool,
}

/// A queue whose head may be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Queue {
    Notification(ServerId, ServerId),
    ToLeader(LinkId),
    ToLearner(LinkId),
    Disk(ServerId),
    ReadLog(ServerId, LinkId),
}

pub struct Cluster {
    pub now: Time,
    pub nodes: BTreeMap<ServerId, Node>,
    pub links: BTreeMap<LinkId, Link>,
    pub notifications: BTreeMap<(ServerId, ServerId), Notification>,
    pub reads: BTreeMap<(ServerId, LinkId), (Zxid, usize)>,
    /// Pairs between which nothing passes, smaller first.
    pub cuts: Vec<(ServerId, ServerId)>,
    pub oracle: Oracle,
    pub trace: Vec<String>,
    pub members: Vec<Member>,
    pub commit_log_count: usize,
    /// Packets for which this holds are not delivered, and those behind them.
    pub holds: Option<fn(&Mail) -> bool>,
    pub counter_max: Option<u32>,
    /// Members may change.
    pub is_dynamic: bool,
    /// Followers serve observers.
    pub has_observer_masters: bool,
    pub next_link: u64,
    random: u64,
    payload: u64,
}

pub fn server(id: i64) -> ServerId {
    ServerId(id)
}

pub fn z(epoch: u32, counter: u32) -> Zxid {
    Zxid::new(epoch, counter)
}

fn voter(id: i64) -> Member {
    Member { id: server(id), is_observer: false, group: None, weight: 1 }
}

impl Cluster {
    /// Voters 1 to `voters`, then so many observers, all new and trusted, all down.
    pub fn new(voters: i64, observers: i64, seed: u64) -> Cluster {
        let mut members: Vec<Member> = (1..=voters).map(voter).collect();
        members.extend(
            (voters + 1..=voters + observers).map(|id| Member { is_observer: true, ..voter(id) }),
        );
        let nodes = members.iter().map(|member| (member.id, Node::new(member.id))).collect();
        Cluster {
            now: Time::from_nanos(1),
            nodes,
            links: BTreeMap::new(),
            notifications: BTreeMap::new(),
            reads: BTreeMap::new(),
            cuts: Vec::new(),
            oracle: Oracle::default(),
            trace: Vec::new(),
            members,
            commit_log_count: 500,
            holds: None,
            counter_max: None,
            is_dynamic: false,
            has_observer_masters: false,
            next_link: 0,
            random: seed,
            payload: 0,
        }
    }

    /// The same with all of them started, and a leader established.
    pub fn started(voters: i64, observers: i64, seed: u64) -> Cluster {
        let mut cluster = Cluster::new(voters, observers, seed);
        cluster.start_all();
        cluster.settle();
        cluster
    }

    pub fn node(&self, id: i64) -> &Node {
        &self.nodes[&server(id)]
    }

    pub fn node_mut(&mut self, id: i64) -> &mut Node {
        self.nodes.get_mut(&server(id)).expect("a member")
    }

    pub fn ensemble(&self, me: ServerId) -> Ensemble {
        let ensemble = Ensemble {
            config: Arc::from(&b"config"[..]),
            is_dynamic: self.is_dynamic,
            tick: TICK,
            commit_log_count: self.commit_log_count,
            // With one that speaks as Apache's do.
            extensions: Extensions { cumulative: me != server(2), ..Extensions::ALL },
            has_observer_masters: self.has_observer_masters,
            ..Ensemble::of_members(me, self.members.clone())
        };
        if !self.is_dynamic {
            return ensemble;
        }
        let roles = self.members.iter().map(|member| (member.id.0, !member.is_observer));
        let first = members_text(&roles.collect::<Vec<_>>(), Zxid::ZERO);
        let disk = &self.nodes[&me].disk;
        let kept = disk.members.clone().unwrap_or(Arc::from(first.as_bytes()));
        let kept = NextConfig::parse(&kept).expect("servers keep what makes sense");
        let logged = disk.state.iter().rev().find_map(|(_, txn)| proposed_text(txn));
        ensemble.under(kept).in_tree(logged.as_deref(), disk.committed.min(disk.log.last()))
    }

    pub fn random(&mut self, bound: usize) -> usize {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound.max(1) as u64) as usize
    }
}

/// Members as text: each with whether it votes.
pub fn members_text(roles: &[(i64, bool)], version: Zxid) -> String {
    let mut text = String::new();
    for (id, is_voter) in roles {
        let role = if *is_voter { "participant" } else { "observer" };
        text += &format!("server.{id}=s{id}:1:2:{role};3\n");
    }
    format!("{text}version={:x}", version.raw())
}

/// The text of the members that a transaction proposes, if it does.
fn proposed_text(bytes: &[u8]) -> Option<Vec<u8>> {
    match txn::decode(bytes).ok()?.txn {
        txn::Txn::SetData { data, .. } => Some(data?.to_vec()),
        _ => None,
    }
}

impl Node {
    fn new(id: ServerId) -> Node {
        Node {
            id,
            zab: None,
            disk: Disk {
                state: Vec::new(),
                log: Log::default(),
                accepted_epoch: 0,
                current_epoch: 0,
                standing: Standing::Sound,
                committed: Zxid::ZERO,
                members: None,
                works: VecDeque::new(),
                is_slow: false,
            },
            tree: Vec::new(),
            published: Zxid::ZERO,
            role: Role::Looking,
            journal_floor: Zxid::ZERO,
            is_accepting: false,
            is_accepting_observers: false,
            events: Vec::new(),
            confirmed: Vec::new(),
            asked: BTreeMap::new(),
            stopped: None,
            has_resigned: false,
            next_counter: 1,
            synced_by: None,
        }
    }

    pub fn zab(&mut self) -> &mut Zab {
        self.zab.as_mut().expect("a server that is up")
    }

    pub fn work(&mut self, work: Work) {
        self.disk.works.push_back(work);
    }

    pub fn is_up(&self) -> bool {
        self.zab.is_some()
    }
}

// ── Starting, stopping, cutting ──
impl Cluster {
    pub fn start(&mut self, id: i64) {
        let me = server(id);
        let ensemble = self.ensemble(me);
        let (seed, now) = (self.random(1 << 30) as u64, self.now);
        let counter_max = self.counter_max;
        let node = self.node_mut(id);
        assert!(node.zab.is_none(), "{id} is up");
        let disk = &node.disk;
        let recovered = Recovered {
            last: disk.log.last(),
            committed: disk.committed.min(disk.log.last()),
            accepted_epoch: disk.accepted_epoch,
            current_epoch: disk.current_epoch,
            standing: disk.standing,
        };
        node.tree = disk.state.clone();
        node.published = recovered.committed;
        node.role = Role::Looking;
        node.journal_floor = Zxid::ZERO;
        let mut zab = Zab::new(ensemble, recovered, seed, now);
        if let Some(counter_max) = counter_max {
            zab.limit_counter(counter_max);
        }
        node.zab = Some(zab);
        self.tell_reachable(me, true);
        self.drain(me);
    }

    pub fn start_all(&mut self) {
        let down = self.nodes.values().filter(|node| !node.is_up()).map(|node| node.id.0);
        for id in down.collect::<Vec<_>>() {
            self.start(id);
        }
    }

    /// The process is killed: what was under way to the disk is lost.
    pub fn kill(&mut self, id: i64) {
        self.trace.push(format!("kill {id}"));
        let me = server(id);
        let node = self.node_mut(id);
        node.zab = None;
        node.is_accepting = false;
        node.is_accepting_observers = false;
        node.role = Role::Looking;
        node.disk.works.clear();
        // Who dials a server that is down hears so when its attempt arrives.
        let is_known = |link: &Link| link.learner == me || (link.leader == me && link.is_open[0]);
        let links: Vec<LinkId> =
            self.links.iter().filter(|(_, link)| is_known(link)).map(|link| *link.0).collect();
        for link in links {
            self.close(link, me);
        }
        self.notifications.retain(|(from, to), _| *from != me && *to != me);
        self.reads.retain(|(reader, _), _| *reader != me);
        self.tell_reachable(me, false);
    }

    /// Tells all others whose election port answers.
    fn tell_reachable(&mut self, id: ServerId, is_up: bool) {
        let others: Vec<ServerId> =
            self.nodes.keys().copied().filter(|&other| other != id).collect();
        for other in others {
            let is_reachable = is_up && !self.is_cut(id, other);
            for (to, about) in [(other, id), (id, other)] {
                let is_about_up = self.nodes[&about].is_up();
                if self.nodes[&to].is_up() {
                    self.with(to, |zab, now| {
                        zab.handle_reachable(now, about, is_reachable && is_about_up);
                    });
                }
            }
        }
    }

    pub fn is_cut(&self, one: ServerId, other: ServerId) -> bool {
        self.cuts.contains(&(one.min(other), one.max(other)))
    }

    /// Nothing passes between the two, and neither is told.
    pub fn cut(&mut self, one: i64, other: i64) {
        self.cuts.push((server(one.min(other)), server(one.max(other))));
    }

    /// Connections that were cut come up again, having lost what was under way.
    pub fn heal(&mut self) {
        for (one, other) in std::mem::take(&mut self.cuts) {
            let links: Vec<LinkId> = self
                .links
                .iter()
                .filter(|(_, l)| l.has(one) && l.has(other))
                .map(|l| *l.0)
                .collect();
            for link in links {
                let lost = self.links.get_mut(&link).expect("listed");
                if let (Some(Mail::Connect { .. }), true) =
                    (lost.to_leader.front(), lost.is_open[1])
                {
                    let (learner, leader) = (lost.learner, lost.leader);
                    self.links.remove(&link);
                    self.with(learner, |zab, now| zab.handle_connect_failed(now, leader));
                    continue;
                }
                lost.to_leader.clear();
                lost.to_learner.clear();
                let is_open = lost.is_open;
                for end in [lost.leader, lost.learner] {
                    let is_known = is_open[usize::from(self.links[&link].learner == end)];
                    self.close(link, end);
                    if is_known && self.nodes[&end].is_up() {
                        self.with(end, |zab, now| zab.handle_disconnected(now, link));
                    }
                    if !self.links.contains_key(&link) {
                        break;
                    }
                }
            }
            if self.nodes[&one].is_up() && self.nodes[&other].is_up() {
                self.with(one, |zab, now| zab.handle_reachable(now, other, true));
                self.with(other, |zab, now| zab.handle_reachable(now, one, true));
            }
        }
    }

    /// What is under way on connections never arrives.
    pub fn lose_mail(&mut self) {
        for link in self.links.values_mut() {
            link.to_leader.clear();
            link.to_learner.clear();
        }
    }

    /// `by` closes its end.
    pub fn close(&mut self, id: LinkId, by: ServerId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let end = usize::from(by == link.learner);
        link.is_open[end] = false;
        if end == 0 {
            link.to_leader.clear();
            link.to_learner.push_back(Mail::Closed);
        } else {
            link.to_learner.clear();
            link.to_leader.push_back(Mail::Closed);
        }
        if end == 1 && std::mem::take(&mut link.is_receiving) && self.nodes[&by].is_up() {
            self.with(by, |zab, now| zab.handle_snapshot_failed(now, id));
        }
        let Some(link) = self.links.get(&id) else { return };
        if link.is_open == [false, false] {
            self.links.remove(&id);
        }
    }
}

impl Link {
    pub fn has(&self, id: ServerId) -> bool {
        self.learner == id || self.leader == id
    }
}

// ── Steps ──
impl Cluster {
    /// Calls one server, and performs what it asks for.
    pub fn with<T>(&mut self, id: ServerId, call: impl FnOnce(&mut Zab, Time) -> T) -> T {
        let now = self.now;
        let node = self.nodes.get_mut(&id).expect("a member");
        let result = call(node.zab(), now);
        self.drain(id);
        result
    }

    fn queues(&self) -> Vec<Queue> {
        let mut queues = Vec::new();
        for &(from, to) in self.notifications.keys() {
            if !self.is_cut(from, to) {
                queues.push(Queue::Notification(from, to));
            }
        }
        let holds = |mail: &Mail| self.holds.is_some_and(|holds| holds(mail));
        for (&id, link) in &self.links {
            if self.is_cut(link.leader, link.learner) {
                continue;
            }
            if link.to_leader.front().is_some_and(|mail| !holds(mail)) {
                queues.push(Queue::ToLeader(id));
            }
            if link.to_learner.front().is_some_and(|mail| !holds(mail)) {
                queues.push(Queue::ToLearner(id));
            }
        }
        for (&id, node) in &self.nodes {
            if !node.disk.is_slow && !node.disk.works.is_empty() {
                queues.push(Queue::Disk(id));
            }
        }
        queues.extend(self.reads.keys().map(|&(reader, link)| Queue::ReadLog(reader, link)));
        queues
    }

    /// Takes the head of one queue, or lets time pass; false when nothing will ever happen.
    pub fn step(&mut self) -> bool {
        let queues = self.queues();
        if queues.is_empty() {
            return self.pass_time();
        }
        let queue = queues[self.random(queues.len())];
        self.take(queue);
        self.check();
        true
    }

    /// Time moves on to the next timeout.
    pub fn pass_time(&mut self) -> bool {
        let timeouts = self.nodes.values().filter_map(|node| node.zab.as_ref()?.poll_timeout());
        let Some(next) = timeouts.min() else { return false };
        self.now = self.now.max(next);
        self.fire_timeouts();
        true
    }

    pub fn fire_timeouts(&mut self) {
        let now = self.now;
        let is_due =
            |node: &Node| node.zab.as_ref().and_then(Zab::poll_timeout).is_some_and(|at| at <= now);
        let due: Vec<ServerId> =
            self.nodes.values().filter(|node| is_due(node)).map(|node| node.id).collect();
        for id in due {
            self.with(id, |zab, now| zab.handle_timeout(now));
        }
        self.check();
    }

    /// Takes every head there is until nothing is left to do but to wait.
    pub fn quiesce(&mut self) {
        for _ in 0..200_000 {
            let queues = self.queues();
            if queues.is_empty() {
                return;
            }
            let queue = queues[self.random(queues.len())];
            self.take(queue);
            self.check();
        }
        panic!("it never comes to rest:\n{}", self.tail());
    }

    /// Goes on until `is_done`, at most for so many ticks.
    pub fn run_until(&mut self, ticks: u32, is_done: impl Fn(&Cluster) -> bool) {
        let end = self.now + TICK * ticks;
        while !is_done(self) {
            let is_going = self.step();
            assert!(is_going && self.now <= end, "not done in time:\n{}", self.tail());
        }
    }

    pub fn run_for(&mut self, ticks: u32) {
        let end = self.now + TICK * ticks;
        while self.now < end && self.step() {}
    }

    /// Goes on until all that are up serve under one leader and have everything.
    pub fn settle(&mut self) {
        self.run_until(100, |cluster| {
            let Some(leader) = cluster.leader() else { return false };
            let last = cluster.node(leader).published;
            let is_in_step = |node: &Node| {
                node.published == last && node.disk.log.last() == last && node.role != Role::Looking
            };
            last == cluster.node(leader).zab.as_ref().expect("up").last()
                && cluster.nodes.values().filter(|node| node.is_up()).all(is_in_step)
        });
    }

    /// Goes on for a while during which the disk of `id` is not done.
    pub fn settle_until_disk(&mut self, id: i64) {
        self.run_for(10);
        assert!(!self.node(id).disk.works.is_empty());
    }

    /// The latest established leader that is up.
    pub fn leader(&self) -> Option<i64> {
        let epoch = |node: &Node| match node.role {
            Role::Leading { epoch } => Some(epoch),
            _ => None,
        };
        let leaders = self.nodes.values().filter(|node| node.is_up() && epoch(node).is_some());
        leaders.max_by_key(|node| epoch(node)).map(|node| node.id.0)
    }

    pub fn followers(&self) -> Vec<i64> {
        let follows = |node: &&Node| matches!(node.role, Role::Following { .. });
        self.nodes.values().filter(follows).map(|node| node.id.0).collect()
    }

    /// The pipeline of the leader `id` proposes so many transactions.
    pub fn propose(&mut self, id: i64, count: usize) {
        for _ in 0..count {
            let node = self.node_mut(id);
            let Role::Leading { epoch } = node.role else { return };
            let zxid = Zxid::new(epoch, node.next_counter);
            node.next_counter += 1;
            self.payload += 1;
            let txn: Arc<[u8]> = Arc::from(&self.payload.to_be_bytes()[..]);
            self.propose_txn(id, zxid, txn);
        }
    }

    fn propose_txn(&mut self, id: i64, zxid: Zxid, txn: Arc<[u8]>) {
        self.node_mut(id).tree.push((zxid, Arc::clone(&txn)));
        self.with(server(id), |zab, now| zab.propose(now, zxid, txn));
        self.check();
    }

    /// The pipeline of the leader `id` proposes other members; under which zxid.
    pub fn propose_members(&mut self, id: i64, roles: &[(i64, bool)]) -> Zxid {
        let node = self.node_mut(id);
        let Role::Leading { epoch } = node.role else { panic!("{id} does not lead") };
        let zxid = Zxid::new(epoch, node.next_counter);
        node.next_counter += 1;
        let text = members_text(roles, zxid);
        let header = TxnHeader { session: 1, cxid: 1, zxid, time_ms: 1 };
        let mut bytes = Vec::new();
        txn::encode_header(&header, OpCode::Reconfig, &mut bytes);
        let data = Some(text.as_bytes());
        let change = txn::Txn::SetData { path: "/zookeeper/config", data, version: -1 };
        change.encode_record(&mut bytes);
        self.propose_txn(id, zxid, Arc::from(bytes));
        zxid
    }

    /// The pipeline of `id` asks whether it leads.
    pub fn confirm(&mut self, id: i64) -> u64 {
        self.payload += 1;
        let token = self.payload;
        let committed = self.oracle.committed.keys().next_back().copied().unwrap_or_default();
        self.node_mut(id).asked.insert(token, committed);
        self.with(server(id), |zab, now| zab.confirm(now, token));
        token
    }

    pub fn tail(&self) -> String {
        let start = self.trace.len().saturating_sub(if std::env::var("ZAB_SEED").is_ok() {
            3000
        } else {
            60
        });
        let state = |node: &Node| {
            let (id, zab, disk) = (node.id, node.zab.as_ref(), &node.disk);
            let zab = zab.map(|zab| (zab.role(), zab.doing(), zab.leader(), zab.last()));
            let durable = (disk.log.last(), disk.current_epoch, disk.accepted_epoch);
            format!("{id}: {zab:?} {durable:?} {:?} {:?}", disk.standing, node.stopped)
        };
        let states: Vec<String> = self.nodes.values().map(state).collect();
        format!("{}\n{}", self.trace[start..].join("\n"), states.join("\n"))
    }
}
