//! Snapshots both ways, with a fake of the tree: a length, so many bytes, and a mark.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;
use crate::server::peers::streams::WINDOW_BYTES;
use crate::snapshot::load::LoadOptions;
use crate::snapshot::transfer::{self, Form, Incoming, Received};
use crate::tree::Tree;
use crate::tree::writer::{TreeConfig, Writer};
use crate::wire::acl::EncodedAcl;
use crate::wire::txn::{CreateKind, CreateTxn, Txn, TxnHeader};

const CHUNKED: Extensions = Extensions::ALL;
const BARE: Extensions = Extensions { chunked_snapshot: false, cumulative: false };
const MARK: &[u8] = b"BenWasHere";

/// The snapshot as a stream.
fn stream(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u64).to_be_bytes()[..], body, MARK].concat()
}

fn body(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 31 % 251) as u8).collect()
}

/// Reads exactly one snapshot.
fn parse(reader: &mut SnapshotReader) -> Result<Vec<u8>, String> {
    let text = |error: std::io::Error| error.to_string();
    let mut length = [0; 8];
    reader.read_exact(&mut length).map_err(text)?;
    let mut left = u64::from_be_bytes(length) as usize;
    let mut body = Vec::new();
    while left > 0 {
        let bytes = reader.fill_buf().map_err(text)?;
        let count = bytes.len().min(left);
        if count == 0 {
            return Err("it ends early".to_owned());
        }
        body.extend_from_slice(&bytes[..count]);
        reader.consume(count);
        left -= count;
    }
    let mut mark = [0; MARK.len()];
    reader.read_exact(&mut mark).map_err(text)?;
    if mark == MARK { Ok(body) } else { Err("no mark".to_owned()) }
}

fn write(body: Vec<u8>) -> impl FnOnce(&mut PieceWriter) -> std::io::Result<()> + Send {
    move |writer| {
        // Pieces of no even size.
        stream(&body).chunks(777).try_for_each(|part| writer.write_all(part))
    }
}

fn snap() -> FromLeader {
    FromLeader::Snap { zxid: Zxid::new(1, 99) }
}

fn new_leader() -> FromLeader {
    FromLeader::NewLeader { zxid: Zxid::new(2, 0), config: b"server.1=a".as_slice().into() }
}

/// Answers a SNAP as agreement does, and resumes when the snapshot is there.
fn drive(learner: &mut Side, link: LinkId, extensions: Extensions, bodies: &mut Vec<Vec<u8>>) {
    for event in learner.take() {
        match event {
            PeerEvent::FromLeader { message: FromLeader::Snap { .. }, .. } => {
                learner.port.receive_snapshot(link, extensions, parse);
            }
            PeerEvent::SnapshotReceived { received, .. } => {
                bodies.push(received);
                learner.port.resume(link);
            }
            other => learner.events.push(other),
        }
    }
}

/// Turns a learner until the messages of a leader behind a snapshot have come.
fn received(learner: &mut Side, link: LinkId, behind: &[FromLeader]) -> Vec<Vec<u8>> {
    let mut bodies = Vec::new();
    learner.until(|learner| {
        drive(learner, link, BARE, &mut bodies);
        learner.heard_leader().len() >= behind.len()
    });
    assert_eq!(learner.heard_leader(), behind);
    bodies
}

#[test]
fn a_stream_may_be_split_anywhere() {
    let before = packets(&[FromLeader::Ping { zxid: Zxid::new(1, 98) }]);
    let behind = [new_leader(), FromLeader::Ping { zxid: Zxid::new(2, 0) }];
    let bytes = [before, packets(&[snap()]), stream(&body(20)), packets(&behind)].concat();
    let expected = [&[FromLeader::Ping { zxid: Zxid::new(1, 98) }][..], &behind].concat();
    for split in 0..bytes.len() {
        let (mut socket, mut learner, link) = raw_leader();
        socket.write_all(&bytes[..split]).unwrap();
        let mut bodies = Vec::new();
        learner.until(|learner| {
            drive(learner, link, BARE, &mut bodies);
            learner.port.stats().bytes_received == split as u64
        });
        socket.write_all(&bytes[split..]).unwrap();
        bodies.extend(received(&mut learner, link, &expected));
        assert_eq!(bodies, [body(20)], "split at {split}");
    }
}

