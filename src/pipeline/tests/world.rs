//! Three pipelines that form an ensemble by hand: the test carries transactions, commits, requests
//! and answers between them, and says who leads. A log is a list of transactions, durable at once.
//! Connections between servers are first in, first out, and are lost whole; what a learner had sent
//! on one may still reach a leader that has not ended since.

use super::*;
use crate::pipeline::forward::ToLeader;
use crate::wire::quorum::{FromLeader, ServerId};
use crate::zab::output::{LinkId, Role};

/// From a leader to a learner.
enum Down {
    Proposal(Zxid, Arc<[u8]>),
    Commit(Zxid),
    Synced,
    Revalidated(i64, bool),
}

/// A learner's connection with its leader.
#[derive(Default)]
struct Link {
    up: VecDeque<ToLeader>,
    down: VecDeque<Down>,
}

/// One server.
pub struct Member {
    pub pipeline: Pipeline,
    pub log: Vec<(Zxid, Arc<[u8]>)>,
    link: Option<Link>,
    /// What its clients' cores serve.
    pub version: Zxid,
    pub events: Vec<Event>,
    /// The epoch of which it believes to be the leader.
    leads: Option<u32>,
    /// The epoch whose history it took last (`currentEpoch`).
    epoch: u32,
    confirms: VecDeque<u64>,
    pub replaced: usize,
}

/// What a client asked on one connection.
#[derive(Clone, Debug)]
pub struct Asked {
    pub xid: i32,
    pub op: OpCode,
    /// Whether it can be a transaction.
    pub is_readable: bool,
    /// What was committed anywhere when it was asked.
    committed: Zxid,
}

/// A client's connection, and all that became of it.
pub struct Connection {
    pub member: usize,
    pub client: Client,
    pub session: Option<i64>,
    pub asked: Vec<Asked>,
    pub answers: Vec<Answer>,
    /// The answer to its connect request.
    pub greeting: Option<Vec<u8>>,
    pub is_closed: bool,
}

impl Connection {
    /// Whether replies may have waited for something that is no transaction: they show a later
    /// zxid than their own.
    pub fn may_hold(&self) -> bool {
        self.asked.iter().any(|asked| !asked.is_readable || asked.op == OpCode::Sync)
    }
}

pub struct World {
    modes: Modes,
    pub members: Vec<Member>,
    pub leader: usize,
    pub epoch: u32,
    /// What any client may have been told of.
    pub committed: Zxid,
    pub connections: Vec<Connection>,
    /// What was asked, by xid.
    pub requests: BTreeMap<i32, (OpCode, Vec<u8>)>,
    /// Requests on connections that their learners have given up.
    late: Vec<(usize, u32, VecDeque<ToLeader>)>,
    pub now: Time,
    pub wall: WallMs,
    xid: i32,
    ids: Vec<Id>,
}

fn id_of(member: usize) -> ServerId {
    ServerId(member as i64 + 1)
}

fn index_of(id: ServerId) -> usize {
    id.0 as usize - 1
}

fn new_member(member: usize, modes: Modes) -> Member {
    let now = Time::from_nanos(0);
    let sessions = Sessions::new(TICK_MS as u32, member as u8 + 1, 5000);
    let settings = Settings { modes, ..settings() };
    let mut pipeline = Pipeline::new(Writer::new(TREE, now), sessions, settings, 2, now);
    pipeline.handle_role(Role::Looking, 0, now, WallMs(0));
    Member {
        pipeline,
        log: Vec::new(),
        link: None,
        version: Zxid::ZERO,
        events: Vec::new(),
        leads: None,
        epoch: 0,
        confirms: VecDeque::new(),
        replaced: 0,
    }
}

impl World {
    /// Three servers that look for a leader.
    pub fn looking(modes: Modes) -> World {
        World {
            modes,
            members: (0..3).map(|member| new_member(member, modes)).collect(),
            leader: 0,
            epoch: 0,
            committed: Zxid::ZERO,
            connections: Vec::new(),
            requests: BTreeMap::new(),
            late: Vec::new(),
            now: Time::from_nanos(0),
            wall: WallMs(1_700_000_000_000),
            xid: 0,
            ids: AuthIds::new(IpAddr::V4(Ipv4Addr::LOCALHOST)).ids().to_vec(),
        }
    }

