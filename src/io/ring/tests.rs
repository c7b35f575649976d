//! The ring against real sockets, files and threads.

#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "the other side of these tests is std's, with threads and clocks"
)]

use std::any::Any;
use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use super::*;
use crate::io::listener::{ListenOptions, bind, local_address};

const LISTENER: Token = Token(u64::MAX);
const SOON: Wait = Wait::AtMost(Duration::from_secs(20));

fn small() -> RingConfig {
    RingConfig { submissions: 8, completions: 16, receive_buffers: 4, receive_buffer_bytes: 1024 }
}

fn listening(ring: &mut Ring) -> SocketAddr {
    let listener = bind((Ipv4Addr::LOCALHOST, 0).into(), &ListenOptions::default()).unwrap();
    let address = local_address(&listener).unwrap();
    ring.listen(LISTENER, listener);
    address
}

/// A completion whose bytes are kept.
#[derive(Debug)]
enum Seen {
    Accepted(OwnedFd),
    AcceptFailed(io::Error),
    Received(Token, Vec<u8>),
    Closed(Token, Option<io::Error>),
    Sent(Token, Vec<u8>),
    SendFailed(Token, io::Error),
    Written(FileToken, Box<dyn IoBuffer>, io::Result<()>),
    Synced(FileToken, io::Result<()>),
    Woken,
}

impl Seen {
    fn of(completion: Completion<'_>) -> Seen {
        match completion {
            Completion::Accepted { listener, socket } => {
                assert_eq!(listener, LISTENER);
                Seen::Accepted(socket)
            }
            Completion::AcceptFailed { listener, error } => {
                assert_eq!(listener, LISTENER);
                Seen::AcceptFailed(error)
            }
            Completion::Received { token, bytes } => {
                assert!(!bytes.is_empty());
                Seen::Received(token, bytes.to_vec())
            }
            Completion::Closed { token, error } => Seen::Closed(token, error),
            Completion::Sent { token, buffer } => Seen::Sent(token, buffer),
            Completion::SendFailed { token, error } => Seen::SendFailed(token, error),
            Completion::Written { token, buffer, result } => Seen::Written(token, buffer, result),
            Completion::Synced { token, result } => Seen::Synced(token, result),
            Completion::Woken => Seen::Woken,
        }
    }
}

/// One turn's completions; it fails the test when nothing happens for long.
fn turn(ring: &mut Ring) -> Vec<Seen> {
    let start = Instant::now();
    ring.turn(SOON).unwrap();
    let mut seen = Vec::new();
    while let Some(completion) = ring.next_completion() {
        seen.push(Seen::of(completion));
    }
    assert!(start.elapsed() < Duration::from_secs(19), "nothing happens");
    seen
}

/// Turns until the one completion that is expected, and no other, has come.
fn one(ring: &mut Ring) -> Seen {
    loop {
        let mut seen = turn(ring);
        if let Some(first) = seen.pop() {
            assert!(seen.is_empty(), "{first:?} and {seen:?}");
            return first;
        }
    }
}

/// A connection of `ring` under `token`, and its client.
fn connected(ring: &mut Ring, address: SocketAddr, token: Token) -> TcpStream {
    let client = TcpStream::connect(address).unwrap();
    client.set_nodelay(true).unwrap();
    let Seen::Accepted(socket) = one(ring) else {
        panic!("somebody connects");
    };
    ring.attach(token, socket);
    client
}

/// Receives until `length` bytes have come.
fn receive(ring: &mut Ring, token: Token, length: usize) -> Vec<u8> {
    let mut received = Vec::new();
    while received.len() < length {
        for seen in turn(ring) {
            let Seen::Received(from, bytes) = seen else {
                panic!("{seen:?} instead of bytes");
            };
            assert_eq!(from, token);
            received.extend(bytes);
        }
    }
    received
}

/// Bytes that tell their place: a period that no buffer size divides.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index % 251) as u8).collect()
}

