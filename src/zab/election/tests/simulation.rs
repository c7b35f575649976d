//! Several elections over a network that loses, delays and reorders, with what comes after an
//! election reduced to its outcome: a leader that a quorum follows, and that is behind none of
//! them, begins an epoch, which is written to itself and its followers at once.
//!
//! Faults end at a known time; from there on the network delivers in order within
//! [`CALM_DELAY_MS`]. While they last: each notification is lost with some probability or takes
//! up to a second; connections between two servers are cut, with and without either side being
//! told; servers are killed and started again, and at most one of them is wiped.

use std::collections::BTreeMap;

use super::*;

const CALM_DELAY_MS: u64 = 20;
/// How long a server stays with a leader that does not lead, or leads without a quorum.
const PATIENCE: Duration = Duration::from_secs(1);
const STEP: Duration = Duration::from_millis(5);

/// What a seed decides.
#[derive(Clone, Copy, Debug)]
struct Plan {
    seed: u64,
    voters: i64,
    observers: i64,
    faults_ms: u64,
    /// Whether servers hear of connections that are cut and come back.
    is_told: bool,
    is_new: bool,
}

/// Epoch and end of a log.
type History = (u32, Zxid);

struct Server {
    election: Election,
    history: History,
    standing: Standing,
    is_up: bool,
    /// What it has decided, and since when it waits for the leadership to be real.
    settled: Option<(ServerId, Time)>,
    /// The epoch that it serves in.
    epoch: Option<u32>,
}

struct World {
    plan: Plan,
    now: Time,
    random: u64,
    servers: Vec<Server>,
    /// By time of arrival and a number.
    network: BTreeMap<(Time, u64), (ServerId, ServerId, Notification)>,
    sent: u64,
    /// The last arrival between two servers, which calm delivery keeps behind.
    last_arrival: BTreeMap<(ServerId, ServerId), Time>,
    cuts: BTreeSet<(i64, i64)>,
    /// What each voter has voted for while looking, by round: the ballots that may be counted.
    cast: BTreeSet<(ServerId, i64, ServerId, History)>,
    /// Whom each server has reported to be under, or to be.
    reported: BTreeSet<(ServerId, ServerId)>,
    committed: History,
    has_wiped: bool,
    trace: u64,
}

impl World {
    fn new(plan: Plan) -> World {
        let mut world = World {
            plan,
            now: START,
            random: plan.seed,
            servers: Vec::new(),
            network: BTreeMap::new(),
            sent: 0,
            last_arrival: BTreeMap::new(),
            cuts: BTreeSet::new(),
            cast: BTreeSet::new(),
            reported: BTreeSet::new(),
            committed: (0, Zxid::ZERO),
            has_wiped: false,
            trace: 0,
        };
        for me in 0..plan.voters + plan.observers {
            let standing = if plan.is_new { Standing::Empty } else { Standing::Sound };
            let epoch = world.below(3) as u32;
            let counter = world.below(3) as u32;
            let history = match plan.is_new {
                true => (0, Zxid::ZERO),
                false => (epoch, Zxid::new(epoch, counter)),
            };
            let election = world.election(me, standing);
            let (settled, epoch) = (None, None);
            let server = Server { election, history, standing, is_up: true, settled, epoch };
            world.servers.push(server);
        }
        for me in 0..world.servers.len() {
            world.start(me);
        }
        world
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.random >> 33) % bound
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn election(&mut self, me: i64, standing: Standing) -> Election {
        let mut ensemble = ensemble(me, self.plan.voters);
        let observers = self.plan.voters..self.plan.voters + self.plan.observers;
        ensemble.members.truncate(self.plan.voters as usize);
        ensemble.members.extend(observers.map(|id| Member {
            id: ServerId(id),
            is_observer: true,
            group: None,
            weight: 1,
        }));
        let seed = self.below(u64::MAX >> 33);
        Election::new(Arc::new(ensemble), standing, seed)
    }

    fn start(&mut self, me: usize) {
        let server = &mut self.servers[me];
        (server.settled, server.epoch) = (None, None);
        let (peer_epoch, zxid) = server.history;
        server.election.start(self.now, Vote { leader: ServerId(me as i64), zxid, peer_epoch });
        self.drain(me);
    }