    /// Three servers, the first of which leads the others.
    pub fn led() -> World {
        World::led_with(Modes::default())
    }

    /// The same, where they do more for clients.
    pub fn led_with(modes: Modes) -> World {
        let mut world = World::looking(modes);
        world.elect([0, 1]);
        world.join(2);
        world
    }

    // ── Clients ──

    /// A connection to a server that asks for a new session: its number.
    pub fn connect(&mut self, member: usize) -> usize {
        self.connect_to(member, 0, None)
    }

    /// A connection to a server that asks for the session of another connection.
    pub fn reconnect(&mut self, member: usize, session: i64) -> usize {
        self.connect_to(member, session, Some(session::password(session)))
    }

    fn connect_to(&mut self, member: usize, session: i64, password: Option<[u8; 16]>) -> usize {
        let number = self.connections.len();
        let client = Client { core: (number % 2) as u16, connection: number as u64 };
        self.connections.push(Connection {
            member,
            client,
            session: None,
            asked: Vec::new(),
            answers: Vec::new(),
            greeting: None,
            is_closed: false,
        });
        let connect =
            Connect { client, timeout_ms: 10_000, session, password, read_only: Some(false) };
        let (now, wall) = (self.now, self.wall);
        self.members[member].pipeline.handle_connect(connect, now, wall);
        self.pump(member);
        number
    }

    /// A request on a connection that has its session; its xid.
    pub fn ask(&mut self, connection: usize, (op, body): &(OpCode, Vec<u8>)) -> Option<i32> {
        self.xid += 1;
        let Connection { member, client, session, asked, is_closed, .. } =
            &mut self.connections[connection];
        let session = session.filter(|_| !*is_closed)?;
        if asked.iter().any(|asked| asked.op == OpCode::CloseSession) {
            return None;
        }
        let is_readable =
            *op == OpCode::CloseSession || crate::wire::request::Request::decode(*op, body).is_ok();
        let committed = self.committed;
        self.requests.insert(self.xid, (*op, body.clone()));
        asked.push(Asked { xid: self.xid, op: *op, is_readable, committed });
        let (client, member, xid) = (*client, *member, self.xid);
        let write = Write { client, session, xid, op: *op, body, ids: &self.ids };
        self.members[member].pipeline.handle_write(&write, self.now, self.wall);
        self.pump(member);
        Some(self.xid)
    }

    // ── Between servers ──

    /// The leader takes the oldest message of a learner.
    pub fn carry_up(&mut self, learner: usize) -> bool {
        let leader = self.leader;
        let Some(message) = self.members[learner].link.as_mut().and_then(|it| it.up.pop_front())
        else {
            return false;
        };
        self.take_up(leader, learner, message);
        true
    }

    /// The leader takes what a learner had sent on a connection that is lost.
    pub fn carry_late(&mut self) -> bool {
        let Some((learner, epoch, queue)) = self.late.last_mut() else { return false };
        let (learner, epoch, message) = (*learner, *epoch, queue.pop_front());
        match message {
            Some(message) if self.members[self.leader].leads == Some(epoch) => {
                self.take_up(self.leader, learner, message);
            }
            Some(_) => {}
            None => drop(self.late.pop()),
        }
        true
    }

    fn take_up(&mut self, leader: usize, learner: usize, message: ToLeader) {
        self.wall.0 += 1;
        let (now, wall) = (self.now, self.wall);
        let pipeline = &mut self.members[leader].pipeline;
        match message {
            ToLeader::Request(request) => {
                assert!(pipeline.handle_forwarded(id_of(learner), &request, now, wall));
            }
            ToLeader::Revalidate { session, timeout_ms } => {
                let is_valid = pipeline.handle_revalidate(id_of(learner), session, timeout_ms, now);
                if let Some(link) = &mut self.members[learner].link {
                    link.down.push_back(Down::Revalidated(session, is_valid));
                }
            }
        }
        self.pump(leader);
    }