/// Echoes until every connection that came is gone, sending what arrives during a send as the next.
fn echo_until_gone(ring: &mut Ring, connections_count: u64) {
    let mut waiting: HashMap<Token, VecDeque<u8>> = HashMap::new();
    let mut sending = HashSet::new();
    let (mut accepted, mut gone) = (0, 0);
    while gone < connections_count {
        for seen in turn(ring) {
            match seen {
                Seen::Accepted(socket) => {
                    waiting.insert(Token(accepted), VecDeque::new());
                    ring.attach(Token(accepted), socket);
                    accepted += 1;
                }
                Seen::Received(token, bytes) => waiting.get_mut(&token).unwrap().extend(bytes),
                Seen::Sent(token, _) => assert!(sending.remove(&token)),
                Seen::Closed(token, None) => {
                    ring.close(token);
                    sending.remove(&token);
                    waiting.remove(&token).unwrap();
                    gone += 1;
                }
                seen => panic!("{seen:?}"),
            }
        }
        for (token, bytes) in &mut waiting {
            if !bytes.is_empty() && sending.insert(*token) {
                let bytes = std::mem::take(bytes).into();
                match token.0 % 2 {
                    0 => ring.send(*token, bytes),
                    _ => ring.send_quick(*token, bytes),
                }
            }
        }
    }
}

#[test]
fn frames_in_parts_come_back_whole() {
    let mut ring = Ring::new(small()).unwrap();
    let address = listening(&mut ring);
    let client = thread::spawn(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        for length in [1, 3, 1023, 1024, 1025, 5000, 100_000] {
            let sent = pattern(length);
            let (head, tail) = sent.split_at(length / 3);
            stream.write_all(head).unwrap();
            stream.write_all(tail).unwrap();
            let mut back = vec![0; length];
            stream.read_exact(&mut back).unwrap();
            assert!(back == sent);
        }
    });
    echo_until_gone(&mut ring, 1);
    client.join().unwrap();
}

/// With 16 completion places, 8 submission places and 4 buffers for them all, every queue
/// overflows and every receive starves now and then.
#[test]
fn a_thousand_connections_share_a_small_ring() {
    raise_descriptors();
    for config in [small(), RingConfig::default()] {
        let mut ring = Ring::new(config).unwrap();
        let address = listening(&mut ring);
        let client = thread::spawn(move || {
            let mut streams: Vec<_> =
                (0..1000).map(|_| TcpStream::connect(address).unwrap()).collect();
            for round in 0..3u32 {
                for (index, stream) in streams.iter_mut().enumerate() {
                    stream.write_all(&pattern(100 + index + round as usize)).unwrap();
                }
                for (index, stream) in streams.iter_mut().enumerate() {
                    let mut back = vec![0; 100 + index + round as usize];
                    stream.read_exact(&mut back).unwrap();
                    assert!(back == pattern(back.len()));
                }
            }
        });
        echo_until_gone(&mut ring, 1000);
        client.join().unwrap();
    }
}

#[test]
fn a_large_send_waits_for_a_slow_reader_and_brings_its_buffer_back() {
    let mut ring = Ring::new(small()).unwrap();
    let address = listening(&mut ring);
    let mut client = connected(&mut ring, address, Token(1));
    let length = 8 << 20;
    let bytes = pattern(length);
    let place = bytes.as_ptr();
    ring.send(Token(1), bytes);
    // More than the sockets' buffers hold: it cannot be done before the client reads.
    ring.turn(Wait::AtMost(Duration::from_millis(50))).unwrap();
    assert!(ring.next_completion().is_none());
    let reader = thread::spawn(move || {
        let mut received = Vec::new();
        let mut part = [0; 4096];
        while received.len() < length {
            let count = client.read(&mut part).unwrap();
            received.extend_from_slice(&part[..count]);
        }
        (client, received)
    });
    let Seen::Sent(Token(1), buffer) = one(&mut ring) else {
        panic!("it is sent");
    };
    assert_eq!(buffer.as_ptr(), place, "the same allocation comes back");
    let (_client, received) = reader.join().unwrap();
    assert!(received == buffer);
}

