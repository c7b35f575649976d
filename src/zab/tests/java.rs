//! What Apache's servers send that these do not, packet by packet, and what does not fit.

use std::sync::Arc;

use crate::time::Time;
use crate::wire::election::{Doing, Notification, Vote};
use crate::wire::quorum::{Extensions, Forwarded, FromLeader, FromLearner, ServerId};
use crate::zab::Zab;
use crate::zab::ensemble::Ensemble;
use crate::zab::output::{Action, Event, LinkId, LogGap, Output, Recovered, Role, Standing, Txns};
use crate::zab::tests::cluster::{Cluster, TICK, server, z};
use crate::zxid::Zxid;

pub const LINK: LinkId = LinkId(7);

/// Server `me` of three, by itself; the test is everybody else, and its disk.
pub struct Solo {
    pub zab: Zab,
    pub now: Time,
    /// What it has asked for and told since it was looked at last.
    outputs: Vec<Output>,
    last: Zxid,
}

impl Solo {
    pub fn new(me: i64, last: Zxid) -> Solo {
        Solo::with_standing(me, last, Standing::Sound)
    }

    pub fn with_standing(me: i64, last: Zxid, standing: Standing) -> Solo {
        Solo::of(Cluster::new(3, 0, 1).ensemble(server(me)), last, standing)
    }

    pub fn of(ensemble: Ensemble, last: Zxid, standing: Standing) -> Solo {
        let (now, epoch) = (Time::from_nanos(1), last.epoch());
        let recovered = Recovered {
            last,
            committed: Zxid::ZERO,
            accepted_epoch: epoch,
            current_epoch: epoch,
            standing,
        };
        let mut solo =
            Solo { zab: Zab::new(ensemble, recovered, 1, now), now, outputs: Vec::new(), last };
        solo.drain();
        solo
    }

    /// Its disk is done at once with everything but appends.
    pub fn drain(&mut self) {
        while let Some(output) = self.zab.poll_output() {
            if let Output::Perform(Action::Append { zxid, .. }) = &output {
                self.last = *zxid;
            }
            let saved = output.clone();
            self.outputs.push(output);
            match saved {
                Output::Perform(Action::SaveAcceptedEpoch { epoch }) => {
                    self.zab.handle_accepted_epoch_saved(self.now, epoch);
                }
                Output::Perform(Action::SaveCurrentEpoch { epoch }) => {
                    self.zab.handle_current_epoch_saved(self.now, epoch);
                }
                _ => {}
            }
        }
    }