    /// A learner takes the oldest message of its leader.
    pub fn carry_down(&mut self, learner: usize) -> bool {
        let now = self.now;
        let member = &mut self.members[learner];
        let Some(message) = member.link.as_mut().and_then(|link| link.down.pop_front()) else {
            return false;
        };
        match message {
            Down::Proposal(zxid, txn) => {
                member.pipeline.handle_proposal(zxid, &txn, now).expect("the states are the same");
                member.log.push((zxid, txn));
            }
            Down::Commit(zxid) => member.pipeline.handle_committed(zxid),
            Down::Synced => member.pipeline.handle_synced(),
            Down::Revalidated(session, is_valid) => {
                member.pipeline.handle_revalidated(session, is_valid, now);
            }
        }
        self.pump(learner);
        true
    }

    /// What a quorum has is committed; the leader knows, and its learners are told.
    pub fn commit(&mut self) {
        let leader = self.leader;
        let Some(epoch) = self.members[leader].leads else { return };
        let end = |member: &Member| member.log.last().map_or(Zxid::ZERO, |(zxid, _)| *zxid);
        let mut ends: Vec<Zxid> = self
            .members
            .iter()
            .enumerate()
            .filter(|(index, member)| *index == leader || member.link.is_some())
            .map(|(_, member)| end(member))
            .collect();
        ends.sort_unstable_by(|a, b| b.cmp(a));
        let Some(&through) = ends.get(1) else { return };
        if through > self.committed && through.epoch() == epoch {
            self.committed = through;
            self.members[leader].pipeline.handle_committed(through);
            for link in self.members.iter_mut().filter_map(|member| member.link.as_mut()) {
                link.down.push_back(Down::Commit(through));
            }
            self.pump(leader);
        }
    }

    /// A quorum confirms the leader, where everything that it prepared is committed.
    pub fn confirm(&mut self) {
        let leader = self.leader;
        let has_quorum = self.members.iter().any(|member| member.link.is_some());
        let member = &mut self.members[leader];
        let is_through = member.pipeline.prepared() == member.pipeline.committed();
        if !has_quorum || !is_through || member.leads != Some(self.epoch) {
            return;
        }
        if let Some(token) = member.confirms.pop_front() {
            let (now, wall) = (self.now, self.wall);
            member.pipeline.handle_confirmed(token, now, wall);
            self.pump(leader);
        }
    }

    /// Takes everything that comes out of a server.
    pub fn pump(&mut self, member: usize) {
        let leads = self.members[member].leads;
        let is_leader = member == self.leader && leads == Some(self.epoch);
        let txns: Vec<(Zxid, Arc<[u8]>)> = {
            let txns = self.members[member].pipeline.take_txns();
            let all = txns.iter().map(|(zxid, bytes)| (zxid, bytes.into())).collect();
            txns.clear();
            all
        };
        for (zxid, txn) in txns {
            assert_eq!(Some(zxid.epoch()), leads, "only a leader makes transactions");
            self.members[member].log.push((zxid, txn.clone()));
            let links = self.members.iter_mut().filter_map(|it| it.link.as_mut());
            for link in links.filter(|_| is_leader) {
                link.down.push_back(Down::Proposal(zxid, txn.clone()));
            }
        }
        while let Some(token) = self.members[member].pipeline.poll_confirm() {
            self.members[member].confirms.push_back(token);
        }
        while let Some((learner, message)) = self.members[member].pipeline.poll_to_learner() {
            assert_eq!(message, FromLeader::Sync);
            if let Some(link) = &mut self.members[index_of(learner)].link {
                link.down.push_back(Down::Synced);
            }
        }
        while let Some(message) = self.members[member].pipeline.poll_to_leader() {
            let link = self.members[member].link.as_mut().expect("it has a leader");
            link.up.push_back(message);
        }
        self.members[member].pipeline.handle_appended();
        self.take_published(member);
        self.take_notices(member);
    }

