//! Links that work: connecting, packets both ways, deadlines, closing, the log.

use super::*;
use crate::log::recover::{self, Options};
use crate::log::{WriterKind, segment};
use crate::server::slots::Slots;

#[test]
fn tokens_are_this_ports_own() {
    for link in [0, 1, 0x3FFF_FFFF, 0x4000_0000, 1 << 40, (1 << 62) - 1] {
        assert_eq!(number(token(link)), Some(link));
    }
    assert_eq!(number(Token(u64::MAX)), None, "the clients' listener");
    let mut slots = Slots::default();
    for _ in 0..3 {
        let client = slots.insert(|_| ());
        assert_eq!(number(client), None);
        slots.remove(client);
    }
}

#[test]
fn packets_go_both_ways_in_order_and_are_counted() {
    let (mut leader, down, mut learner, up) = pair();
    let mut expected =
        vec![FromLeader::LeaderInfo { epoch: 1, protocol: 0x10000, extensions: Extensions::ALL }];
    // From small ones to some that no receive buffer and no single send holds.
    expected.extend((1..400).map(|counter| proposal(counter, counter as usize * 7)));
    expected.extend([proposal(400, 700_000), proposal(401, 3), proposal(402, 1_500_000)]);
    let acks: Vec<FromLearner> =
        (1..=402).map(|counter| FromLearner::Ack { zxid: Zxid::new(1, counter) }).collect();
    for message in &expected {
        leader.tell_learner(down, message.clone());
    }
    for ack in &acks {
        learner.tell_leader(up, ack.clone());
    }
    until(&mut leader, &mut learner, |leader, learner| {
        leader.events.len() >= acks.len() && learner.events.len() >= expected.len()
    });
    assert_eq!(learner.heard_leader(), expected);
    assert_eq!(leader.heard_learner(), acks);
    let (sent, received) = (leader.port.stats(), learner.port.stats());
    assert_eq!((sent.packets_sent, received.packets_received), (403, 403));
    assert_eq!((sent.packets_received, received.packets_sent), (403, 403));
    leader.until(|leader| leader.port.queued_bytes(down) == 0);
    assert_eq!(leader.port.stats().bytes_sent, learner.port.stats().bytes_received);
    let info = leader.port.links().next().unwrap();
    assert_eq!((info.server, info.end), (Some(ServerId(2)), End::Learner));
}

#[test]
fn a_turn_of_many_packets_is_one_send() {
    let (mut leader, down, mut learner, _) = pair();
    for counter in 1..=1000 {
        leader.tell_learner(down, proposal(counter, 100));
    }
    let queued = leader.port.queued_bytes(down);
    assert!(queued < 256 << 10, "it fits one send");
    leader.turn();
    assert_eq!(leader.port.queued_bytes(down), queued);
    assert_eq!(leader.port.links[&down].out.bytes(), queued);
    assert!(leader.port.links[&down].out.is_sending());
    until(&mut leader, &mut learner, |_, learner| learner.events.len() == 1000);
}

/// A follower's disk is to work while the leader's does; a commit can wait for the turn's end, and
/// what is sent before that takes it along.
#[test]
fn what_is_waited_for_leaves_before_the_turn_ends() {
    let (mut leader, down, mut learner, up) = pair();
    let commit = |counter| FromLeader::Commit { zxid: Zxid::new(1, counter) };
    let is_sending = |side: &mut Side, link: LinkId| {
        let now = side.now();
        side.port.send_urgent(&mut side.ring, now);
        side.port.links[&link].out.is_sending()
    };
    leader.tell_learner(down, commit(1));
    assert!(!is_sending(&mut leader, down));
    leader.tell_learner(down, proposal(2, 100));
    assert!(is_sending(&mut leader, down));
    until(&mut leader, &mut learner, |_, learner| learner.events.len() == 2);
    assert_eq!(learner.heard_leader(), [commit(1), proposal(2, 100)]);
    leader.until(|leader| leader.port.queued_bytes(down) == 0);
    leader.tell_learner(down, commit(2));
    assert!(!is_sending(&mut leader, down), "the proposal is gone");
    until(&mut leader, &mut learner, |_, learner| learner.events.len() == 3);
    learner.tell_leader(up, FromLearner::Ack { zxid: Zxid::new(1, 2) });
    assert!(is_sending(&mut learner, up));
}

