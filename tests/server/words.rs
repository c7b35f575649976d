//! Four-letter words about more than one turn gathers and one chunk holds.

use std::collections::BTreeSet;

use ringkeeper::wire::opcode::OpCode;

use crate::client::get;
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