    fn take_published(&mut self, member: usize) {
        while let Some(published) = self.members[member].pipeline.poll_published() {
            let it = &mut self.members[member];
            assert!(published.through >= it.version, "time runs backward");
            assert!(published.through <= self.committed, "published before it is committed");
            it.version = published.through;
            it.events.extend(published.events.iter().cloned());
            for (core, outbox) in published.outboxes.iter().enumerate() {
                let mut start = 0;
                assert!(outbox.replies.is_sorted_by_key(|reply| reply.zxid));
                for reply in &outbox.replies {
                    assert!(reply.zxid <= published.through);
                    let client = Client { core: core as u16, connection: reply.connection };
                    self.take_reply(client, reply, &outbox.bytes[start..reply.end]);
                    start = reply.end;
                }
                assert_eq!(start, outbox.bytes.len());
            }
        }
    }

    fn take_reply(&mut self, client: Client, reply: &Reply, bytes: &[u8]) {
        let connection = &mut self.connections[client.connection as usize];
        if connection.is_closed {
            return;
        }
        if let Then::Begin { session, .. } = reply.then {
            connection.session = Some(session);
            connection.greeting = Some(bytes.to_vec());
            return;
        }
        if reply.answers {
            let asked = &connection.asked[connection.answers.len()];
            assert_eq!(asked.xid, reply.xid, "answers come in the order of requests");
            if asked.op == OpCode::Sync {
                assert!(reply.zxid >= asked.committed, "a sync has missed something");
            }
            let mut reader = Reader::new(bytes);
            assert_eq!(reader.i32().unwrap() as usize, bytes.len() - 4, "one frame each");
            assert_eq!(reader.i32(), Ok(reply.xid));
            let zxid = Zxid::from_raw(reader.i64().unwrap());
            let error = reader.i32().unwrap();
            let body = reader.remaining().to_vec();
            let answer = Answer { client, xid: reply.xid, zxid, error, body, then: reply.then };
            connection.answers.push(answer);
        }
        if reply.then == Then::Close {
            self.close(client.connection as usize);
        }
    }

    fn take_notices(&mut self, member: usize) {
        while let Some(notice) = self.members[member].pipeline.poll_notice() {
            match notice {
                Notice::Close { client } => self.close(client.connection as usize),
                Notice::Connected { client, frame, then } => {
                    let connection = &mut self.connections[client.connection as usize];
                    connection.greeting = Some(frame);
                    match then {
                        Then::Begin { session, .. } => connection.session = Some(session),
                        _ => self.close(client.connection as usize),
                    }
                }
                Notice::Replaced { core: 0, version, .. } => {
                    let it = &mut self.members[member];
                    it.replaced += 1;
                    it.version = version;
                    for index in 0..self.connections.len() {
                        if self.connections[index].member == member {
                            self.close(index);
                        }
                    }
                }
                Notice::Replaced { .. } => {}
            }
        }
    }

    /// A connection is closed, and its server hears of it.
    pub fn close(&mut self, connection: usize) {
        let Connection { member, client, is_closed, .. } = &mut self.connections[connection];
        if !std::mem::replace(is_closed, true) {
            self.members[*member].pipeline.handle_closed(*client);
        }
    }

    // ── Leaders ──

    /// A server loses its leader, or its leadership.
    pub fn lose_leader(&mut self, member: usize) {
        let (epoch, now, wall) = (self.epoch, self.now, self.wall);
        let it = &mut self.members[member];
        it.leads = None;
        it.confirms.clear();
        if let Some(link) = it.link.take() {
            self.late.push((member, epoch, link.up));
        }
        it.pipeline.handle_role(Role::Looking, 0, now, wall);
        self.pump(member);
    }

    /// Two servers form a quorum: whichever has more leads. The third is left as it is.
    pub fn elect(&mut self, quorum: [usize; 2]) {
        let [a, b] = quorum;
        let leader = if self.vote(b) > self.vote(a) { b } else { a };
        let follower = a + b - leader;
        for member in 0..3 {
            if quorum.contains(&member) || self.members[member].link.is_some() {
                self.lose_leader(member);
            }
        }
        self.epoch += 1;
        let last = self.end(leader);
        assert!(last >= self.committed, "a quorum has what is committed");
        self.sync(leader, follower);
        self.committed = last;
        self.leader = leader;
        let (epoch, now, wall) = (self.epoch, self.now, self.wall);
        let it = &mut self.members[leader];
        (it.leads, it.epoch) = (Some(epoch), epoch);
        it.pipeline.handle_committed(last);
        self.members[follower].link = Some(Link::default());
        let it = &mut self.members[leader];
        it.pipeline.handle_role(Role::Leading { epoch }, epoch, now, wall);
        self.pump(leader);
        self.begin_following(follower, last);
    }