    fn drain(&mut self, me: usize) {
        let from = ServerId(me as i64);
        while let Some(output) = self.servers[me].election.poll_output() {
            match output {
                ElectionOutput::Notify { to, notification } => {
                    self.record_ballot(from, &notification);
                    self.send(from, to, notification);
                }
                ElectionOutput::Sound => self.servers[me].standing = Standing::Sound,
                ElectionOutput::Decided { leader, vote, doing } => {
                    self.trace =
                        self.trace.wrapping_mul(31) ^ (leader.0 as u64 + self.now.as_millis());
                    self.servers[me].settled = Some((leader, self.now));
                    self.check_decision(me, vote, doing);
                }
            }
        }
    }

    /// What a server that looks for a leader votes for is never behind its own log.
    fn record_ballot(&mut self, from: ServerId, said: &Notification) {
        let Some(vote) = said.vote else { return };
        if said.doing != Doing::Looking {
            self.reported.insert((from, vote.leader));
            return;
        }
        let history = (vote.peer_epoch, vote.zxid);
        assert!(history >= self.servers[from.0 as usize].history, "{:?}", self.plan);
        self.cast.insert((from, said.round, vote.leader, history));
    }

    /// Who decides by votes has them: each was cast, in that round, by a voter whose log was no
    /// longer than the leader's.
    fn check_decision(&self, me: usize, vote: Vote, doing: Doing) {
        let server = &self.servers[me];
        let plan = self.plan;
        let has_vote = (me as i64) < plan.voters && server.standing == Standing::Sound;
        assert_eq!(has_vote, doing != Doing::Observing, "{plan:?}");
        assert!(server.election.ensemble.is_voter(vote.leader), "{plan:?}");
        let supporters: Vec<ServerId> = server.election.supporters().collect();
        assert!(server.election.ensemble.contains_quorum(supporters.clone()), "{plan:?}");
        for supporter in supporters {
            let history = (vote.peer_epoch, vote.zxid);
            let ballot = (supporter, server.election.round(), vote.leader, history);
            let is_real =
                self.cast.contains(&ballot) || self.reported.contains(&(supporter, vote.leader));
            assert!(is_real, "{plan:?}: {ballot:?} was never cast");
        }
    }

    fn is_cut(&self, one: ServerId, two: ServerId) -> bool {
        self.cuts.contains(&(one.0.min(two.0), one.0.max(two.0)))
    }

    fn is_calm(&self) -> bool {
        self.now >= START + Duration::from_millis(self.plan.faults_ms)
    }

    fn send(&mut self, from: ServerId, to: ServerId, notification: Notification) {
        let is_up = |id: ServerId| self.servers.get(id.0 as usize).is_none_or(|s| s.is_up);
        if self.is_cut(from, to) || !is_up(to) {
            return;
        }
        let mut at = self.now + Duration::from_millis(1 + self.below(CALM_DELAY_MS));
        if !self.is_calm() {
            if self.one_in(4) {
                return;
            }
            if self.one_in(4) {
                at = at + Duration::from_millis(self.below(1000));
            }
        } else if let Some(&last) = self.last_arrival.get(&(from, to)) {
            at = at.max(last);
        }
        self.last_arrival.insert((from, to), at);
        self.sent += 1;
        self.network.insert((at, self.sent), (from, to, notification));
    }

    fn step(&mut self) {
        self.now = self.now + STEP;
        if !self.is_calm() {
            self.hurt();
        }
        while let Some((&key, _)) = self.network.first_key_value().filter(|(k, _)| k.0 <= self.now)
        {
            let (from, to, said) = self.network.remove(&key).expect("it was there");
            let me = to.0 as usize;
            if self.servers[me].is_up && !self.is_cut(from, to) {
                self.servers[me].election.handle_notification(self.now, from, &said);
                self.drain(me);
            }
        }
        for me in 0..self.servers.len() {
            let due = self.servers[me].election.poll_timeout().is_some_and(|at| at <= self.now);
            if self.servers[me].is_up && due {
                self.servers[me].election.handle_timeout(self.now);
                self.drain(me);
            }
        }
        self.discover();
        self.give_up();
    }

