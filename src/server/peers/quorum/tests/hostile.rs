//! Ends that do what they should not.

use super::*;
use crate::wire::jute::Write as _;

/// Everything that a socket is sent until it is closed.
fn drained(socket: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A reset is as good an end as a close.
    socket.read_to_end(&mut bytes).ok();
    bytes
}

/// Sends `bytes` to a leading server as a learner's, and expects to be closed for them.
fn check_refused(bytes: &[u8]) -> Side {
    let mut leader = Side::leading();
    let mut socket = raw_learner(&leader);
    socket.write_all(bytes).unwrap();
    leader.until(|leader| leader.port.stats().malformed == 1);
    leader.turns(3);
    assert!(leader.port.links.is_empty());
    drained(&mut socket);
    leader
}

#[test]
fn a_learner_that_does_not_say_who_it_is_is_closed_and_never_heard_of() {
    let ack = learner_packets(&[FromLearner::Ack { zxid: Zxid::new(1, 1) }]);
    assert!(check_refused(&ack).events.is_empty());
    assert!(check_refused(b"GET / HTTP/1.1\r\n\r\nwho are you there").events.is_empty());
    assert!(check_refused(&[0xff; 200]).events.is_empty());
}

#[test]
fn declared_lengths_are_refused_before_their_bytes_come() {
    let mut greeting = Vec::new();
    greeting.put_i32(11);
    greeting.put_i64(0);
    greeting.put_i32(1 << 20);
    assert!(check_refused(&greeting).events.is_empty(), "too much for a greeting");

    for length in [i32::MAX, 2 << 20 | 1, -2, i32::MIN] {
        let mut bytes = learner_packets(&[info(2)]);
        bytes.put_i32(1);
        bytes.put_i64(-1);
        bytes.put_i32(length);
        let leader = check_refused(&bytes);
        assert_eq!(leader.heard_learner(), [info(2)]);
        assert!(leader.is_disconnected());
    }
    let mut bytes = learner_packets(&[info(2)]);
    bytes.put_i32(3);
    bytes.put_i64(1);
    bytes.put_i32(-1);
    bytes.put_i32(i32::MAX);
    check_refused(&bytes);
}

#[test]
fn a_leader_that_sends_garbage_is_closed() {
    for bytes in [
        [0xff; 64].to_vec(),
        packets(&[FromLeader::Chunk { offset: 0, bytes: [1; 9].into() }]),
        learner_packets(&[info(2)]),
    ] {
        let (mut socket, mut learner, _) = raw_leader();
        socket.write_all(&bytes).unwrap();
        learner.until(|learner| learner.is_disconnected());
        assert_eq!(learner.port.stats().malformed, 1);
    }
}

#[test]
fn silence_is_not_waited_for_for_long() {
    let mut leader = Side::leading();
    let mut silent = raw_learner(&leader);
    leader.until(|leader| leader.port.links.len() == 1);
    leader.ahead += GREETING_MAX - Duration::from_millis(500);
    leader.turns(3);
    assert_eq!(leader.port.links.len(), 1);
    leader.ahead += Duration::from_secs(1);
    leader.turns(3);
    assert!(leader.port.links.is_empty());
    assert_eq!(leader.port.stats().expired, 1);
    assert!(leader.events.is_empty());
    assert!(drained(&mut silent).is_empty());
}

#[test]
fn a_packet_that_is_begun_must_go_on() {
    let mut leader = Side::leading();
    let mut socket = raw_learner(&leader);
    let mut bytes = learner_packets(&[info(2), FromLearner::Ack { zxid: Zxid::new(1, 1) }]);
    let last = bytes.pop().unwrap();
    socket.write_all(&bytes).unwrap();
    leader.until(|leader| leader.accepted().is_some());
    leader.ahead += TICK * 4;
    leader.turns(3);
    assert_eq!(leader.port.links.len(), 1);
    // A byte is progress, a whole packet the end of it.
    socket.write_all(&[last, 0]).unwrap();
    leader.until(|leader| leader.heard_learner().len() == 2);
    leader.ahead += TICK * 4;
    leader.turns(3);
    assert!(!leader.is_disconnected());
    leader.ahead += TICK * 2;
    leader.turns(3);
    assert!(leader.is_disconnected());
    assert_eq!(leader.port.stats().expired, 1);
}

#[test]
fn a_link_may_rest_between_packets_as_long_as_agreement_lets_it() {
    let (mut leader, _, mut learner, _) = pair();
    leader.ahead += TICK * 100;
    learner.ahead += TICK * 100;
    until(&mut leader, &mut learner, |leader, _| leader.port.poll_timeout().is_none());
    leader.turns(5);
    assert!(!leader.is_disconnected());
}

