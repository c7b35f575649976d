//! A member of an ensemble of one, whose disk is as quick as it is asked.

use super::*;
use crate::pipeline::Then;
use crate::pipeline::session::Sessions;
use crate::pipeline::tests::{TREE, settings};
use crate::wire::election::{Doing, Vote};
use crate::wire::opcode::OpCode;
use crate::wire::quorum::{Extensions, Forwarded};
use crate::zab::ensemble::{Ensemble, Member};
use crate::zab::output::{LinkId, Recovered, Standing};
use crate::zab::status::LearnerStatus;

const NOW: Time = Time::from_nanos(0);
const WALL: WallMs = WallMs(0);

fn ensemble() -> Ensemble {
    let id = ServerId(1);
    Ensemble::of_members(id, vec![Member { id, is_observer: false, group: None, weight: 1 }])
}

fn member() -> Replica {
    member_of(ensemble())
}

fn member_of(ensemble: Ensemble) -> Replica {
    let recovered = Recovered {
        last: Zxid::ZERO,
        committed: Zxid::ZERO,
        accepted_epoch: 0,
        current_epoch: 0,
        standing: Standing::Sound,
    };
    let sessions = Sessions::new(2000, 1, 5000);
    let pipeline = Pipeline::new(Writer::new(TREE, NOW), sessions, settings(), 1, NOW);
    Replica::member(pipeline, Zab::new(ensemble, recovered, 7, NOW))
}

/// A connection asks for a session: one transaction.
fn connect(replica: &mut Replica, connection: u64) {
    let client = Client { core: 0, connection };
    let (timeout_ms, session, password) = (10_000, 0, None);
    let connect = Connect { client, timeout_ms, session, password, read_only: None };
    replica.handle_connect(connect, NOW, WALL);
}

/// Does what is asked for until nothing more is; what the last append was, if `has_disk`, is
/// durable, and whether this server has left its ensemble.
fn perform(replica: &mut Replica, has_disk: bool) -> bool {
    let mut has_resigned = false;
    while let Some(action) = replica.poll_action() {
        match action {
            Action::SaveAcceptedEpoch { epoch } => replica.handle_accepted_epoch_saved(NOW, epoch),
            Action::SaveCurrentEpoch { epoch } => replica.handle_current_epoch_saved(NOW, epoch),
            Action::Append { zxid, .. } if has_disk => replica.handle_persisted(NOW, zxid),
            Action::Resigned => has_resigned = true,
            _ => {}
        }
    }
    has_resigned
}

fn leader() -> Replica {
    let mut replica = member();
    perform(&mut replica, true);
    assert_eq!(replica.role(), Role::Leading { epoch: 1 });
    replica
}

/// An epoch's start is shown to clients as what was processed, once all before it is published and
/// once only; a server that looks for a leader has begun nothing.
#[test]
fn an_epoch_is_begun_once_behind_everything_before_it() {
    let mut replica = member();
    assert_eq!(replica.poll_begun(), None);
    perform(&mut replica, true);
    assert!(replica.poll_published().is_none());
    assert_eq!(replica.poll_begun(), Some(Zxid::new(1, 0)));
    assert_eq!(replica.poll_begun(), None);
    connect(&mut replica, 1);
    perform(&mut replica, true);
    let published = replica.poll_published().unwrap();
    assert_eq!(published.through, Zxid::new(1, 1));
    assert!(matches!(published.outboxes[0].replies[0].then, Then::Begin { .. }));
    assert_eq!(replica.poll_begun(), None);
    replica.resign(NOW);
    perform(&mut replica, true);
    assert_eq!((replica.role(), replica.poll_begun()), (Role::Looking, None));
}

/// What clients ask while a leader hands over could not be proposed any more: it waits for the next
/// leader, or for the connection's end.
#[test]
fn a_leader_that_resigns_prepares_nothing_more() {
    let mut replica = leader();
    connect(&mut replica, 1);
    replica.resign(NOW);
    connect(&mut replica, 2);
    assert!(perform(&mut replica, true), "what it had prepared is committed first");
    assert_eq!(replica.pipeline().prepared(), Zxid::new(1, 1));
    assert_eq!(replica.poll_published().unwrap().through, Zxid::new(1, 1));
    assert_eq!(replica.role(), Role::Looking);
}

