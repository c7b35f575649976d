//! Sessions: their beginnings, moves and ends.

use super::*;
use crate::pipeline::session::password;

/// The answer to a connect request: timeout, session, password.
fn take_connect_apart(frame: &[u8]) -> (i32, i64, Vec<u8>) {
    let mut reader = Reader::new(frame);
    assert_eq!(reader.i32().unwrap() as usize, frame.len() - 4);
    assert_eq!(reader.i32(), Ok(0), "the protocol's version");
    let answer = (reader.i32().unwrap(), reader.i64().unwrap());
    let password = reader.buffer().unwrap().unwrap().to_vec();
    assert_eq!(reader.bool(), Ok(false), "not read-only");
    assert!(reader.is_empty());
    (answer.0, answer.1, password)
}

/// The notices since the last call, in short.
fn notices(bench: &mut Bench) -> Vec<String> {
    let short = |notice: Notice| match notice {
        Notice::Close { client } => format!("close {}", client.core),
        Notice::Replaced { core, .. } => format!("replaced {core}"),
        Notice::Connected { client, frame, then: Then::Begin { .. } } => {
            assert_ne!(take_connect_apart(&frame).1, 0);
            format!("back {}", client.core)
        }
        Notice::Connected { client, frame, then } => {
            assert_eq!(then, Then::Close);
            assert_eq!(take_connect_apart(&frame), (0, 0, vec![0; 16]));
            format!("refused {}", client.core)
        }
    };
    bench.notices.drain(..).map(short).collect()
}

#[test]
fn a_session_begins_when_it_is_durable() {
    let mut bench = Bench::new();
    bench.ask_session(A, 0, None);
    bench.append();
    bench.drain();
    assert!(bench.answers.is_empty());
    bench.settle();
    let answer = bench.answers.pop().unwrap();
    let Then::Begin { session, timeout_ms } = answer.then else { panic!("{answer:?}") };
    assert_eq!(timeout_ms, 10_000);
    let right = (10_000, session, password(session).to_vec());
    assert_eq!(take_connect_apart(&answer.body), right);
    assert_eq!(bench.last_txn(), format!("{:?}", Txn::CreateSession { timeout_ms }));
    assert_eq!(bench.logged[0].session, session);
}

#[test]
fn timeouts_stay_within_bounds() {
    let mut bench = Bench::new();
    for (wanted, given) in [(0, 4000), (i32::MIN, 4000), (5000, 5000), (i32::MAX, 40_000)] {
        let connect = Connect {
            client: A,
            timeout_ms: wanted,
            session: 0,
            password: None,
            read_only: Some(false),
        };
        bench.pipeline.handle_connect(connect, bench.now, bench.wall);
        bench.settle();
        assert_eq!(take_connect_apart(&bench.answers.last().unwrap().body).0, given);
    }
}

#[test]
fn a_session_comes_back_without_a_transaction() {
    let (mut bench, session) = Bench::connected();
    let before = bench.pipeline.prepared();
    bench.ask_session(B, session, Some(password(session)));
    bench.drain();
    assert_eq!(notices(&mut bench), ["close 0", "back 1"]);
    assert_eq!(bench.pipeline.prepared(), before);

    // The old connection may have had a write on its way: it ends without an answer.
    let answered = bench.answers.len();
    bench.send(A, session, &create("/late", PERSISTENT));
    bench.settle();
    assert_eq!(notices(&mut bench), ["close 0"]);
    assert_eq!(bench.answers.len(), answered);
    assert_eq!((bench.pipeline.prepared(), bench.stat("/late")), (before, None));

    bench.send(B, session, &create("/a", PERSISTENT));
    bench.settle();
    assert_eq!(bench.answers.last().unwrap().client, B);
    assert_eq!(bench.answers.last().unwrap().error, 0);
}

#[test]
fn a_wrong_password_is_refused_and_ends_the_old_connection_all_the_same() {
    let (mut bench, session) = Bench::connected();
    let mut wrong = password(session);
    wrong[15] ^= 1;
    for (password, told) in [
        (Some(wrong), &["close 0", "refused 1"][..]),
        (Some([0; 16]), &["refused 1"]),
        (None, &["refused 1"]),
    ] {
        bench.ask_session(B, session, password);
        bench.drain();
        assert_eq!(notices(&mut bench), told);
    }
    // Nothing is taken any more from the connection that was ended.
    bench.send(A, session, &create("/late", PERSISTENT));
    bench.settle();
    assert_eq!((notices(&mut bench), bench.stat("/late")), (vec!["close 0".to_owned()], None));
    // The session itself is unharmed.
    let again = Client { core: 0, connection: 2 };
    bench.ask_session(again, session, Some(password(session)));
    bench.send(again, session, &create("/a", PERSISTENT));
    bench.settle();
    assert_eq!(notices(&mut bench), ["back 0"]);
    assert_eq!(bench.answers.last().unwrap().error, 0);
    bench.ask_session(B, session + 1, Some(password(session + 1)));
    bench.drain();
    assert_eq!(notices(&mut bench), ["refused 1"], "nobody has that session");
}