#[test]
fn a_stream_may_come_byte_by_byte() {
    let bytes = [packets(&[snap()]), stream(&body(50)), packets(&[new_leader()])].concat();
    let (mut socket, mut learner, link) = raw_leader();
    let mut bodies = Vec::new();
    for byte in bytes {
        socket.write_all(&[byte]).unwrap();
        learner.turn();
        drive(&mut learner, link, BARE, &mut bodies);
    }
    bodies.extend(received(&mut learner, link, &[new_leader()]));
    assert_eq!(bodies, [body(50)]);
}

/// Sends a snapshot of `length` bytes from port to port, with packets before and behind it.
fn check_sent(extensions: Extensions, length: usize) {
    let (mut leader, down, mut learner, up) = pair();
    leader.tell_learner(down, proposal(1, 50));
    leader.tell_learner(down, snap());
    leader.port.send_snapshot(down, extensions, write(body(length)));
    leader.tell_learner(down, new_leader());
    let mut bodies = Vec::new();
    let expected = [proposal(1, 50), new_leader()];
    until(&mut leader, &mut learner, |_, learner| {
        drive(learner, up, extensions, &mut bodies);
        learner.heard_leader().len() == expected.len()
    });
    assert_eq!(learner.heard_leader(), expected);
    assert!(bodies == [body(length)], "the snapshot arrives as it was");
    assert!(matches!(leader.events[..], [PeerEvent::SnapshotSent { link }] if link == down));
    assert_eq!(leader.port.stats().snapshots_sent, 1);
    assert_eq!(learner.port.stats().snapshots_received, 1);
}

#[test]
fn a_snapshot_goes_from_port_to_port() {
    for extensions in [BARE, CHUNKED] {
        for length in [0, 1, 65_518, 65_519, 300_000, 9 << 20] {
            check_sent(extensions, length);
        }
    }
}

#[test]
fn heartbeats_go_between_chunks_and_not_into_a_stream() {
    for (extensions, overtakes) in [(CHUNKED, true), (BARE, false)] {
        let (mut leader, down, mut learner, up) = pair();
        leader.tell_learner(down, snap());
        let may_end = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&may_end);
        leader.port.send_snapshot(down, extensions, move |writer| {
            while !told.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
            write(body(1000))(writer)
        });
        let ping = FromLeader::Ping { zxid: Zxid::new(1, 98) };
        leader.tell_learner(down, ping.clone());
        let mut bodies = Vec::new();
        for _ in 0..30 {
            leader.turn();
            learner.turn();
            drive(&mut learner, up, extensions, &mut bodies);
        }
        assert_eq!(learner.heard_leader().len(), usize::from(overtakes));
        may_end.store(true, Ordering::Release);
        until(&mut leader, &mut learner, |_, learner| {
            drive(learner, up, extensions, &mut bodies);
            learner.heard_leader() == [ping.clone()] && bodies.len() == 1
        });
    }
}

#[test]
fn a_slow_disk_holds_the_network_up_and_not_memory() {
    let (mut leader, down, mut learner, up) = pair();
    let may_go_on = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&may_go_on);
    leader.tell_learner(down, snap());
    leader.port.send_snapshot(down, BARE, write(body(40 << 20)));
    until(&mut leader, &mut learner, |_, learner| !learner.events.is_empty());
    learner.take();
    learner.port.receive_snapshot(up, BARE, move |reader: &mut SnapshotReader| {
        while !told.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        parse(reader)
    });
    let (mut before, mut still) = (0, 0);
    let peak = AtomicUsize::new(0);
    let begun = clock::now();
    while still < 50 || !learner.port.links[&up].paused {
        assert!(clock::now().since(begun) < Duration::from_secs(20), "nothing is held up");
        leader.turn();
        learner.turn();
        let queued = leader.port.queued_bytes(down);
        peak.fetch_max(queued, Ordering::Relaxed);
        let came = learner.port.stats().bytes_received;
        still = if came == before { still + 1 } else { 0 };
        before = came;
    }
    let slack = 8 * 4096;
    assert!(before as usize <= WINDOW_BYTES + slack + 100, "{before} bytes came");
    assert!(peak.into_inner() <= QUEUED_LOW_BYTES + (64 << 10) + 100);
    // However long the disk takes, it is not the leader's fault.
    learner.ahead += TICK * 100;
    learner.turns(3);
    assert!(!learner.is_disconnected());
    may_go_on.store(true, Ordering::Release);
    until(&mut leader, &mut learner, |_, learner| !learner.events.is_empty());
    let [PeerEvent::SnapshotReceived { received, .. }] = &learner.events[..] else {
        panic!("{:?}", learner.events.len());
    };
    assert!(*received == body(40 << 20));
}

