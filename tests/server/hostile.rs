//! Clients that mean no good, or know no better: each is refused, counted, and hurts nobody else.

use std::io::Write as _;
use std::time::{Duration, Instant};

use ringkeeper::wire::jute::Write as _;
use ringkeeper::wire::opcode::OpCode;

use crate::client::{
    CLOSE, Client, EPHEMERAL, PERSISTENT, Reply, Request, children, connect_frame, create, data_of,
    delete, framed, get, is_closed, read_frame, set, watch_below,
};
use crate::process::{DEADLINE, Server, poll};

const SESSION_EXPIRED: i32 = -112;
const MARSHALLING_ERROR: i32 = -5;
const UNIMPLEMENTED: i32 = -6;

/// After whatever happened: the server is there and serves an old client and a new one.
#[track_caller]
fn check_unharmed(server: &mut Server, bystander: &mut Client) {
    assert!(server.is_running(), "{}", server.stderr());
    bystander.ping();
    let path = format!("/unharmed-{}", bystander.session);
    bystander.call(&create(&path, b"x", PERSISTENT));
    let mut newcomer = server.client();
    assert_eq!(newcomer.get(&path), Some(b"x".to_vec()));
    newcomer.close();
}

#[test]
fn first_frames_that_are_none_are_refused() {
    let mut server = Server::serving(&["jute.maxbuffer=4096"]);
    let mut bystander = server.client();
    let frames: [&[u8]; 6] = [
        // Lengths: the most negative, -1, the largest, and one above the bound.
        &[0x80, 0, 0, 0],
        &[0xff; 4],
        &[0x7f, 0xff, 0xff, 0xff, 1, 2, 3],
        &[0, 0, 0x10, 1],
        // Whole frames that are no connect requests: nothing, and a password of 2 GiB.
        &[0, 0, 0, 0],
        &framed(&[[0; 24].as_slice(), &[0x7f, 0xff, 0xff, 0xff]].concat()),
    ];
    for (index, frame) in frames.into_iter().enumerate() {
        let mut socket = server.dial();
        socket.write_all(frame).unwrap();
        assert!(is_closed(&mut socket), "frame {index}");
        server.wait_for_metric("ringkeeper_frames_refused", index as u64 + 1);
    }
    check_unharmed(&mut server, &mut bystander);
}

#[test]
fn later_frames_that_are_none_end_their_connection() {
    let mut server = Server::serving(&["jute.maxbuffer=4096"]);
    let mut bystander = server.client();
    let frames: [&[u8]; 4] = [
        &[0xff, 0xff, 0xff, 0xfe],
        &[0x40, 0, 0, 0],
        // No header, and half of one.
        &[0, 0, 0, 0],
        &[0, 0, 0, 6, 0, 0, 0, 1, 0, 0],
    ];
    for (index, frame) in frames.into_iter().enumerate() {
        let mut client = server.client();
        client.socket.write_all(frame).unwrap();
        assert!(is_closed(&mut client.socket), "frame {index}");
        server.wait_for_metric("ringkeeper_frames_refused", index as u64 + 1);
    }
    check_unharmed(&mut server, &mut bystander);
}

/// Each body is none of its operation's: the error says so, and the connection goes on.
#[test]
fn undecodable_bodies_are_answered_and_nothing_more() {
    let mut server = Server::serving(&[]);
    let mut client = server.client();
    let bodies: [&[u8]; 3] = [&[], &[0x7f, 0xff, 0xff, 0xff], &[0xff, 0xff, 0xff, 0xfe, 0, 0]];
    let lists = [OpCode::Multi, OpCode::MultiRead];
    let others = [OpCode::Create, OpCode::SetAcl, OpCode::AddWatch, OpCode::GetData];
    let not_utf8: &[u8] = &[0, 0, 0, 2, 0xc3, 0x28, 0, 0, 0, 0];
    let all = lists.into_iter().chain(others).flat_map(|op| bodies.map(|body| (op, body)));
    for (op, body) in all.chain(others.map(|op| (op, not_utf8))) {
        let reply = client.call(&(op, body.to_vec()));
        assert_eq!(reply.error, MARSHALLING_ERROR, "{op:?} {body:?}");
        assert!(reply.body.is_empty());
    }
    check_unharmed(&mut server, &mut client);
}

