//! What is let out, when, and in which order.

use super::*;

#[test]
fn nothing_is_published_before_it_is_durable() {
    let (mut bench, session) = Bench::connected();
    bench.send(A, session, &create("/a", PERSISTENT));
    bench.append();
    let first = bench.pipeline.prepared();
    bench.send(A, session, &create("/b", PERSISTENT));
    bench.append();
    let second = bench.pipeline.prepared();
    assert!(second > first);
    let before = bench.answers.len();

    bench.drain();
    assert_eq!(bench.answers.len(), before, "the disk has nothing yet");
    assert_eq!(bench.pipeline.poll_published().map(|group| group.through), None);

    bench.pipeline.handle_committed(first);
    let group = bench.pipeline.poll_published().expect("the first group is durable");
    assert_eq!(group.through, first);
    assert_eq!(group.outboxes[0].replies.len(), 1);
    let paths: Vec<&str> = group.events.iter().map(Event::path).collect();
    assert_eq!(paths, ["/a", "/"]);
    assert!(bench.pipeline.poll_published().is_none(), "the second group is not");

    bench.pipeline.handle_committed(second);
    assert_eq!(bench.pipeline.poll_published().map(|group| group.through), Some(second));
    assert!(bench.pipeline.poll_published().is_none());
}

/// A group is let out whole: half a group that is durable lets nothing out.
#[test]
fn half_a_durable_group_stays_in() {
    let (mut bench, session) = Bench::connected();
    bench.send(A, session, &create("/a", PERSISTENT));
    let half = bench.pipeline.prepared();
    bench.send(A, session, &create("/b", PERSISTENT));
    bench.append();
    bench.pipeline.handle_committed(half);
    assert!(bench.pipeline.poll_published().is_none());
    bench.pipeline.handle_committed(bench.pipeline.prepared());
    let group = bench.pipeline.poll_published().expect("the rest followed");
    assert_eq!(group.outboxes[0].replies.len(), 2);
}

#[test]
#[should_panic(expected = "nothing is committed that was not prepared")]
fn a_disk_that_is_ahead_is_a_broken_invariant() {
    let (mut bench, _) = Bench::connected();
    let next = bench.pipeline.prepared().next().unwrap();
    bench.pipeline.handle_committed(next);
}

#[test]
fn replies_come_in_the_order_of_requests_on_every_core() {
    let (mut bench, a) = Bench::connected();
    let b = bench.connect(B);
    bench.answers.clear();
    let mut sent = Vec::new();
    for round in 0..50 {
        let request = match round % 3 {
            0 => create(&format!("/n{round}"), PERSISTENT),
            1 => delete("/is-not-there", -1),
            _ => (OpCode::SetData, vec![0xff; 3]),
        };
        sent.push((A, bench.send(A, a, &request)));
        sent.push((B, bench.send(B, b, &set("/", b"", -1))));
        if round % 7 == 0 {
            bench.append();
        }
    }
    bench.settle();
    for client in [A, B] {
        let of_client = |all: &[(Client, i32)]| -> Vec<i32> {
            all.iter().filter(|(of, _)| *of == client).map(|(_, xid)| *xid).collect()
        };
        let answered: Vec<_> =
            bench.answers.iter().map(|answer| (answer.client, answer.xid)).collect();
        assert_eq!(of_client(&answered), of_client(&sent));
        let zxids = bench.answers.iter().filter(|answer| answer.client == client);
        assert!(zxids.is_sorted_by_key(|answer| answer.zxid));
    }
}

/// A refusal that makes no transaction is ordered behind the writes before it.
#[test]
fn an_undecodable_write_waits_for_the_writes_before_it() {
    let (mut bench, session) = Bench::connected();
    bench.answers.clear();
    bench.send(A, session, &create("/a", PERSISTENT));
    let prepared = bench.pipeline.prepared();
    bench.send(A, session, &(OpCode::Delete, vec![0, 0, 0, 9]));
    assert_eq!(bench.pipeline.prepared(), prepared, "it takes no zxid");
    bench.append();
    bench.drain();
    assert!(bench.answers.is_empty());
    bench.settle();
    let errors: Vec<i32> = bench.answers.iter().map(|answer| answer.error).collect();
    assert_eq!(errors, [0, ErrorCode::MarshallingError.raw()]);
}

