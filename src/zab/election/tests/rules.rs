//! The rules of `FastLeaderElection.java`, one by one.

use super::*;
use crate::zab::ensemble::NextConfig;
use Doing::{Following, Leading, Looking, Observing};

/// `FLEPredicateTest`.
#[test]
fn a_vote_supersedes_by_epoch_then_zxid_then_id() {
    let ensemble = ensemble(0, 5);
    let check = |new: (i64, i64, u32), old: (i64, i64, u32), expected| {
        let vote = |(id, zxid, peer_epoch)| Vote {
            leader: ServerId(id),
            zxid: Zxid::from_raw(zxid),
            peer_epoch,
        };
        assert_eq!(supersedes(&ensemble, &vote(new), &vote(old)), expected, "{new:?} {old:?}");
    };
    check((4, 0, 0), (3, 0, 2), false);
    check((4, 9, 1), (3, 0, 2), false);
    check((0, 0, 1), (1, 0, 0), true);
    check((0, 1, 0), (1, 0, 0), true);
    check((1, 1, 0), (0, 1, 0), true);
    check((1, 1, 0), (1, 1, 0), false);
}

fn ballot(leader: i64, zxid: Zxid, round: i64, peer_epoch: u32, doing: Doing) -> Ballot {
    let vote = Vote { leader: ServerId(leader), zxid, peer_epoch };
    Ballot { vote, round, doing, version: 1 }
}

/// `FLEOutOfElectionTest`, its first four tests: (votes of 0, 1, 3, 4) and the vote they are
/// counted for, in an ensemble of five.
#[test]
fn votes_are_compared_as_vote_java_compares_them() {
    let check = |votes: [Ballot; 4], counted: Ballot, expected| {
        let ids = [0, 1, 3, 4].map(ServerId);
        let ballots: Ballots = ids.into_iter().zip(votes).collect();
        let is_quorum = ensemble(2, 5).contains_quorum(counted.supporters(&ballots));
        assert_eq!(is_quorum, expected, "{ballots:?}");
    };
    let z = Zxid::new;
    // testIgnoringZxidElectionEpoch
    let votes = [
        ballot(4, z(1, 1), 1, 2, Following),
        ballot(4, z(1, 2), 1, 2, Following),
        ballot(4, z(2, 1), 2, 2, Following),
        ballot(4, z(2, 1), 2, 2, Leading),
    ];
    check(votes, ballot(4, z(2, 1), 2, 2, Following), true);
    // testElectionWIthDifferentVersion
    let mut votes = [
        ballot(4, z(1, 1), 1, 1, Following),
        ballot(4, z(1, 1), 1, 1, Following),
        ballot(4, z(2, 1), 2, 2, Following),
        ballot(4, z(2, 1), 2, 2, Leading),
    ];
    let old = Ballot { version: 0, ..ballot(4, z(2, 1), 2, 2, Following) };
    check(votes, Ballot { version: 1, ..old }, false);
    votes[2].version = 0;
    votes[3].version = 0;
    check(votes, old, true);
    // testLookingNormal
    let votes = [Looking, Looking, Looking, Leading].map(|doing| ballot(4, z(2, 1), 1, 1, doing));
    check(votes, ballot(4, z(2, 1), 1, 1, Looking), true);
    // testLookingDiffRounds
    let votes = [
        ballot(4, z(1, 1), 1, 1, Looking),
        ballot(4, z(2, 1), 2, 2, Looking),
        ballot(4, z(2, 1), 3, 2, Looking),
        ballot(4, z(2, 1), 3, 2, Leading),
    ];
    check(votes, ballot(4, z(2, 1), 2, 2, Looking), false);
}

/// `FLEOutOfElectionTest.testOutofElection`: an ensemble in the middle of an upgrade reports two
/// epochs, and is joined all the same.
#[test]
fn an_ensemble_of_two_formats_is_joined() {
    let mut members = ensemble(3, 6);
    members.members.remove(0);
    let mut one = One::looking(members, 0, 0);
    let zxid = Zxid::new(15, 0);
    let report = |doing, version, peer_epoch| {
        let vote = Vote { leader: ServerId(5), zxid, peer_epoch };
        Notification { version, ..says(doing, vote, 0xa) }
    };
    one.hear_notification(1, &report(Following, 0, 0x17));
    one.hear_notification(2, &report(Following, 0, 0x17));
    one.hear_notification(4, &report(Following, 1, 0x18));
    assert_eq!(one.leader(), None, "the leader itself has not been heard");
    one.hear_notification(5, &report(Leading, 1, 0x18));
    assert_eq!(one.leader(), Some(5));
    assert_eq!(one.election.round(), 0xa);
}