#[test]
fn unknown_operations_are_answered_in_their_place_and_end_the_connection() {
    let mut server = Server::serving(&[]);
    let mut bystander = server.client();
    for op in [0, 10, 13, -1, 999, i32::MIN, -10] {
        let mut client = server.client();
        let path = format!("/before{op}");
        let mut bytes = client.encode(&create(&path, b"", PERSISTENT));
        let mut payload = Vec::new();
        payload.put_i32(2);
        payload.put_i32(op);
        bytes.extend(framed(&payload));
        // What follows is not looked at.
        bytes.extend(framed(&payload));
        client.socket.write_all(&bytes).unwrap();
        let reply = client.receive();
        assert_eq!((reply.xid, reply.error), (1, 0), "the write before {op} is answered first");
        let expected = Reply { xid: 2, zxid: -1, error: UNIMPLEMENTED, body: Vec::new() };
        assert_eq!(client.receive(), expected, "{op}");
        assert_eq!(client.try_receive(), None, "{op}");
        assert_eq!(bystander.get(&path), Some(Vec::new()));
    }
    check_unharmed(&mut server, &mut bystander);
}

/// Requests behind a session's end in the same segment reach the pipeline after it.
#[test]
fn requests_behind_the_end_of_their_session_hurt_nobody() {
    let mut server = Server::serving(&[]);
    let mut bystander = server.client();
    for _ in 0..20 {
        let mut client = server.client();
        let mut bytes = client.encode(&create("/mine", b"", EPHEMERAL));
        for request in [CLOSE, create("/late", b"", PERSISTENT), get("/", false), CLOSE] {
            bytes.extend(client.encode(&request));
        }
        client.socket.write_all(&bytes).unwrap();
        assert_eq!(client.receive().error, 0);
        let end = client.receive();
        assert_eq!((end.xid, end.error), (2, 0));
        // Some servers still answer; none does anything.
        while let Some(reply) = client.try_receive() {
            assert_eq!(reply.error, SESSION_EXPIRED, "{reply:?}");
        }
        assert_eq!(bystander.get("/late"), None);
        assert_eq!(bystander.get("/mine"), None);
    }
    check_unharmed(&mut server, &mut bystander);
}

#[test]
fn whoever_says_nothing_is_dropped() {
    let mut server = Server::serving(&["nio.sessionlessCnxnTimeout=300"]);
    let mut bystander = server.client();
    let mut silent = server.dial();
    let mut slow = server.dial();
    slow.write_all(&connect_frame(0, &[0; 16], 10_000)[..20]).unwrap();
    assert!(is_closed(&mut silent));
    assert!(is_closed(&mut slow));
    server.wait_for_metric("sessionless_connections_expired", 2);
    check_unharmed(&mut server, &mut bystander);
}

#[test]
fn whoever_begins_a_frame_ends_it_in_time() {
    let mut server = Server::serving(&["ringkeeper.partialFrameTimeoutMs=1000"]);
    let mut bystander = server.client();
    let mut client = server.client();
    let frame = client.encode(&create("/slow", b"x", PERSISTENT));
    client.socket.write_all(&frame[..frame.len() - 1]).unwrap();
    let since = Instant::now();
    assert!(is_closed(&mut client.socket));
    assert!(since.elapsed() >= Duration::from_millis(800), "it had its time");
    server.wait_for_metric("ringkeeper_partial_frames_expired", 1);
    // One that comes in pieces, but in time, is a frame like any other.
    let mut client = server.client();
    let frame = client.encode(&create("/pieces", b"x", PERSISTENT));
    for byte in frame {
        client.socket.write_all(&[byte]).unwrap();
    }
    assert_eq!(client.receive().error, 0);
    check_unharmed(&mut server, &mut bystander);
}