/// It says nothing of its own, and shows what was on its way before it.
#[test]
fn a_sync_waits_for_the_writes_before_it() {
    let (mut bench, session) = Bench::connected();
    let other = bench.connect(B);
    bench.answers.clear();
    bench.send(A, session, &create("/a", PERSISTENT));
    let prepared = bench.pipeline.prepared();
    let mut body = Vec::new();
    body.put_string("/path");
    bench.pipeline.set_room(Room::Full);
    bench.send(B, other, &(OpCode::Sync, body.clone()));
    assert_eq!(bench.pipeline.prepared(), prepared, "it takes no zxid");
    bench.append();
    bench.drain();
    assert!(bench.answers.is_empty());
    bench.settle();
    let answer = bench.answers.iter().find(|answer| answer.client == B).unwrap();
    assert_eq!((answer.error, answer.zxid, &answer.body), (0, prepared, &body));
}

/// With nothing on its way, such a refusal needs no disk.
#[test]
fn an_undecodable_write_alone_is_answered_at_once() {
    let (mut bench, session) = Bench::connected();
    bench.answers.clear();
    bench.send(A, session, &(OpCode::Create, Vec::new()));
    bench.append();
    bench.drain();
    assert_eq!(bench.answers.len(), 1);
    assert_eq!(bench.answers[0].error, ErrorCode::MarshallingError.raw());
}

#[test]
fn a_failed_write_takes_a_zxid_and_is_logged_as_an_error() {
    let (mut bench, session) = Bench::connected();
    let before = bench.pipeline.prepared();
    let digest = bench.pipeline.writer().digest();
    let answer = bench.ask(session, delete("/is-not-there", -1));
    assert_eq!(answer.error, ErrorCode::NoNode.raw());
    assert!(answer.body.is_empty());
    assert_eq!(Some(answer.zxid), before.next());
    let error = Txn::Error { code: ErrorCode::NoNode.raw() };
    assert_eq!(bench.last_txn(), format!("{error:?}"));
    assert_eq!(bench.pipeline.writer().digest(), digest);
    assert_eq!(bench.pipeline.stats().errors, 1);
}

#[test]
fn room_for_sessions_only_refuses_writes_and_lets_sessions_begin_and_end() {
    let (mut bench, session) = Bench::connected();
    bench.done(session, create("/e", EPHEMERAL));
    bench.pipeline.set_room(Room::SessionsOnly);
    let before = bench.pipeline.prepared();
    assert_eq!(bench.error(session, create("/a", PERSISTENT)), ErrorCode::SystemError.raw());
    assert_eq!(bench.pipeline.prepared(), before, "a refusal takes no zxid");
    assert_eq!(bench.pipeline.stats().refused_no_room, 1);
    let other = bench.connect(B);
    assert_ne!(other, session);
    let answer = bench.ask(session, CLOSE);
    assert_eq!((answer.error, answer.then), (0, Then::Close));
    assert_eq!(bench.stat("/e"), None);

    bench.pipeline.set_room(Room::Plenty);
    bench.send(B, other, &create("/a", PERSISTENT));
    bench.settle();
    assert_eq!(bench.answers.last().unwrap().error, 0);
}

#[test]
fn a_full_log_refuses_everything_and_keeps_sessions_alive() {
    let (mut bench, session) = Bench::connected();
    bench.done(session, create("/e", EPHEMERAL));
    bench.pipeline.set_room(Room::Full);
    let before = bench.pipeline.prepared();
    assert_eq!(bench.error(session, set("/e", b"1", -1)), ErrorCode::SystemError.raw());
    bench.ask_session(B, 0, None);
    bench.send(A, session, &CLOSE);
    bench.wait(40_000);
    assert_eq!(bench.pipeline.prepared(), before);
    let is_closed = |client: Client| {
        let mut notices = bench.notices.iter();
        notices.any(|notice| matches!(notice, Notice::Close { client: of } if *of == client))
    };
    assert!(is_closed(B), "no session for it");
    assert!(is_closed(A), "its close cannot be answered");
    assert!(bench.pipeline.sessions().contains(session));

    // What could not expire then does so later.
    bench.pipeline.set_room(Room::Plenty);
    bench.wait(40_000);
    assert!(!bench.pipeline.sessions().contains(session));
    assert_eq!(bench.stat("/e"), None);
}