#[test]
fn an_election_begins_with_a_vote_for_oneself_in_a_new_round() {
    let mut one = One::looking(ensemble(1, 3), 4, 9);
    assert_eq!(one.sent_to(), [0, 2]);
    let expected =
        Notification { config: b"version=0".to_vec(), ..says(Looking, vote(1, 4, 9), 1) };
    assert_eq!(one.sent[0].1, expected);
    one.start(4, 9);
    assert_eq!(one.sent[1].1.round, 2);
}

#[test]
fn a_better_vote_is_taken_over_and_told_and_a_worse_one_only_counted() {
    let mut one = One::looking(ensemble(1, 3), 1, 5);
    one.hear(2, Looking, vote(2, 1, 4), 1);
    assert!(one.sent.is_empty());
    one.hear(0, Looking, vote(0, 1, 6), 1);
    assert_eq!(one.sent_to(), [0, 2]);
    assert_eq!(one.sent[0].1.vote, Some(vote(0, 1, 6)));
}

#[test]
fn a_later_round_clears_the_votes_and_takes_the_better_of_its_vote_and_ones_own() {
    let mut one = One::looking(ensemble(1, 5), 2, 5);
    one.hear(0, Looking, vote(3, 2, 9), 1);
    one.hear(2, Looking, vote(4, 1, 1), 7);
    assert_eq!(one.election.round(), 7);
    assert_eq!(one.election.vote(), Some(vote(1, 2, 5)), "its own is better than the new");
    assert_eq!(one.sent_to(), [0, 2, 3, 4]);
    one.hear(4, Looking, vote(1, 2, 5), 7);
    one.wait(1000);
    assert_eq!(one.leader(), None, "0 has voted in an earlier round only");
    one.hear(0, Looking, vote(3, 2, 9), 8);
    assert_eq!(one.election.vote(), Some(vote(3, 2, 9)));
    assert_eq!(one.sent[0].1.round, 8);
}

#[test]
fn an_earlier_round_is_not_counted_but_answered() {
    let mut one = One::looking(ensemble(1, 3), 1, 5);
    one.start(1, 5);
    one.hear(2, Looking, vote(2, 9, 9), 1);
    assert_eq!(one.sent_to(), [2]);
    assert_eq!(one.sent[0].1.vote, Some(vote(1, 1, 5)));
    assert_eq!(one.sent[0].1.round, 2);
    one.hear(2, Looking, vote(1, 1, 5), 2);
    assert!(one.sent.is_empty(), "who is in the same round is not answered");
}

#[test]
fn a_vote_without_a_zxid_is_no_vote() {
    let mut one = One::looking(ensemble(1, 3), 1, 5);
    let unread = Vote { leader: ServerId(2), zxid: Zxid::from_raw(-1), peer_epoch: 7 };
    one.hear(2, Looking, unread, 3);
    assert_eq!(one.election.round(), 1);
    assert_eq!(one.election.vote(), Some(vote(1, 1, 5)));
}

#[test]
fn strangers_neither_vote_nor_are_voted_for() {
    let mut one = One::looking(ensemble(1, 3), 1, 5);
    one.hear(8, Looking, vote(2, 9, 9), 9);
    one.hear(2, Looking, vote(8, 9, 9), 9);
    one.hear(2, Leading, vote(8, 9, 9), 9);
    assert_eq!(one.election.round(), 1);
    assert_eq!(one.election.vote(), Some(vote(1, 1, 5)));
    assert!(one.sent.is_empty());
    one.hear(1, Looking, vote(2, 9, 9), 9);
    assert_eq!(one.election.round(), 1, "nor is one's own voice heard from outside");
}

#[test]
fn a_round_at_the_end_of_its_numbers_does_not_wrap() {
    let mut one = One::looking(ensemble(1, 3), 1, 5);
    one.hear(2, Looking, vote(2, 1, 5), i64::MAX);
    one.start(1, 5);
    assert_eq!(one.election.round(), i64::MAX);
}