/// With nothing on its way a leadership ends at once, and what comes in the same turn is no
/// transaction of it.
#[test]
fn a_leader_without_work_resigns_at_once() {
    let mut replica = leader();
    replica.resign(NOW);
    connect(&mut replica, 1);
    assert!(perform(&mut replica, true));
    assert_eq!(replica.pipeline().prepared(), Zxid::ZERO);
}

/// A leadership may end in the step in which it is established. What waits for a leader is not
/// prepared under it, where it could not be proposed any more.
#[test]
fn a_leadership_that_is_over_before_it_is_heard_of_prepares_nothing() {
    let mut replica = member();
    connect(&mut replica, 1);
    let leading = Role::Leading { epoch: 1 };
    while replica.zab_at(NOW).role() != leading {
        match replica.poll_action().expect("a member of one leads at last") {
            Action::SaveAcceptedEpoch { epoch } => replica.handle_accepted_epoch_saved(NOW, epoch),
            Action::SaveCurrentEpoch { epoch } => replica.handle_current_epoch_saved(NOW, epoch),
            _ => {}
        }
    }
    assert_eq!(replica.role(), Role::Looking, "it has not been heard of");
    replica.zab_at(NOW).resign(NOW);
    assert_ne!(replica.zab_at(NOW).role(), leading, "nothing holds it up");
    assert!(perform(&mut replica, true));
    assert_eq!((replica.role(), replica.pipeline().prepared()), (Role::Looking, Zxid::ZERO));
}

/// Nothing is shown before the disk has it.
#[test]
fn what_is_not_durable_is_not_published() {
    let mut replica = leader();
    connect(&mut replica, 1);
    perform(&mut replica, false);
    assert!(replica.poll_published().is_none());
    replica.handle_persisted(NOW, Zxid::new(1, 1));
    perform(&mut replica, false);
    assert_eq!(replica.poll_published().unwrap().through, Zxid::new(1, 1));
}

const LEADER: LinkId = LinkId(1);
const OBSERVER: LinkId = LinkId(2);

/// What is asked of the surroundings, whose disk is as quick.
fn actions(replica: &mut Replica) -> Vec<Action> {
    let mut actions = Vec::new();
    while let Some(action) = replica.poll_action() {
        match action {
            Action::SaveAcceptedEpoch { epoch } => replica.handle_accepted_epoch_saved(NOW, epoch),
            Action::SaveCurrentEpoch { epoch } => replica.handle_current_epoch_saved(NOW, epoch),
            action => actions.push(action),
        }
    }
    actions
}

/// Server 1, which follows server 3 and serves server 4, an observer.
fn observer_master() -> Replica {
    let member = |id| Member { id: ServerId(id), is_observer: id == 4, group: None, weight: 1 };
    let members = (1..=4).map(member).collect();
    let mut replica = member_of(Ensemble { members, has_observer_masters: true, ..ensemble() });
    actions(&mut replica);
    for from in [2, 3] {
        let vote = Vote { leader: ServerId(3), zxid: Zxid::ZERO, peer_epoch: 0 };
        let (doing, vote) = (Doing::Looking, Some(vote));
        let (config, proposed) = (Vec::new(), Vec::new());
        let notification = Notification { doing, vote, round: 1, version: 2, config, proposed };
        replica.handle_notification(NOW, ServerId(from), notification);
    }
    actions(&mut replica);
    replica.handle_connected(NOW, LEADER);
    let zxid = Zxid::new(1, 0);
    let (protocol, extensions) = (0x10000, Extensions::default());
    for message in [
        FromLeader::LeaderInfo { epoch: 1, protocol, extensions },
        FromLeader::Diff { through: Zxid::ZERO },
        FromLeader::NewLeader { zxid, config: Arc::from(&b""[..]) },
        FromLeader::UpToDate { zxid },
    ] {
        replica.handle_from_leader(NOW, WALL, LEADER, message);
        actions(&mut replica);
    }
    assert_eq!(replica.role(), Role::Following { leader: ServerId(3), link: LEADER });
    replica.handle_accepted(NOW, OBSERVER);
    let (server, accepted_epoch, config_version) = (ServerId(4), 0, 0);
    for message in [
        FromLearner::Info {
            is_observer: true,
            server,
            accepted_epoch,
            protocol,
            config_version,
            extensions,
        },
        FromLearner::AckEpoch { last: Zxid::ZERO, current_epoch: None },
        FromLearner::Ack { zxid },
    ] {
        replica.handle_from_learner(NOW, WALL, OBSERVER, message);
        actions(&mut replica);
    }
    assert_eq!(replica.zab().unwrap().learners().count(), 1);
    replica
}

