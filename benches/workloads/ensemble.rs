//! Three servers that have elected a leader: what a set costs all of them together, with what they
//! say to each other encoded and decoded, without sockets and disks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ringkeeper::replica::Replica;
use ringkeeper::time::{Time, WallMs};
use ringkeeper::tree::Tree;
use ringkeeper::wire::election::Notification;
use ringkeeper::wire::quorum::{Extensions, FromLeader, FromLearner, ServerId};
use ringkeeper::zab::Zab;
use ringkeeper::zab::ensemble::{Ensemble, Member};
use ringkeeper::zab::output::{Action, LinkId, Recovered, Role, Standing};
use ringkeeper::zxid::Zxid;

use super::log::Log;
use super::serving::{Ask, Backend, PipelineEnd, Serving, TOGETHER, pipeline, run};
use super::tree::grown;
use super::{Row, Run};

const SERVERS: usize = 3;
const PARENTS: usize = 10;
/// What a peer takes in one piece, in bytes.
const PACKET_BYTES_MAX: usize = 1 << 20;

const fn row(name: &'static str, count: u32, make: fn() -> Run) -> Row {
    Row { name, count, per: "request", make }
}

pub const ROWS: &[Row] = &[
    row("three/set, alone", 1, || three(true, 1, 1)),
    row("three/set, 16 connections", TOGETHER, || three(true, TOGETHER, 1)),
    row("three/set, 16 in flight", TOGETHER, || three(true, 1, TOGETHER)),
    row("three/set by a follower, 16 connections", TOGETHER, || three(false, TOGETHER, 1)),
];

/// Something under way between two servers, other than on a link.
enum Mail {
    Notification { from: ServerId, notification: Box<Notification> },
    Accepted(LinkId),
    Connected(LinkId),
    Refused(ServerId),
}

struct Server {
    replica: Replica,
    log: Log,
    is_accepting: bool,
    mail: Vec<Mail>,
    /// What has come from learners and from a leader, by link.
    from_learners: BTreeMap<LinkId, Vec<u8>>,
    from_leader: BTreeMap<LinkId, Vec<u8>>,
}

/// Three servers; the clients are those of `host`.
struct Three {
    servers: Vec<Server>,
    host: usize,
    /// The leader's and the learner's end of each link.
    links: BTreeMap<LinkId, (usize, usize)>,
}

fn id(server: usize) -> ServerId {
    ServerId(server as i64 + 1)
}

fn at(id: ServerId) -> usize {
    id.0 as usize - 1
}

fn member(server: usize) -> Replica {
    let voter = |server| Member { id: id(server), is_observer: false, group: None, weight: 1 };
    let ensemble = Ensemble {
        me: id(server),
        members: (0..SERVERS).map(voter).collect(),
        config: Arc::from([]),
        config_version: 0,
        next: None,
        heard: None,
        is_dynamic: false,
        tick: Duration::from_secs(2),
        init_limit_ticks: 10,
        sync_limit_ticks: 5,
        commit_log_count: 500,
        commit_log_bytes_max: 32 << 20,
        extensions: Extensions::ALL,
        has_observer_masters: false,
    };
    let writer = grown(PARENTS);
    let recovered = Recovered {
        last: writer.last_zxid(),
        committed: writer.last_zxid(),
        accepted_epoch: 1,
        current_epoch: 1,
        standing: Standing::Sound,
    };
    let zab = Zab::new(ensemble, recovered, server as u64, Time::default());
    Replica::member(pipeline(writer), zab)
}

impl Three {
    /// Servers that have a leader, and what time it is then.
    fn new(is_led_by_host: bool) -> (Three, Time) {
        let server = |server| Server {
            replica: member(server),
            log: Log::new(Zxid::new(1, 0)),
            is_accepting: false,
            mail: Vec::new(),
            from_learners: BTreeMap::new(),
            from_leader: BTreeMap::new(),
        };
        let servers = (0..SERVERS).map(server).collect();
        let mut three = Three { servers, host: 0, links: BTreeMap::new() };
        let (mut now, wall) = (Time::default(), WallMs::default());
        for server in 0..SERVERS {
            for peer in (0..SERVERS).filter(|peer| *peer != server) {
                three.servers[server].replica.handle_reachable(now, id(peer), true);
            }
        }
        while three.servers.iter().any(|it| it.replica.role() == Role::Looking) {
            three.settle(None, now, wall);
            let due = three.servers.iter().filter_map(|it| it.replica.poll_timeout()).min();
            now = now.max(due.expect("an election has timeouts"));
        }
        three.settle(None, now, wall);
        let leads = |it: &Server| matches!(it.replica.role(), Role::Leading { .. });
        let host = three.servers.iter().position(|it| leads(it) == is_led_by_host);
        three.host = host.expect("one leads, two follow");
        (three, now)
    }

    /// Lets every server do what there is to do, until nothing is under way.
    fn settle(&mut self, mut end: Option<&mut PipelineEnd>, now: Time, wall: WallMs) {
        let mut is_moving = true;
        while is_moving {
            is_moving = false;
            for server in 0..SERVERS {
                let end = end.as_deref_mut().filter(|_| server == self.host);
                is_moving |= self.turn_of(server, end, now, wall);
            }
        }
    }

