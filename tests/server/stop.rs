//! Ends: by a signal, under load.

use std::io::Write as _;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::Signal;

use crate::client::{PERSISTENT, create, get, set};
use crate::process::{Server, directory, files, poll};

const CLIENTS: usize = 4;

/// Several clients keep sixteen sets each on their way until their connections end. Each tells
/// which was the last that was acknowledged.
fn stop_under_load(signal: Signal, cores: &str) {
    let mut server = Server::serving(&[cores]);
    let acknowledged: [AtomicU32; CLIENTS] = std::array::from_fn(|_| AtomicU32::new(0));
    std::thread::scope(|scope| {
        for (index, acknowledged) in acknowledged.iter().enumerate() {
            let mut client = server.client();
            let path = format!("/n{index}");
            client.done(&create(&path, &[0; 4], PERSISTENT));
            scope.spawn(move || {
                let mut sent = 0_u32;
                loop {
                    while sent < acknowledged.load(Ordering::Relaxed) + 16 {
                        sent += 1;
                        let frame = client.encode(&set(&path, &sent.to_be_bytes()));
                        if client.socket.write_all(&frame).is_err() {
                            break;
                        }
                    }
                    match client.try_receive() {
                        Some(reply) => assert_eq!(reply.error, 0),
                        None => return,
                    }
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        poll("all are at work", || {
            let least = acknowledged.iter().map(|it| it.load(Ordering::Relaxed)).min();
            (least.unwrap() > 100).then_some(())
        });
        server.signal(signal);
        assert_eq!(server.wait_for_exit(), 0, "{}", server.stderr());
    });
    assert!(server.stderr().contains("stopped"), "{}", server.stderr());
    assert!(!server.stderr().contains("it takes too long"), "{}", server.stderr());
    server.start();
    let mut client = server.client();
    for (index, acknowledged) in acknowledged.into_iter().enumerate() {
        let data = client.get(&format!("/n{index}")).unwrap();
        let found = u32::from_be_bytes(data.try_into().unwrap());
        let acknowledged = acknowledged.into_inner();
        assert_eq!(found, acknowledged, "client {index}: what was done was told");
    }
}

#[test]
fn sigterm_under_load_loses_nothing() {
    stop_under_load(Signal::TERM, "ringkeeper.cores=auto");
}

#[test]
fn sigint_under_load_loses_nothing() {
    stop_under_load(Signal::INT, "ringkeeper.cores=2");
}

#[test]
fn a_kill_under_load_loses_nothing() {
    let mut server = Server::serving(&["ringkeeper.cores=2"]);
    let mut client = server.client();
    client.done(&create("/n", &[0; 4], PERSISTENT));
    let mut acknowledged = 0_u32;
    for _ in 0..3 {
        let bytes: Vec<u8> = (acknowledged + 1..acknowledged + 400)
            .flat_map(|number| client.encode(&set("/n", &number.to_be_bytes())))
            .collect();
        client.socket.write_all(&bytes).unwrap();
        for _ in 0..100 {
            assert_eq!(client.receive().error, 0);
            acknowledged += 1;
        }
        server.kill();
        server.start();
        client = server.client();
        let data = client.get("/n").unwrap();
        let found = u32::from_be_bytes(data.try_into().unwrap());
        assert!(found >= acknowledged, "{found} is less than {acknowledged}");
        acknowledged = found;
    }
}

/// Sizes of Apache's configurations that are no sizes for a log segment here.
#[test]
fn tiny_sizes_still_serve() {
    for settings in [
        &["preAllocSize=4", "snapCount=2"][..],
        &["ringkeeper.log.segmentSizeInKb=1", "jute.maxbuffer=1024"],
        &["preAllocSize=0", "jute.maxbuffer=4194304", "jute.maxbuffer.extrasize=1024"],
    ] {
        let mut server = Server::serving(settings);
        let mut client = server.client();
        client.done(&create("/n", b"", PERSISTENT));
        for round in 0..100 {
            client.done(&set("/n", &[round; 500]));
        }
        server.kill();
        server.start();
        assert_eq!(server.client().get("/n"), Some(vec![99; 500]), "{settings:?}");
    }
}

/// Each start sees too few transactions for a snapshot; together they are more than enough.
#[test]
fn who_is_started_often_takes_snapshots_all_the_same() {
    let mut server = Server::serving(&["snapCount=1000"]);
    server.client().done(&create("/n", b"", PERSISTENT));
    for _ in 0..3 {
        let mut client = server.client();
        for round in 0..400_u32 {
            client.done(&set("/n", &round.to_be_bytes()));
        }
        server.kill();
        server.start();
    }
    poll("a snapshot behind the first, empty one", || {
        let first = "snapshot.0000000000000000";
        files(&server.version_dir(), "snapshot.").into_iter().find(|path| !path.ends_with(first))
    });
}

/// A client that does not read what it asked for holds up no end for long.
#[test]
fn an_end_does_not_wait_for_a_client_that_does_not_read() {
    let mut server = Server::serving(&[]);
    let mut client = server.client();
    client.done(&create("/large", &[b'x'; 500_000], PERSISTENT));
    let bytes: Vec<u8> = (0..100).flat_map(|_| client.encode(&get("/large", false))).collect();
    client.socket.write_all(&bytes).unwrap();
    let mut other = server.client();
    other.done(&create("/n", b"", PERSISTENT));
    server.signal(Signal::TERM);
    assert_eq!(server.wait_for_exit(), 0, "{}", server.stderr());
    assert!(server.stderr().contains("it takes too long"), "{}", server.stderr());
    server.start();
    assert_eq!(server.client().get("/n"), Some(Vec::new()));
}

/// Where the host refuses a ring, the start says so: an executor of the library's would end the
/// process with a backtrace.
#[test]
fn a_host_that_gives_no_ring_is_told_in_a_sentence() {
    let home = directory();
    let config = home.path().join("zoo.cfg");
    let data = home.path().join("data");
    std::fs::write(&config, format!("clientPort=0\ndataDir={}\n", data.display())).unwrap();
    // What the test has inherited would leave none for the loader of libraries either.
    let close = "exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-";
    let output = Command::new("sh")
        .args(["-c", &format!("{close}; ulimit -n 4; exec \"$0\" server \"$1\"")])
        .arg(env!("CARGO_BIN_EXE_ringkeeper"))
        .arg(&config)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("no descriptor is left for a ring"), "{said}");
}