    /// A server follows the leader; it may have done so before.
    pub fn join(&mut self, member: usize) {
        if member == self.leader || self.members[self.leader].leads != Some(self.epoch) {
            return;
        }
        self.lose_leader(member);
        self.sync(self.leader, member);
        self.members[member].link = Some(Link::default());
        self.begin_following(member, self.committed);
    }

    fn begin_following(&mut self, member: usize, committed: Zxid) {
        let (epoch, now, wall) = (self.epoch, self.now, self.wall);
        let role = Role::Following { leader: id_of(self.leader), link: LinkId(0) };
        let it = &mut self.members[member];
        it.epoch = epoch;
        it.pipeline.handle_committed(committed);
        it.pipeline.handle_role(role, epoch, now, wall);
        self.pump(member);
    }

    /// A learner's log and tree become the leader's.
    fn sync(&mut self, leader: usize, learner: usize) {
        let now = self.now;
        let theirs = self.members[leader].log.clone();
        let own = &mut self.members[learner];
        let common = own.log.iter().zip(&theirs).take_while(|(a, b)| a == b).count();
        if common < own.log.len() {
            let after = own.log[..common].last().map_or(Zxid::ZERO, |(zxid, _)| *zxid);
            if !own.pipeline.pop_above(after, now) {
                return self.send_state(leader, learner);
            }
            own.log.truncate(common);
        }
        for (zxid, txn) in &theirs[common..] {
            own.pipeline.handle_proposal(*zxid, txn, now).expect("the states are the same");
            own.log.push((*zxid, txn.clone()));
        }
        self.pump(learner);
    }

    /// A learner takes the leader's whole state, at what is committed, and the rest behind it.
    pub fn send_state(&mut self, leader: usize, learner: usize) {
        let now = self.now;
        let theirs = self.members[leader].log.clone();
        let committed = self.committed;
        let mut writer = Writer::new(TREE, now);
        for (_, txn) in theirs.iter().take_while(|(zxid, _)| *zxid <= committed) {
            let logged = txn::decode(txn).unwrap();
            writer.apply(&logged.header, &logged.txn).unwrap();
        }
        let sessions = self.members[leader].pipeline.sessions().at(committed);
        let own = &mut self.members[learner];
        own.pipeline.handle_replaced(writer, sessions, now);
        own.log = theirs.iter().take_while(|(zxid, _)| *zxid <= committed).cloned().collect();
        for (zxid, txn) in &theirs[own.log.len()..] {
            own.pipeline.handle_proposal(*zxid, txn, now).expect("the states are the same");
            own.log.push((*zxid, txn.clone()));
        }
        self.pump(learner);
    }

    /// Everything that is under way arrives, and everybody follows the leader.
    pub fn settle(&mut self) {
        for member in 0..3 {
            let follows = self.members[member].link.is_some();
            if member != self.leader && !follows {
                self.join(member);
            }
        }
        loop {
            let mut moved = self.carry_late();
            for learner in 0..3 {
                moved |= self.carry_up(learner);
                moved |= self.carry_down(learner);
            }
            let confirms = self.members[self.leader].confirms.len();
            self.commit();
            self.confirm();
            moved |= self.members[self.leader].confirms.len() < confirms;
            if !moved
                && self.members.iter().all(|it| {
                    it.link.as_ref().is_none_or(|link| link.up.is_empty() && link.down.is_empty())
                })
            {
                break;
            }
        }
    }

    /// How many messages of a learner are on their way to its leader.
    pub fn carried_up(&self, learner: usize) -> usize {
        self.members[learner].link.as_ref().map_or(0, |link| link.up.len())
    }

    /// The end of a server's log.
    pub fn end(&self, member: usize) -> Zxid {
        self.members[member].log.last().map_or(Zxid::ZERO, |(zxid, _)| *zxid)
    }