#[test]
fn what_follows_a_snapshot_waits_until_it_is_in_place() {
    let (mut leader, down, mut learner, up) = pair();
    leader.tell_learner(down, snap());
    leader.port.send_snapshot(down, CHUNKED, write(body(10)));
    leader.tell_learner(down, new_leader());
    until(&mut leader, &mut learner, |_, learner| !learner.events.is_empty());
    learner.port.receive_snapshot(up, CHUNKED, parse);
    learner.take();
    until(&mut leader, &mut learner, |_, learner| !learner.events.is_empty());
    for _ in 0..20 {
        leader.turn();
        learner.turn();
    }
    assert!(matches!(learner.events[..], [PeerEvent::SnapshotReceived { .. }]));
    learner.port.resume(up);
    until(&mut leader, &mut learner, |_, learner| learner.heard_leader() == [new_leader()]);
}

#[test]
fn what_follows_a_snapshot_waits_with_the_leader_when_it_is_much() {
    let (mut leader, down, mut learner, up) = pair();
    leader.tell_learner(down, snap());
    leader.port.send_snapshot(down, BARE, write(body(10)));
    let count = 20;
    for counter in 1..=count {
        leader.tell_learner(down, proposal(counter, 1 << 20));
    }
    until(&mut leader, &mut learner, |_, learner| !learner.events.is_empty());
    learner.port.receive_snapshot(up, BARE, parse);
    learner.take();
    until(&mut leader, &mut learner, |_, learner| !learner.events.is_empty());
    let (mut before, mut still) = (0, 0);
    while still < 50 {
        leader.turn();
        learner.turn();
        let came = learner.port.stats().bytes_received;
        still = if came == before { still + 1 } else { 0 };
        before = came;
    }
    let kept = learner.port.links[&up].input.len();
    assert!(kept <= WINDOW_BYTES + 8 * 4096, "memory is bounded: {kept}");
    assert!(leader.port.queued_bytes(down) > 1 << 20);
    learner.take();
    learner.port.resume(up);
    until(&mut leader, &mut learner, |_, learner| learner.events.len() == count as usize);
}

#[test]
fn a_snapshot_that_stops_is_not_waited_for_for_long() {
    let (mut socket, mut learner, link) = raw_leader();
    let bytes = [packets(&[snap()]), stream(&body(50))].concat();
    socket.write_all(&bytes[..bytes.len() - 20]).unwrap();
    let mut bodies = Vec::new();
    learner.until(|learner| {
        drive(learner, link, BARE, &mut bodies);
        let phase = &learner.port.links[&link].phase;
        matches!(phase, Phase::Receiving(it) if it.feed.starved_since().is_some())
    });
    learner.ahead += TICK * 4;
    learner.turns(3);
    assert!(!learner.is_disconnected());
    learner.ahead += TICK * 2;
    learner.until(|learner| learner.is_disconnected());
    // The thread hears that its link is gone, and what it has is of no use.
    learner.until(|learner| learner.events.len() == 2);
    assert!(matches!(learner.events[1], PeerEvent::SnapshotFailed { .. }));
    assert!(bodies.is_empty());
}

#[test]
fn a_snapshot_that_is_none_is_said_to_be() {
    let mut damaged = stream(&body(50));
    *damaged.last_mut().unwrap() ^= 1;
    let (mut socket, mut learner, link) = raw_leader();
    socket.write_all(&[packets(&[snap()]), damaged, packets(&[new_leader()])].concat()).unwrap();
    let mut bodies = Vec::new();
    learner.until(|learner| {
        drive(learner, link, BARE, &mut bodies);
        !learner.events.is_empty()
    });
    let [PeerEvent::SnapshotFailed { reason, .. }] = &learner.events[..] else {
        panic!("{:?}", learner.events);
    };
    assert_eq!(reason, "no mark");
}