#[test]
fn connections_of_one_address_are_bounded() {
    let server = Server::serving(&["maxClientCnxns=3"]);
    let mut clients: Vec<Client> = (0..3).map(|_| server.client()).collect();
    let mut fourth = server.dial();
    assert!(is_closed(&mut fourth));
    clients.pop().unwrap().close();
    // Its place is free as soon as the server has seen it go.
    let mut again =
        poll("a place is free", || Client::reconnect(server.dial(), 0, &[0; 16], 10_000));
    again.done(&create("/a", b"", PERSISTENT));
    drop(clients);
    poll("words are answered again", || {
        let mut socket = server.dial();
        socket.write_all(b"mntr").unwrap();
        let mut answer = String::new();
        std::io::Read::read_to_string(&mut socket, &mut answer).ok()?;
        let line = answer.lines().find_map(|line| line.strip_prefix("zk_connection_rejected\t"));
        (line?.parse::<u64>().unwrap() >= 1).then_some(())
    });
}

#[test]
fn all_connections_together_are_bounded() {
    let server = Server::serving(&["maxClientCnxns=0", "maxCnxns=3"]);
    let clients: Vec<Client> = (0..3).map(|_| server.client()).collect();
    for _ in 0..5 {
        assert!(is_closed(&mut server.dial()));
    }
    for mut client in clients {
        client.ping();
        client.close();
    }
    poll("a place is free", || Client::reconnect(server.dial(), 0, &[0; 16], 10_000));
}

/// A client that asks for megabytes and reads none of them holds back only itself.
#[test]
fn a_client_that_does_not_read_its_replies_is_held_back() {
    let mut server = Server::serving(&[]);
    let mut bystander = server.client();
    let data = vec![b'x'; 1 << 19];
    bystander.done(&create("/large", &data, PERSISTENT));
    let mut client = server.client();
    let requests: Vec<u8> = (0..400).flat_map(|_| client.encode(&get("/large", false))).collect();
    client.socket.write_all(&requests).unwrap();
    for _ in 0..20 {
        check_unharmed(&mut server, &mut bystander);
    }
    let resident = server.metric("ringkeeper_resident_bytes");
    assert!(resident < 400 << 20, "200 MB of replies are not made ahead: {resident}");
    // Nothing is lost when it reads after all.
    for xid in 1..=400 {
        let reply = client.receive();
        assert_eq!((reply.xid, reply.error), (xid, 0));
        assert_eq!(data_of(&reply).len(), data.len());
    }
}

/// Events cannot be held back: whoever lets them pile up is dropped.
#[test]
fn a_client_that_does_not_read_its_events_is_dropped() {
    let mut server = Server::serving(&["ringkeeper.maxOutgoingBytesPerConnection=1048576"]);
    let mut deaf = server.client();
    deaf.done(&watch_below("/"));
    let mut listener = server.client();
    listener.done(&watch_below("/"));
    let mut writer = server.client();
    let name = "n".repeat(900);
    let path = format!("/{name}");
    writer.done(&create(&path, b"", PERSISTENT));
    assert_eq!(listener.receive().xid, -1);
    let end = Instant::now() + DEADLINE;
    let mut count = 0;
    while server.metric("ringkeeper_slow_readers_dropped") == 0 {
        assert!(Instant::now() < end, "{count} events were not enough");
        for _ in 0..200 {
            writer.send(&set(&path, b""));
        }
        for _ in 0..200 {
            assert_eq!(writer.receive().error, 0);
            // Who reads is told of everything, in order.
            let event = listener.receive();
            assert_eq!(event.xid, -1);
            count += 1;
        }
    }
    assert_eq!(server.metric("ringkeeper_slow_readers_dropped"), 1);
    check_unharmed(&mut server, &mut writer);
}

#[test]
fn a_thousand_requests_in_one_go_are_answered_in_order() {
    let server = Server::serving(&[]);
    let mut client = server.client();
    let bytes: Vec<u8> = (0..1000)
        .flat_map(|index| client.encode(&create(&format!("/n{index}"), b"", PERSISTENT)))
        .collect();
    client.socket.write_all(&bytes).unwrap();
    let mut zxid = 0;
    for xid in 1..=1000 {
        let reply = client.receive();
        assert_eq!((reply.xid, reply.error), (xid, 0));
        assert!(reply.zxid > zxid);
        zxid = reply.zxid;
    }
}

/// What a request of the mix below must be answered.
enum Expected {
    Written,
    Data(Option<u32>),
}