#[test]
fn a_pause_holds_the_peer_back_and_loses_nothing() {
    let mut ring = Ring::new(small()).unwrap();
    let address = listening(&mut ring);
    let mut client = connected(&mut ring, address, Token(1));
    ring.turn(Wait::No).unwrap();
    ring.pause_receive(Token(1));
    ring.turn(Wait::No).unwrap();
    while ring.next_completion().is_some() {}

    let sent = pattern(8 << 20);
    client.set_nonblocking(true).unwrap();
    let mut position = 0;
    let mut received = Vec::new();
    // The peer writes until the sockets' buffers are full: none of it is delivered.
    loop {
        match client.write(&sent[position..]) {
            Ok(count) => position += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(position < sent.len(), "back-pressure reached the peer");
    ring.turn(Wait::AtMost(Duration::from_millis(50))).unwrap();
    assert!(ring.next_completion().is_none(), "it is paused");

    client.set_nonblocking(false).unwrap();
    let rest = sent[position..].to_vec();
    let writer = thread::spawn(move || {
        client.write_all(&rest).unwrap();
        client
    });
    // Pausing and resuming at once, in the middle and twice, changes nothing.
    ring.resume_receive(Token(1));
    while received.len() < sent.len() {
        ring.pause_receive(Token(1));
        ring.pause_receive(Token(1));
        ring.resume_receive(Token(1));
        for seen in turn(&mut ring) {
            let Seen::Received(Token(1), bytes) = seen else { panic!("{seen:?}") };
            received.extend(bytes);
        }
    }
    assert!(received == sent);
    drop(writer.join().unwrap());
    assert!(matches!(one(&mut ring), Seen::Closed(Token(1), None)));
}

#[test]
fn nothing_is_delivered_under_a_closed_token() {
    let mut ring = Ring::new(small()).unwrap();
    let address = listening(&mut ring);
    let mut former = connected(&mut ring, address, Token(1));
    // In flight at the close: a receive with bytes waiting, and a send that cannot end.
    ring.send(Token(1), pattern(8 << 20));
    ring.turn(Wait::No).unwrap();
    while ring.next_completion().is_some() {}
    former.write_all(b"late").unwrap();
    ring.close(Token(1));
    let mut client = connected(&mut ring, address, Token(1));
    client.write_all(b"new").unwrap();
    assert_eq!(receive(&mut ring, Token(1), 3), b"new");
    // The former's socket is closed, not merely forgotten: its client sees the end.
    let mut part = vec![0; 1 << 20];
    loop {
        match former.read(&mut part) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionReset);
                break;
            }
        }
    }
}

#[test]
fn a_completion_collected_before_the_close_is_not_delivered_after_it() {
    let mut ring = Ring::new(small()).unwrap();
    let address = listening(&mut ring);
    let mut first = connected(&mut ring, address, Token(1));
    let mut second = connected(&mut ring, address, Token(2));
    ring.turn(Wait::No).unwrap();
    assert!(ring.next_completion().is_none());
    first.write_all(b"one").unwrap();
    second.write_all(b"two").unwrap();
    ring.turn(SOON).unwrap();
    let Some(Completion::Received { token: Token(1), bytes: b"one" }) = ring.next_completion()
    else {
        panic!("both have arrived, and are collected together");
    };
    ring.close(Token(2));
    assert!(ring.next_completion().is_none());
}

#[test]
fn a_reset_is_an_error_and_an_end_is_none() {
    let mut ring = Ring::new(small()).unwrap();
    let address = listening(&mut ring);
    let client = connected(&mut ring, address, Token(1));
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    let Seen::Closed(Token(1), Some(error)) = one(&mut ring) else { panic!("it was reset") };
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    ring.send(Token(1), b"to nobody".to_vec());
    let Seen::SendFailed(Token(1), error) = one(&mut ring) else { panic!("it is gone") };
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    ring.close(Token(1));

    let mut client = connected(&mut ring, address, Token(1));
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(matches!(one(&mut ring), Seen::Closed(Token(1), None)));
    // The other direction still works.
    ring.send(Token(1), b"bye".to_vec());
    assert!(matches!(one(&mut ring), Seen::Sent(Token(1), _)));
    ring.shutdown_write(Token(1)).unwrap();
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"bye");
}