#[test]
fn chunks_are_checked() {
    let chunk = |offset, bytes: &[u8]| FromLeader::Chunk { offset, bytes: bytes.into() };
    let whole = stream(&body(10));
    let (mut socket, mut learner, link) = raw_leader();
    let messages = [snap(), chunk(0, &whole[..5]), chunk(6, &whole[5..])];
    socket.write_all(&packets(&messages)).unwrap();
    let mut bodies = Vec::new();
    learner.until(|learner| {
        drive(learner, link, CHUNKED, &mut bodies);
        learner.is_disconnected()
    });
    assert_eq!(learner.port.stats().malformed, 1, "a gap");

    // More than the snapshot in its chunks, and an end that comes too early.
    let more = [&whole[..], b"?"].concat();
    for bytes in [&more[..], &whole[..20]] {
        let (mut socket, mut learner, link) = raw_leader();
        let messages = [snap(), chunk(0, bytes), chunk(bytes.len() as u64, &[])];
        socket.write_all(&packets(&messages)).unwrap();
        learner.until(|learner| {
            drive(learner, link, CHUNKED, &mut bodies);
            !learner.events.is_empty()
        });
        let events = &learner.events;
        assert!(matches!(events[..], [PeerEvent::SnapshotFailed { .. }]), "{events:?}");
    }
    assert!(bodies.is_empty());
}

#[test]
fn every_snapshot_to_be_sent_has_one_outcome() {
    // The link is lost while the snapshot is on its way: the writer hears of it.
    let (mut leader, down, learner, _) = pair();
    let held = Arc::new(());
    let tree = Arc::clone(&held);
    leader.port.send_snapshot(down, BARE, move |writer| {
        let _tree = tree;
        write(body(40 << 20))(writer)
    });
    drop(learner);
    leader.until(|leader| leader.events.len() == 2);
    assert!(matches!(leader.events[0], PeerEvent::Disconnected { .. }));
    assert!(matches!(leader.events[1], PeerEvent::SnapshotFailed { link, .. } if link == down));
    assert_eq!(Arc::strong_count(&held), 1, "the tree has been let go");

    // It fails on its own.
    let (mut leader, down, _learner, _) = pair();
    leader.port.send_snapshot(down, BARE, |_: &mut PieceWriter| Err("no such tree"));
    leader.until(|leader| !leader.events.is_empty());
    let [PeerEvent::SnapshotFailed { reason, .. }] = &leader.events[..] else {
        panic!("{:?}", leader.events);
    };
    assert_eq!(reason, "no such tree");
    leader.perform(Action::Close { link: down });
    leader.take();
    leader.turns(20);
    assert!(leader.events.is_empty());

    // The link is gone from the start.
    leader.port.send_snapshot(LinkId(999), BARE, write(Vec::new()));
    leader.turn();
    assert!(matches!(leader.events[..], [PeerEvent::SnapshotFailed { .. }]));
}

#[test]
fn snapshots_beyond_the_senders_wait_for_their_turn() {
    let mut leader = Side::leading();
    let mut sockets: Vec<TcpStream> = (0..4).map(|_| raw_learner(&leader)).collect();
    for (index, socket) in sockets.iter_mut().enumerate() {
        socket.write_all(&learner_packets(&[info(index as i64)])).unwrap();
    }
    leader.until(|leader| leader.events.len() == 8);
    leader.take();
    let (running, may_end) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let links: Vec<LinkId> = leader.port.links.keys().copied().collect();
    for link in &links {
        let (running, may_end) = (Arc::clone(&running), Arc::clone(&may_end));
        leader.port.send_snapshot(*link, BARE, move |_: &mut PieceWriter| {
            running.fetch_add(1, Ordering::AcqRel);
            while !may_end.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
            Ok::<(), String>(())
        });
    }
    leader.until(|_| running.load(Ordering::Acquire) == 2);
    leader.turns(20);
    assert_eq!(running.load(Ordering::Acquire), 2);
    // One that waits is lost: it is never made.
    drop(sockets.pop());
    leader.until(|leader| leader.events.len() == 2);
    assert!(matches!(leader.events[1], PeerEvent::SnapshotFailed { link, .. } if link == links[3]));
    leader.take();
    may_end.store(true, Ordering::Release);
    leader.until(|leader| leader.events.len() == 3);
    assert!(leader.events.iter().all(|event| matches!(event, PeerEvent::SnapshotSent { .. })));
    assert_eq!(running.load(Ordering::Acquire), 3);
}

