//! Four-letter words about more than one turn gathers and one chunk holds.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, TcpListener, TcpStream};

use ringkeeper::wire::opcode::OpCode;

use crate::client::{Client, PERSISTENT, create, get};
use crate::process::Server;

/// More than one part of a core's watches, and more than one chunk of text.
const WATCHES: usize = 5000;

#[test]
fn long_answers_are_whole() {
    let server = Server::serving(&["maxClientCnxns=0"]);
    let mut clients = [server.client(), server.client()];
    for client in &mut clients {
        for index in 0..WATCHES {
            // What is not there is watched all the same.
            let (_, body) = get(&format!("/watched/and/not/there/{index}"), true);
            client.call(&(OpCode::Exists, body));
        }
    }
    let expected: BTreeSet<String> =
        (0..WATCHES).map(|index| format!("/watched/and/not/there/{index}")).collect();
    let by_path = server.word("wchp");
    let paths: Vec<&str> = by_path.lines().filter(|line| line.starts_with('/')).collect();
    assert_eq!(paths.len(), WATCHES);
    assert_eq!(paths.into_iter().map(str::to_owned).collect::<BTreeSet<_>>(), expected);
    let by_session = server.word("wchc");
    for client in &clients {
        let session = format!("{:#x}", client.session);
        let lines = |text: &str| text.lines().filter(|line| line.trim() == session).count();
        assert_eq!((lines(&by_path), lines(&by_session)), (WATCHES, 1));
    }
    let paths = by_session.lines().filter(|line| line.starts_with("\t/"));
    assert_eq!(paths.clone().count(), 2 * WATCHES);
    assert_eq!(paths.map(|it| it.trim().to_owned()).collect::<BTreeSet<_>>(), expected);
    assert!(server.word("wchs").starts_with("2 connections watching 5000 paths\n"));
    // More connections than one part of them.
    let idle: Vec<_> = (0..1500).map(|_| server.dial()).collect();
    server.wait_for_metric("num_alive_connections", 1502);
    let connections = server.word("cons");
    assert_eq!(connections.lines().filter(|line| line.contains("queued=")).count(), 1503);
    assert!(server.word("dump").contains("Connections Sets ("));
    drop(idle);
    clients.iter_mut().for_each(|client| client.ping());
}

/// `nc -N` and Java's `FourLetterWordMain` end their side as soon as they have asked.
#[test]
fn who_ends_its_side_after_asking_is_answered() {
    let server = Server::serving(&["maxClientCnxns=0"]);
    let mut client = server.client();
    for index in 0..WATCHES {
        let (_, body) = get(&format!("/not/there/{index}"), true);
        client.call(&(OpCode::Exists, body));
    }
    let words = ["ruok", "srvr", "stat", "mntr", "cons", "dump", "envi", "conf", "wchs", "isro"];
    let asked = words.repeat(20).into_iter().chain(["wchp", "wchc"]);
    for word in asked {
        let mut socket = server.dial();
        socket.write_all(word.as_bytes()).unwrap();
        socket.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        assert!(!answer.is_empty(), "{word} has no answer");
        if word.starts_with("wch") && word != "wchs" {
            assert_eq!(answer.matches("/not/there/").count(), WATCHES, "{word} is cut");
        }
    }
    assert_eq!(server.word("gtmk"), "306", "the trace mask that Apache starts with");
    // Those whose question never came whole are let go, and so are those who have their answer.
    let mut socket = server.dial();
    socket.write_all(b"sr").unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    assert_eq!(socket.read(&mut [0]).unwrap(), 0);
    assert_eq!(server.metric("num_alive_connections"), 2);
    client.ping();
}

/// As with Java's sockets: without an address of its own a server is there for both families, and
/// knows each client by the address that it has in its own.
#[test]
fn a_server_without_an_address_serves_ipv4_and_ipv6() {
    let server = Server::serving(&["clientPortAddress=0.0.0.0"]);
    let port = server.address().port();
    let mut v4 = Client::connect(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap(), 30_000);
    v4.ping();
    let connections = server.word("cons");
    assert!(connections.contains(" /127.0.0.1:"), "{connections}");
    // A host without IPv6 has nothing more to show.
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
        let socket = TcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap();
        let mut v6 = Client::connect(socket, 30_000);
        v6.done(&create("/six", b"6", PERSISTENT));
        assert_eq!(v4.get("/six"), Some(b"6".to_vec()));
        let connections = server.word("cons");
        assert!(connections.contains(" /[0:0:0:0:0:0:0:1]:"), "{connections}");
    }
}
