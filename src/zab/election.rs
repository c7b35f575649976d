//! Fast leader election, by Apache's rules (`FastLeaderElection.java`), as a plain value.
//!
//! A server that looks for a leader votes for itself, tells every voter, and takes over each vote
//! that supersedes its own: the later epoch wins, then the longer log, then the larger id. When a
//! quorum votes alike in one *round*, that is the leader. A server that comes late hears of the
//! leadership from those that are settled under it.
//!
//! In: `start` and `handle_*`. Out: [`Election::poll_output`], which is drained after every call
//! that goes in, before the next; and [`Election::poll_timeout`].
//!
//! An election only proposes: a leader that nobody follows, or that is behind one of its
//! followers, is found out in the discovery that comes next, and the caller starts again.
//!
//! Where it goes beyond Apache:
//! * The wait for a better vote, once a quorum agrees, ends when every voter that can be reached
//!   agrees too. Apache always waits 200 ms.
//! * A server that is heard to look for a leader, or whose connection is lost, is no witness to
//!   the leadership that it had reported before.
//! * A vote that its own leader has refuted, by voting for less in the same round, is not taken
//!   over: it speaks of what that server has lost since (TRUNC), and discovery would fail.
//! * A leader that cannot be reached is passed over for a while, if there can be another one: see
//!   [`Election::avoid`].
//! * Who only asks does so every second, not every minute: nobody tells it when things change.
//! * Members that are proposed in another's log are spoken with and may be voted for; they make no
//!   quorum. See [`Ensemble::heard`].
//! * The wiped and the damaged have no vote; see [`Standing`].

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::time::Time;
use crate::wire::election::{Doing, Notification, Vote};
use crate::wire::membership::Membership;
use crate::wire::quorum::ServerId;
use crate::zab::ensemble::{Ensemble, is_quorum_of};
use crate::zab::output::Standing;
use crate::zxid::Zxid;

use ballot::{Ballot, Ballots, supersedes};

mod ballot;
mod choice;
mod empty;
#[cfg(test)]
mod tests;

/// How long a quorum waits for a voter that may yet come with a better vote.
const FINALIZE_WAIT: Duration = Duration::from_millis(200);
/// After so much silence the vote is told again.
const RESEND_MIN: Duration = Duration::from_millis(200);
/// The silence doubles up to this where every change of a vote is told by its owner.
const RESEND_MAX: Duration = Duration::from_secs(60);
/// The silence doubles up to this where nothing is told unless asked for: to who has no vote, and
/// to a voter beside servers that are settled.
const ASK_MAX: Duration = Duration::from_secs(1);
/// The version of notifications that carry the configuration.
const VERSION: i32 = 2;

/// What the election asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ElectionOutput {
    /// Send this to `to`; a newer one replaces one that waits.
    Notify { to: ServerId, notification: Notification },
    /// Every voter was seen to be as empty as this server, which has a vote from here on: what
    /// records it as empty is to be removed before it acknowledges anything.
    Sound,
    /// The search has ended. `doing` is what this server is to do: lead, when `leader` is itself;
    /// follow; or observe, when it has no vote.
    Decided { leader: ServerId, vote: Vote, doing: Doing },
}

/// How a server takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// With a vote.
    Voter,
    /// It says that it is empty, and counts for nobody until all others are seen to be.
    Empty,
    /// Without a vote: it asks who leads.
    Asker,
}

/// One server's part in the elections of its ensemble.
#[derive(Clone, Debug)]
pub struct Election {
    ensemble: Arc<Ensemble>,
    standing: Standing,
    random: u64,
    /// The number of the election (`logicalclock`).
    round: i64,
    /// The vote for this server itself, as the last start has set it.
    own: Vote,
    /// While looking the vote that is told to others, once settled that which was decided; `None`
    /// before the first start, and while looking without a vote.
    vote: Option<Vote>,
    state: State,
    /// Whose connection is known to be lost or refused.
    unreachable: BTreeSet<ServerId>,
    /// Who is not to lead, and until when.
    avoided: BTreeMap<ServerId, Time>,
    outputs: VecDeque<ElectionOutput>,
}

