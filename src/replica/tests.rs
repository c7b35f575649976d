//! A member of an ensemble of one, whose disk is as quick as it is asked.

use super::*;
use crate::pipeline::Then;
use crate::pipeline::session::Sessions;
use crate::pipeline::tests::{TREE, settings};
use crate::wire::quorum::Extensions;
use crate::zab::LearnerStatus;
use crate::zab::ensemble::{Ensemble, Member};
use crate::zab::output::{LinkId, Recovered, Standing};

const NOW: Time = Time::from_nanos(0);
const WALL: WallMs = WallMs(0);

fn ensemble() -> Ensemble {
    let id = ServerId(1);
    Ensemble {
        me: id,
        members: vec![Member { id, is_observer: false, group: None, weight: 1 }],
        config: Arc::from(&b"version=0"[..]),
        config_version: 0,
        next: None,
        heard: None,
        is_dynamic: false,
        tick: Duration::from_secs(2),
        init_limit_ticks: 10,
        sync_limit_ticks: 5,
        commit_log_count: 500,
        commit_log_bytes_max: 1 << 20,
        extensions: Extensions::ALL,
    }
}

fn member() -> Replica {
    let recovered = Recovered {
        last: Zxid::ZERO,
        committed: Zxid::ZERO,
        accepted_epoch: 0,
        current_epoch: 0,
        standing: Standing::Sound,
    };
    let sessions = Sessions::new(2000, 1, 5000);
    let pipeline = Pipeline::new(Writer::new(TREE, NOW), sessions, settings(), 1, NOW);
    Replica::member(pipeline, Zab::new(ensemble(), recovered, 7, NOW))
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