#[test]
fn ten_thousand_mixed_requests_read_their_own_writes() {
    let server = Server::serving(&["ringkeeper.maxInFlightPerConnection=100"]);
    let mut client = server.client();
    let mut nodes: [Option<u32>; 7] = [None; 7];
    let (mut bytes, mut expected) = (Vec::new(), Vec::new());
    for round in 0..10_000_u32 {
        let index = (round * 31 % 7) as usize;
        let path = format!("/n{index}");
        let data = round.to_be_bytes();
        let (request, answer): (Request, Expected) = match (round % 5, nodes[index]) {
            (0, None) => (create(&path, &data, PERSISTENT), Expected::Written),
            (0, Some(_)) => (set(&path, &data), Expected::Written),
            (1, Some(_)) if round % 3 == 0 => (delete(&path), Expected::Written),
            _ => (get(&path, false), Expected::Data(nodes[index])),
        };
        match (round % 5, nodes[index]) {
            (0, _) => nodes[index] = Some(round),
            (1, Some(_)) if round % 3 == 0 => nodes[index] = None,
            _ => {}
        }
        bytes.extend(client.encode(&request));
        expected.push(answer);
    }
    // All are sent while the first answers are read: nobody waits for anybody.
    let mut socket = client.socket.try_clone().unwrap();
    let sender = std::thread::spawn(move || socket.write_all(&bytes).unwrap());
    for (index, expected) in expected.iter().enumerate() {
        let reply = client.receive();
        assert_eq!(reply.xid as usize, index + 1);
        match expected {
            Expected::Written => assert_eq!(reply.error, 0, "request {index}"),
            Expected::Data(None) => assert_eq!(reply.error, -101, "request {index}"),
            Expected::Data(Some(round)) => {
                assert_eq!(data_of(&reply), round.to_be_bytes(), "request {index}");
            }
        }
    }
    sender.join().unwrap();
    assert_eq!(client.call(&children("/")).error, 0);
}

/// Requests that come in one segment with the connect request wait for its answer.
#[test]
fn requests_behind_the_connect_request_are_not_lost() {
    let server = Server::serving(&[]);
    for cut in [0, 1, 7, 30] {
        let mut socket = server.dial();
        let mut requests = Vec::new();
        for xid in 1..=3 {
            let mut payload = Vec::new();
            payload.put_i32(xid);
            let (op, body) = create(&format!("/early{cut}-{xid}"), b"", EPHEMERAL);
            payload.put_i32(op.raw());
            payload.extend(body);
            requests.extend(framed(&payload));
        }
        let end = requests.len() - cut;
        let first = [&connect_frame(0, &[0; 16], 10_000)[..], &requests[..end]].concat();
        socket.write_all(&first).unwrap();
        let connected = read_frame(&mut socket).unwrap();
        assert_eq!(connected.len(), 37);
        socket.write_all(&requests[end..]).unwrap();
        for xid in 1..=3_i32 {
            let reply = read_frame(&mut socket).unwrap();
            assert_eq!(reply[..4], xid.to_be_bytes());
            assert_eq!(reply[12..16], [0; 4]);
        }
    }
}

/// Numbers that look random and are the same in each run.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.0 >> 33
    }

    /// Bytes of which many are small, so that lengths among them are believable.
    fn bytes(&mut self) -> Vec<u8> {
        let length = self.next() % 80;
        let byte = |noise: &mut Noise| match noise.next() % 8 {
            0 => noise.next() as u8,
            1 => b'/',
            2 => (noise.next() % 8) as u8,
            _ => 0,
        };
        (0..length).map(|_| byte(self)).collect()
    }
}