#[derive(Clone, Debug)]
enum State {
    /// Before the first start.
    Idle,
    Looking(Looking),
    /// Under a leader, or leading; `supporters` are the voters that were counted for it.
    Settled {
        doing: Doing,
        supporters: BTreeSet<ServerId>,
    },
}

/// What is known while a leader is looked for.
#[derive(Clone, Debug)]
struct Looking {
    /// The votes of this round (`recvset`), this server's own among them.
    ballots: Ballots,
    /// The best vote that this server has heard of and its round, where it has no vote itself:
    /// others may know that it is about to get one, and wait for its word.
    echo: Option<(i64, Vote)>,
    /// What settled servers report, of whatever round (`outofelection`).
    settled: Ballots,
    /// Voters that have said that they do not vote.
    abstaining: BTreeSet<ServerId>,
    interval: Duration,
    resend_at: Time,
    /// When the wait for a better vote ends, while a quorum agrees.
    decide_at: Option<Time>,
    /// Whether this server has opened the round with a number of its own.
    is_round_fresh: bool,
    /// When this server, which is empty as all others seem to be, opens such a round.
    fresh_round_at: Option<Time>,
}

impl Election {
    /// A server that has not begun to look for a leader: [`Election::start`] comes next.
    pub fn new(ensemble: Arc<Ensemble>, standing: Standing, seed: u64) -> Election {
        let own = Vote { leader: ensemble.me, zxid: Zxid::ZERO, peer_epoch: 0 };
        Election {
            ensemble,
            standing,
            random: seed,
            round: 0,
            own,
            vote: None,
            state: State::Idle,
            unreachable: BTreeSet::new(),
            avoided: BTreeMap::new(),
            outputs: VecDeque::new(),
        }
    }

    /// Begins to look for a leader, in a new round. `proposal` is the vote for this server
    /// itself: the durable end of its log and its `currentEpoch`.
    pub fn start(&mut self, now: Time, proposal: Vote) {
        assert_eq!(proposal.leader, self.ensemble.me, "a server begins with a vote for itself");
        self.own = proposal;
        let is_round_fresh = self.part() == Part::Empty;
        let step = if is_round_fresh { self.fresh_round_step() } else { 1 };
        self.round = self.round.saturating_add(step);
        self.state = State::Looking(Looking {
            ballots: Ballots::new(),
            echo: None,
            settled: Ballots::new(),
            abstaining: BTreeSet::new(),
            interval: RESEND_MIN,
            resend_at: now + RESEND_MIN,
            decide_at: None,
            is_round_fresh,
            fresh_round_at: None,
        });
        let vote = (self.part() != Part::Asker).then_some(self.own);
        self.propose(vote);
        self.consider_emptiness(now);
        self.tally(now);
    }

    /// Takes a notification that `from` has sent, and answers it where an answer is due.
    pub fn handle_notification(&mut self, now: Time, from: ServerId, notification: &Notification) {
        if from == self.ensemble.me {
            return;
        }
        if notification.doing == Doing::Looking {
            self.answer(from, notification);
        }
        if self.is_looking() && self.ensemble.may_vote(from) {
            self.count(now, from, notification);
        }
    }

    /// Learns that the connection to `peer` is up, or is lost or refused. Until it is told, a
    /// peer is taken to be reachable.
    pub fn handle_reachable(&mut self, now: Time, peer: ServerId, is_reachable: bool) {
        if is_reachable {
            self.unreachable.remove(&peer);
            // Both directions have passed a handshake.
            self.avoided.remove(&peer);
            if self.is_looking() && self.ensemble.may_vote(peer) && peer != self.ensemble.me {
                self.notify(peer);
            }
            return;
        }
        self.unreachable.insert(peer);
        if let State::Looking(looking) = &mut self.state {
            looking.settled.remove(&peer);
            self.tally(now);
        }
    }

