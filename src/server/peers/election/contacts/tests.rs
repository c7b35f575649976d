use std::net::Ipv4Addr;

use super::*;
use crate::wire::election::Doing;

mod world;

const TIMEOUT: Duration = Duration::from_secs(5);
const START: Time = Time::from_nanos(1_000_000_000_000);

fn address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 4000).into()
}

fn addresses(server: i64) -> Addresses {
    vec![(format!("host{server}"), 3888)]
}

fn members(servers: &[i64]) -> Vec<(ServerId, Addresses)> {
    servers.iter().map(|&server| (ServerId(server), addresses(server))).collect()
}

/// Server 2 of the members 1 to 3.
fn second() -> Contacts {
    let mut contacts = Contacts::new(ServerId(2), addresses(2), TIMEOUT);
    contacts.handle_members(&members(&[1, 2, 3]), START);
    contacts
}

fn notification(round: i64) -> Notification {
    Notification {
        doing: Doing::Looking,
        vote: None,
        round,
        version: 2,
        config: Vec::new(),
        proposed: Vec::new(),
    }
}

fn frame(round: i64) -> Vec<u8> {
    let mut bytes = Vec::new();
    notification(round).encode(&mut bytes);
    bytes
}

fn greeting(server: Option<i64>) -> Vec<u8> {
    let addresses = vec![("10.0.0.9".to_owned(), 9)];
    let mut bytes = Vec::new();
    Greeting { server: server.map(ServerId), addresses }.encode(&mut bytes);
    bytes
}

fn commands(contacts: &mut Contacts) -> Vec<Command> {
    std::iter::from_fn(|| contacts.poll_command()).collect()
}

fn events(contacts: &mut Contacts) -> Vec<ElectionEvent> {
    std::iter::from_fn(|| contacts.poll_event()).collect()
}

fn dial(number: u64, server: i64) -> Command {
    Command::Dial { number, server: ServerId(server), addresses: addresses(server) }
}

fn send(connection: u64, parts: &[Vec<u8>]) -> Command {
    Command::Send { connection: ConnectionId(connection), bytes: parts.concat() }
}

fn close(connection: u64) -> Command {
    Command::Close { connection: ConnectionId(connection) }
}

fn reachable(server: i64, is_reachable: bool) -> ElectionEvent {
    ElectionEvent::Reachable(ServerId(server), is_reachable)
}

/// Somebody connects and says this.
fn greeted(contacts: &mut Contacts, connection: u64, bytes: &[u8], now: Time) -> Vec<Command> {
    contacts.handle_accepted(ConnectionId(connection), address(), now);
    contacts.handle_received(ConnectionId(connection), bytes, now);
    commands(contacts)
}

fn dialed(contacts: &mut Contacts, number: u64, connection: u64, now: Time) -> Vec<Command> {
    contacts.handle_dialed(number, Ok((ConnectionId(connection), address())), now);
    commands(contacts)
}

#[test]
fn the_larger_id_keeps_what_it_dialled_and_the_smaller_one_only_greets() {
    let mut it = second();
    assert_eq!(commands(&mut it), [dial(1, 1), dial(2, 3)]);
    it.notify(ServerId(1), &notification(1), START);
    it.notify(ServerId(3), &notification(2), START);
    assert_eq!(dialed(&mut it, 1, 11, START), [send(11, &[greeting_of_second(), frame(1)])]);
    assert_eq!(events(&mut it), [reachable(1, true)]);
    assert_eq!(dialed(&mut it, 2, 12, START), [send(12, &[greeting_of_second()])]);
    it.handle_sent(ConnectionId(12));
    assert_eq!(commands(&mut it), [close(12)]);
    assert_eq!(events(&mut it), []);
    // It dials back, and is told what there is to say.
    assert_eq!(greeted(&mut it, 13, &greeting(Some(3)), START), [send(13, &[frame(2)])]);
    assert_eq!(events(&mut it), [reachable(3, true)]);
    assert_eq!(it.poll_timeout(), None, "everybody is there");
}