#[test]
fn noise_is_answered_request_by_request() {
    let mut server = Server::serving(&[]);
    let mut bystander = server.client();
    let mut noise = Noise(9);
    let ops: Vec<OpCode> = OpCode::ALL
        .into_iter()
        .filter(|op| {
            // These end their connection, or are answered out of turn.
            let is_special =
                matches!(op, OpCode::Check | OpCode::Error | OpCode::Auth | OpCode::Sasl);
            !is_special && !matches!(op, OpCode::CreateSession | OpCode::CloseSession)
        })
        .collect();
    for _ in 0..40 {
        let mut client = server.client();
        let requests: Vec<Request> =
            (0..100).map(|_| (ops[noise.next() as usize % ops.len()], noise.bytes())).collect();
        let bytes: Vec<u8> = requests.iter().flat_map(|it| client.encode(it)).collect();
        client.socket.write_all(&bytes).unwrap();
        for (index, (op, body)) in requests.iter().enumerate() {
            let reply = loop {
                let reply = client.receive();
                // Watches that the noise has set.
                if reply.xid != -1 {
                    break reply;
                }
            };
            let xid = if *op == OpCode::Ping { -2 } else { index as i32 + 1 };
            assert_eq!(reply.xid, xid, "{op:?} {body:?}");
        }
        client.close();
    }
    check_unharmed(&mut server, &mut bystander);
}

#[test]
fn a_frame_may_be_as_long_as_configured_and_no_longer() {
    let mut server = Server::serving(&["jute.maxbuffer=100000"]);
    let mut client = server.client();
    client.done(&create("/n", b"", PERSISTENT));
    let overhead = client.encode(&set("/n", b"")).len() - 4;
    client.send(&get("/n", false));
    assert_eq!(client.receive().error, 0);
    client.done(&set("/n", &vec![1; 100_000 - overhead]));
    let mut other = server.client();
    other.send(&set("/n", &vec![2; 100_001 - overhead]));
    assert!(is_closed(&mut other.socket));
    server.wait_for_metric("ringkeeper_frames_refused", 1);
    assert_eq!(client.get("/n").unwrap().len(), 100_000 - overhead);
    check_unharmed(&mut server, &mut client);
}

#[test]
fn large_requests_are_bounded_together() {
    let mut server =
        Server::serving(&["largeRequestThreshold=10000", "largeRequestMaxBytes=50000"]);
    let mut bystander = server.client();
    bystander.done(&create("/large", b"", PERSISTENT));
    // As large as all together may be, one after the other; and any number of small ones.
    for _ in 0..3 {
        bystander.done(&set("/large", &[7; 45_000]));
    }
    for _ in 0..30 {
        bystander.done(&set("/large", &[7; 9_000]));
    }
    // Its length alone is too much: the rest of it need not come.
    let mut client = server.client();
    client.socket.write_all(&[0, 0, 0xc3, 0x51, 0]).unwrap();
    assert!(is_closed(&mut client.socket));
    server.wait_for_metric("large_requests_rejected", 1);
    // Two in one go: when the second one comes the first is not answered.
    let mut client = server.client();
    let mut bytes = client.encode(&set("/large", &[1; 30_000]));
    bytes.extend(client.encode(&set("/large", &[2; 30_000])));
    client.socket.write_all(&bytes).unwrap();
    assert!(is_closed(&mut client.socket));
    server.wait_for_metric("large_requests_rejected", 2);
    check_unharmed(&mut server, &mut bystander);
    // What was under way has been given back.
    bystander.done(&set("/large", &[7; 49_000]));
}

/// With a bound that is reached at once, or without, a client that sends many requests in one go
/// gets every answer in order.
#[test]
fn requests_beyond_the_bounds_wait_and_are_answered() {
    for (setting, waits) in
        [("globalOutstandingLimit=1", false), ("request_throttle_max_requests=2", true)]
    {
        let mut server = Server::serving(&[setting]);
        let mut bystander = server.client();
        bystander.done(&create("/a", b"", PERSISTENT));
        let mut clients: Vec<Client> = (0..4).map(|_| server.client()).collect();
        for client in &mut clients {
            let mut bytes = Vec::new();
            for value in 0..50 {
                bytes.extend(client.encode(&set("/a", &[value])));
                bytes.extend(client.encode(&get("/a", false)));
            }
            client.socket.write_all(&bytes).unwrap();
        }
        for client in &mut clients {
            for xid in 1..=100 {
                let reply = client.receive();
                assert_eq!((reply.xid, reply.error), (xid, 0), "{setting}");
            }
        }
        assert_eq!(server.metric("request_throttle_wait_count") > 0, waits);
        check_unharmed(&mut server, &mut bystander);
    }
}