    /// Does what is due: ends the wait for a better vote, or tells the vote again.
    pub fn handle_timeout(&mut self, now: Time) {
        self.end_avoidance(now);
        let State::Looking(looking) = &mut self.state else { return };
        if looking.decide_at.is_some_and(|at| at <= now) {
            let vote = self.vote.expect("who decides by votes has one");
            self.decide_by_votes(vote);
            return;
        }
        if looking.fresh_round_at.is_some_and(|at| at <= now) {
            self.open_fresh_round(now);
            return;
        }
        if looking.resend_at <= now {
            let ask_max = self.ask_max();
            let State::Looking(looking) = &mut self.state else { return };
            looking.interval = (looking.interval * 2).min(ask_max);
            looking.resend_at = now + looking.interval;
            self.notify_all();
        }
    }

    /// When [`Election::handle_timeout`] is to be called, if nothing happens before.
    pub fn poll_timeout(&self) -> Option<Time> {
        let State::Looking(looking) = &self.state else { return None };
        let avoided = self.avoided.values().min().copied();
        let times = [Some(looking.resend_at), looking.decide_at, looking.fresh_round_at, avoided];
        times.into_iter().flatten().min()
    }

    /// The next thing that is asked for.
    pub fn poll_output(&mut self) -> Option<ElectionOutput> {
        self.outputs.pop_front()
    }

    /// The epoch under the decided leader is established: what is reported to those that look for
    /// a leader names it from here on (`QuorumPeer.updateElectionVote`). Apache's servers call it
    /// when they begin to serve: the leader with the quorum's ACKs of NEWLEADER, a learner with
    /// UPTODATE.
    pub fn set_epoch(&mut self, epoch: u32) {
        if let (State::Settled { .. }, Some(vote)) = (&self.state, &mut self.vote) {
            vote.peer_epoch = epoch;
        }
    }

    /// This server's state is to be trusted so much from here on. One that a leader has made
    /// whole reports as a follower what it reported as an observer, or votes if it looks for a
    /// leader again; one that is trusted less is to start anew.
    pub fn set_standing(&mut self, standing: Standing) {
        self.standing = standing;
        let part = self.part();
        match &mut self.state {
            State::Settled { doing: doing @ Doing::Observing, .. } if part == Part::Voter => {
                *doing = Doing::Following;
            }
            State::Looking(_) if part != Part::Asker && self.vote.is_none() => {
                self.propose(Some(self.own));
            }
            State::Idle | State::Looking(_) | State::Settled { .. } => {}
        }
    }

    /// The members are these from here on. Who looks for a leader is to start anew; who is settled
    /// reports what it is among them.
    pub fn set_ensemble(&mut self, ensemble: &Arc<Ensemble>) {
        if Arc::ptr_eq(&self.ensemble, ensemble) {
            return;
        }
        self.ensemble = Arc::clone(ensemble);
        let is_voter = self.part() == Part::Voter;
        if let State::Settled { doing, .. } = &mut self.state
            && *doing != Doing::Leading
        {
            *doing = if is_voter { Doing::Following } else { Doing::Observing };
        }
    }

    /// Other members are heard of, or none any more, while a leader is looked for.
    pub fn handle_heard(&mut self, now: Time) {
        if self.is_looking() {
            self.choose(now);
            self.notify_all();
            self.tally(now);
        }
    }

    /// Whether this server can be under `leader` without an election: a leader has a vote.
    pub fn may_serve(&self, leader: ServerId) -> bool {
        let is_able = leader != self.ensemble.me || self.part() == Part::Voter;
        is_able && self.ensemble.is_voter(leader)
    }

    /// A reconfiguration has said who leads: there is nothing to elect.
    pub fn appoint(&mut self, vote: Vote) {
        assert!(self.may_serve(vote.leader), "{} has no vote", vote.leader);
        let doing = match self.part() {
            Part::Voter if vote.leader == self.ensemble.me => Doing::Leading,
            Part::Voter => Doing::Following,
            Part::Empty | Part::Asker => Doing::Observing,
        };
        let supporters = self.ensemble.voters().map(|voter| voter.id).collect();
        self.vote = Some(vote);
        self.state = State::Settled { doing, supporters };
    }

