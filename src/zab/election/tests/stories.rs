//! Apache's tests of the election that tell a story, under their names.

use super::*;
use Doing::{Following, Leading, Looking, Observing};

/// `QuorumPeerMainTest.testElectionFraud`: a server that led without anybody's support looks again
/// and finds the true leader, though it has the better log and a later round.
#[test]
fn election_fraud() {
    let mut fraud = One::looking(ensemble(1, 3), 9, 9);
    for _ in 0..4 {
        fraud.start(9, 9);
    }
    // Followers of a leader that has not said that it leads are no proof: it may have crashed.
    fraud.hear(0, Following, vote(2, 1, 5), 2);
    fraud.wait(1000);
    assert_eq!(fraud.leader(), None);
    fraud.hear(2, Leading, vote(2, 1, 5), 2);
    assert_eq!(fraud.decided, Some((2, vote(2, 1, 5), Following)));
    assert_eq!(fraud.election.round(), 2, "it is of the leader's round from here on");

    // The true leader does not let itself be moved by the fraud's notifications.
    let mut leader = One::looking(ensemble(2, 3), 1, 5);
    leader.hear(0, Looking, vote(2, 1, 5), 1);
    leader.wait(200);
    leader.hear(1, Looking, vote(1, 9, 9), 77);
    assert_eq!(leader.election.doing(), Leading);
    assert_eq!(leader.sent_to(), [1]);
}

/// A leader that has said to lead and looks again is no leader: those that still follow it do not
/// make another server follow it too.
#[test]
fn election_fraud_of_a_leader_that_has_given_up() {
    let mut one = One::looking(ensemble(1, 5), 1, 5);
    one.hear(4, Leading, vote(4, 1, 5), 3);
    one.hear(4, Looking, vote(4, 1, 4), 1);
    one.hear(0, Following, vote(4, 1, 5), 3);
    one.hear(2, Following, vote(4, 1, 5), 3);
    assert_eq!(one.leader(), None);

    let mut one = One::looking(ensemble(1, 5), 1, 5);
    one.hear(4, Leading, vote(4, 1, 5), 3);
    one.reachable(4, false);
    one.hear(0, Following, vote(4, 1, 5), 3);
    one.hear(2, Following, vote(4, 1, 5), 3);
    one.hear(3, Following, vote(4, 1, 5), 3);
    assert_eq!(one.leader(), None, "nor is one whose connection is lost");
    one.reachable(4, true);
    one.hear(4, Leading, vote(4, 1, 5), 3);
    assert_eq!(one.leader(), Some(4));
}

/// `QuorumPeerMainTest.testLeaderElectionWithDisloyalVoter`: a leader knows who elected it, so
/// that it sees in discovery when one of just a quorum has changed its mind.
#[test]
fn leader_election_with_disloyal_voter() {
    let mut leader = One::looking(ensemble(4, 5), 1, 5);
    leader.hear(0, Looking, vote(4, 1, 5), 1);
    leader.hear(1, Looking, vote(4, 1, 5), 1);
    leader.hear(2, Looking, vote(2, 1, 5), 1);
    leader.wait(200);
    assert_eq!(leader.leader(), Some(4));
    let mut loyal: BTreeSet<ServerId> = leader.election.supporters().collect();
    assert_eq!(loyal, BTreeSet::from([0, 1, 4].map(ServerId)));
    leader.hear(0, Looking, vote(0, 1, 5), 2);
    assert_eq!((leader.sent_to(), leader.sent[0].1.doing), (vec![0], Leading));
    loyal.remove(&ServerId(0));
    assert!(!leader.election.ensemble.contains_quorum(loyal));
    leader.start(1, 5);
    assert_eq!(leader.election.supporters().count(), 0);
    leader.hear(0, Looking, vote(4, 1, 5), 2);
    leader.hear(3, Looking, vote(4, 1, 5), 2);
    leader.wait(200);
    assert_eq!(leader.leader(), Some(4));
}

/// `QuorumPeerMainTest.testHighestZxidJoinLate`: who has the longest log comes when others have
/// decided, and follows.
#[test]
fn highest_zxid_join_late() {
    let mut late = One::looking(ensemble(2, 3), 1, 99);
    late.hear(1, Leading, vote(1, 1, 5), 1);
    assert_eq!(late.leader(), None);
    late.hear(0, Following, vote(1, 1, 5), 1);
    assert_eq!(late.decided, Some((1, vote(1, 1, 5), Following)));
}

/// The same between the voters' decision and the leader's: it is heard in the wait, and wins.
#[test]
fn highest_zxid_comes_just_in_time() {
    let mut one = One::looking(ensemble(1, 3), 1, 5);
    one.hear(0, Looking, vote(1, 1, 5), 1);
    one.wait(199);
    one.hear(2, Looking, vote(2, 1, 99), 1);
    assert_eq!(one.leader(), None);
    one.hear(0, Looking, vote(2, 1, 99), 1);
    assert_eq!(one.leader(), Some(2));
}