#[test]
fn a_learner_that_never_reads_is_closed_when_its_send_makes_no_progress() {
    let mut leader = Side::leading();
    let mut socket = raw_learner(&leader);
    socket.write_all(&learner_packets(&[info(2)])).unwrap();
    leader.until(|leader| leader.accepted().is_some());
    let link = leader.accepted().unwrap();
    for counter in 1..=20 {
        leader.tell_learner(link, proposal(counter, 1 << 20));
    }
    leader.turns(50);
    let queued = leader.port.queued_bytes(link);
    assert!(queued > 1 << 20, "the kernel does not hold it all: {queued}");
    leader.ahead += TICK * 5 + Duration::from_secs(1);
    leader.until(|leader| leader.is_disconnected());
    assert_eq!(leader.port.stats().expired, 1);
}

#[test]
fn a_link_with_too_much_queued_is_closed() {
    let mut leader = Side::leading();
    let mut socket = raw_learner(&leader);
    socket.write_all(&learner_packets(&[info(2)])).unwrap();
    leader.until(|leader| leader.accepted().is_some());
    let link = leader.accepted().unwrap();
    let message = proposal(1, 1 << 20);
    let mut count = 0;
    while !leader.is_disconnected() {
        leader.tell_learner(link, message.clone());
        assert!(leader.port.queued_bytes(link) <= QUEUED_MAX_BYTES);
        count += 1;
        assert!(count < 200, "a bound is missing");
        leader.turn();
    }
    assert!(count >= 60, "{count}");
    assert_eq!(leader.port.stats().overfull, 1);
}

#[test]
fn connections_are_limited_by_address_and_in_total() {
    let limited = |links_max, links_per_address_max| {
        let settings = QuorumSettings { links_max, links_per_address_max, ..settings(&[]) };
        let mut leader = Side::new(settings);
        leader.perform(Action::Accept(true));
        leader
    };
    for mut leader in [limited(100, 3), limited(3, 100)] {
        let sockets: Vec<TcpStream> = (0..5).map(|_| raw_learner(&leader)).collect();
        leader.until(|leader| leader.port.stats().refused == 2);
        assert_eq!(leader.port.links.len(), 3);
        drop(sockets);
        leader.until(|leader| leader.port.links.is_empty());
        let _again = raw_learner(&leader);
        leader.until(|leader| leader.port.links.len() == 1);
    }
    // Those that are too early count as well.
    let mut follower = Side::new(QuorumSettings { links_max: 2, ..settings(&[]) });
    let _sockets: Vec<TcpStream> = (0..5).map(|_| raw_learner(&follower)).collect();
    follower.until(|follower| follower.port.stats().refused == 3);
    assert_eq!(follower.port.early.len(), 2);
}

#[test]
fn an_address_that_is_taken_is_named() {
    let side = Side::leading();
    let address = side.address();
    let settings = QuorumSettings { listen: vec![address], ..settings(&[]) };
    let Err(error) = Port::open(settings, side.ring.waker()) else {
        panic!("two servers listen at one address");
    };
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

#[test]
fn only_a_loopback_port_is_not_exposed() {
    for (address, expected) in [
        ("127.0.0.1:1", false),
        ("[::1]:1", false),
        ("[::ffff:127.0.0.1]:1", false),
        ("0.0.0.0:1", true),
        ("[::]:1", true),
        ("10.1.2.3:1", true),
    ] {
        assert_eq!(is_exposed(address.parse().unwrap()), expected, "{address}");
    }
}

#[test]
fn random_bytes_do_no_harm() {
    let mut seed = 0x5eed_u64;
    for round in 0..40 {
        let mut leader = Side::leading();
        let mut socket = raw_learner(&leader);
        let mut bytes = learner_packets(&[info(2)]);
        let whole = bytes.len();
        bytes.extend(learner_packets(&[
            FromLearner::Ping { zxid: Zxid::new(1, 7), touched: vec![(5, 4000)] },
            FromLearner::Ack { zxid: Zxid::new(1, 8) },
        ]));
        // One byte of valid packets is another one.
        for _ in 0..1 + round % 3 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let index = whole + (seed >> 33) as usize % (bytes.len() - whole);
            bytes[index] ^= 1 << (seed >> 60 & 7);
        }
        socket.write_all(&bytes).unwrap();
        socket.shutdown(std::net::Shutdown::Write).unwrap();
        leader.until(|leader| leader.port.stats().accepted == 1 && leader.port.links.is_empty());
        assert!(leader.is_disconnected());
    }
}