#[test]
#[should_panic(expected = "one send in flight")]
fn a_second_send_is_refused_until_the_first_is_done() {
    let mut ring = Ring::new(small()).unwrap();
    let address = listening(&mut ring);
    let _client = connected(&mut ring, address, Token(1));
    ring.send(Token(1), vec![1]);
    ring.send(Token(1), vec![2]);
}

/// A producer counts up and wakes; the ring waits without a timeout of note. A wake that is lost
/// leaves it waiting with the count unseen.
#[test]
fn no_wake_is_lost() {
    const ROUNDS: u64 = 200_000;
    let mut ring = Ring::new(small()).unwrap();
    let waker = ring.waker();
    let count = Arc::new(AtomicU64::new(0));
    let seen = Arc::new(AtomicU64::new(0));
    let producer = {
        let (count, seen) = (count.clone(), seen.clone());
        thread::spawn(move || {
            for round in 1..=ROUNDS {
                count.store(round, Ordering::Release);
                waker.wake();
                // Alternate between a ring that is about to park and one that is busy.
                while round % 3 != 0 && seen.load(Ordering::Acquire) < round {
                    std::hint::spin_loop();
                    thread::yield_now();
                }
            }
        })
    };
    let mut wakes = 0;
    while seen.load(Ordering::Acquire) < ROUNDS {
        let woken = turn(&mut ring).iter().any(|seen| matches!(seen, Seen::Woken));
        if woken {
            wakes += 1;
            seen.store(count.load(Ordering::Acquire), Ordering::Release);
        }
    }
    producer.join().unwrap();
    assert!(wakes > ROUNDS / 3, "{wakes}");
}

#[test]
fn a_wake_before_the_wait_ends_it_at_once() {
    let mut ring = Ring::new(small()).unwrap();
    ring.waker().wake();
    ring.waker().wake();
    assert!(matches!(one(&mut ring), Seen::Woken));
    ring.turn(Wait::AtMost(Duration::from_millis(1))).unwrap();
    assert!(ring.next_completion().is_none(), "they count as one");
}

#[test]
fn a_wait_ends_when_its_time_has_passed() {
    let mut ring = Ring::new(small()).unwrap();
    for millis in [0, 1, 30] {
        let time = Duration::from_millis(millis);
        let start = Instant::now();
        ring.turn(Wait::AtMost(time)).unwrap();
        assert!(ring.next_completion().is_none());
        assert!(start.elapsed() >= time);
        assert!(start.elapsed() < time + Duration::from_secs(5));
    }
    let start = Instant::now();
    for _ in 0..1000 {
        ring.turn(Wait::No).unwrap();
        assert!(ring.next_completion().is_none());
    }
    assert!(start.elapsed() < Duration::from_secs(1), "it does not wait");
}

/// Bytes at a 4 KiB boundary of their own allocation.
struct Aligned {
    storage: Vec<u8>,
    start: usize,
    length: usize,
}

impl Aligned {
    fn new(bytes: &[u8]) -> Aligned {
        let mut storage = vec![0; bytes.len() + 4096];
        let start = storage.as_ptr().align_offset(4096);
        storage[start..start + bytes.len()].copy_from_slice(bytes);
        Aligned { storage, start, length: bytes.len() }
    }
}

impl AsRef<[u8]> for Aligned {
    fn as_ref(&self) -> &[u8] {
        &self.storage[self.start..self.start + self.length]
    }
}

/// O_DIRECT and O_DSYNC, where the file system of the temporary directory has the former.
/// Submitting and waiting in one call would end by the send alone.
#[test]
fn what_a_quiet_ring_sends_is_done_before_it_waits() {
    let mut ring = Ring::new(small()).unwrap();
    let address = listening(&mut ring);
    let client = connected(&mut ring, address, Token(1));
    assert!(!ring.should_submit_first());
    ring.send(Token(1), vec![7; 100]);
    assert!(ring.should_submit_first());
    ring.turn(Wait::No).unwrap();
    assert!(matches!(ring.next_completion(), Some(Completion::Sent { .. })));
    assert!(ring.next_completion().is_none());
    assert!(!ring.should_submit_first());
    drop(client);
    assert!(matches!(one(&mut ring), Seen::Closed(Token(1), _)));
}