    /// A fault, now and then.
    fn hurt(&mut self) {
        let count = self.servers.len() as u64;
        let me = self.below(count) as i64;
        let other = self.below(count) as i64;
        match self.below(400) {
            0..2 if me != other => self.cut(me.min(other), me.max(other)),
            2..5 => {
                if let Some(&(one, two)) = self.cuts.first() {
                    self.mend(one, two);
                }
            }
            5 => self.servers[me as usize].is_up = false,
            6 | 7 => self.restart(me as usize),
            _ => {}
        }
    }

    fn cut(&mut self, one: i64, two: i64) {
        self.cuts.insert((one, two));
        self.tell(one, two, false);
    }

    fn mend(&mut self, one: i64, two: i64) {
        self.cuts.remove(&(one, two));
        self.tell(one, two, true);
    }

    fn tell(&mut self, one: i64, two: i64, is_reachable: bool) {
        for (me, peer) in [(one, two), (two, one)] {
            if self.plan.is_told && self.servers[me as usize].is_up {
                let election = &mut self.servers[me as usize].election;
                election.handle_reachable(self.now, ServerId(peer), is_reachable);
                self.drain(me as usize);
            }
        }
    }

    /// Kills and starts a server; one of them comes back without its disk.
    fn restart(&mut self, me: usize) {
        let is_whole = self.servers.iter().all(|server| server.standing == Standing::Sound);
        // Of two voters neither may lose its disk: the other is no quorum that it could learn from.
        let may_wipe = is_whole && self.plan.voters > 2;
        if may_wipe && !self.has_wiped && self.one_in(2) {
            self.has_wiped = true;
            self.servers[me].history = (0, Zxid::ZERO);
            self.servers[me].standing = Standing::Empty;
        }
        self.servers[me].is_up = true;
        self.servers[me].election = self.election(me as i64, self.servers[me].standing);
        self.start(me);
    }

    fn heal(&mut self) {
        while let Some(&(one, two)) = self.cuts.first() {
            self.mend(one, two);
        }
        for me in 0..self.servers.len() {
            if !self.servers[me].is_up {
                self.restart(me);
            }
        }
        for one in 0..self.servers.len() as i64 {
            for two in 0..one {
                self.tell(two, one, true);
            }
        }
    }

    /// Who follows `leader` and hears it.
    fn followers(&self, leader: usize, doing: Doing) -> Vec<ServerId> {
        let leads = ServerId(leader as i64);
        let follows = |(server, id): &(&Server, ServerId)| {
            server.is_up
                && server.settled.is_some_and(|(leader, _)| leader == leads)
                && (*id == leads || server.election.doing() == doing)
                && !self.is_cut(*id, leads)
        };
        let ids = (0..).map(ServerId);
        self.servers.iter().zip(ids).filter(follows).map(|(_, id)| id).collect()
    }

    fn is_leading(&self, me: usize) -> bool {
        self.servers[me].is_up && self.servers[me].election.doing() == Doing::Leading
    }

    /// Discovery and synchronisation, at once: see the head of this file.
    fn discover(&mut self) {
        for leader in 0..self.servers.len() {
            if !self.is_leading(leader) {
                continue;
            }
            let followers = self.followers(leader, Doing::Following);
            let history = self.servers[leader].history;
            let ahead = |id: &ServerId| self.servers[id.0 as usize].history > history;
            let is_quorum =
                self.servers[leader].election.ensemble.contains_quorum(followers.clone());
            if !is_quorum {
                continue;
            }
            if self.servers[leader].epoch.is_none() {
                if followers.iter().any(ahead) {
                    self.start(leader);
                    continue;
                }
                assert!(history >= self.committed, "{:?}: what is committed is lost", self.plan);
                let epoch = self.servers.iter().map(|s| s.history.0).max().expect("servers") + 1;
                let epoch = epoch.max(self.committed.0 + 1);
                self.servers[leader].epoch = Some(epoch);
                self.committed = (epoch, Zxid::new(epoch, 1));
            }
            let epoch = self.servers[leader].epoch.expect("it has begun");
            let observers = self.followers(leader, Doing::Observing);
            for id in followers.into_iter().chain(observers) {
                let server = &mut self.servers[id.0 as usize];
                server.history = (epoch, Zxid::new(epoch, 1));
                server.epoch = Some(epoch);
                server.election.set_epoch(epoch);
                server.standing = Standing::Sound;
                server.election.set_standing(Standing::Sound);
            }
        }
    }