    pub fn take(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    pub fn persist(&mut self) {
        self.zab.handle_persisted(self.now, self.last);
        self.drain();
    }

    pub fn hear(&mut self, message: FromLeader) {
        self.zab.handle_from_leader(self.now, LINK, message);
        self.drain();
    }

    pub fn hear_from(&mut self, link: LinkId, message: FromLearner) {
        self.zab.handle_from_learner(self.now, link, message);
        self.drain();
    }

    /// What it has sent to its leader.
    pub fn sent(&mut self) -> Vec<FromLearner> {
        let sent = self.take().into_iter().filter_map(|output| match output {
            Output::Perform(Action::ToLeader { message, .. }) => Some(message),
            _ => None,
        });
        sent.collect()
    }

    /// What it has sent to the learner on `link`.
    pub fn sent_to(&mut self, link: LinkId) -> Vec<FromLeader> {
        let sent = self.take().into_iter().filter_map(|output| match output {
            Output::Perform(Action::ToLearner { link: to, message }) if to == link => Some(message),
            _ => None,
        });
        sent.collect()
    }

    pub fn has_closed(&mut self, link: LinkId) -> bool {
        self.take().contains(&Output::Perform(Action::Close { link }))
    }

    /// All three vote for `leader`.
    pub fn elect(&mut self, leader: i64, zxid: Zxid) {
        let me = self.zab.ensemble().me;
        let vote = Vote { leader: server(leader), zxid, peer_epoch: zxid.epoch() };
        let round = 1;
        for from in (1..=3).map(server).filter(|&from| from != me) {
            let notification = Notification {
                doing: Doing::Looking,
                vote: Some(vote),
                round,
                version: 2,
                config: Vec::new(),
                proposed: Vec::new(),
            };
            self.zab.handle_notification(self.now, from, notification);
            self.drain();
        }
    }

    /// It follows server 3, one of Apache's, up to ACKEPOCH, under epoch 2.
    pub fn following(last: Zxid) -> Solo {
        Solo::following_in(Extensions::default(), last)
    }

    /// The same, with a leader that agrees to `extensions`.
    pub fn following_in(extensions: Extensions, last: Zxid) -> Solo {
        let mut solo = Solo::new(1, last);
        solo.elect(3, z(1, 9));
        assert!(solo.take().contains(&Output::Perform(Action::Connect { to: server(3) })));
        solo.zab.handle_connected(solo.now, LINK);
        solo.drain();
        let expected = FromLearner::Info {
            is_observer: false,
            server: server(1),
            accepted_epoch: last.epoch(),
            protocol: 0x10000,
            config_version: 0,
            extensions: Extensions::ALL,
        };
        assert_eq!(solo.sent(), [expected]);
        solo.hear(FromLeader::LeaderInfo { epoch: 2, protocol: 0x10000, extensions });
        let current_epoch = Some(last.epoch());
        assert_eq!(solo.sent(), [FromLearner::AckEpoch { last, current_epoch }]);
        solo
    }

    /// Hears that server 3 leads and server 2 follows it.
    pub fn find_leader(&mut self) {
        let vote = Some(Vote { leader: server(3), zxid: z(1, 5), peer_epoch: 1 });
        for (from, doing) in [(2, Doing::Following), (3, Doing::Leading)] {
            let notification = Notification {
                doing,
                vote,
                round: 1,
                version: 2,
                config: Vec::new(),
                proposed: Vec::new(),
            };
            self.zab.handle_notification(self.now, server(from), notification);
            self.drain();
        }
    }

    /// It has lost what came behind (1, 4) and its epochs, and has found server 3 to lead.
    pub fn damaged() -> Solo {
        let mut solo = Solo::with_standing(1, z(1, 4), Standing::Damaged);
        solo.find_leader();
        solo.zab.handle_connected(solo.now, LINK);
        solo.drain();
        let is_observer =
            |message: &FromLearner| matches!(message, FromLearner::Info { is_observer: true, .. });
        assert!(solo.sent().iter().any(is_observer));
        solo
    }

    /// It leads, in epoch 2, with (1, 9) at its log's end; servers 1 and 2 have come no further
    /// than the connections 1 and 2.
    pub fn leading() -> Solo {
        let mut solo = Solo::new(3, z(1, 9));
        solo.elect(3, z(1, 9));
        assert!(solo.take().contains(&Output::Perform(Action::Accept(true))));
        for id in 1..=2 {
            solo.zab.handle_accepted(solo.now, LinkId(id));
            solo.drain();
        }
        solo
    }

    /// The same, established with server 1, which is `3.8.0` or the like.
    pub fn established() -> Solo {
        Solo::established_with(Extensions::default())
    }

    /// The same with a server 1 that offers `offered`.
    pub fn established_with(offered: Extensions) -> Solo {
        let mut solo = Solo::leading();
        let link = LinkId(1);
        let FromLearner::Info { is_observer, server, accepted_epoch, protocol, .. } = info(1, 1)
        else {
            panic!("info is INFO")
        };
        let (config_version, extensions) = (0, offered);
        solo.hear_from(
            link,
            FromLearner::Info {
                is_observer,
                server,
                accepted_epoch,
                protocol,
                config_version,
                extensions,
            },
        );
        solo.hear_from(link, FromLearner::AckEpoch { last: z(1, 9), current_epoch: Some(1) });
        solo.hear_from(link, FromLearner::Ack { zxid: z(2, 0) });
        assert_eq!(solo.zab.role(), Role::Leading { epoch: 2 });
        solo.hear_from(link, FromLearner::Ack { zxid: z(2, 0) });
        solo.take();
        solo
    }
}

pub fn leader_info(epoch: u32) -> FromLeader {
    let extensions = Extensions::default();
    FromLeader::LeaderInfo { epoch, protocol: 0x10000, extensions }
}

pub fn info(id: i64, accepted_epoch: u32) -> FromLearner {
    FromLearner::Info {
        is_observer: false,
        server: server(id),
        accepted_epoch,
        protocol: 0x10000,
        config_version: 0,
        extensions: Extensions::default(),
    }
}

pub fn txn() -> Arc<[u8]> {
    Arc::from(&b"txn"[..])
}

pub fn proposal(zxid: Zxid) -> FromLeader {
    FromLeader::Proposal { zxid, txn: txn() }
}

pub fn new_leader(epoch: u32) -> FromLeader {
    FromLeader::NewLeader { zxid: z(epoch, 0), config: Arc::from(&b""[..]) }
}

pub fn ack(zxid: Zxid) -> FromLearner {
    FromLearner::Ack { zxid }
}

pub const UP_TO_DATE: FromLeader = FromLeader::UpToDate { zxid: Zxid::from_raw(-1) };

// ── Under an Apache leader ──

#[test]
fn a_follower_brought_up_by_apache() {
    let mut solo = Solo::following(z(1, 7));
    solo.hear(FromLeader::Diff { through: z(1, 9) });
    for zxid in [z(1, 8), z(1, 9)] {
        solo.hear(proposal(zxid));
        solo.hear(FromLeader::Commit { zxid });
    }
    // What is outstanding comes before NEWLEADER there, and pings are not to be answered.
    solo.hear(proposal(z(2, 1)));
    solo.hear(FromLeader::Ping { zxid: z(2, 1) });
    solo.hear(new_leader(2));
    assert_eq!(solo.sent(), [], "nothing is durable");
    solo.persist();
    assert_eq!(solo.sent(), [ack(z(2, 0))], "what came before NEWLEADER is acknowledged with it");
    // B03: a COMMIT right behind.
    solo.hear(FromLeader::Commit { zxid: z(2, 1) });
    assert!(solo.take().is_empty(), "nothing is published before UPTODATE");
    solo.hear(proposal(z(2, 2)));
    solo.persist();
    assert_eq!(solo.sent(), [ack(z(2, 2))]);
    solo.hear(UP_TO_DATE);
    let expected = [
        Output::Perform(Action::ToLeader { link: LINK, message: ack(z(2, 0)) }),
        Output::Tell(Event::Commit { through: z(2, 1) }),
        Output::Tell(Event::Role(Role::Following { leader: server(3), link: LINK })),
    ];
    assert_eq!(solo.take(), expected);
    solo.hear(FromLeader::Ping { zxid: z(2, 2) });
    assert_eq!(solo.take(), [Output::Tell(Event::Pinged { link: LINK, zxid: z(2, 2) })]);
    for counter in 3..=5 {
        solo.hear(proposal(z(2, counter)));
    }
    solo.persist();
    assert_eq!(solo.sent(), [3, 4, 5].map(|counter| ack(z(2, counter))), "one for each");
}

#[test]
fn one_of_ours_takes_and_sends_one_packet_for_many_transactions() {
    let mut follower = Solo::following_in(Extensions::ALL, z(1, 9));
    follower.hear(FromLeader::Diff { through: z(1, 9) });
    follower.hear(new_leader(2));
    follower.hear(UP_TO_DATE);
    follower.take();
    for counter in 1..=3 {
        follower.hear(proposal(z(2, counter)));
    }
    follower.persist();
    assert_eq!(follower.sent(), [ack(z(2, 3))], "one for all");
    follower.hear(FromLeader::Commit { zxid: z(2, 3) });
    assert_eq!(follower.zab.committed(), z(2, 3));

    let mut leader = Solo::established_with(Extensions::ALL);
    for counter in 1..=4 {
        leader.zab.propose(leader.now, z(2, counter), txn());
    }
    // Asked behind the second: its answer comes behind the COMMIT of that, before any later one.
    leader.drain();
    leader.take();
    leader.persist();
    assert!(leader.take().is_empty(), "no quorum has them");
    leader.hear_from(LinkId(1), ack(z(2, 3)));
    let told: Vec<_> = leader.take();
    let commit = |zxid| {
        let message = FromLeader::Commit { zxid };
        Output::Perform(Action::ToLearner { link: LinkId(1), message })
    };
    assert_eq!(told, [commit(z(2, 3)), Output::Tell(Event::Commit { through: z(2, 3) })]);
}

/// A client that hears that its sync is done sees what came before: so does its server.
#[test]
fn a_sync_is_answered_behind_the_commit_of_what_came_before_it() {
    let mut leader = Solo::established_with(Extensions::ALL);
    for counter in 1..=2 {
        leader.zab.propose(leader.now, z(2, counter), txn());
    }
    leader.zab.confirm(leader.now, 7);
    leader.zab.propose(leader.now, z(2, 3), txn());
    leader.drain();
    leader.persist();
    leader.take();
    leader.hear_from(LinkId(1), ack(z(2, 3)));
    let told = leader.take();
    let at = |wanted: &Output| told.iter().position(|output| output == wanted);
    let commit = |zxid| {
        let message = FromLeader::Commit { zxid };
        at(&Output::Perform(Action::ToLearner { link: LinkId(1), message }))
    };
    let confirmed = at(&Output::Tell(Event::Confirmed { token: 7 }));
    assert!(commit(z(2, 2)) < confirmed && confirmed < commit(z(2, 3)), "{told:?}");
    assert!(commit(z(2, 2)).is_some(), "{told:?}");
}

/// B04 (ZOOKEEPER-4685): no ACK of a proposal before that of NEWLEADER.
#[test]
fn b04_the_first_ack_is_that_of_new_leader() {
    let mut solo = Solo::following(z(1, 9));
    solo.hear(FromLeader::Diff { through: z(1, 9) });
    solo.hear(proposal(z(2, 1)));
    solo.persist();
    assert_eq!(solo.sent(), []);
    solo.hear(new_leader(2));
    assert_eq!(solo.sent(), [ack(z(2, 0))]);
    solo.hear(proposal(z(2, 2)));
    solo.persist();
    assert_eq!(solo.sent(), [ack(z(2, 2))]);
}

/// Apache chooses what follows a snapshot before it takes it: what is in it comes again.
#[test]
fn a_snapshot_that_holds_what_follows_it() {
    let mut solo = Solo::following(z(1, 2));
    solo.hear(FromLeader::Snap { zxid: z(2, 5) });
    assert!(solo.take().iter().any(|output| {
        matches!(output, Output::Perform(Action::ReceiveSnapshot { zxid, extensions, .. })
            if *zxid == z(2, 5) && *extensions == Extensions::default())
    }));
    // Whatever the shell passes on meanwhile waits.
    for counter in 3..=6 {
        solo.hear(proposal(z(2, counter)));
        solo.hear(FromLeader::Commit { zxid: z(2, counter) });
    }
    solo.hear(new_leader(2));
    assert!(solo.take().is_empty());
    solo.zab.handle_snapshot_received(solo.now, LINK, z(2, 5));
    solo.drain();
    let applied = solo.take().into_iter().filter_map(|output| match output {
        Output::Tell(Event::Apply { zxid, .. }) => Some(zxid),
        _ => None,
    });
    assert_eq!(applied.collect::<Vec<_>>(), [z(2, 6)]);
    solo.persist();
    assert_eq!(solo.sent(), [ack(z(2, 0))]);
    solo.hear(UP_TO_DATE);
    assert_eq!(solo.zab.committed(), z(2, 6));
}

/// A leader that is established and has proposed nothing sends the start of its epoch.
#[test]
fn a_snapshot_at_the_start_of_an_epoch() {
    let mut solo = Solo::following(z(1, 2));
    solo.hear(FromLeader::Snap { zxid: z(2, 0) });
    solo.zab.handle_snapshot_received(solo.now, LINK, z(2, 0));
    solo.drain();
    solo.hear(new_leader(2));
    solo.hear(UP_TO_DATE);
    solo.take();
    solo.hear(proposal(z(2, 1)));
    solo.persist();
    assert_eq!(solo.sent(), [ack(z(2, 1))]);
}

#[test]
fn a_promise_is_given_once() {
    let mut solo = Solo::following(z(1, 9));
    solo.zab.handle_disconnected(solo.now, LINK);
    solo.drain();
    solo.take();
    solo.elect_again();
    solo.hear(leader_info(2));
    let expected = FromLearner::AckEpoch { last: z(1, 9), current_epoch: None };
    assert_eq!(solo.sent(), [expected]);
}

#[test]
fn an_older_epoch_is_refused() {
    let mut solo = Solo::following(z(1, 9));
    solo.zab.handle_disconnected(solo.now, LINK);
    solo.drain();
    solo.elect_again();
    solo.hear(leader_info(1));
    assert!(solo.has_closed(LINK));
}

impl Solo {
    /// The same leader, in the next round.
    fn elect_again(&mut self) {
        for from in 2..=3 {
            let notification = Notification {
                doing: Doing::Looking,
                vote: Some(Vote { leader: server(3), zxid: z(1, 9), peer_epoch: 1 }),
                round: 2,
                version: 2,
                config: Vec::new(),
                proposed: Vec::new(),
            };
            self.zab.handle_notification(self.now, server(from), notification);
            self.drain();
        }
        self.zab.handle_connected(self.now, LINK);
        self.drain();
        self.take();
    }
}

#[test]
fn a_leader_that_falls_silent_is_left() {
    let mut solo = Solo::following(z(1, 9));
    solo.hear(FromLeader::Diff { through: z(1, 9) });
    solo.hear(new_leader(2));
    solo.hear(UP_TO_DATE);
    solo.take();
    solo.now = solo.now + TICK * 4;
    solo.hear(FromLeader::Ping { zxid: z(1, 9) });
    solo.now = solo.now + TICK * 4;
    solo.zab.handle_timeout(solo.now);
    assert!(matches!(solo.zab.role(), Role::Following { .. }));
    solo.now = solo.now + TICK;
    solo.zab.handle_timeout(solo.now);
    solo.drain();
    assert!(solo.has_closed(LINK));
    assert_eq!(solo.zab.role(), Role::Looking);
}

// ── With Apache's learners ──

/// B04: 3.8.0 acknowledges what it is brought up by, before NEWLEADER.
#[test]
fn b04_acks_before_that_of_new_leader_are_suffered() {
    let mut solo = Solo::leading();
    let link = LinkId(1);
    solo.hear_from(link, info(1, 1));
    solo.hear_from(link, FromLearner::AckEpoch { last: z(1, 8), current_epoch: Some(1) });
    solo.take();
    solo.zab.handle_log_read(solo.now, link, Ok(vec![(z(1, 9), txn())]));
    solo.drain();
    let config: Arc<[u8]> = Arc::from(&b"config"[..]);
    let expected = [
        FromLeader::Diff { through: z(1, 9) },
        proposal(z(1, 9)),
        FromLeader::Commit { zxid: z(1, 9) },
        FromLeader::NewLeader { zxid: z(2, 0), config },
    ];
    assert_eq!(solo.sent_to(link), expected);
    solo.hear_from(link, ack(z(1, 9)));
    assert_eq!(solo.zab.role(), Role::Looking, "that is not the ACK of NEWLEADER");
    solo.hear_from(link, ack(z(2, 0)));
    assert_eq!(solo.zab.role(), Role::Leading { epoch: 2 });
    assert_eq!(solo.sent_to(link)[0], FromLeader::UpToDate { zxid: z(2, 0) });
}

/// A burst of ACKs commits each transaction once; what is acknowledged is so for all before it.
#[test]
fn acks_are_cumulative_and_commits_are_not() {
    let mut solo = Solo::established();
    for counter in 1..=4 {
        solo.zab.propose(solo.now, z(2, counter), txn());
    }
    solo.drain();
    solo.take();
    solo.hear_from(LinkId(1), ack(z(2, 3)));
    // The leader's own disk has not done anything.
    assert!(solo.take().is_empty());
    solo.persist();
    let commits = [1, 2, 3].map(|counter| FromLeader::Commit { zxid: z(2, counter) });
    assert_eq!(solo.sent_to(LinkId(1)), commits);
    solo.hear_from(LinkId(1), ack(z(2, 4)));
    assert_eq!(solo.sent_to(LinkId(1)), [FromLeader::Commit { zxid: z(2, 4) }]);
}

/// A stranger is served, and counts for nothing; so does an observer with a voter's id.
#[test]
fn who_is_no_voter_does_not_count() {
    for (id, is_observer) in [(9, false), (2, true)] {
        let mut solo = Solo::leading();
        let link = LinkId(1);
        let mut message = info(id, 1);
        if let FromLearner::Info { is_observer: says, .. } = &mut message {
            *says = is_observer;
        }
        solo.hear_from(link, message);
        assert!(solo.sent_to(link).is_empty(), "no quorum has said which epochs it knows");
        solo.hear_from(LinkId(2), info(1, 1));
        assert_eq!(
            solo.sent_to(link),
            [FromLeader::LeaderInfo {
                epoch: 2,
                protocol: 0x10000,
                extensions: Extensions::default(),
            }]
        );
        solo.hear_from(link, FromLearner::AckEpoch { last: z(1, 9), current_epoch: Some(1) });
        assert!(solo.take().is_empty(), "nor has one accepted the epoch");
    }
}

/// `-1` in ACKEPOCH: it does not help to elect the leader, but it may follow it.
#[test]
fn who_has_accepted_the_epoch_before_does_not_elect() {
    let mut solo = Solo::leading();
    solo.hear_from(LinkId(1), info(1, 1));
    solo.take();
    solo.hear_from(LinkId(1), FromLearner::AckEpoch { last: z(1, 9), current_epoch: None });
    assert!(solo.take().is_empty());
    solo.hear_from(LinkId(2), info(2, 1));
    solo.hear_from(LinkId(2), FromLearner::AckEpoch { last: z(1, 9), current_epoch: Some(1) });
    solo.hear_from(LinkId(1), ack(z(2, 0)));
    assert_eq!(solo.zab.role(), Role::Leading { epoch: 2 });
}

/// What a learner has acknowledged does not count any more once its connection is gone: when it
/// comes back its log may be cut below that.
#[test]
fn an_ack_ends_with_its_connection() {
    let mut solo = Solo::established();
    let join = [info(2, 1), FromLearner::AckEpoch { last: z(1, 9), current_epoch: None }];
    for message in join.into_iter().chain([ack(z(2, 0))]) {
        solo.hear_from(LinkId(2), message);
    }
    solo.zab.propose(solo.now, z(2, 1), txn());
    solo.drain();
    solo.hear_from(LinkId(2), ack(z(2, 1)));
    solo.zab.handle_disconnected(solo.now, LinkId(2));
    solo.drain();
    solo.persist();
    assert_eq!(solo.zab.committed(), z(1, 9), "this server has it, and nobody else for certain");
    solo.hear_from(LinkId(1), ack(z(2, 1)));
    assert_eq!(solo.zab.committed(), z(2, 1));
}

/// R3: a leader of Apache's counts a voter's ACKEPOCH even if it came by OBSERVERINFO, so a server
/// that has lost something sends none that counts; it is a follower again once it was made whole.
#[test]
fn who_has_lost_something_promises_nothing() {
    let mut solo = Solo::damaged();
    solo.hear(leader_info(2));
    let expected = FromLearner::AckEpoch { last: z(1, 4), current_epoch: None };
    assert_eq!(solo.sent(), [expected]);
    solo.hear(FromLeader::Diff { through: z(1, 5) });
    solo.hear(proposal(z(1, 5)));
    solo.hear(FromLeader::Commit { zxid: z(1, 5) });
    solo.hear(new_leader(2));
    solo.persist();
    assert_eq!(solo.sent(), [ack(z(2, 0))]);
    solo.hear(UP_TO_DATE);
    let outputs = solo.take();
    let position = |action: Action| {
        let position = outputs.iter().position(|output| *output == Output::Perform(action.clone()));
        position.unwrap_or_else(|| panic!("no {action:?} in {outputs:?}"))
    };
    let close = position(Action::Close { link: LINK });
    assert!(position(Action::SaveSound) < close);
    assert!(close < position(Action::Connect { to: server(3) }));
    solo.zab.handle_connected(solo.now, LinkId(8));
    solo.drain();
    let is_follower = |message: &FromLearner| {
        matches!(message, FromLearner::Info { is_observer: false, accepted_epoch: 2, .. })
    };
    assert!(solo.sent().iter().any(is_follower));
}

#[test]
fn a_follower_that_is_ahead_ends_the_leadership() {
    let mut solo = Solo::leading();
    solo.hear_from(LinkId(1), info(1, 1));
    solo.hear_from(LinkId(1), FromLearner::AckEpoch { last: z(1, 10), current_epoch: Some(1) });
    assert!(solo.has_closed(LinkId(1)));
}

#[test]
fn the_newer_of_two_connections_counts() {
    let mut solo = Solo::established();
    solo.zab.handle_accepted(solo.now, LinkId(5));
    solo.hear_from(LinkId(2), info(2, 1));
    solo.take();
    solo.hear_from(LinkId(5), info(2, 1));
    let outputs = solo.take();
    assert!(outputs.contains(&Output::Perform(Action::Close { link: LinkId(2) })));
    let servers: Vec<ServerId> = solo.zab.learners().map(|learner| learner.server).collect();
    assert_eq!(servers, [server(1), server(2)]);
}

#[test]
fn who_is_not_spoken_with() {
    let refuse = |change: fn(&mut FromLearner)| {
        let mut solo = Solo::established();
        let mut message = info(2, 1);
        change(&mut message);
        solo.hear_from(LinkId(2), message);
        assert!(solo.has_closed(LinkId(2)));
        assert_eq!(solo.zab.role(), Role::Leading { epoch: 2 });
    };
    refuse(|message| {
        if let FromLearner::Info { protocol, .. } = message {
            *protocol = 1;
        }
    });
    refuse(|message| {
        if let FromLearner::Info { config_version, .. } = message {
            *config_version = 1;
        }
    });
    refuse(|message| {
        if let FromLearner::Info { accepted_epoch, .. } = message {
            *accepted_epoch = u32::MAX;
        }
    });
    refuse(|message| {
        if let FromLearner::Info { server: says, .. } = message {
            *says = server(3);
        }
    });
}

// ── What does not fit ──

fn request() -> FromLearner {
    let body = Vec::new();
    FromLearner::Request(Forwarded { session: 1, cxid: 1, op: 1, body, ids: Vec::new() })
}

/// Each packet in each stage in which it has no place closes that connection and nothing else.
#[test]
fn packets_of_learners_that_do_not_fit_close_their_connection() {
    let ping = FromLearner::Ping { zxid: z(1, 9), touched: Vec::new() };
    let ack_epoch = FromLearner::AckEpoch { last: z(1, 9), current_epoch: Some(1) };
    let revalidate = FromLearner::Revalidate { session: 1, timeout_ms: 1 };
    let everything =
        [info(2, 1), ack_epoch.clone(), ack(z(2, 0)), ping.clone(), request(), revalidate];
    let script = [info(2, 1), ack_epoch, ack(z(2, 0))];
    for done in 0..=script.len() {
        for message in &everything {
            let fits = match done {
                0..=2 => script[done] == *message,
                _ => matches!(
                    message,
                    FromLearner::Ack { .. }
                        | FromLearner::Request(_)
                        | FromLearner::Revalidate { .. }
                ),
            };
            let mut solo = Solo::established();
            for message in &script[..done] {
                solo.hear_from(LinkId(2), message.clone());
            }
            // The first ping after the leadership began is not on this connection yet.
            solo.take();
            solo.hear_from(LinkId(2), message.clone());
            let closed = solo.has_closed(LinkId(2));
            assert_eq!(closed, !fits, "{message:?} after {done}");
            assert_eq!(solo.zab.role(), Role::Leading { epoch: 2 });
        }
    }
}

#[test]
fn packets_of_a_leader_that_do_not_fit_close_the_connection() {
    let script =
        [FromLeader::Diff { through: z(1, 9) }, proposal(z(2, 1)), new_leader(2), UP_TO_DATE];
    // Which stages let a packet through: after so many packets of the script.
    let cases: [(FromLeader, &[usize]); 15] = [
        (leader_info(2), &[]),
        (FromLeader::Diff { through: z(1, 9) }, &[0]),
        (FromLeader::Trunc { after: z(1, 9) }, &[0]),
        (FromLeader::Trunc { after: z(1, 10) }, &[]),
        (FromLeader::Snap { zxid: z(2, 1) }, &[0]),
        (new_leader(2), &[1, 2]),
        (new_leader(3), &[]),
        (UP_TO_DATE, &[3]),
        (proposal(z(2, 1)), &[1]),
        (proposal(z(2, 2)), &[2, 3, 4]),
        (proposal(z(3, 1)), &[]),
        (FromLeader::Commit { zxid: z(2, 1) }, &[2, 3, 4]),
        (FromLeader::Inform { zxid: z(2, 2), txn: txn() }, &[]),
        (FromLeader::Sync, &[4]),
        (FromLeader::Chunk { offset: 0, bytes: txn() }, &[]),
    ];
    for (message, stages) in cases {
        for done in 0..=script.len() {
            let mut solo = Solo::following(z(1, 9));
            for message in &script[..done] {
                solo.hear(message.clone());
                solo.persist();
            }
            solo.take();
            solo.hear(message.clone());
            let is_closed = solo.has_closed(LINK);
            assert_eq!(is_closed, !stages.contains(&done), "{message:?} after {done}");
        }
    }
}

/// R7: a leader that leaves something out is left.
#[test]
fn b06_a_gap_closes_the_connection() {
    for bad in [z(1, 9), z(2, 2), z(1, 11), z(2, 0)] {
        let mut solo = Solo::following(z(1, 9));
        solo.hear(FromLeader::Diff { through: z(1, 9) });
        solo.hear(proposal(bad));
        assert!(solo.has_closed(LINK), "{bad}");
    }
}

/// B06, B10: what the log gives for a learner is checked before it is sent.
#[test]
fn b06_b10_a_gap_in_the_log_means_a_snapshot() {
    let bring_up = |txns: Result<Txns, LogGap>| {
        let mut solo = Solo::leading();
        let link = LinkId(1);
        solo.hear_from(link, info(1, 1));
        solo.hear_from(link, FromLearner::AckEpoch { last: z(1, 6), current_epoch: Some(1) });
        solo.take();
        solo.zab.handle_log_read(solo.now, link, txns);
        solo.drain();
        solo.sent_to(link)[0].clone()
    };
    assert!(matches!(bring_up(Err(LogGap)), FromLeader::Snap { .. }));
    assert!(matches!(bring_up(Ok(Vec::new())), FromLeader::Snap { .. }));
    assert!(matches!(bring_up(Ok(vec![(z(1, 8), txn())])), FromLeader::Snap { .. }));
    assert!(matches!(
        bring_up(Ok(vec![(z(1, 7), txn()), (z(1, 9), txn())])),
        FromLeader::Snap { .. }
    ));
    assert!(matches!(bring_up(Ok(vec![(z(1, 7), txn())])), FromLeader::Diff { .. }));
}
