//! What runs out: room under the log and under the snapshots, and descriptors.
//!
//! Full volumes need small file systems, and so the right to mount. Where that is missing their
//! stories are skipped, loudly.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::client::{Client, EPHEMERAL, PERSISTENT, create, is_closed, set};
use crate::process::{Server, directory, poll};

const SYSTEM_ERROR: i32 = -1;

/// A small file system.
struct Volume {
    dir: TempDir,
}

impl Volume {
    /// `None` where nothing may be mounted.
    fn ext4(mib: u64) -> Option<Volume> {
        let dir = directory();
        let image = dir.path().join("image");
        fs::File::create(&image).unwrap().set_len(mib << 20).unwrap();
        let volume = Volume { dir };
        fs::create_dir(volume.path()).unwrap();
        let made = Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image).status();
        let is_made = made.is_ok_and(|status| status.success());
        let mut mount = Command::new("mount");
        mount.args(["-o", "loop"]).arg(&image).arg(volume.path());
        let mounted = is_made && mount.status().is_ok_and(|status| status.success());
        if !mounted {
            // Past the harness, which keeps what a test that passes prints.
            let mut stderr = std::io::stderr();
            writeln!(stderr, "SKIPPED: nothing can be mounted here, so no volume can be full")
                .unwrap();
            return None;
        }
        Some(volume)
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("volume")
    }

    /// Uses up all of its space.
    fn fill(&self) {
        let mut file = fs::File::create(self.path().join("filler")).unwrap();
        for size in [1 << 20, 4096, 1] {
            let bytes = vec![1; size];
            loop {
                match file.write_all(&bytes) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
        file.sync_all().unwrap();
    }

    fn make_room(&self) {
        fs::remove_file(self.path().join("filler")).unwrap();
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.path()).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} stays mounted", self.path().display());
        }
    }
}

/// Writes until the server refuses: the last number that it took.
fn write_until_refused(client: &mut Client, from: u32) -> u32 {
    let mut data = vec![0; 200_000];
    for number in from + 1..from + 1000 {
        data[..4].copy_from_slice(&number.to_be_bytes());
        let reply = client.call(&set("/n", &data));
        if reply.error != 0 {
            assert_eq!(reply.error, SYSTEM_ERROR);
            return number - 1;
        }
    }
    panic!("a full volume takes everything");
}

fn number(client: &mut Client) -> u32 {
    let data = client.get("/n").expect("it was created");
    u32::from_be_bytes(data[..4].try_into().unwrap())
}

#[test]
fn a_full_log_volume_refuses_writes_and_loses_nothing() {
    let Some(volume) = Volume::ext4(48) else { return };
    let log_dir = format!("dataLogDir={}", volume.path().display());
    let mut server = Server::serving(&[&log_dir, "ringkeeper.log.segmentSizeInKb=4096"]);
    let mut client = server.client();
    client.done(&create("/n", &[0; 4], PERSISTENT));
    let mut taken = 0;
    for _ in 0..2 {
        volume.fill();
        taken = write_until_refused(&mut client, taken);
        assert!(server.stderr().contains("no space left"), "{}", server.stderr());
        assert!(server.metric("ringkeeper_refused_no_room") >= 1);
        // Everything but writes goes on, sessions' beginnings and ends too.
        assert_eq!(number(&mut client), taken);
        client.ping();
        let mut newcomer = server.client();
        assert_eq!(number(&mut newcomer), taken);
        let refused = newcomer.call(&create("/e", b"", EPHEMERAL));
        assert_eq!(refused.error, SYSTEM_ERROR);
        newcomer.close();

        volume.make_room();
        poll("writes are taken again", || {
            (client.call(&create("/room", b"", EPHEMERAL)).error != SYSTEM_ERROR).then_some(())
        });
        let mut data = vec![1; 200_000];
        taken += 1;
        data[..4].copy_from_slice(&taken.to_be_bytes());
        client.done(&set("/n", &data));
    }
    // Full again, and killed: what was acknowledged is there, and the server serves.
    volume.fill();
    taken = write_until_refused(&mut client, taken);
    server.kill();
    server.start();
    let mut client = server.client();
    assert_eq!(number(&mut client), taken);
    volume.make_room();
    poll("writes are taken again", || (client.call(&set("/n", &[9; 4])).error == 0).then_some(()));
}

#[test]
fn a_full_snapshot_volume_stops_no_write() {
    let Some(volume) = Volume::ext4(16) else { return };
    let log = directory();
    let data_dir = format!("dataDir={}", volume.path().display());
    let log_dir = format!("dataLogDir={}", log.path().display());
    let mut server = Server::serving(&[&data_dir, &log_dir, "snapCount=20"]);
    let mut client = server.client();
    client.done(&create("/n", &[0; 4], PERSISTENT));
    volume.fill();
    let mut taken = 0_u32;
    while server.metric("snapshot_error_count") < 2 {
        taken += 1;
        client.done(&set("/n", &taken.to_be_bytes()));
    }
    server.kill();
    server.start();
    let mut client = server.client();
    assert_eq!(number(&mut client), taken);
    volume.make_room();
    while server.metric("ringkeeper_snapshots_taken") == 0 {
        taken += 1;
        client.done(&set("/n", &taken.to_be_bytes()));
    }
    server.kill();
    server.start();
    assert_eq!(number(&mut server.client()), taken);
}

#[test]
fn a_server_with_a_full_log_volume_ends_when_it_is_told_to() {
    let Some(volume) = Volume::ext4(48) else { return };
    let log_dir = format!("dataLogDir={}", volume.path().display());
    let mut server = Server::serving(&[&log_dir, "ringkeeper.log.segmentSizeInKb=4096"]);
    let mut client = server.client();
    client.done(&create("/n", &[0; 4], PERSISTENT));
    volume.fill();
    let taken = write_until_refused(&mut client, 0);
    server.signal(Signal::TERM);
    assert_eq!(server.wait_for_exit(), 0, "{}", server.stderr());
    server.start();
    assert_eq!(number(&mut server.client()), taken);
}

#[test]
fn without_descriptors_the_log_refuses_writes_until_there_are_some() {
    let mut server = Server::serving(&["ringkeeper.log.segmentSizeInKb=4096"]);
    let mut client = server.client();
    client.done(&create("/n", &[0; 4], PERSISTENT));
    server.limit_open_files(3);
    let taken = write_until_refused(&mut client, 0);
    assert!(server.stderr().contains("no descriptor is left"), "{}", server.stderr());
    assert_eq!(number(&mut client), taken);
    client.ping();
    server.limit_open_files(1000);
    poll("writes are taken again", || (client.call(&set("/n", &[9; 4])).error == 0).then_some(()));
    server.kill();
    server.start();
    assert_eq!(number(&mut server.client()), u32::from_be_bytes([9; 4]));
}

#[test]
fn clients_leave_descriptors_for_the_log() {
    let mut server = Server::new(&["maxClientCnxns=0", "ringkeeper.log.segmentSizeInKb=4096"]);
    server.open_files = Some(100);
    server.start();
    let mut clients: Vec<Client> = (0..50).map(|_| server.client()).collect();
    assert!((0..60).all(|_| is_closed(&mut server.dial())), "there is room for one more");
    assert!(server.stderr().contains("at most 50 clients may be connected"), "{}", server.stderr());
    let client = &mut clients[0];
    client.done(&create("/n", &[0; 4], PERSISTENT));
    // Through several segments.
    for _ in 0..100 {
        client.done(&set("/n", &[1; 200_000]));
    }
}