    /// Learners without a leader and leaders without a quorum look again.
    fn give_up(&mut self) {
        for me in 0..self.servers.len() {
            let Some((leader, since)) = self.servers[me].settled else { continue };
            let followers = self.followers(leader.0 as usize, Doing::Following);
            let is_real = self.is_leading(leader.0 as usize)
                && !self.is_cut(ServerId(me as i64), leader)
                && self.servers[leader.0 as usize].epoch.is_some()
                && self.servers[me].election.ensemble.contains_quorum(followers);
            if is_real || !self.servers[me].is_up {
                self.servers[me].settled = Some((leader, self.now));
            } else if self.now.since(since) > PATIENCE {
                self.start(me);
            }
        }
    }

    /// The one leader that all servers are under, all of them sound.
    fn agreement(&self) -> Option<ServerId> {
        let (leader, _) = self.servers[0].settled?;
        let agrees = |server: &Server| {
            server.settled.is_some_and(|(other, _)| other == leader)
                && server.epoch == Some(self.committed.0)
                && server.standing == Standing::Sound
        };
        let leads = self.is_leading(leader.0 as usize);
        (leads && self.servers.iter().all(agrees)).then_some(leader)
    }

    /// Runs to the end of the faults, and until all agree: how long that took.
    fn run(&mut self, limit: Duration) -> Duration {
        while !self.is_calm() {
            self.step();
        }
        self.heal();
        let healed = self.now;
        while self.agreement().is_none() {
            assert!(self.now.since(healed) < limit, "{:?}: no agreement", self.plan);
            self.step();
        }
        self.now.since(healed)
    }
}

const SEEDS: u64 = 200;

fn plans(is_told: bool, is_new: bool, faults_ms: u64) -> impl Iterator<Item = Plan> {
    (0..SEEDS).map(move |seed| {
        let voters = [3, 5, 4, 3, 2, 7][seed as usize % 6];
        let observers = (seed / 6 % 2) as i64;
        Plan { seed, voters, observers, faults_ms, is_told, is_new }
    })
}

/// `FLETest`: in a calm network all decide at once, and for the best of all.
#[test]
fn a_calm_network_elects_the_best_of_all_in_one_go() {
    for plan in plans(true, false, 0) {
        let mut world = World::new(Plan { observers: 0, ..plan });
        let histories = world.servers.iter().map(|server| server.history).zip(0..);
        let (_, best) = histories.max().expect("there are servers");
        let took = world.run(Duration::from_millis(500));
        assert_eq!(world.agreement(), Some(ServerId(best)), "{plan:?}");
        assert!(world.servers.iter().all(|server| server.election.round() == 1), "{plan:?}");
        assert!(took < Duration::from_millis(150), "{plan:?} took {took:?}");
    }
}

#[test]
fn all_agree_soon_after_a_network_heals_that_says_so() {
    for plan in plans(true, false, 20_000) {
        World::new(plan).run(Duration::from_secs(10));
    }
}

/// Nobody is told, and what was lost is only said again when a silence of up to a minute ends.
#[test]
fn all_agree_after_a_network_heals_silently() {
    for plan in plans(false, false, 20_000) {
        World::new(plan).run(Duration::from_secs(130));
    }
}

/// A new ensemble, empty everywhere, through the same faults.
#[test]
fn a_new_ensemble_starts_by_itself() {
    for plan in plans(true, true, 5_000) {
        World::new(plan).run(Duration::from_secs(10));
    }
    for plan in plans(true, true, 0) {
        World::new(plan).run(Duration::from_secs(3));
    }
}

#[test]
fn one_seed_gives_one_run() {
    let run = |seed| {
        let plan =
            Plan { seed, voters: 5, observers: 1, faults_ms: 20_000, is_told: true, is_new: false };
        let mut world = World::new(plan);
        let took = world.run(Duration::from_secs(10));
        (took, world.sent, world.trace)
    };
    assert_eq!(run(3), run(3));
    assert_ne!(run(3), run(4));
}