#[test]
fn a_quorum_waits_for_a_voter_that_can_be_reached() {
    let mut one = One::looking(ensemble(2, 3), 1, 5);
    one.hear(0, Looking, vote(2, 1, 5), 1);
    one.wait(199);
    assert_eq!(one.leader(), None);
    one.wait(1);
    assert_eq!(one.decided, Some((2, vote(2, 1, 5), Leading)));
    assert_eq!(one.election.supporters().collect::<Vec<_>>(), [ServerId(0), ServerId(2)]);
    assert_eq!(one.election.poll_timeout(), None);
}

#[test]
fn a_quorum_does_not_wait_when_all_who_can_be_reached_agree() {
    let mut one = One::looking(ensemble(2, 3), 1, 5);
    one.hear(0, Looking, vote(2, 1, 5), 1);
    one.hear(1, Looking, vote(2, 1, 5), 1);
    assert_eq!(one.leader(), Some(2));

    let mut one = One::looking(ensemble(0, 3), 1, 5);
    one.reachable(2, false);
    one.hear(1, Looking, vote(1, 1, 5), 1);
    assert_eq!(one.decided, Some((1, vote(1, 1, 5), Following)));

    let mut one = One::looking(ensemble(0, 3), 1, 5);
    one.hear(1, Looking, vote(1, 1, 5), 1);
    assert_eq!(one.leader(), None);
    one.reachable(2, false);
    assert_eq!(one.leader(), Some(1), "the last one to wait for has gone");

    let mut one = One::looking(ensemble(0, 3), 1, 5);
    one.reachable(2, false);
    one.reachable(2, true);
    assert_eq!(one.sent_to(), [2], "who can be reached again is told");
    one.hear(1, Looking, vote(1, 1, 5), 1);
    assert_eq!(one.leader(), None, "and waited for");
}

#[test]
fn a_minority_alone_in_reach_does_not_decide() {
    let mut one = One::looking(ensemble(2, 5), 1, 5);
    for peer in [0, 1, 3] {
        one.reachable(peer, false);
    }
    one.hear(4, Looking, vote(4, 1, 5), 1);
    one.wait(10_000);
    assert_eq!(one.leader(), None);
}

#[test]
fn a_better_vote_in_the_wait_begins_the_count_anew() {
    let mut one = One::looking(ensemble(1, 5), 1, 5);
    one.hear(0, Looking, vote(1, 1, 5), 1);
    one.hear(2, Looking, vote(1, 1, 5), 1);
    one.wait(150);
    one.hear(4, Looking, vote(4, 1, 5), 1);
    assert_eq!(one.sent_to(), [0, 2, 3, 4]);
    one.hear(0, Looking, vote(4, 1, 5), 1);
    one.wait(199);
    assert_eq!(one.leader(), None);
    one.wait(1);
    assert_eq!(one.leader(), Some(4));
}

#[test]
fn a_quorum_that_falls_apart_in_the_wait_decides_nothing() {
    let mut one = One::looking(ensemble(2, 5), 1, 5);
    one.hear(0, Looking, vote(2, 1, 5), 1);
    one.hear(1, Looking, vote(2, 1, 5), 1);
    one.wait(100);
    one.hear_notification(1, &Notification { vote: None, ..says(Looking, vote(0, 0, 0), 1) });
    one.wait(5000);
    assert_eq!(one.leader(), None);
}

#[test]
fn the_silence_between_two_tellings_doubles_up_to_a_minute() {
    let mut one = One::looking(ensemble(1, 3), 1, 5);
    let mut silence = 200;
    for _ in 0..12 {
        one.wait(silence - 1);
        assert!(one.sent.is_empty());
        one.wait(1);
        assert_eq!(one.sent_to(), [0, 2]);
        silence = (silence * 2).min(60_000);
    }
    assert_eq!(silence, 60_000);
}

#[test]
fn who_hears_of_a_leadership_that_it_cannot_join_yet_asks_again_soon() {
    let mut one = One::looking(ensemble(1, 5), 1, 5);
    one.wait(60_000);
    one.hear(4, Leading, vote(4, 1, 5), 3);
    for _ in 0..3 {
        one.wait(1000);
        assert_eq!(one.sent_to(), [0, 2, 3, 4]);
    }
}