/// `QuorumPeerMainTest.testLeaderOutOfView`: 1 does not know of 3, which leads 2. It never decides
/// for 3, and never takes the votes for it as votes.
#[test]
fn leader_out_of_view() {
    let mut one = ensemble(1, 3);
    one.members.remove(0);
    let mut one = One::looking(one, 1, 5);
    for doing in [Looking, Following, Leading] {
        one.hear(3, doing, vote(3, 1, 5), 1);
        one.hear(2, doing, vote(3, 1, 5), 1);
    }
    one.wait(5000);
    assert_eq!(one.leader(), None);
    assert_eq!(one.election.vote(), Some(vote(1, 1, 5)));
}

/// `FLEBackwardElectionRoundTest` (ZOOKEEPER-1514): followers of an earlier round do not make a
/// server lead that is in a later one.
#[test]
fn backward_election_round() {
    let mut one = One::looking(ensemble(0, 3), 0, 0);
    one.hear(1, Following, vote(0, 0, 0), 1);
    assert_eq!(one.decided, Some((0, vote(0, 0, 0), Leading)));
    one.start(0, 0);
    one.hear(1, Following, vote(0, 0, 0), 1);
    one.hear(2, Following, vote(0, 0, 0), 1);
    one.wait(5000);
    assert_eq!(one.leader(), None);
}

/// `FLELostMessageTest`: the other one's vote was lost, but it follows already.
#[test]
fn a_lost_vote_is_made_good_by_the_report_of_its_owner() {
    let mut one = One::looking(ensemble(1, 2), 0, 0);
    one.hear(0, Looking, vote(0, 0, 0), 1);
    one.hear(0, Following, vote(1, 0, 0), 1);
    assert_eq!(one.decided, Some((1, vote(1, 0, 0), Leading)));
}

/// ZOOKEEPER-1732: whoever took part in the election reports other zxids and rounds than who has
/// joined late; leader and epoch are the same, and that is enough.
#[test]
fn reports_of_one_leadership_agree_in_leader_and_epoch_only() {
    let report = |round, zxid, peer_epoch| {
        (Vote { leader: ServerId(4), zxid: Zxid::new(1, zxid), peer_epoch }, round)
    };
    let mut one = One::looking(ensemble(3, 5), 1, 5);
    let (said, round) = report(7, 5, 2);
    one.hear(4, Leading, said, round);
    let (said, round) = report(9, 1, 1);
    one.hear(0, Following, said, round);
    let (said, round) = report(9, 1, 2);
    one.hear(1, Following, said, round);
    assert_eq!(one.leader(), None, "0 speaks of an earlier epoch of the same leader");
    let (said, round) = report(8, 3, 2);
    one.hear(2, Following, said, round);
    assert_eq!(one.leader(), Some(4));
    assert_eq!(one.election.round(), 8);
}

/// The election of a damaged server: it asks, is not counted and counts nobody's vote, joins
/// without a vote, and has one when it is whole again.
#[test]
fn a_damaged_server_asks_until_it_is_whole() {
    let mut damaged = One::new(ensemble(2, 3), Standing::Damaged);
    damaged.start(7, 7);
    assert!(damaged.sent.iter().all(|(_, said)| said.vote.is_none()));
    damaged.hear(0, Looking, vote(2, 7, 7), 1);
    damaged.hear(1, Looking, vote(2, 7, 7), 1);
    damaged.hear(0, Following, vote(2, 7, 7), 1);
    damaged.hear(1, Following, vote(2, 7, 7), 1);
    damaged.wait(5000);
    assert_eq!(damaged.leader(), None, "it leads nobody, whatever others remember");
    damaged.hear(1, Leading, vote(1, 7, 9), 3);
    damaged.hear(0, Following, vote(1, 7, 9), 3);
    assert_eq!(damaged.decided, Some((1, vote(1, 7, 9), Observing)));
    damaged.hear(0, Looking, vote(0, 7, 9), 4);
    assert_eq!(damaged.sent[0].1.doing, Observing);
    damaged.election.set_standing(Standing::Sound);
    damaged.hear(0, Looking, vote(0, 7, 9), 4);
    assert_eq!(damaged.sent[0].1.doing, Following);
}

#[test]
fn who_is_made_whole_while_it_looks_votes() {
    let mut one = One::new(ensemble(2, 3), Standing::Damaged);
    one.start(7, 7);
    one.election.set_standing(Standing::Sound);
    one.drain();
    assert_eq!(one.sent.last().and_then(|(_, said)| said.vote), Some(vote(2, 7, 7)));
    one.hear(0, Looking, vote(2, 7, 7), 1);
    one.wait(200);
    assert_eq!(one.leader(), Some(2));
}