#[test]
fn a_close_takes_the_ephemerals_along_in_one_transaction() {
    let (mut bench, session) = Bench::connected();
    let other = bench.connect(B);
    bench.done(session, create("/dir", PERSISTENT));
    bench.done(session, create("/dir/b", EPHEMERAL));
    bench.done(session, create("/a", EPHEMERAL));
    bench.send(B, other, &create("/others", EPHEMERAL));
    bench.settle();
    bench.events.clear();
    let (count, owned) = (bench.logged.len(), vec!["/a", "/dir/b"]);
    let answer = bench.ask(session, CLOSE);
    assert_eq!((answer.error, answer.then, answer.body.len()), (0, Then::Close, 0));
    assert_eq!(bench.logged.len(), count + 1);
    assert_eq!(bench.last_txn(), format!("{:?}", Txn::CloseSession { paths: Some(owned) }));
    assert_eq!((bench.stat("/a"), bench.stat("/dir/b")), (None, None));
    assert!(bench.stat("/others").is_some());
    assert_eq!(bench.stat("/dir").unwrap().pzxid, answer.zxid);
    assert!(bench.events.iter().all(|event| event.zxid == answer.zxid));
    assert_eq!(bench.events.len(), 4);

    let late = bench.error(session, create("/late", EPHEMERAL));
    assert_eq!(late, ErrorCode::SessionExpired.raw());
    assert_eq!(bench.stat("/late"), None);
}

#[test]
fn an_unlisted_close_deletes_all_that_the_session_owns() {
    let mut bench = Bench::with(Settings { close_session_txn: false, ..settings() });
    let session = bench.connect(A);
    bench.done(session, create("/a", EPHEMERAL));
    bench.done(session, create("/b", EPHEMERAL));
    bench.ask(session, CLOSE);
    assert_eq!(bench.last_txn(), format!("{:?}", Txn::CloseSession { paths: None }));
    assert_eq!((bench.stat("/a"), bench.stat("/b")), (None, None));
    assert_eq!(bench.replica.owners().count(), 0);
}

/// No peer takes a longer transaction; one without the list says the same.
#[test]
fn a_list_of_ephemerals_is_left_out_where_it_is_too_long() {
    let mut bench = Bench::with(Settings { txn_bytes_max: 25, ..settings() });
    for (name, is_listed) in [("/six-xx", true), ("/seven-x", false)] {
        let session = bench.connect(A);
        bench.done(session, create("/a-6-x", EPHEMERAL));
        bench.done(session, create(name, EPHEMERAL));
        bench.ask(session, CLOSE);
        let paths = is_listed.then_some(vec!["/a-6-x", name]);
        assert_eq!(bench.last_txn(), format!("{:?}", Txn::CloseSession { paths }));
        assert_eq!(bench.pipeline.writer().owners().count(), 0);
    }
}

#[test]
fn a_silent_session_expires_and_a_touched_one_does_not() {
    let (mut bench, silent) = Bench::connected();
    let touched = bench.connect(B);
    bench.done(silent, create("/e", EPHEMERAL));
    bench.answers.clear();
    for _ in 0..4 {
        bench.pipeline.handle_touch(bench.now, touched);
        bench.wait(TICK_MS);
    }
    assert!(bench.stat("/e").is_some(), "8 s are not 10 s");
    for _ in 0..3 {
        bench.pipeline.handle_touch(bench.now, touched);
        bench.wait(TICK_MS);
    }
    assert_eq!(bench.stat("/e"), None);
    assert!(bench.pipeline.sessions().contains(touched));
    assert!(!bench.pipeline.sessions().contains(silent));
    assert_eq!(bench.pipeline.stats().sessions_expired, 1);
    let paths = Some(vec!["/e"]);
    assert_eq!(bench.last_txn(), format!("{:?}", Txn::CloseSession { paths }));
    assert_eq!(bench.logged.last().unwrap().session, silent);
    // Its connection is closed, and told nothing that it did not ask.
    assert_eq!((notices(&mut bench), &bench.answers[..]), (vec!["close 0".to_owned()], &[][..]));
}

/// Writes keep a session alive as pings do.
#[test]
fn a_write_is_a_sign_of_life() {
    let (mut bench, session) = Bench::connected();
    for _ in 0..20 {
        bench.done(session, set("/", b"", -1));
        bench.wait(TICK_MS);
    }
    assert!(bench.pipeline.sessions().contains(session));
}

#[test]
fn a_session_that_came_back_expires_by_its_new_timeout() {
    let (mut bench, session) = Bench::connected();
    let connect = Connect {
        client: B,
        timeout_ms: 20_000,
        session,
        password: Some(password(session)),
        read_only: Some(false),
    };
    bench.pipeline.handle_connect(connect, bench.now, bench.wall);
    bench.wait(18_000);
    assert!(bench.pipeline.sessions().contains(session));
    bench.wait(6000);
    assert!(!bench.pipeline.sessions().contains(session));
    assert_eq!(notices(&mut bench), ["close 0", "back 1", "close 1"]);
}