/// `FLEZeroWeightTest`: whatever is in its log, a server without weight is not elected.
#[test]
fn a_server_without_weight_never_wins() {
    let mut weighted = ensemble(1, 6);
    for member in &mut weighted.members {
        member.group = Some(member.id.0 / 3);
        member.weight = u64::from(member.id.0 < 3);
    }
    let mut one = One::looking(weighted, 1, 5);
    one.hear(5, Looking, vote(5, 7, 7), 1);
    assert_eq!(one.election.vote(), Some(vote(1, 1, 5)));
    one.hear(0, Looking, vote(1, 1, 5), 1);
    one.hear(5, Looking, vote(5, 7, 7), 1);
    one.wait(200);
    assert_eq!(one.decided, Some((1, vote(1, 1, 5), Leading)));
}

#[test]
fn settled_servers_report_what_was_decided_with_its_epoch() {
    let mut one = One::looking(ensemble(0, 3), 1, 5);
    one.reachable(2, false);
    one.hear(1, Looking, vote(1, 1, 5), 1);
    one.hear(2, Looking, vote(2, 9, 9), 8);
    assert_eq!(one.sent_to(), [2]);
    assert_eq!((one.sent[0].1.doing, one.sent[0].1.round), (Following, 1));
    assert_eq!(one.sent[0].1.vote, Some(vote(1, 1, 5)));
    one.election.set_epoch(2);
    one.hear(8, Looking, vote(2, 9, 9), 8);
    assert_eq!(one.sent_to(), [8], "strangers are answered too");
    let expected = Vote { peer_epoch: 2, ..vote(1, 1, 5) };
    assert_eq!(one.sent[0].1.vote, Some(expected));
    one.hear(2, Following, vote(2, 9, 9), 8);
    assert!(one.sent.is_empty(), "who is settled itself is not answered");
}

#[test]
fn an_observer_asks_the_voters_and_joins_what_a_quorum_reports() {
    let mut one = One::looking(ensemble(5, 3), 1, 5);
    assert_eq!(one.sent_to(), [0, 1, 2]);
    assert_eq!(one.sent[0].1.vote, None);
    one.hear(0, Looking, vote(2, 1, 5), 4);
    one.hear(1, Looking, vote(2, 1, 5), 4);
    one.hear(2, Looking, vote(2, 1, 5), 4);
    one.wait(5000);
    assert_eq!(one.leader(), None, "nobody leads yet");
    assert_eq!(one.sent.len() % 3, 0);
    one.wait(1000);
    assert_eq!(one.sent_to(), [0, 1, 2], "it asks every second");
    one.hear(0, Following, vote(2, 1, 5), 4);
    assert_eq!(one.leader(), None);
    one.hear(2, Leading, vote(2, 1, 5), 4);
    assert_eq!(one.decided, Some((2, vote(2, 1, 5), Observing)));
}

#[test]
fn a_voter_that_looks_for_a_leader_tells_an_observer_its_vote() {
    let mut one = One::looking(ensemble(1, 3), 1, 5);
    let ask = Notification { vote: None, ..says(Looking, vote(0, 0, 0), 1) };
    one.hear_notification(7, &ask);
    assert_eq!(one.sent_to(), [7]);
    assert_eq!(one.sent[0].1.vote, Some(vote(1, 1, 5)));
}

/// Two servers, each of which is no voter in the other's configuration, would otherwise answer
/// each other's answers for as long as both look for a leader.
#[test]
fn strangers_with_a_vote_are_not_answered_while_looking() {
    let mut one = One::looking(ensemble(1, 3), 1, 5);
    one.hear(7, Looking, vote(7, 1, 5), 1);
    assert!(one.sent.is_empty());
}

/// The same where 3 and 4 are said to be proposed.
fn with_heard(ensemble: Ensemble) -> Ensemble {
    let member = |id| Member { id: ServerId(id), is_observer: false, group: None, weight: 1 };
    let members = vec![member(3), member(4)];
    let next = NextConfig { members, config: Arc::from(&b"version=9"[..]), version: 9 };
    Ensemble { is_dynamic: true, ..ensemble }.with_heard(Some(next))
}