    /// Whether the sender, which was of this election and has voted for `leader`, is in another by
    /// now.
    pub fn looks_again(&self, leader: ServerId, notification: &Notification) -> bool {
        let is_later = notification.round > self.round;
        let votes_otherwise = notification.round == self.round
            && notification.vote.is_some_and(|vote| vote.leader != leader);
        notification.doing == Doing::Looking && (is_later || votes_otherwise)
    }

    /// What notifications say that this server does.
    pub fn doing(&self) -> Doing {
        match &self.state {
            State::Settled { doing, .. } => *doing,
            State::Idle | State::Looking(_) => Doing::Looking,
        }
    }

    /// Whether a leader is looked for.
    pub fn is_looking(&self) -> bool {
        matches!(self.state, State::Looking(_))
    }

    /// The number of the election that is held, or was held last.
    pub fn round(&self) -> i64 {
        self.round
    }

    /// The vote that is reported to others, if there is one.
    pub fn vote(&self) -> Option<Vote> {
        self.vote
    }

    /// Who was counted for the decided leader. A leader in discovery that hears one of them look
    /// for a leader again has lost its vote (`Leader.reportLookingSid`).
    pub fn supporters(&self) -> impl Iterator<Item = ServerId> {
        let supporters = match &self.state {
            State::Settled { supporters, .. } => Some(supporters),
            State::Idle | State::Looking(_) => None,
        };
        supporters.into_iter().flatten().copied()
    }
}

// ── What others are told ──
impl Election {
    /// Answers a server that looks for a leader (`WorkerReceiver`).
    fn answer(&mut self, to: ServerId, asked: &Notification) {
        let is_due = match &self.state {
            State::Idle => false,
            State::Settled { .. } => true,
            // A voter that has not heard of the round. An asker that this server's configuration
            // has no vote for; but one that votes by its own only where that is older, or two
            // servers with different configurations would answer each other forever.
            State::Looking(_) if self.ensemble.may_vote(to) => asked.round < self.round,
            State::Looking(_) => asked.vote.is_none() || self.is_outdated(asked),
        };
        if is_due && self.vote.is_some() {
            self.notify(to);
        }
    }

    /// Whether it comes from who does not know of newer members.
    fn is_outdated(&self, asked: &Notification) -> bool {
        let version = Membership::version_of(&asked.config).unwrap_or(0);
        self.ensemble.is_dynamic && version < self.ensemble.config_version
    }

    fn notify_all(&mut self) {
        let ensemble = Arc::clone(&self.ensemble);
        for voter in ensemble.electors().filter(|voter| voter.id != ensemble.me) {
            self.notify(voter.id);
        }
    }

    fn notify(&mut self, to: ServerId) {
        let echo = match &self.state {
            State::Looking(looking) if self.vote.is_none() => looking.echo,
            _ => None,
        };
        let notification = Notification {
            doing: self.doing(),
            vote: self.vote.or(echo.map(|(_, vote)| vote)),
            round: echo.map_or(self.round, |(round, _)| round),
            version: VERSION,
            config: self.ensemble.config.to_vec(),
            proposed: self.ensemble.next.as_ref().map_or(Vec::new(), |next| next.config.to_vec()),
        };
        self.outputs.push_back(ElectionOutput::Notify { to, notification });
    }
}

// ── What others say, while a leader is looked for ──
impl Election {
    fn count(&mut self, now: Time, from: ServerId, notification: &Notification) {
        let State::Looking(looking) = &mut self.state else { return };
        if matches!(notification.doing, Doing::Looking | Doing::Observing) {
            looking.settled.remove(&from);
        }
        let ballot = match Ballot::of(notification) {
            Some(ballot) if ballot.doing != Doing::Observing => ballot,
            // A voter without a vote has yet to be made whole: nobody need wait for it.
            _ => {
                looking.ballots.remove(&from);
                looking.abstaining.insert(from);
                self.tally(now);
                return;
            }
        };
        looking.abstaining.remove(&from);
        if !self.ensemble.may_vote(ballot.vote.leader) {
            return;
        }
        match ballot.doing {
            Doing::Looking => self.count_looking(now, from, ballot),
            Doing::Following | Doing::Leading => self.count_settled(now, from, ballot),
            Doing::Observing => {}
        }
    }