fn open_log(path: &std::path::Path) -> Arc<File> {
    let flags = rustix::fs::OFlags::DIRECT | rustix::fs::OFlags::DSYNC;
    let open = |flags: rustix::fs::OFlags| {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(flags.bits() as i32)
            .open(path)
    };
    Arc::new(open(flags).or_else(|_| open(rustix::fs::OFlags::DSYNC)).unwrap())
}

#[test]
fn a_file_is_written_where_it_was_told_and_synced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let mut ring = Ring::new(small()).unwrap();
    let file = open_log(&path);
    let bytes = pattern(64 << 10);
    ring.write_file(FileToken(7), file.clone(), 8192, Box::new(Aligned::new(&bytes)));
    let Seen::Written(FileToken(7), buffer, Ok(())) = one(&mut ring) else {
        panic!("it is written");
    };
    let any: Box<dyn Any> = buffer;
    let buffer = any.downcast::<Aligned>().expect("the same buffer comes back");
    assert!((*buffer).as_ref() == bytes);
    ring.sync_file(FileToken(8), file);
    assert!(matches!(one(&mut ring), Seen::Synced(FileToken(8), Ok(()))));
    let mut expected = vec![0; 8192];
    expected.extend(&bytes);
    assert!(std::fs::read(&path).unwrap() == expected);
}

#[test]
fn a_write_or_sync_that_fails_says_so() {
    let mut ring = Ring::new(small()).unwrap();
    let file = Arc::new(File::open("/dev/null").unwrap());
    ring.write_file(FileToken(1), file.clone(), 0, Box::new(vec![1, 2, 3]));
    let Seen::Written(FileToken(1), _, Err(error)) = one(&mut ring) else {
        panic!("it is open for reading only");
    };
    assert_eq!(error.raw_os_error(), Some(Errno::BADF.raw_os_error()));
    ring.sync_file(FileToken(2), file);
    let Seen::Synced(FileToken(2), Err(error)) = one(&mut ring) else {
        panic!("a device of no blocks does not sync");
    };
    assert_eq!(error.raw_os_error(), Some(Errno::INVAL.raw_os_error()));
}

/// The kernel seldom takes a part only, so it is said in its place that it took three bytes.
#[test]
fn a_partial_send_goes_on_where_it_left_off() {
    let mut ring = Ring::new(small()).unwrap();
    let address = listening(&mut ring);
    let mut client = connected(&mut ring, address, Token(1));
    let key = ring.connection_key(Token(1));
    let socket = ring.connection_mut(Token(1)).socket.clone();
    let part = Operation::Send { socket, payload: Payload::Own(b"abcdef".to_vec()), sent: 1 };
    assert!(ring.finished(key.to_bits(), part, Ok(2)).is_none());
    let Seen::Sent(Token(1), buffer) = one(&mut ring) else { panic!("the rest is sent") };
    assert_eq!(buffer, b"abcdef");
    let mut rest = [0; 3];
    client.read_exact(&mut rest).unwrap();
    assert_eq!(&rest, b"def");
}

#[test]
fn a_partial_write_goes_on_where_it_left_off() {
    let mut file = tempfile::tempfile().unwrap();
    let mut ring = Ring::new(small()).unwrap();
    let part = Operation::Write {
        file: Arc::new(file.try_clone().unwrap()),
        buffer: Box::new(b"abcdef".to_vec()),
        offset: 10,
        written: 1,
    };
    assert!(ring.finished(7, part, Ok(2)).is_none());
    assert!(matches!(one(&mut ring), Seen::Written(FileToken(7), _, Ok(()))));
    let mut content = Vec::new();
    file.read_to_end(&mut content).unwrap();
    assert_eq!(content, b"\0\0\0\0\0\0\0\0\0\0\0\0\0def");
}

#[test]
fn progress_counts_and_gives_up() {
    assert_eq!(progress(2, 10, Ok(3)).unwrap(), 5);
    assert_eq!(progress(2, 10, Err(ErrorKind::Interrupted.into())).unwrap(), 2);
    assert_eq!(progress(2, 10, Ok(0)).unwrap_err().kind(), ErrorKind::WriteZero);
    assert_eq!(progress(2, 10, Err(ErrorKind::Other.into())).unwrap_err().kind(), ErrorKind::Other);
    assert_eq!(progress(0, 0, Ok(0)).unwrap(), 0);
}

