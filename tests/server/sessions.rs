//! Sessions that own more than one frame can name.

use std::io::Write as _;

use crate::client::{Client, EPHEMERAL, PERSISTENT, children, create, names_of};
use crate::process::{Server, poll};

/// More bytes of paths than a log segment of 4 MiB holds, let alone a frame of 64 KiB.
const COUNT: usize = 5000;

fn path(index: usize) -> String {
    format!("/d/{index:05}{}", "e".repeat(900))
}

/// A client that owns very many ephemerals.
fn owner(server: &Server, timeout_ms: i32) -> Client {
    let mut client = Client::connect(server.dial(), timeout_ms);
    let bytes: Vec<u8> =
        (0..COUNT).flat_map(|index| client.encode(&create(&path(index), b"", EPHEMERAL))).collect();
    let mut socket = client.socket.try_clone().unwrap();
    let sender = std::thread::spawn(move || socket.write_all(&bytes).unwrap());
    for _ in 0..COUNT {
        assert_eq!(client.receive().error, 0);
    }
    sender.join().unwrap();
    client
}

fn check_gone(server: &Server) {
    let mut client = server.client();
    assert_eq!(names_of(&client.done(&children("/d"))), ["kept"]);
    client.close();
    assert_eq!(server.metric("ephemerals_count"), 0);
}

fn server() -> Server {
    let server = Server::serving(&["jute.maxbuffer=65536"]);
    let mut client = server.client();
    client.done(&create("/d", b"", PERSISTENT));
    client.done(&create("/d/kept", b"", PERSISTENT));
    client.close();
    server
}

#[test]
fn a_session_with_more_ephemerals_than_a_frame_holds_is_closed_at_once() {
    let mut server = server();
    let client = owner(&server, 30_000);
    assert_eq!(server.metric("ephemerals_count"), COUNT as u64);
    let before = server.metric("ringkeeper_txns");
    client.close();
    assert_eq!(server.metric("ringkeeper_txns"), before + 1, "all go in one transaction");
    check_gone(&server);
    server.kill();
    server.start();
    check_gone(&server);
    server.client().done(&create("/d/after", b"", PERSISTENT));
}

#[test]
fn a_session_with_more_ephemerals_than_a_frame_holds_expires_at_once() {
    let mut server = server();
    drop(owner(&server, 4000));
    // After a restart too it has its time, and then goes.
    server.kill();
    server.start();
    assert_eq!(server.metric("ephemerals_count"), COUNT as u64);
    poll("the session expires", || (server.metric("ephemerals_count") == 0).then_some(()));
    check_gone(&server);
    server.kill();
    server.start();
    check_gone(&server);
}