    /// What makes a server a leader.
    fn vote(&self, member: usize) -> (u32, Zxid) {
        (self.members[member].epoch, self.end(member))
    }

    /// Whoever has most leads everybody, and everything arrives.
    pub fn heal(&mut self) {
        if self.members[self.leader].leads != Some(self.epoch) {
            let mut all = [0, 1, 2];
            all.sort_by_key(|&member| self.vote(member));
            self.elect([all[1], all[2]]);
        }
        self.settle();
    }

    // ── What must hold ──

    /// Once settled: the same log, tree and sessions everywhere, all of it published.
    pub fn check_same(&mut self) {
        for member in &mut self.members {
            let committed = member.pipeline.committed();
            while member.pipeline.reclaim(committed, &[]) {}
        }
        let leader = &self.members[self.leader];
        for member in &self.members {
            assert_eq!(member.log, leader.log);
            let (writer, other) = (member.pipeline.writer(), leader.pipeline.writer());
            assert_eq!(writer.totals(), other.totals());
            assert_eq!(writer.acl_count(), other.acl_count());
            assert!(writer.owners().eq(other.owners()));
            let (sessions, others) = (member.pipeline.sessions(), leader.pipeline.sessions());
            assert!(sessions.iter().eq(others.iter()), "sessions differ");
            assert_eq!(member.pipeline.committed(), leader.pipeline.prepared());
            assert_eq!(member.version, leader.pipeline.prepared());
            assert!(member.pipeline.waiting.is_empty(), "somebody waits for ever");
            let view = writer.tree().view(Zxid::MAX);
            assert_eq!(view.compute_digest(), writer.digest());
            assert!(member.events.is_sorted_by_key(|event| event.zxid));
            if member.replaced == 0 && leader.replaced == 0 {
                assert_eq!(member.events, leader.events);
            }
        }
    }

    /// Once settled: every request is answered on a connection that lives, nothing is done twice,
    /// what a client was told of is in the log, and of what it asked a beginning was done.
    pub fn check_requests(&self) {
        let mut done: BTreeMap<(i64, i32), Zxid> = BTreeMap::new();
        for (zxid, txn) in &self.members[self.leader].log {
            let logged = txn::decode(txn).unwrap();
            let key = (logged.header.session, logged.header.cxid);
            if key.1 != 0 && logged.txn.op() != OpCode::CloseSession {
                assert_eq!(done.insert(key, *zxid), None, "done twice: {:?}", logged.txn);
            }
            done.entry(key).or_insert(*zxid);
        }
        for connection in &self.connections {
            let Connection { asked, answers, is_closed, session, .. } = connection;
            if !is_closed {
                assert_eq!(asked.len(), answers.len(), "not answered: {asked:?}");
            }
            let Some(session) = *session else { continue };
            for (asked, answer) in asked.iter().zip(answers) {
                let is_txn = asked.is_readable && asked.op != OpCode::Sync;
                // A leader refuses its own clients without a transaction.
                let is_refused = answer.error == ErrorCode::SessionExpired.raw();
                // A local session ends without one.
                let is_local = asked.op == OpCode::CloseSession
                    && self.modes.local_sessions
                    && !done.contains_key(&(session, asked.xid));
                if is_txn && !is_refused && !is_local {
                    let zxid = done.get(&(session, asked.xid)).copied();
                    let was_held = connection.may_hold() && zxid < Some(answer.zxid);
                    assert!(zxid.is_some(), "nobody has done {asked:?}");
                    assert!(was_held || zxid == Some(answer.zxid), "{asked:?}");
                }
            }
            let mut writes = asked.iter().filter(|it| it.is_readable && it.op != OpCode::Sync);
            let is_done = |asked: &&Asked| done.contains_key(&(session, asked.xid));
            let first_undone = writes.by_ref().find(|asked| !is_done(asked));
            let later = writes.find(is_done);
            // The end of a session is done whatever becomes of what came before.
            let later = later.filter(|asked| asked.op != OpCode::CloseSession);
            assert!(later.is_none(), "{later:?} without {first_undone:?}");
        }
    }
}