#[test]
fn a_learner_that_is_early_is_taken_when_leading_begins() {
    let mut leader = Side::new(settings(&[]));
    let mut socket = raw_learner(&leader);
    socket.write_all(&learner_packets(&[info(2)])).unwrap();
    leader.until(|leader| leader.port.early.len() == 1);
    leader.turns(20);
    assert!(leader.events.is_empty());
    leader.perform(Action::Accept(true));
    leader.until(|leader| leader.heard_learner() == [info(2)]);
    assert!(matches!(leader.events[0], PeerEvent::Accepted { .. }));
}

#[test]
fn a_learner_of_a_server_that_does_not_lead_is_sent_away() {
    let mut server = Side::new(settings(&[]));
    let mut socket = raw_learner(&server);
    server.until(|server| server.port.early.len() == 1);
    server.ahead += EARLY_MAX;
    server.until(|server| server.port.early.is_empty());
    assert_eq!(socket.read(&mut [0; 8]).unwrap(), 0);
    assert!(server.events.is_empty());

    // One that leads no more sends away who has not said who it is, and keeps the others.
    server.perform(Action::Accept(true));
    let mut known = raw_learner(&server);
    known.write_all(&learner_packets(&[info(2)])).unwrap();
    let mut unknown = raw_learner(&server);
    server.until(|server| server.port.links.len() == 2 && server.events.len() == 2);
    server.perform(Action::Accept(false));
    server.turns(5);
    assert_eq!(unknown.read(&mut [0; 8]).unwrap(), 0);
    assert_eq!(server.port.links.len(), 1);
    assert!(!server.is_disconnected());
}

#[test]
fn packets_may_come_byte_by_byte() {
    let mut leader = Side::leading();
    let mut socket = raw_learner(&leader);
    let messages = [
        info(2),
        FromLearner::AckEpoch { last: Zxid::new(1, 7), current_epoch: Some(1) },
        FromLearner::Ping { zxid: Zxid::new(1, 7), touched: vec![(5, 4000), (6, 4000)] },
        FromLearner::Revalidate { session: 9, timeout_ms: 1000 },
    ];
    for byte in learner_packets(&messages) {
        socket.write_all(&[byte]).unwrap();
        leader.turn();
    }
    leader.until(|leader| leader.heard_learner().len() == messages.len());
    assert_eq!(leader.heard_learner(), messages);
}

#[test]
fn a_leader_that_opens_late_is_found_and_one_that_does_not_is_given_up() {
    // A port that nobody listens at.
    let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = bound.local_addr().unwrap();
    drop(bound);
    let mut learner = Side::new(settings(&[(1, address.port())]));
    learner.perform(Action::Connect { to: ServerId(1) });
    learner.until(|learner| learner.port.dialing.as_ref().unwrap().retry_at.is_some());
    let leader = TcpListener::bind(address).unwrap();
    learner.until(|learner| learner.connected().is_some());

    drop(leader);
    learner.take();
    let begun = clock::now();
    learner.perform(Action::Connect { to: ServerId(1) });
    let is_failure = |event: &Event| matches!(event, PeerEvent::ConnectFailed { to: ServerId(1) });
    learner.until(|learner| learner.events.iter().any(is_failure));
    assert!(learner.connected().is_none());
    let took = clock::now() - begun;
    assert!(took >= Duration::from_millis(400) && took < Duration::from_secs(5), "{took:?}");

    learner.take();
    learner.perform(Action::Connect { to: ServerId(77) });
    learner.turn();
    assert!(matches!(learner.events[..], [PeerEvent::ConnectFailed { to: ServerId(77) }]));
}

#[test]
fn only_the_last_leader_asked_for_is_connected_to() {
    let (first, second) = (Side::leading(), Side::leading());
    let ports = [(1, first.address().port()), (2, second.address().port())];
    let mut learner = Side::new(settings(&ports));
    learner.perform(Action::Connect { to: ServerId(1) });
    learner.perform(Action::Connect { to: ServerId(2) });
    learner.until(|learner| !learner.events.is_empty());
    learner.turns(50);
    assert!(matches!(learner.events[..], [PeerEvent::Connected { to: ServerId(2), .. }]));
    let peers: Vec<SocketAddr> = learner.port.links().map(|it| it.peer).collect();
    assert_eq!(peers, [second.address()]);
}

