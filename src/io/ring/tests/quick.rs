//! Sends that end no wait.

use super::*;

/// Reads `length` bytes as slowly as they come.
fn read(client: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut received = vec![0; length];
    client.read_exact(&mut received).unwrap();
    received
}

#[test]
fn a_quick_send_ends_no_wait_and_is_told_of_with_the_next_turn() {
    let mut ring = Ring::new(small()).unwrap();
    let address = listening(&mut ring);
    let mut client = connected(&mut ring, address, Token(1));
    let bytes = pattern(100);
    let place = bytes.as_ptr();
    ring.send_quick(Token(1), bytes);
    let (start, time) = (Instant::now(), Duration::from_millis(50));
    ring.turn(Wait::AtMost(time)).unwrap();
    assert!(start.elapsed() >= time, "nothing but the send happened");
    let Some(Completion::Sent { token: Token(1), buffer }) = ring.next_completion() else {
        panic!("it is sent");
    };
    assert_eq!(buffer.as_ptr(), place, "the same allocation comes back");
    assert!(ring.next_completion().is_none());
    assert_eq!(read(&mut client, 100), pattern(100));
}

#[test]
fn bytes_for_many_are_sent_to_each() {
    let mut ring = Ring::new(small()).unwrap();
    let address = listening(&mut ring);
    let mut clients: Vec<TcpStream> =
        (0..20).map(|token| connected(&mut ring, address, Token(token))).collect();
    let bytes: Arc<[u8]> = pattern(300).into();
    for token in 0..20 {
        ring.send_shared(Token(token), Arc::clone(&bytes));
    }
    ring.turn(Wait::No).unwrap();
    let mut told = HashSet::new();
    while let Some(completion) = ring.next_completion() {
        let Seen::Sent(token, buffer) = Seen::of(completion) else { panic!("it is sent") };
        assert!(told.insert(token) && buffer.capacity() == 0);
    }
    assert_eq!(told.len(), 20);
    assert_eq!(Arc::strong_count(&bytes), 1, "the ring has let go of them");
    for client in &mut clients {
        assert!(read(client, 300)[..] == bytes[..]);
    }
}

/// All are refused, wholly or in part, in one turn: more refusals than the ring's completion queue
/// has places for.
#[test]
fn what_the_sockets_have_no_room_for_follows_in_order() {
    const COUNT: u64 = 24;
    const LENGTH: usize = 8 << 20;
    let mut ring = Ring::new(small()).unwrap();
    let address = listening(&mut ring);
    let clients: Vec<TcpStream> =
        (0..COUNT).map(|token| connected(&mut ring, address, Token(token))).collect();
    let bytes: Arc<[u8]> = pattern(LENGTH).into();
    for token in 0..COUNT {
        ring.send_shared(Token(token), Arc::clone(&bytes));
    }
    for _ in 0..3 {
        ring.turn(Wait::AtMost(Duration::from_millis(10))).unwrap();
        assert!(ring.next_completion().is_none(), "nobody has read, and so much fits in no socket");
    }
    let expected = Arc::clone(&bytes);
    let reader = thread::spawn(move || {
        for mut client in clients {
            assert!(read(&mut client, LENGTH)[..] == expected[..]);
        }
    });
    let mut sent = HashSet::new();
    while sent.len() < COUNT as usize {
        for seen in turn(&mut ring) {
            match seen {
                Seen::Sent(token, _) => assert!(sent.insert(token)),
                Seen::Closed(_, None) => {}
                seen => panic!("{seen:?}"),
            }
        }
    }
    reader.join().unwrap();
}

#[test]
fn a_quick_send_to_who_is_gone_fails() {
    let mut ring = Ring::new(small()).unwrap();
    let address = listening(&mut ring);
    connected(&mut ring, address, Token(1)).shutdown(std::net::Shutdown::Both).unwrap();
    assert!(matches!(one(&mut ring), Seen::Closed(Token(1), None)));
    let error = loop {
        // The first of them makes the peer say that it is gone.
        ring.send_quick(Token(1), pattern(10));
        let seen = loop {
            ring.turn(Wait::AtMost(Duration::from_millis(10))).unwrap();
            if let Some(completion) = ring.next_completion() {
                break Seen::of(completion);
            }
        };
        assert!(ring.next_completion().is_none());
        match seen {
            Seen::Sent(..) => {}
            Seen::SendFailed(Token(1), error) => break error,
            seen => panic!("{seen:?}"),
        }
    };
    assert!(matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset));
}

#[test]
fn a_close_before_the_turn_drops_what_was_to_be_told() {
    let mut ring = Ring::new(small()).unwrap();
    let address = listening(&mut ring);
    let mut client = connected(&mut ring, address, Token(1));
    ring.send_quick(Token(1), pattern(10));
    ring.close(Token(1));
    ring.turn(Wait::No).unwrap();
    assert!(ring.next_completion().is_none());
    // What was sent before the close still arrives, and then the end.
    ring.turn(Wait::AtMost(Duration::from_millis(10))).unwrap();
    assert!(ring.next_completion().is_none());
    let mut received = Vec::new();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    client.read_to_end(&mut received).unwrap();
    assert_eq!(received, pattern(10));
}

/// Quick sends that were not submitted are when the ring ends, so that nobody has to keep them.
#[test]
fn a_ring_that_is_dropped_lets_go_of_its_quick_sends() {
    let mut ring = Ring::new(small()).unwrap();
    let address = listening(&mut ring);
    let _client = connected(&mut ring, address, Token(1));
    let bytes: Arc<[u8]> = pattern(10).into();
    ring.send_shared(Token(1), Arc::clone(&bytes));
    drop(ring);
    assert_eq!(Arc::strong_count(&bytes), 1);
}
