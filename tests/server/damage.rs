//! What a server makes of files that are not as it left them.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use ringkeeper::log::BLOCK;
use ringkeeper::log::batch::{Header, Kind};

use crate::client::{PERSISTENT, create, set};
use crate::process::{DEADLINE, Server, files, poll};

/// The exit code of a server that does not like its data.
const DATA: i32 = 5;

fn log_files(server: &Server) -> Vec<PathBuf> {
    files(&server.version_dir(), "ringlog.")
}

/// The batches of a segment from its front, as their headers say.
fn batches(path: &Path) -> Vec<Header> {
    let bytes = fs::read(path).unwrap();
    let mut batches = Vec::new();
    let mut offset = BLOCK;
    while let Some(Ok(header)) = bytes.get(offset..).map(Header::decode) {
        offset += header.padded_bytes() as usize;
        batches.push(header);
    }
    batches
}

/// A server that was killed idle, with `/n0` to `/n9` each in a batch of its own and the last one
/// marked; its only segment with anything in it.
fn killed() -> (Server, PathBuf, Vec<Header>) {
    let mut server = Server::serving(&[]);
    let mut client = server.client();
    for index in 0..10 {
        client.done(&create(&format!("/n{index}"), &[index; 9000], PERSISTENT));
    }
    let path = log_files(&server).remove(0);
    let batches = poll("the log is marked", || {
        let batches = batches(&path);
        (batches.last()?.kind == Kind::Mark).then_some(batches)
    });
    server.kill();
    (server, path, batches)
}

fn flip(path: &Path, offset: u64) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
}

#[test]
fn damage_to_what_was_acknowledged_is_refused_with_its_place() {
    let (mut server, path, batches) = killed();
    let txns: Vec<&Header> = batches.iter().filter(|it| it.kind == Kind::Txns).collect();
    assert!(txns.len() >= 11, "a session and ten nodes: {batches:?}");
    // One in the middle has good ones behind it, the last one only its mark; and in each the
    // payload and the header itself.
    for batch in [txns[5], txns[txns.len() - 1]] {
        for within in [100, 20] {
            flip(&path, batch.offset + within);
            let (code, said) = server.start_refused();
            assert_eq!(code, DATA, "{said}");
            let expected = format!("{} is damaged at offset {}", path.display(), batch.offset);
            assert!(said.contains(&expected), "{said}");
            let good = format!("good through zxid {}", batch.previous);
            assert!(said.contains(&good), "{said}");
            flip(&path, batch.offset + within);
        }
    }
    server.start();
    assert_eq!(server.client().get("/n9"), Some(vec![9; 9000]));
}

#[test]
fn a_torn_tail_is_cut_off() {
    let (mut server, path, batches) = killed();
    let last = batches.iter().rfind(|batch| batch.kind == Kind::Txns).unwrap();
    // As if the machine had died in the middle of the last write.
    let file = fs::File::options().write(true).open(&path).unwrap();
    let end = last.offset + last.padded_bytes();
    file.write_all_at(&vec![0; BLOCK], end).unwrap();
    file.write_all_at(&vec![0; (end - last.offset) as usize - BLOCK], last.offset + BLOCK as u64)
        .unwrap();
    server.start();
    assert!(server.stderr().contains("torn, never acknowledged"), "{}", server.stderr());
    let mut client = server.client();
    assert_eq!(client.get("/n8"), Some(vec![8; 9000]));
    assert_eq!(client.get("/n9"), None);
    client.done(&create("/n9", b"again", PERSISTENT));
    server.kill();
    server.start();
    assert_eq!(server.client().get("/n9"), Some(b"again".to_vec()));
}

#[test]
fn apaches_data_is_not_taken_for_an_empty_directory() {
    for name in ["log.1", "snapshot.0", "snapshot.10000000a.gz"] {
        let mut server = Server::new(&[]);
        fs::create_dir_all(server.version_dir()).unwrap();
        fs::write(server.version_dir().join(name), b"whatever").unwrap();
        let (code, said) = server.start_refused();
        assert_eq!(code, DATA, "{said}");
        assert!(said.contains("ringkeeper import"), "{said}");
        // What was refused is refused again; nothing of ours was begun.
        assert_eq!(server.start_refused().0, DATA);
        fs::remove_file(server.version_dir().join(name)).unwrap();
        server.start();
        server.client().done(&create("/a", b"1", PERSISTENT));
        server.kill();
        // An export beside the data is nobody's.
        fs::write(server.version_dir().join(name), b"whatever").unwrap();
        server.start();
        assert_eq!(server.client().get("/a"), Some(b"1".to_vec()));
    }
}

#[test]
fn a_log_that_is_gone_is_missed() {
    let mut server = Server::serving(&["snapCount=20"]);
    let mut client = server.client();
    client.done(&create("/a", b"", PERSISTENT));
    for round in 0..40 {
        client.done(&set("/a", &[round]));
    }
    server.wait_for_metric("ringkeeper_snapshots_taken", 1);
    server.kill();
    let log = log_files(&server);
    assert!(!log.is_empty());
    let aside: Vec<PathBuf> = log.iter().map(|path| path.with_extension("aside")).collect();
    let away = server.home.path().join("away");
    fs::create_dir(&away).unwrap();
    for (path, aside) in log.iter().zip(&aside) {
        fs::rename(path, away.join(aside.file_name().unwrap())).unwrap();
    }
    let (code, said) = server.start_refused();
    assert_eq!(code, DATA, "{said}");
    assert!(said.contains("log files are missing"), "{said}");
    for path in files(&server.version_dir(), "ringlog.") {
        fs::remove_file(path).unwrap();
    }
    for (path, aside) in log.iter().zip(&aside) {
        fs::rename(away.join(aside.file_name().unwrap()), path).unwrap();
    }
    server.start();
    assert_eq!(server.client().get("/a"), Some(vec![39]));
}