#[test]
fn who_is_heard_of_may_be_voted_for_once_a_voter_does() {
    let mut one = One::looking(with_heard(ensemble(1, 3)), 1, 5);
    one.hear(3, Looking, vote(3, 1, 9), 1);
    one.hear(3, Looking, vote(3, 1, 9), 2);
    assert_eq!((one.election.vote(), one.election.round()), (Some(vote(1, 1, 5)), 2));
    one.hear(4, Looking, vote(3, 1, 9), 2);
    assert_eq!(one.election.vote(), Some(vote(1, 1, 5)));
    one.hear(2, Looking, vote(3, 1, 9), 2);
    assert_eq!(one.election.vote(), Some(vote(3, 1, 9)));
    assert_eq!(one.sent_to(), [0, 2, 3, 4]);
    // A voter in force counts as before: 1 and 2 are a quorum.
    one.wait(200);
    assert_eq!(one.decided, Some((3, vote(3, 1, 9), Following)));
}

#[test]
fn who_is_heard_of_no_more_is_not_voted_for() {
    let mut one = One::looking(with_heard(ensemble(1, 5)), 1, 5);
    one.hear(2, Looking, vote(3, 1, 9), 1);
    assert_eq!(one.election.vote(), Some(vote(3, 1, 9)));
    one.election.set_ensemble(&Arc::new(one.election.ensemble.with_heard(None)));
    one.election.handle_heard(one.now);
    assert_eq!(one.election.vote(), Some(vote(3, 1, 9)), "3 votes in force too");

    let mut one = One::looking(with_heard(ensemble(1, 3)), 1, 5);
    one.hear(2, Looking, vote(3, 1, 9), 1);
    assert_eq!(one.election.vote(), Some(vote(3, 1, 9)));
    one.election.set_ensemble(&Arc::new(one.election.ensemble.with_heard(None)));
    one.sent.clear();
    one.election.handle_heard(one.now);
    one.drain();
    assert_eq!(one.election.vote(), Some(vote(1, 1, 5)));
    assert!(one.sent_to().contains(&2), "those who had the other vote hear it");
}

#[test]
fn the_word_of_who_is_heard_of_counts_for_no_quorum() {
    let mut one = One::looking(with_heard(ensemble(1, 3)), 1, 5);
    for from in [3, 4] {
        one.hear(from, Looking, vote(1, 1, 5), 1);
        one.hear(from, Following, vote(1, 1, 5), 1);
    }
    one.wait(1000);
    assert_eq!(one.leader(), None);
    one.hear(3, Leading, vote(3, 1, 9), 1);
    one.hear(4, Following, vote(3, 1, 9), 1);
    one.hear(0, Following, vote(3, 1, 9), 1);
    assert_eq!(one.leader(), None, "one of three voters follows");
    one.hear(2, Following, vote(3, 1, 9), 1);
    assert_eq!(one.decided, Some((3, vote(3, 1, 9), Following)));
}

#[test]
fn who_would_vote_by_what_it_hears_repeats_the_best_vote_and_finds_the_leader() {
    let mut one = One::looking(with_heard(ensemble(4, 3)), 1, 5);
    assert_eq!(one.sent_to(), [0, 1, 2, 3]);
    assert!(one.sent.iter().all(|(_, sent)| sent.vote.is_none()), "it is no voter yet");
    one.hear(0, Looking, vote(3, 1, 9), 7);
    assert_eq!(one.sent_to(), [0, 1, 2, 3], "3 needs it, and hears it");
    assert!(one.sent.iter().all(|(_, it)| it.vote == Some(vote(3, 1, 9)) && it.round == 7));
    one.reachable(3, true);
    assert_eq!(one.sent_to(), [3]);
    one.hear(0, Following, vote(3, 1, 9), 7);
    one.hear(1, Following, vote(3, 1, 9), 7);
    assert_eq!(one.leader(), None, "3 does not say that it leads");
    one.hear(3, Leading, vote(3, 1, 9), 7);
    assert_eq!(one.decided, Some((3, vote(3, 1, 9), Observing)));
}

#[test]
fn what_is_proposed_in_the_own_log_is_told_and_what_is_heard_of_is_not() {
    let mut heard = One::looking(with_heard(ensemble(1, 3)), 1, 5);
    assert!(heard.sent.iter().all(|(_, sent)| sent.proposed.is_empty()));
    let ensemble = heard.election.ensemble.clone();
    let logged = ensemble.with_next(ensemble.heard.clone().map(|heard| *heard));
    assert_eq!(logged.heard, None);
    heard.election.set_ensemble(&Arc::new(logged));
    heard.start(1, 5);
    assert_eq!(heard.sent_to(), [0, 2, 3, 4]);
    assert!(heard.sent.iter().all(|(_, sent)| sent.proposed == b"version=9"));
}