    fn count_looking(&mut self, now: Time, from: ServerId, ballot: Ballot) {
        // A negative zxid, -1 on the wire, is that of a server that has not read its log.
        if ballot.vote.zxid.raw() < 0 {
            return;
        }
        if self.part() == Part::Asker {
            self.echo(&ballot);
            return;
        }
        match ballot.round.cmp(&self.round) {
            Ordering::Less => return,
            Ordering::Greater => self.adopt_round(now, from, ballot),
            Ordering::Equal => {}
        }
        let State::Looking(looking) = &mut self.state else { return };
        looking.ballots.insert(from, ballot);
        self.choose(now);
        self.consider_emptiness(now);
        self.tally(now);
    }

    /// Repeats the best vote that there is, as Apache's servers without a vote do: a proposal that
    /// this server has not seen may give it one, and who has that proposal cannot win without it.
    fn echo(&mut self, ballot: &Ballot) {
        let is_trusted = self.standing == Standing::Sound && self.ensemble.is_dynamic;
        let State::Looking(looking) = &mut self.state else { return };
        let is_better = looking.echo.is_none_or(|(round, vote)| {
            let supersedes = supersedes(&self.ensemble, &ballot.vote, &vote);
            ballot.round > round || (ballot.round == round && supersedes)
        });
        if is_trusted && is_better {
            looking.echo = Some((ballot.round, ballot.vote));
            self.notify_all();
        }
    }

    /// Others are in a later round: the votes of this one count no more.
    fn adopt_round(&mut self, now: Time, from: ServerId, ballot: Ballot) {
        self.round = ballot.round;
        let State::Looking(looking) = &mut self.state else { return };
        looking.ballots.clear();
        looking.is_round_fresh = false;
        looking.fresh_round_at = None;
        let is_better = supersedes(&self.ensemble, &ballot.vote, &self.own)
            && self.ensemble.is_voter(from)
            && ballot.vote.leader != self.ensemble.me
            && !self.is_avoided(now, ballot.vote.leader);
        let takes_over = is_better && self.part() == Part::Voter;
        self.propose(Some(if takes_over { ballot.vote } else { self.own }));
    }

    /// Takes `vote` for this server's own, and tells every voter.
    fn propose(&mut self, vote: Option<Vote>) {
        self.vote = vote;
        let me = self.ensemble.me;
        if let State::Looking(looking) = &mut self.state {
            looking.decide_at = None;
            if let Some(vote) = vote {
                looking.ballots.insert(me, Ballot::looking(vote, self.round));
            }
        }
        self.notify_all();
    }

    /// Takes the report of a server that is settled, leading or following.
    fn count_settled(&mut self, now: Time, from: ServerId, ballot: Ballot) {
        let part = self.part();
        let State::Looking(looking) = &mut self.state else { return };
        if part != Part::Asker && ballot.round == self.round {
            // Apache keeps no version with the votes of the running election.
            looking.ballots.insert(from, Ballot { version: 0, ..ballot });
            if part == Part::Voter && self.is_led_by(&looking_of(&self.state).ballots, &ballot) {
                let supporters = ballot.supporters(&looking_of(&self.state).ballots).collect();
                self.settle(ballot, supporters);
                return;
            }
            self.consider_emptiness(now);
        }
        let State::Looking(looking) = &mut self.state else { return };
        looking.settled.insert(from, ballot);
        looking.resend_at = looking.resend_at.min(now + ASK_MAX);
        if self.is_led_by(&looking_of(&self.state).settled, &ballot) {
            let supporters = ballot.supporters(&looking_of(&self.state).settled).collect();
            self.settle(ballot, supporters);
            return;
        }
        self.tally(now);
    }