/// The kernel may still be receiving and sending when a ring is dropped; the pool and the buffer
/// are freed then (which an address sanitizer watches).
#[test]
fn a_ring_that_is_dropped_lets_go_of_everything() {
    let mut ring = Ring::new(small()).unwrap();
    let address = listening(&mut ring);
    let mut client = connected(&mut ring, address, Token(1));
    ring.send(Token(1), pattern(8 << 20));
    ring.turn(Wait::No).unwrap();
    client.write_all(&pattern(3000)).unwrap();
    let start = Instant::now();
    drop(ring);
    assert!(start.elapsed() < Duration::from_secs(5), "everything could be cancelled");
    // It was done before the drop returned: the client need not wait for its end.
    client.set_nonblocking(true).unwrap();
    let mut part = vec![0; 1 << 20];
    let ended = loop {
        match client.read(&mut part) {
            Ok(0) => break true,
            Ok(_) => {}
            Err(error) => break error.kind() == ErrorKind::ConnectionReset,
        }
    };
    assert!(ended);
    let refused = TcpStream::connect(address).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn a_paused_listener_leaves_connections_in_its_backlog() {
    let mut ring = Ring::new(small()).unwrap();
    let address = listening(&mut ring);
    ring.turn(Wait::No).unwrap();
    ring.pause_accept(LISTENER);
    ring.turn(Wait::No).unwrap();
    assert!(ring.next_completion().is_none());
    let _client = TcpStream::connect(address).unwrap();
    ring.turn(Wait::AtMost(Duration::from_millis(20))).unwrap();
    assert!(ring.next_completion().is_none());
    ring.resume_accept(LISTENER);
    assert!(matches!(one(&mut ring), Seen::Accepted(_)));
    ring.close(LISTENER);
    ring.turn(Wait::AtMost(Duration::from_millis(20))).unwrap();
    assert!(ring.next_completion().is_none());
    assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

fn raise_descriptors() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let wanted = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, wanted).unwrap();
}

/// Names the run of this test binary in which only the body of the test below runs.
const CHILD: &str = "RINGKEEPER_TEST_DESCRIPTORS";

/// In a process of its own, since the limit is the process's.
#[test]
fn accepting_pauses_when_descriptors_run_out() {
    if std::env::var_os(CHILD).is_some() {
        return run_out_of_descriptors();
    }
    let name = "io::ring::tests::accepting_pauses_when_descriptors_run_out";
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("1 passed"), "{text}");
}

fn run_out_of_descriptors() {
    let mut ring = Ring::new(small()).unwrap();
    let address = listening(&mut ring);
    let client = TcpStream::connect(address).unwrap();
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let none_left = rustix::process::Rlimit { current: Some(3), maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, none_left).unwrap();
    let Seen::AcceptFailed(error) = one(&mut ring) else { panic!("no descriptor is left") };
    assert_eq!(error.raw_os_error(), Some(Errno::MFILE.raw_os_error()));
    // No spin: nothing happens until the caller resumes.
    ring.turn(Wait::AtMost(Duration::from_millis(50))).unwrap();
    assert!(ring.next_completion().is_none());
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    ring.resume_accept(LISTENER);
    let Seen::Accepted(socket) = one(&mut ring) else { panic!("there are descriptors again") };
    ring.attach(Token(1), socket);
    drop(client);
    assert!(matches!(one(&mut ring), Seen::Closed(Token(1), None)));
}

#[test]
fn a_refusal_says_how_to_allow_it() {
    let text = RingError::at_start(Errno::PERM.into()).to_string();
    assert!(text.contains("kernel.io_uring_disabled"), "{text}");
    assert!(text.contains("seccomp"), "{text}");
    let text = RingError::at_start(Errno::NOMEM.into()).to_string();
    assert!(text.contains("ulimit -l"), "{text}");
    assert!(RingError::at_start(Errno::INVAL.into()).to_string().contains("6.1"));
}

mod quick;
