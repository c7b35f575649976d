//! Servers that have nothing, and may have had something.

use super::*;
use Doing::{Following, Leading, Looking, Observing};

fn empty(me: i64, voters: i64) -> One {
    let mut one = One::new(ensemble(me, voters), Standing::Empty);
    one.start(0, 0);
    one
}

const fn new(leader: i64) -> Vote {
    Vote { leader: ServerId(leader), zxid: Zxid::ZERO, peer_epoch: 0 }
}

#[test]
fn an_empty_server_votes_for_nobody_but_itself() {
    let mut one = empty(1, 3);
    assert_eq!(one.sent[0].1.vote, Some(new(1)));
    let round = one.election.round();
    one.hear(2, Looking, vote(2, 3, 5), round);
    one.hear(0, Looking, vote(2, 3, 5), round);
    one.wait(5000);
    assert_eq!(one.leader(), None, "it counts no votes");
    assert_eq!(one.election.vote(), Some(new(1)));
    one.hear(0, Looking, vote(2, 3, 5), round + 9);
    assert_eq!(one.sent[0].1.vote, Some(new(1)), "nor in a later round");
    assert_eq!(one.sent[0].1.round, round + 9);
    assert!(!one.has_become_sound);
}

/// 1 was wiped, 0 has never had anything, 2 has what 1 and 2 had acknowledged, and is away.
#[test]
fn an_empty_server_is_not_elected_while_one_voter_is_unseen() {
    let mut one = empty(1, 3);
    one.reachable(2, false);
    let round = one.election.round();
    one.hear(0, Looking, new(1), round);
    one.wait(60_000);
    assert_eq!(one.leader(), None);
    one.hear(0, Following, new(1), round);
    one.wait(60_000);
    assert_eq!(one.leader(), None, "though another says that it follows it");
    assert!(!one.has_become_sound);
}

#[test]
fn a_server_among_servers_as_empty_votes_as_any() {
    let mut one = empty(1, 3);
    let round = one.election.round();
    one.hear(0, Looking, new(0), round);
    assert!(!one.has_become_sound);
    one.hear(2, Looking, new(2), round);
    assert!(one.has_become_sound);
    assert_eq!(one.election.vote(), Some(new(2)));
    assert_eq!(one.sent_to(), [0, 2]);
    one.wait(200);
    assert_eq!(one.decided, Some((2, new(2), Following)));
}

#[test]
fn the_only_voter_is_as_empty_as_all_others() {
    let one = empty(0, 1);
    assert!(one.has_become_sound);
    assert_eq!(one.decided, Some((0, new(0), Leading)));
}

#[test]
fn one_server_with_something_keeps_the_empty_from_voting() {
    let something = [vote(2, 0, 1), vote(2, 1, 0), Vote { peer_epoch: 1, ..new(2) }];
    for something in something {
        let mut one = empty(1, 3);
        let round = one.election.round();
        one.hear(0, Looking, new(0), round);
        one.hear(2, Looking, something, round);
        one.wait(5000);
        assert!(!one.has_become_sound, "{something:?}");
    }
    let mut one = empty(1, 3);
    let round = one.election.round();
    one.hear(2, Following, new(0), round);
    one.hear(0, Looking, new(0), round);
    assert!(!one.has_become_sound, "nor is one that follows");
}

/// Apache's servers repeat their last notification on each new connection, which may be that of
/// the ensemble's very first election.
#[test]
fn old_votes_do_not_make_others_empty() {
    for age in [-5, 5] {
        let mut wiped = empty(2, 3);
        let old = wiped.election.round() + age;
        wiped.hear(0, Looking, new(2), old);
        wiped.hear(1, Looking, new(2), old);
        assert!(!wiped.has_become_sound);
        // What they answer to the round that it opens, or to its first vote, tells the truth.
        wiped.wait(200);
        let round = wiped.election.round();
        assert!(round > old);
        wiped.hear(0, Following, vote(1, 3, 9), 1);
        wiped.hear(1, Leading, vote(1, 3, 9), 1);
        assert!(!wiped.has_become_sound);
        assert_eq!(wiped.decided, Some((1, vote(1, 3, 9), Observing)));
    }
}

/// A round of another's is answered by opening one's own, in a moment.
#[test]
fn who_hears_of_all_in_anothers_round_opens_its_own() {
    let mut one = empty(1, 3);
    let later = one.election.round() + 1;
    one.hear(0, Looking, new(0), later);
    one.hear(2, Looking, new(2), later);
    assert!(!one.has_become_sound);
    one.wait(100);
    assert!(one.election.round() > later);
    assert_eq!(one.sent_to(), [0, 2]);
    let round = one.election.round();
    one.hear(0, Looking, new(0), round);
    assert!(!one.has_become_sound, "2 has not answered in this round");
    one.hear(2, Looking, new(0), round);
    assert!(one.has_become_sound);
}

/// It reports itself as an observer, so that nobody takes it for one of a leader's quorum.
#[test]
fn an_empty_server_joins_a_leader_without_a_vote() {
    let mut one = empty(2, 3);
    one.hear(1, Leading, vote(1, 3, 9), 1);
    one.hear(0, Following, vote(1, 3, 9), 1);
    assert_eq!(one.decided, Some((1, vote(1, 3, 9), Observing)));
    one.hear(0, Looking, vote(0, 3, 9), 2);
    assert_eq!(one.sent[0].1.doing, Observing);
}

/// Others may be done voting for an empty server before it has seen that it may be voted for. That
/// they follow it, which has led nobody, says as much as their votes.
#[test]
fn who_follows_an_empty_server_is_empty_too() {
    let mut one = empty(2, 3);
    let round = one.election.round();
    one.hear(0, Following, new(2), round - 1);
    one.hear(1, Following, new(2), round);
    assert!(!one.has_become_sound, "0 may have said so long ago");
    one.hear(0, Following, Vote { peer_epoch: 1, ..new(2) }, round);
    assert!(!one.has_become_sound, "0 has been in an epoch");
    one.hear(0, Following, new(2), round);
    assert!(one.has_become_sound);
    assert_eq!(one.decided, Some((2, new(2), Leading)));
}