fn greeting_of_second() -> Vec<u8> {
    let mut bytes = Vec::new();
    Greeting { server: Some(ServerId(2)), addresses: addresses(2) }.encode(&mut bytes);
    bytes
}

#[test]
fn a_smaller_id_that_dials_is_dialled_back() {
    let mut it = second();
    it.handle_dialed(1, Err("refused".to_owned()), START);
    assert_eq!(events(&mut it), [reachable(1, false)]);
    commands(&mut it);
    let later = START + DIAL_PAUSE_MIN / 2;
    it.notify(ServerId(1), &notification(1), later);
    assert_eq!(greeted(&mut it, 11, &greeting(Some(1)), later), [close(11)]);
    let due = START + DIAL_PAUSE_MIN;
    assert_eq!(it.poll_timeout(), Some(due));
    it.handle_timeout(due);
    assert_eq!(commands(&mut it), [dial(3, 1)]);
    assert_eq!(dialed(&mut it, 3, 12, due), [send(12, &[greeting_of_second(), frame(1)])]);
    assert_eq!(events(&mut it), [reachable(1, true)]);
}

/// As when the other host was restarted, and its old connection is not known to be dead.
#[test]
fn what_was_dialled_back_replaces_what_there_is() {
    let mut it = second();
    commands(&mut it);
    dialed(&mut it, 1, 11, START);
    it.handle_sent(ConnectionId(11));
    it.notify(ServerId(1), &notification(1), START);
    commands(&mut it);
    events(&mut it);
    // Both had dialled at once: nothing was lost.
    let crossing = START + CROSSING / 2;
    assert_eq!(greeted(&mut it, 12, &greeting(Some(1)), crossing), [close(12)]);
    let later = START + CROSSING;
    assert_eq!(greeted(&mut it, 13, &greeting(Some(1)), later), [close(13), dial(3, 1)]);
    let expected = [close(11), send(14, &[greeting_of_second(), frame(1)])];
    assert_eq!(dialed(&mut it, 3, 14, later), expected);
    assert_eq!(events(&mut it), [], "it has been there all the time");
    it.handle_closed(ConnectionId(11), "late", later);
    assert_eq!(events(&mut it), []);
}

#[test]
fn a_larger_id_that_dials_again_replaces_its_connection() {
    let mut it = second();
    commands(&mut it);
    greeted(&mut it, 11, &greeting(Some(3)), START);
    it.notify(ServerId(3), &notification(1), START);
    assert_eq!(commands(&mut it), [send(11, &[frame(1)])]);
    let again = greeted(&mut it, 12, &greeting(Some(3)), START);
    assert_eq!(again, [close(11), send(12, &[frame(1)])], "the last is said again");
    // Our own dial was slower.
    assert_eq!(dialed(&mut it, 2, 13, START), [close(13)]);
}

#[test]
fn the_newest_notification_waits_and_the_last_is_repeated() {
    let mut it = second();
    commands(&mut it);
    greeted(&mut it, 11, &greeting(Some(3)), START);
    it.notify(ServerId(3), &notification(1), START);
    assert_eq!(commands(&mut it), [send(11, &[frame(1)])]);
    it.notify(ServerId(3), &notification(2), START);
    it.notify(ServerId(3), &notification(3), START);
    assert_eq!(commands(&mut it), [], "one send at a time");
    it.handle_sent(ConnectionId(11));
    assert_eq!(commands(&mut it), [send(11, &[frame(3)])]);
    it.handle_sent(ConnectionId(11));
    it.handle_closed(ConnectionId(11), "gone", START);
    it.notify(ServerId(3), &notification(4), START);
    let first = greeted(&mut it, 12, &greeting(Some(3)), START);
    assert_eq!(first, [close(11), send(12, &[frame(4)])], "what waits is newer than the last");
}