    /// One turn of one server; whether there was anything to do.
    fn turn_of(
        &mut self,
        server: usize,
        end: Option<&mut PipelineEnd>,
        now: Time,
        wall: WallMs,
    ) -> bool {
        let it = &mut self.servers[server];
        if it.replica.poll_timeout().is_some_and(|due| due <= now) {
            it.replica.handle_timeout(now, wall);
        }
        let mut is_moving = self.perform_all(server, now);
        is_moving |= self.hear(server, now, wall);
        is_moving |= self.perform_all(server, now);
        match end {
            Some(end) => {
                while end.take_batch(&mut self.servers[server].replica, now, wall) {
                    is_moving |= self.perform_all(server, now);
                }
                end.publish(&mut self.servers[server].replica);
            }
            None => {
                let it = &mut self.servers[server];
                while it.replica.poll_published().is_some() || it.replica.poll_notice().is_some() {}
                let committed = it.replica.pipeline().committed();
                it.replica.reclaim(committed, &[]);
            }
        }
        while let Some(durable) = self.servers[server].log.write() {
            is_moving = true;
            self.servers[server].replica.handle_persisted(now, durable);
            self.perform_all(server, now);
        }
        is_moving
    }

    fn hear(&mut self, server: usize, now: Time, wall: WallMs) -> bool {
        let it = &mut self.servers[server];
        let mut is_moving = !it.mail.is_empty();
        for mail in it.mail.drain(..) {
            match mail {
                Mail::Notification { from, notification } => {
                    it.replica.handle_notification(now, from, *notification);
                }
                Mail::Accepted(link) => it.replica.handle_accepted(now, link),
                Mail::Connected(link) => it.replica.handle_connected(now, link),
                Mail::Refused(to) => it.replica.handle_connect_failed(now, to),
            }
        }
        for (&link, bytes) in &mut it.from_learners {
            is_moving |= !bytes.is_empty();
            let mut taken = 0;
            while let Some((message, length)) =
                FromLearner::decode(&bytes[taken..], PACKET_BYTES_MAX).expect("it was encoded")
            {
                taken += length;
                it.replica.handle_from_learner(now, wall, link, message);
            }
            assert_eq!(taken, bytes.len());
            bytes.clear();
        }
        for (&link, bytes) in &mut it.from_leader {
            is_moving |= !bytes.is_empty();
            let mut taken = 0;
            while let Some((message, length)) =
                FromLeader::decode(&bytes[taken..], PACKET_BYTES_MAX).expect("it was encoded")
            {
                taken += length;
                it.replica.handle_from_leader(now, wall, link, message);
            }
            assert_eq!(taken, bytes.len());
            bytes.clear();
        }
        is_moving
    }

    fn perform_all(&mut self, server: usize, now: Time) -> bool {
        let mut has_done = false;
        while let Some(action) = self.servers[server].replica.poll_action() {
            has_done = true;
            self.perform(server, action, now);
        }
        has_done
    }

    fn perform(&mut self, server: usize, action: Action, now: Time) {
        match action {
            Action::ToLearner { link, message } => {
                let (_, learner) = self.links[&link];
                let bytes = self.servers[learner].from_leader.entry(link).or_default();
                message.encode(bytes);
            }
            Action::ToLeader { link, message } => {
                let (leader, _) = self.links[&link];
                let bytes = self.servers[leader].from_learners.entry(link).or_default();
                message.encode(bytes);
            }
            Action::Append { zxid, txn } => self.servers[server].log.append(zxid, &txn),
            Action::Notify { to, notification } => {
                let (from, notification) = (id(server), Box::new(notification));
                self.servers[at(to)].mail.push(Mail::Notification { from, notification });
            }
            Action::Connect { to } if self.servers[at(to)].is_accepting => {
                let link = LinkId(self.links.len() as u64);
                self.links.insert(link, (at(to), server));
                self.servers[at(to)].mail.push(Mail::Accepted(link));
                self.servers[server].mail.push(Mail::Connected(link));
            }
            Action::Connect { to } => self.servers[server].mail.push(Mail::Refused(to)),
            Action::Accept(is_accepting) => self.servers[server].is_accepting = is_accepting,
            Action::SaveAcceptedEpoch { epoch } => {
                self.servers[server].replica.handle_accepted_epoch_saved(now, epoch);
            }
            Action::SaveCurrentEpoch { epoch } => {
                self.servers[server].replica.handle_current_epoch_saved(now, epoch);
            }
            other => panic!("servers that are equal do not ask for {other:?}"),
        }
    }
}

impl Backend for Three {
    fn turn(&mut self, end: &mut PipelineEnd, now: Time, wall: WallMs) {
        self.settle(Some(end), now, wall);
    }

    fn tree(&self) -> Arc<Tree> {
        Arc::clone(self.servers[self.host].replica.pipeline().writer().tree())
    }

    fn version(&self) -> Zxid {
        self.servers[self.host].replica.pipeline().committed()
    }
}

fn three(is_led_by_host: bool, connections: u32, in_flight: u32) -> Run {
    let (three, now) = Three::new(is_led_by_host);
    let serving = Serving::new(three, connections, now);
    run(serving, connections, in_flight, PARENTS, Ask::Set)
}
