//! Two cores serve clients: what holds on one core holds across them.

use std::io::Write as _;

use crate::client::{
    Client, EPHEMERAL, PERSISTENT, create, data_of, delete, get, is_closed, set, stat_of, sync,
};
use crate::process::{Server, poll};

fn server() -> Server {
    let server = Server::serving(&["ringkeeper.cores=2", "maxClientCnxns=0"]);
    assert!(server.stderr().contains("clients 1"), "two cores: {}", server.stderr());
    server
}

/// Clients on either core: the kernel spreads connections, so that of 24 some are on each.
fn clients(server: &Server) -> Vec<Client> {
    (0..24).map(|_| server.client()).collect()
}

/// Of all the clients on all the cores, each is told of a change before it sees it.
#[test]
fn an_event_comes_before_what_it_announces_on_every_core() {
    let server = server();
    let mut clients = clients(&server);
    let mut writer = server.client();
    writer.done(&create("/n", &[0; 4], PERSISTENT));
    for round in 1..60_u32 {
        let data = round.to_be_bytes();
        for client in &mut clients {
            client.done(&get("/n", true));
        }
        let zxid = writer.done(&set("/n", &data)).zxid;
        // Some look at once, some behind a sync, some behind a write of their own.
        for (index, client) in clients.iter_mut().enumerate() {
            match (index as u32 + round) % 3 {
                0 => drop(client.send(&get("/n", false))),
                1 => {
                    client.send(&sync("/"));
                    client.send(&get("/n", false));
                }
                _ => {
                    client.send(&set("/zookeeper/quota", b""));
                    client.send(&get("/n", false));
                }
            }
        }
        for client in &mut clients {
            let mut told = false;
            loop {
                let reply = client.receive();
                if reply.xid == -1 {
                    assert_eq!(reply.zxid, zxid);
                    told = true;
                } else if reply.body.len() > 68 && data_of(&reply).len() == 4 {
                    let is_new = data_of(&reply) == data;
                    assert!(told || !is_new, "round {round}: seen before it was told");
                    assert!(stat_of(&reply).mzxid.raw() <= reply.zxid);
                    if is_new || told {
                        break;
                    }
                    // This core had not heard of it: that is allowed; the event is on its way.
                    assert_eq!(client.receive().xid, -1);
                    break;
                }
            }
        }
    }
}

/// What a client has written it reads, whatever core it is on and whoever else writes.
#[test]
fn everybody_reads_their_own_writes() {
    let server = server();
    let mut clients = clients(&server);
    for (index, client) in clients.iter_mut().enumerate() {
        client.done(&create(&format!("/n{index}"), b"", PERSISTENT));
    }
    for round in 0..40_u32 {
        for (index, client) in clients.iter_mut().enumerate() {
            let path = format!("/n{index}");
            let mut bytes = client.encode(&set(&path, &round.to_be_bytes()));
            bytes.extend(client.encode(&get(&path, false)));
            client.socket.write_all(&bytes).unwrap();
        }
        for client in &mut clients {
            let written = client.receive();
            let read = client.receive();
            assert_eq!(data_of(&read), round.to_be_bytes());
            assert_eq!(stat_of(&read).mzxid.raw(), written.zxid);
            assert!(read.zxid >= written.zxid);
        }
    }
}

/// Zxids in the replies of one client never go down, and all cores tell one history.
#[test]
fn nobody_sees_time_run_backward() {
    let server = server();
    let mut clients = clients(&server);
    let mut last = vec![0; clients.len()];
    for round in 0..60 {
        for (index, client) in clients.iter_mut().enumerate() {
            match (index + round) % 4 {
                0 => client.send(&create(&format!("/t{index}"), b"", PERSISTENT)),
                1 => client.send(&delete(&format!("/t{index}"))),
                _ => client.send(&get("/", false)),
            };
        }
        for (client, last) in clients.iter_mut().zip(&mut last) {
            let reply = client.receive();
            assert!(reply.zxid >= *last, "{} after {last}", reply.zxid);
            *last = reply.zxid;
        }
    }
}

/// A session goes from connection to connection, and so from core to core.
#[test]
fn a_session_moves_and_leaves_nothing_behind() {
    let mut server = server();
    let mut bystander = server.client();
    let mut current = server.client();
    let (session, password) = (current.session, current.password.clone());
    current.done(&create("/e", b"", EPHEMERAL));
    for round in 0..24_u8 {
        let moved = Client::reconnect(server.dial(), session, &password, 30_000);
        let mut moved = moved.expect("the session lives");
        assert_eq!((moved.session, &moved.password), (session, &password));
        // The old connection ends without an answer, whatever it still asks.
        let late = current.encode(&set("/e", b"late"));
        current.socket.write_all(&late).ok();
        assert!(is_closed(&mut current.socket), "round {round}");
        moved.done(&set("/e", &[round]));
        assert_eq!(moved.get("/e"), Some(vec![round]));
        current = moved;
    }
    // A wrong password does not get it, but the one who has it must ask again.
    assert!(Client::reconnect(server.dial(), session, &[7; 16], 30_000).is_none());
    assert!(is_closed(&mut current.socket));
    let back = Client::reconnect(server.dial(), session, &password, 30_000);
    back.expect("it is the same session").close();
    poll("its node goes with it", || bystander.get("/e").is_none().then_some(()));
    assert!(Client::reconnect(server.dial(), session, &password, 30_000).is_none());
    assert!(server.is_running());
}