#[test]
fn notifications_come_in_any_pieces_and_with_the_greeting() {
    let mut it = second();
    commands(&mut it);
    let bytes = [greeting(Some(3)), frame(1), frame(2)].concat();
    it.handle_accepted(ConnectionId(11), address(), START);
    for byte in &bytes {
        it.handle_received(ConnectionId(11), &[*byte], START);
    }
    let told = |round| ElectionEvent::Notification {
        from: ServerId(3),
        notification: notification(round),
    };
    assert_eq!(events(&mut it), [reachable(3, true), told(1), told(2)]);
    greeted(&mut it, 12, &bytes, START);
    assert_eq!(events(&mut it), [told(1), told(2)]);
}

#[test]
fn a_loss_is_told_at_once_and_the_pauses_grow() {
    let mut it = second();
    commands(&mut it);
    dialed(&mut it, 1, 11, START);
    events(&mut it);
    // It held: the next dial is at once.
    let mut now = START + HOLDS_FROM;
    it.handle_closed(ConnectionId(11), "gone", now);
    assert_eq!(events(&mut it), [reachable(1, false)]);
    assert_eq!(commands(&mut it), [close(11), dial(3, 1)]);
    for (number, pause_ms) in (3..).zip([50, 100, 200, 400, 800, 1600, 2000, 2000]) {
        it.handle_dialed(number, Err("refused".to_owned()), now);
        assert_eq!(events(&mut it), []);
        let due = now + Duration::from_millis(pause_ms);
        assert_eq!(it.poll_timeout(), Some(due));
        now = due;
        it.handle_timeout(now);
        assert_eq!(commands(&mut it), [dial(number + 1, 1)]);
    }
    // What there is to say does not wait for so long.
    it.handle_dialed(11, Err("refused".to_owned()), now);
    it.notify(ServerId(1), &notification(1), now);
    assert_eq!(it.poll_timeout(), Some(now + DIAL_PAUSE_URGENT));
}

/// As two servers with one id would have it.
#[test]
fn connections_that_do_not_hold_are_made_ever_more_rarely() {
    let mut it = second();
    commands(&mut it);
    let mut now = START;
    for (number, pause_ms) in [(1, 50), (3, 100), (4, 200)] {
        dialed(&mut it, number, 10 + number, now);
        it.handle_received(ConnectionId(10 + number), &frame(1), now);
        it.handle_closed(ConnectionId(10 + number), "gone", now);
        commands(&mut it);
        let due = now + Duration::from_millis(pause_ms);
        assert_eq!(it.poll_timeout(), Some(due));
        now = due;
        it.handle_timeout(now);
        assert_eq!(commands(&mut it), [dial(if number == 1 { 3 } else { number + 1 }, 1)]);
    }
}

#[test]
fn a_larger_id_has_time_to_dial_back() {
    let mut it = second();
    commands(&mut it);
    dialed(&mut it, 2, 12, START);
    it.handle_sent(ConnectionId(12));
    assert_eq!(it.poll_timeout(), Some(START + DIAL_BACK_WAIT));
    it.notify(ServerId(3), &notification(1), START);
    assert_eq!(it.poll_timeout(), Some(START + DIAL_BACK_WAIT));
    greeted(&mut it, 13, &greeting(Some(3)), START);
    it.handle_closed(ConnectionId(13), "gone", START);
    assert_eq!(it.poll_timeout(), Some(START + DIAL_BACK_WAIT));
}

#[test]
fn who_does_not_greet_is_refused() {
    let mut it = second();
    commands(&mut it);
    it.handle_accepted(ConnectionId(11), address(), START);
    it.handle_received(ConnectionId(11), &greeting(Some(3))[..29], START);
    assert_eq!(it.poll_timeout(), Some(START + TIMEOUT));
    it.handle_timeout(START + TIMEOUT);
    assert_eq!(commands(&mut it)[0], close(11));
    let own = greeted(&mut it, 12, &greeting(Some(2)), START);
    assert_eq!(own, [close(12)]);
    let page = greeted(&mut it, 13, b"GET / HTTP/1.1\r\n", START);
    assert_eq!(page, [close(13)]);
    let unknown = greeted(&mut it, 14, &(-1i64).to_be_bytes(), START);
    assert_eq!(unknown, [close(14)]);
}