#[test]
fn every_snapshot_to_be_received_has_one_outcome() {
    // It comes whole, and the link is lost before it is in place: it is durable all the same.
    for by_close in [false, true] {
        let (mut socket, mut learner, link) = raw_leader();
        socket.write_all(&[packets(&[snap()]), stream(&body(50))].concat()).unwrap();
        learner.until(|learner| !learner.events.is_empty());
        learner.take();
        let may_end = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&may_end);
        learner.port.receive_snapshot(link, BARE, move |reader: &mut SnapshotReader| {
            let received = parse(reader);
            while !told.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
            received
        });
        if by_close {
            learner.perform(Action::Close { link });
        }
        drop(socket);
        learner.until(|learner| learner.port.links.is_empty());
        assert_eq!(learner.is_disconnected(), !by_close);
        learner.take();
        may_end.store(true, Ordering::Release);
        learner.until(|learner| !learner.events.is_empty());
        let [PeerEvent::SnapshotReceived { received, .. }] = &learner.events[..] else {
            panic!("{:?}", learner.events);
        };
        assert_eq!(*received, body(50));
        // Whoever goes on with a link that is gone does no harm.
        learner.port.resume(link);
    }
    // It is given up half way.
    let (mut socket, mut learner, link) = raw_leader();
    socket.write_all(&[packets(&[snap()]), stream(&body(50))[..30].to_vec()].concat()).unwrap();
    learner.until(|learner| !learner.events.is_empty());
    learner.take();
    learner.port.receive_snapshot(link, BARE, parse);
    learner.turns(5);
    learner.perform(Action::Close { link });
    learner.until(|learner| !learner.events.is_empty());
    assert!(matches!(learner.events[..], [PeerEvent::SnapshotFailed { .. }]));
    // The link is gone from the start.
    learner.take();
    learner.port.receive_snapshot(link, BARE, parse);
    learner.turn();
    assert!(matches!(learner.events[..], [PeerEvent::SnapshotFailed { .. }]));
}

const TREE: TreeConfig = TreeConfig { seed: 8, extended_types: true };

/// A tree of some MiB.
fn grown() -> Writer {
    let mut writer = Writer::new(TREE, Time::default());
    for counter in 1..=5000 {
        let header = TxnHeader { session: 9, cxid: 0, zxid: Zxid::new(1, counter), time_ms: 1 };
        let (path, data) = (format!("/{counter}"), body(600));
        let kind = CreateKind::Plain { ephemeral: false, with_stat: false };
        let (acl, data) = (EncodedAcl::OPEN, Some(&data[..]));
        let create = CreateTxn { path: &path, data, acl, kind, parent_cversion: -1 };
        writer.apply(&header, &Txn::Create(create)).unwrap();
    }
    writer
}

#[test]
fn a_real_tree_goes_over_and_the_port_can_be_given_to_a_core() {
    fn is_send<T: Send>() {}
    is_send::<QuorumPort<Received>>();
    let writer = grown();
    let (zxid, digest) = (writer.last_zxid(), writer.digest());
    for (extensions, form) in [(BARE, Form::Java), (CHUNKED, Form::Checked)] {
        let dir = tempfile::tempdir().unwrap();
        let (mut leader, down, mut learner, up) = pair();
        let tree: Arc<Tree> = Arc::clone(writer.tree());
        leader.tell_learner(down, snap());
        leader.port.send_snapshot(down, extensions, move |out| {
            transfer::send(&tree, zxid, Some(digest), &[(5, 4000)], form, out)
        });
        leader.tell_learner(down, new_leader());
        until(&mut leader, &mut learner, |_, learner| !learner.events.is_empty());
        learner.take();
        let path = dir.path().to_owned();
        learner.port.receive_snapshot(up, extensions, move |input: &mut SnapshotReader| {
            let load = LoadOptions { tree: TREE, now: Time::default(), threads: 1 };
            let received = transfer::receive(input, &Incoming { dir: &path, zxid, form, load })?;
            assert_eq!(received.sessions, [(5, 4000)]);
            Ok::<_, crate::snapshot::SnapshotError>(received.digest.to_be_bytes().to_vec())
        });
        until(&mut leader, &mut learner, |_, learner| !learner.events.is_empty());
        let [PeerEvent::SnapshotReceived { received, .. }] = &learner.take()[..] else {
            panic!("a tree comes");
        };
        assert_eq!(*received, digest.to_be_bytes());
        learner.port.resume(up);
        until(&mut leader, &mut learner, |_, learner| !learner.events.is_empty());
        assert_eq!(learner.heard_leader(), [new_leader()]);
    }
}