#[test]
fn a_closed_link_sends_what_is_queued_and_tells_only_the_other_end() {
    let (mut leader, down, mut learner, _) = pair();
    let messages: Vec<FromLeader> = (1..=50).map(|counter| proposal(counter, 40_000)).collect();
    for message in &messages {
        leader.tell_learner(down, message.clone());
    }
    leader.perform(Action::Close { link: down });
    leader.tell_learner(down, FromLeader::Sync);
    until(&mut leader, &mut learner, |_, learner| learner.is_disconnected());
    assert_eq!(learner.heard_leader(), messages);
    until(&mut leader, &mut learner, |leader, _| leader.port.links.is_empty());
    assert!(leader.events.is_empty(), "{:?}", leader.events);
}

#[test]
fn a_closed_link_whose_other_end_stays_is_gone_after_a_while() {
    let mut leader = Side::leading();
    let mut socket = raw_learner(&leader);
    socket.write_all(&learner_packets(&[info(2)])).unwrap();
    leader.until(|leader| leader.accepted().is_some());
    let link = leader.accepted().unwrap();
    leader.perform(Action::Close { link });
    leader.until(|leader| matches!(leader.port.links[&link].phase, Phase::Lingering(_)));
    leader.ahead += LINGER;
    leader.turns(2);
    assert!(leader.port.links.is_empty());
    assert!(!leader.is_disconnected());
    assert_eq!(leader.port.stats().expired, 0, "it is nobody's fault");
}

#[test]
fn a_server_that_stops_says_goodbye() {
    let (mut leader, down, mut learner, _) = pair();
    leader.tell_learner(down, proposal(1, 100_000));
    let now = leader.now();
    leader.port.stop(now);
    assert!(!leader.port.is_finished());
    until(&mut leader, &mut learner, |leader, learner| {
        leader.port.is_finished() && learner.is_disconnected()
    });
    assert_eq!(learner.heard_leader(), [proposal(1, 100_000)]);
    assert!(TcpStream::connect(("127.0.0.1", learner.port.settings.peers[0].1[0].1)).is_err());
}

/// A log with the transactions `1..=count` of epoch 1, each of `length` bytes, all durable.
fn log_reader(dir: &std::path::Path, count: u32, length: usize) -> crate::log::read::Reader {
    let options = Options { identity: 7, segment_bytes: 4 << 20, committed: Zxid::ZERO };
    let mut log = recover::open(dir, options).unwrap().into_log(WriterKind::Mmap).unwrap();
    for counter in 1..=count {
        log.append(Zxid::new(1, counter), &vec![counter as u8; length]);
    }
    drain(dir, &mut log);
    assert_eq!(log.durable(), Zxid::new(1, count));
    log.reader()
}

/// Performs every write that there is.
fn drain(dir: &std::path::Path, log: &mut crate::log::append::Log) {
    while let Some(request) = log.wanted_segment(Time::default()) {
        log.offer_segment(segment::prepare(dir, request).unwrap());
    }
    while let Some(write) = log.poll_write() {
        let result = write.perform_blocking();
        log.handle_written(write, result).unwrap();
    }
}

#[test]
fn the_log_is_read_when_the_queue_is_short() {
    let dir = tempfile::tempdir().unwrap();
    let (mut leader, down, mut learner, _) = pair();
    leader.tell_learner(down, proposal(9, 2 * QUEUED_LOW_BYTES));
    let read = |after: u32| Action::ReadLog { link: down, after: Zxid::new(1, after), bytes: 1000 };
    leader.perform(read(10));
    assert_eq!(leader.port.poll_log_wanted(), None, "the queue is long");
    let mut wanted = None;
    until(&mut leader, &mut learner, |leader, _| {
        wanted = leader.port.poll_log_wanted();
        wanted.is_some()
    });
    leader.port.read_log(wanted.unwrap(), log_reader(dir.path(), 100, 300));
    until(&mut leader, &mut learner, |leader, _| !leader.events.is_empty());
    let [PeerEvent::LogRead { link, result: Ok(txns) }] = &leader.events[..] else {
        panic!("{:?}", leader.events);
    };
    assert_eq!(*link, down);
    let zxids: Vec<u32> = txns.iter().map(|(zxid, _)| zxid.counter()).collect();
    assert_eq!(zxids, [11, 12, 13, 14]);
    assert_eq!(*txns[0].1, [11; 300]);
    assert_eq!(leader.port.poll_log_wanted(), None, "once");
}