fn sync(session: i64) -> FromLearner {
    let (cxid, op, ids) = (1, OpCode::Sync.raw(), Vec::new());
    let body = vec![0, 0, 0, 1, b'/'];
    FromLearner::Request(Forwarded { session, cxid, op, body, ids })
}

#[test]
fn an_observers_questions_go_to_the_leader_and_its_answers_come_back() {
    let mut replica = observer_master();
    let revalidate = FromLearner::Revalidate { session: 7, timeout_ms: 400 };
    for message in [sync(7), revalidate] {
        replica.handle_from_learner(NOW, WALL, OBSERVER, message.clone());
        assert_eq!(actions(&mut replica), [Action::ToLeader { link: LEADER, message }]);
    }
    // A client of this server's own comes back with its session, and asks in between.
    let client = Client { core: 0, connection: 1 };
    let (timeout_ms, session, password) = (10_000, 7, None);
    let connect = Connect { client, timeout_ms, session, password, read_only: None };
    replica.handle_connect(connect, NOW, WALL);
    let _ = actions(&mut replica);
    let revalidated = FromLeader::Revalidated { session: 7, is_valid: true };
    for message in [FromLeader::Sync, revalidated.clone()] {
        replica.handle_from_leader(NOW, WALL, LEADER, message.clone());
        assert_eq!(actions(&mut replica), [Action::ToLearner { link: OBSERVER, message }]);
    }
    // Answers beyond those are this server's own.
    for message in [FromLeader::Sync, revalidated] {
        replica.handle_from_leader(NOW, WALL, LEADER, message);
        assert_eq!(actions(&mut replica), []);
    }
}

#[test]
fn an_answer_to_an_observer_that_is_gone_is_nobodys() {
    let mut replica = observer_master();
    replica.handle_from_learner(NOW, WALL, OBSERVER, sync(7));
    actions(&mut replica);
    replica.handle_disconnected(NOW, OBSERVER);
    replica.handle_from_leader(NOW, WALL, LEADER, FromLeader::Sync);
    assert_eq!(actions(&mut replica), []);
}

#[test]
fn a_leader_hears_of_an_observers_sessions() {
    let mut replica = observer_master();
    let zxid = Zxid::ZERO;
    replica.handle_from_leader(NOW, WALL, LEADER, FromLeader::Ping { zxid });
    actions(&mut replica);
    // The observer is not pinged again so soon: it is, by a later ping of the leader's.
    let now = NOW + Duration::from_secs(1);
    replica.handle_from_leader(now, WALL, LEADER, FromLeader::Ping { zxid });
    let ping = Action::ToLearner { link: OBSERVER, message: FromLeader::Ping { zxid } };
    assert!(actions(&mut replica).contains(&ping));
    let touched = vec![(7, 400), (8, 500)];
    let message = FromLearner::Ping { zxid, touched: touched.clone() };
    replica.handle_from_learner(now, WALL, OBSERVER, message);
    replica.handle_from_leader(now, WALL, LEADER, FromLeader::Ping { zxid });
    let message = FromLearner::Ping { zxid, touched };
    assert_eq!(actions(&mut replica), [Action::ToLeader { link: LEADER, message }]);
}

/// Two changes of members, one right behind the other: who follows and has just been made an
/// observer is no part of the quorum that the second one has to have.
#[test]
fn a_follower_that_is_to_observe_counts_for_no_new_members() {
    let member = |id, is_observer| Member { id, is_observer, group: None, weight: 1 };
    let (follower, new_observer, stranger) = (ServerId(2), ServerId(3), ServerId(4));
    let mut ensemble = ensemble();
    ensemble.members.extend([member(follower, false), member(new_observer, true)]);
    let learner = |server| LearnerStatus {
        server,
        link: LinkId(1),
        is_observer: false,
        is_synced: true,
        is_in_snapshot: false,
        acked: Zxid::ZERO,
    };
    let counts = |learner| exchange::is_follower_in_step(&learner, &ensemble);
    assert!(counts(learner(follower)) && counts(learner(stranger)));
    assert!(!counts(learner(new_observer)));
    assert!(!counts(LearnerStatus { is_observer: true, ..learner(follower) }));
    assert!(!counts(LearnerStatus { is_synced: false, ..learner(follower) }));
}