#[test]
fn log_files_that_are_gone_before_the_first_snapshot_are_missed() {
    let mut server = Server::serving(&["preAllocSize=4096"]);
    let mut client = server.client();
    for index in 0..10 {
        client.done(&create(&format!("/n{index}"), &[index; 900_000], PERSISTENT));
    }
    server.kill();
    let log = log_files(&server);
    assert!(log.len() >= 3, "{log:?}");
    let away = server.home.path().join("away");
    fs::create_dir(&away).unwrap();
    let moved = |path: &PathBuf| away.join(path.file_name().unwrap());
    // All of it, and all but the oldest: what is left is whole, and not what was promised.
    for gone in [&log[..], &log[1..]] {
        for path in gone {
            fs::rename(path, moved(path)).unwrap();
        }
        let (code, said) = server.start_refused();
        assert_eq!(code, DATA, "{said}");
        assert!(said.contains("log files are missing"), "{said}");
        assert!(said.contains("snapshot.trust.empty=true"), "{said}");
        assert_eq!(log_files(&server).len(), log.len() - gone.len());
        for path in gone {
            fs::rename(moved(path), path).unwrap();
        }
    }
    server.start();
    assert_eq!(server.client().get("/n9"), Some(vec![9; 900_000]));
    server.kill();
    for path in log_files(&server) {
        fs::remove_file(path).unwrap();
    }
    // The operator may go on without them, and is asked no second time.
    server.set("snapshot.trust.empty=true");
    server.start();
    assert_eq!(server.client().get("/n9"), None);
    server.kill();
    server.set("snapshot.trust.empty=false");
    server.start();
}

#[test]
fn snapshots_that_are_gone_are_missed() {
    let (mut server, ..) = killed();
    for path in files(&server.version_dir(), "") {
        let is_log = path.file_name().unwrap().to_str().unwrap().starts_with("ringlog");
        match is_log {
            true => {}
            false if path.is_dir() => fs::remove_dir_all(path).unwrap(),
            false => fs::remove_file(path).unwrap(),
        }
    }
    let (code, said) = server.start_refused();
    assert_eq!(code, DATA, "{said}");
    assert!(said.contains("snapshot.trust.empty=true"), "{said}");
    server.set("snapshot.trust.empty=true");
    server.start();
    assert_eq!(server.client().get("/n9"), Some(vec![9; 9000]));
}

/// The newest of several finished snapshots; one may be under way beside them.
fn newest_snapshot(dir: &Path) -> PathBuf {
    let mut snapshots = files(dir, "snapshot.");
    assert!(snapshots.len() >= 2, "{snapshots:?}");
    snapshots.pop().unwrap()
}

#[test]
fn a_damaged_snapshot_is_passed_over_for_the_one_before() {
    let mut server = Server::serving(&["snapCount=20"]);
    let mut client = server.client();
    client.done(&create("/a", b"", PERSISTENT));
    let mut round = 0;
    for taken in 1..=2 {
        while server.metric("ringkeeper_snapshots_taken") < taken {
            round += 1;
            client.done(&set("/a", format!("{round}").as_bytes()));
        }
    }
    client.done(&create("/last", b"", PERSISTENT));
    server.kill();
    let newest = newest_snapshot(&server.version_dir());
    let largest = files(&newest, "").into_iter().max_by_key(|it| it.metadata().unwrap().len());
    let largest = largest.unwrap();
    flip(&largest, largest.metadata().unwrap().len() / 2);

    server.start();
    assert!(server.stderr().contains("is passed over"), "{}", server.stderr());
    let mut client = server.client();
    assert_eq!(client.get("/a"), Some(format!("{round}").into_bytes()));
    assert_eq!(client.get("/last"), Some(vec![]));
}

#[test]
fn a_second_server_is_kept_out() {
    let mut first = Server::serving(&[]);
    let mut client = first.client();
    client.done(&create("/a", b"mine", PERSISTENT));
    let data = format!("dataDir={}", first.home.path().join("data").display());
    let mut second = Server::new(&[&data]);
    let (code, said) = second.start_refused();
    assert_eq!(code, DATA, "{said}");
    assert!(said.contains("in use by another process"), "{said}");
    assert_eq!(client.get("/a"), Some(b"mine".to_vec()));
    // The lock dies with its process, however that ends.
    first.kill();
    second.start();
    assert_eq!(second.client().get("/a"), Some(b"mine".to_vec()));
}

/// A23: what is written to a file without a name is gone with the process. Whatever is
/// acknowledged before the server notices is no more than a moment's, also when that was enough for
/// the log to go on in its next file.
#[test]
fn a23_a_log_that_is_removed_ends_the_server() {
    let mut server = Server::serving(&[]);
    let mut client = server.client();
    client.done(&create("/n", b"", PERSISTENT));
    // The file alone: without the directory the next segment's maker may be the first to notice.
    fs::remove_file(server.version_dir().join("ringlog.0000000001")).unwrap();
    let removed = Instant::now();
    loop {
        client.send(&set("/n", b"x"));
        if client.try_receive().is_none() {
            break;
        }
        assert!(removed.elapsed() < DEADLINE, "it goes on acknowledging");
    }
    assert_eq!(server.wait_for_exit(), 6);
    assert!(server.stderr().contains("the file has been removed"), "{}", server.stderr());
}