/// A log whose history before (1, 50) was replaced by a snapshot, then (1, 51), (1, 52), (3, 1).
fn log_reader_after_reset(dir: &std::path::Path) -> crate::log::read::Reader {
    let options = Options { identity: 7, segment_bytes: 4 << 20, committed: Zxid::ZERO };
    let mut log = recover::open(dir, options).unwrap().into_log(WriterKind::Mmap).unwrap();
    log.append(Zxid::new(1, 1), &[1; 30]);
    drain(dir, &mut log);
    log.reset_after(Zxid::new(1, 50));
    drain(dir, &mut log);
    for zxid in [Zxid::new(1, 51), Zxid::new(1, 52), Zxid::new(3, 1)] {
        log.append(zxid, &[2; 30]);
    }
    drain(dir, &mut log);
    log.reader()
}

#[test]
fn a_history_that_the_log_does_not_continue_is_not_continued() {
    let dir = tempfile::tempdir().unwrap();
    let (mut leader, down, _learner, _) = pair();
    let (one, two) = (Zxid::new(1, 51), Zxid::new(1, 52));
    let three = Zxid::new(3, 1);
    for (after, expected) in [
        (Zxid::new(1, 49), None),
        (Zxid::new(1, 0), None),
        (Zxid::new(1, 50), Some(vec![one, two, three])),
        (one, Some(vec![two, three])),
        (two, Some(vec![three])),
        // A foreign transaction, and the places where epochs begin.
        (Zxid::new(1, 53), None),
        (Zxid::new(2, 0), Some(vec![three])),
        (Zxid::new(3, 0), Some(vec![three])),
        (Zxid::new(2, 1), None),
        (three, Some(vec![])),
        (Zxid::new(3, 2), None),
    ] {
        let wanted = LogWanted { link: down, after, bytes: 1 << 20 };
        leader.port.read_log(wanted, log_reader_after_reset(dir.path()));
        leader.until(|leader| !leader.events.is_empty());
        let Some(PeerEvent::LogRead { result, .. }) = leader.events.pop() else {
            panic!("{:?}", leader.events);
        };
        let zxids = result.ok().map(|txns| txns.iter().map(|(zxid, _)| *zxid).collect());
        assert_eq!(zxids, expected, "after {after}");
        std::fs::remove_dir_all(dir.path()).unwrap();
        std::fs::create_dir(dir.path()).unwrap();
    }
}

#[test]
fn a_long_log_is_read_piece_by_piece() {
    let dir = tempfile::tempdir().unwrap();
    let (mut leader, down, _learner, _) = pair();
    log_reader(dir.path(), 1000, 300);
    let (mut after, mut zxids) = (Zxid::new(1, 100), Vec::new());
    loop {
        // A reader of its own each time, as the log grows meanwhile.
        let options = Options { identity: 7, segment_bytes: 4 << 20, committed: Zxid::ZERO };
        let log = recover::open(dir.path(), options).unwrap().into_log(WriterKind::Mmap).unwrap();
        leader.perform(Action::ReadLog { link: down, after, bytes: 10_000 });
        let wanted = leader.port.poll_log_wanted().unwrap();
        leader.port.read_log(wanted, log.reader());
        leader.until(|leader| !leader.events.is_empty());
        let Some(PeerEvent::LogRead { result: Ok(txns), .. }) = leader.events.pop() else {
            panic!("the log is there");
        };
        assert!(leader.port.links[&down].bookmark.is_some());
        let Some((last, _)) = txns.last() else {
            break;
        };
        after = *last;
        zxids.extend(txns.iter().map(|(zxid, _)| zxid.counter()));
    }
    assert_eq!(zxids, (101..=1000).collect::<Vec<_>>());
}

#[test]
fn what_is_said_at_the_end_of_a_turn_is_heard_at_once() {
    let mut learner = Side::new(settings(&[]));
    assert_eq!(learner.port.poll_timeout(), None);
    learner.perform(Action::Connect { to: ServerId(5) });
    assert_eq!(learner.port.poll_timeout(), Some(Time::default()));
    learner.turn();
    assert_eq!(learner.port.poll_timeout(), None);
    assert_eq!(learner.events.len(), 1);
}