/// Others neither count a damaged voter nor wait for it.
#[test]
fn a_damaged_server_is_not_waited_for() {
    let ask = Notification { vote: None, ..says(Looking, vote(0, 0, 0), 1) };
    let mut one = One::looking(ensemble(0, 3), 1, 5);
    one.hear_notification(2, &ask);
    one.wait(5000);
    assert_eq!(one.leader(), None);
    one.hear(1, Looking, vote(1, 1, 5), 1);
    assert_eq!(one.leader(), Some(1));

    let mut one = One::looking(ensemble(0, 3), 1, 5);
    one.hear(2, Observing, vote(1, 1, 5), 1);
    one.hear(1, Leading, vote(1, 1, 5), 1);
    assert_eq!(one.leader(), None, "an observer is no part of a leader's quorum");
}

/// What the server hears, and all that it votes for then.
fn votes_after(one: &mut One, from: i64, heard: Vote) -> Option<Vote> {
    one.hear(from, Looking, heard, 1);
    one.election.vote()
}

/// A server that is heard and hears nobody has the best vote in each election.
#[test]
fn a_leader_that_cannot_be_reached_is_passed_over() {
    let mut one = One::looking(ensemble(1, 3), 1, 5);
    let until = one.now + Duration::from_secs(2);
    one.election.avoid(ServerId(2), until);
    assert_eq!(votes_after(&mut one, 2, vote(2, 1, 9)), Some(vote(1, 1, 5)));
    assert_eq!(votes_after(&mut one, 0, vote(1, 1, 5)), Some(vote(1, 1, 5)));
    assert_eq!(one.leader(), Some(1), "and it is not waited for");

    // Also where it opens a round.
    let mut one = One::looking(ensemble(1, 3), 1, 5);
    one.election.avoid(ServerId(2), until);
    one.hear(2, Looking, vote(2, 1, 9), 7);
    assert_eq!((one.election.round(), one.election.vote()), (7, Some(vote(1, 1, 5))));
}

#[test]
fn a_leader_is_passed_over_for_a_while_and_only_where_there_can_be_another() {
    let avoiding = || {
        let mut one = One::looking(ensemble(1, 3), 1, 5);
        one.election.avoid(ServerId(2), one.now + Duration::from_secs(2));
        one
    };
    let mut one = avoiding();
    one.reachable(0, false);
    assert_eq!(votes_after(&mut one, 2, vote(2, 1, 9)), Some(vote(2, 1, 9)), "who else?");

    let mut one = avoiding();
    assert_eq!(votes_after(&mut one, 2, vote(2, 1, 9)), Some(vote(1, 1, 5)));
    one.wait(1999);
    assert_eq!(one.election.vote(), Some(vote(1, 1, 5)));
    one.wait(1 + FINALIZE_WAIT.as_millis() as u64);
    assert_eq!(one.leader(), Some(2), "what it has said is not forgotten");

    let mut one = avoiding();
    one.reachable(2, true);
    assert_eq!(votes_after(&mut one, 2, vote(2, 1, 9)), Some(vote(2, 1, 9)), "it hears again");

    let mut one = avoiding();
    one.hear(0, Following, vote(2, 1, 9), 1);
    one.hear(2, Leading, vote(2, 1, 9), 1);
    assert_eq!(one.leader(), Some(2), "a quorum follows it");
}

/// What a leader has taken back from a server, others may still vote for: that server would lead
/// with less than they have, and be given up in discovery.
#[test]
fn a_vote_that_its_own_leader_refutes_is_not_taken_over() {
    let mut one = One::looking(ensemble(1, 5), 1, 5);
    assert_eq!(votes_after(&mut one, 0, vote(2, 1, 9)), Some(vote(2, 1, 9)));
    assert_eq!(votes_after(&mut one, 2, vote(2, 1, 4)), Some(vote(1, 1, 5)));
    assert_eq!(votes_after(&mut one, 3, vote(2, 1, 9)), Some(vote(1, 1, 5)));
    assert_eq!(votes_after(&mut one, 3, vote(3, 1, 6)), Some(vote(3, 1, 6)));
    assert_eq!(one.leader(), None);

    // Where that server cannot be heard, its old word counts for nothing.
    let mut one = One::looking(ensemble(1, 5), 1, 5);
    one.hear(2, Looking, vote(2, 1, 4), 1);
    one.reachable(2, false);
    assert_eq!(votes_after(&mut one, 0, vote(2, 1, 9)), Some(vote(2, 1, 9)));
}

#[test]
fn a_server_does_not_vote_for_itself_with_what_it_has_lost() {
    let mut one = One::looking(ensemble(1, 3), 1, 5);
    assert_eq!(votes_after(&mut one, 0, vote(1, 1, 9)), Some(vote(1, 1, 5)));
    one.hear(0, Looking, vote(1, 1, 9), 4);
    assert_eq!((one.election.round(), one.election.vote()), (4, Some(vote(1, 1, 5))));
    assert_eq!(one.leader(), None);
}