    /// Whether a quorum of `ballots` reports the leadership of `ballot`, its leader included: or a
    /// leader that has crashed would be elected over and over (`checkLeader`).
    fn is_led_by(&self, ballots: &Ballots, ballot: &Ballot) -> bool {
        let leader = ballot.vote.leader;
        let leader_agrees = if leader == self.ensemble.me {
            // This server leads if it is of the round that they speak of, and has a vote at all.
            self.round == ballot.round && self.part() == Part::Voter
        } else {
            ballots.get(&leader).is_some_and(|said| said.doing == Doing::Leading)
        };
        // Of the members in force: a leader that knows of proposed ones was elected by both, and
        // one that does not know of what this server knows leads because that was never committed.
        let supporters: Vec<ServerId> = ballot.supporters(ballots).collect();
        leader_agrees && is_quorum_of(&self.ensemble.members, &supporters)
    }
}

// ── Deciding ──
impl Election {
    /// Decides, or begins to wait for a better vote, if a quorum votes as this server does.
    fn tally(&mut self, now: Time) {
        if self.part() != Part::Voter {
            return;
        }
        let State::Looking(looking) = &mut self.state else { return };
        let vote = self.vote.expect("a voter that looks for a leader has a vote");
        let ballot = Ballot::looking(vote, self.round);
        let supporters = ballot.supporters(&looking.ballots);
        if !self.ensemble.contains_quorum(supporters.clone()) {
            looking.decide_at = None;
            return;
        }
        let supporters: BTreeSet<ServerId> = supporters.collect();
        let looking = looking_of(&self.state);
        let nobody_is_missing = self.ensemble.voters().all(|voter| {
            supporters.contains(&voter.id)
                || self.unreachable.contains(&voter.id)
                || looking.abstaining.contains(&voter.id)
                || self.is_avoided(now, voter.id)
        });
        if nobody_is_missing {
            self.decide_by_votes(vote);
        } else if let State::Looking(looking) = &mut self.state {
            looking.decide_at.get_or_insert(now + FINALIZE_WAIT);
        }
    }

    /// Decides for what this server and a quorum with it vote for.
    fn decide_by_votes(&mut self, vote: Vote) {
        let ballot = Ballot::looking(vote, self.round);
        let supporters = ballot.supporters(&looking_of(&self.state).ballots).collect();
        self.settle(ballot, supporters);
    }

    fn settle(&mut self, ballot: Ballot, supporters: BTreeSet<ServerId>) {
        let voters: Vec<ServerId> = supporters.iter().copied().collect();
        assert!(is_quorum_of(&self.ensemble.members, &voters), "{supporters:?}");
        let leader = ballot.vote.leader;
        let doing = match self.part() {
            Part::Voter if leader == self.ensemble.me => Doing::Leading,
            Part::Voter => Doing::Following,
            Part::Empty | Part::Asker => Doing::Observing,
        };
        assert!(doing == Doing::Leading || leader != self.ensemble.me);
        self.round = ballot.round;
        self.vote = Some(ballot.vote);
        self.state = State::Settled { doing, supporters };
        self.outputs.push_back(ElectionOutput::Decided { leader, vote: ballot.vote, doing });
    }

    fn part(&self) -> Part {
        let is_new = self.own.zxid == Zxid::ZERO && self.own.peer_epoch == 0;
        match self.standing {
            _ if !self.ensemble.is_voter(self.ensemble.me) => Part::Asker,
            Standing::Sound => Part::Voter,
            Standing::Empty if is_new => Part::Empty,
            Standing::Empty | Standing::Damaged => Part::Asker,
        }
    }

    /// The longest silence before the vote is told again.
    fn ask_max(&self) -> Duration {
        let State::Looking(looking) = &self.state else { return RESEND_MAX };
        if self.part() == Part::Voter && looking.settled.is_empty() { RESEND_MAX } else { ASK_MAX }
    }

    /// A number from 0 to below `bound` (`SplitMix64`).
    fn random_below(&mut self, bound: i64) -> i64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        (mixed % bound as u64) as i64
    }
}

fn looking_of(state: &State) -> &Looking {
    match state {
        State::Looking(looking) => looking,
        State::Idle | State::Settled { .. } => panic!("only who looks for a leader counts votes"),
    }
}