#[test]
fn a_frame_that_is_none_ends_the_connection() {
    for bad in [&[0; 4][..], &[0xff; 4], &[0, 8, 0, 1], &[0, 0, 0, 1, 7]] {
        let mut it = second();
        commands(&mut it);
        greeted(&mut it, 11, &greeting(Some(3)), START);
        it.handle_received(ConnectionId(11), &[&frame(1)[..], bad].concat(), START);
        assert_eq!(commands(&mut it), [close(11)], "{bad:?}");
        let events = events(&mut it);
        assert_eq!(events.len(), 3, "{events:?}");
        assert_eq!(events[2], reachable(3, false));
        it.handle_received(ConnectionId(11), &frame(2), START);
        assert_eq!(it.poll_event(), None);
    }
}

#[test]
fn a_crowd_of_newcomers_does_not_keep_servers_out() {
    let mut it = second();
    commands(&mut it);
    for connection in 0..NEWCOMERS_MAX as u64 + 5 {
        it.handle_accepted(ConnectionId(100 + connection), address(), START);
    }
    assert_eq!(commands(&mut it), [100, 101, 102, 103, 104].map(close));
    assert_eq!(greeted(&mut it, 300, &greeting(Some(3)), START), [close(105)]);
    assert_eq!(events(&mut it), [reachable(3, true)]);
}

#[test]
fn strangers_are_answered_and_bounded() {
    let mut it = second();
    commands(&mut it);
    it.notify(ServerId(9), &notification(1), START);
    assert_eq!(commands(&mut it), [], "nobody knows where it is");
    for server in 10..10 + STRANGERS_MAX as i64 {
        let now = START + Duration::from_millis(server as u64);
        greeted(&mut it, server as u64, &greeting(Some(server)), now);
    }
    it.notify(ServerId(11), &notification(1), START);
    assert_eq!(commands(&mut it), [send(11, &[frame(1)])]);
    // One more takes the place of the first, also where it has to be dialled back.
    let here = vec![("10.0.0.9".to_owned(), 9)];
    let dial = |number, server, addresses: &Addresses| Command::Dial {
        number,
        server: ServerId(server),
        addresses: addresses.clone(),
    };
    let late = START + TIMEOUT;
    let expected = [close(10), close(99), dial(3, 0, &here)];
    assert_eq!(greeted(&mut it, 99, &greeting(Some(0)), late), expected);
    // An observer without an id is given one.
    let expected = [close(11), close(98), dial(4, -1, &here)];
    assert_eq!(greeted(&mut it, 98, &greeting(None), late), expected);
    // A stranger is dialled once.
    it.handle_dialed(4, Err("refused".to_owned()), late);
    it.handle_timeout(late + TIMEOUT);
    assert!(
        !commands(&mut it)
            .iter()
            .any(|command| matches!(command, Command::Dial { number, .. } if *number > 4))
    );
}

#[test]
fn members_come_go_and_move() {
    let mut it = second();
    commands(&mut it);
    dialed(&mut it, 1, 11, START);
    it.handle_sent(ConnectionId(11));
    it.handle_dialed(2, Err("refused".to_owned()), START);
    let mut after = members(&[2, 3, 4]);
    after[1].1 = addresses(33);
    it.handle_members(&after, START);
    let moved = Command::Dial { number: 3, server: ServerId(3), addresses: addresses(33) };
    assert_eq!(commands(&mut it), [moved, dial(4, 4)]);
    // Who has left can still be told so.
    it.notify(ServerId(1), &notification(1), START);
    assert_eq!(commands(&mut it), [send(11, &[frame(1)])]);
    it.handle_closed(ConnectionId(11), "gone", START + HOLDS_FROM);
    assert_eq!(commands(&mut it), [close(11)], "and is not dialled");
}
