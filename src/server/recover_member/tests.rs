//! A member's files, as crashes, disks and operators leave them, and what is made of them.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::log::recover;
use crate::log::segment;
use crate::snapshot::frame::Pace;
use crate::snapshot::transfer::{Form, Incoming, receive, send};
use crate::time::Time;
use crate::tree::writer::TreeConfig;
use crate::wire::acl::EncodedAcl;
use crate::wire::txn::{self, CreateKind, CreateTxn, Txn, TxnHeader};

const TREE: TreeConfig = TreeConfig { seed: 7, extended_types: true };
const OPTIONS: Options = Options { identity: 1, segment_bytes: 1 << 16, committed: Zxid::ZERO };

/// A server's directory, and the state that its files should have.
struct Server {
    home: tempfile::TempDir,
    writer: Writer,
}

impl Server {
    fn new() -> Server {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("version-2")).unwrap();
        Server { home, writer: Writer::new(TREE, Time::default()) }
    }

    /// One that has begun, with transactions in `epoch` 1, each a batch, and sound epoch files.
    fn with_txns(count: u32) -> Server {
        let mut server = Server::new();
        server.snapshot();
        server.append(1, 1..=count);
        server.save_epochs(1, 1);
        server
    }

    fn dir(&self) -> PathBuf {
        self.home.path().join("version-2")
    }

    fn save_epochs(&self, accepted: u32, current: u32) {
        let files = EpochFiles::new(&self.dir());
        files.save_accepted(accepted).unwrap();
        files.save_current(current).unwrap();
    }

    /// Writes a snapshot of the state.
    fn snapshot(&self) {
        let (tree, zxid, digest) =
            (self.writer.tree(), self.writer.last_zxid(), self.writer.digest());
        write::write_at(&self.dir(), tree, zxid, digest, &[(7, 7000)], Pace::Full).unwrap();
    }

    fn open_log(&self) -> Log {
        recover::open(&self.dir(), OPTIONS).unwrap().into_log(WriterKind::Mmap).unwrap()
    }

    /// Appends creations of `/<epoch>-<counter>`, each as a batch, and a mark.
    fn append(&mut self, epoch: u32, counters: std::ops::RangeInclusive<u32>) {
        let mut log = self.open_log();
        for counter in counters {
            let bytes = create(&mut self.writer, Zxid::new(epoch, counter));
            log.append(Zxid::new(epoch, counter), &bytes);
            drain(&self.dir(), &mut log);
        }
        let mark = log.mark_if_idle().unwrap();
        let result = mark.perform_blocking();
        log.handle_written(mark, result).unwrap();
    }

    fn recover_as(&self, trust_empty: bool, is_autocreate: bool) -> RecoveredMember {
        let dir = self.dir();
        let files = Files {
            places: Places { data: &dir, log: &dir, trust_empty, check_digest: true, tree: TREE },
            homes: [self.home.path(), self.home.path()],
            is_autocreate,
        };
        recover(&files, OPTIONS).unwrap()
    }

    /// Recovers, and checks how far and how sound; a second start finds the same.
    fn check(&self, last: Zxid, standing: Standing) -> RecoveredMember {
        for _ in 0..2 {
            let member = self.recover_as(false, false);
            let zab = member.zab;
            assert_eq!((zab.last, zab.standing), (last, standing), "{:?}", member.recovered.told);
            assert_eq!(member.recovered.writer.last_zxid(), last);
            assert!(zab.committed <= last);
            let marked = StandingFile::new(&self.dir()).load().unwrap();
            assert_eq!(marked, standing, "it is durable");
            let log = self.log_of(member);
            assert_eq!(log.appended(), last, "the log goes on behind the tree");
        }
        self.recover_as(false, false)
    }

    /// The log as the shell opens it, and what it staged made durable.
    fn log_of(&self, member: RecoveredMember) -> Log {
        let RecoveredMember { recovered, zab, is_reset, .. } = member;
        let mut log = into_log(recovered.log, WriterKind::Mmap, &zab, is_reset).unwrap();
        drain(&self.dir(), &mut log);
        log
    }

    /// Where the batches of the first segment start.
    fn batches(&self) -> Vec<u64> {
        let bytes = fs::read(self.dir().join(segment::name(1))).unwrap();
        let header = crate::log::batch::Header::decode;
        let mut offset = 4096;
        let mut batches = Vec::new();
        while let Ok(header) = header(&bytes[offset..]) {
            batches.push(offset as u64);
            offset += header.padded_bytes() as usize;
        }
        batches
    }

    fn flip(&self, file: &Path, offset: u64) {
        let mut bytes = fs::read(file).unwrap();
        bytes[offset as usize] ^= 1;
        fs::write(file, bytes).unwrap();
    }

    fn names(&self, prefix: &str) -> Vec<String> {
        let names = fs::read_dir(self.dir()).unwrap();
        let names = names.map(|it| it.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|it| it.starts_with(prefix)).collect();
        names.sort();
        names
    }
}

/// Applies a creation and gives the bytes that a log has of it.
fn create(writer: &mut Writer, zxid: Zxid) -> Vec<u8> {
    let path = format!("/{}-{}", zxid.epoch(), zxid.counter());
    let header = TxnHeader { session: 7, cxid: 0, zxid, time_ms: 5 };
    let txn = Txn::Create(CreateTxn {
        path: &path,
        data: Some(b"data"),
        acl: EncodedAcl::OPEN,
        // It rises, as a leader's does.
        parent_cversion: (zxid.epoch() * 1000 + zxid.counter()).cast_signed(),
        kind: CreateKind::Plain { ephemeral: false, with_stat: false },
    });
    let digest = writer.apply(&header, &txn).unwrap().totals.digest;
    let mut bytes = Vec::new();
    txn::encode(&header, &txn, Some(digest), &mut bytes);
    bytes
}

fn drain(dir: &Path, log: &mut Log) {
    loop {
        while let Some(request) = log.wanted_segment(Time::default()) {
            log.offer_segment(segment::prepare(dir, request).unwrap());
        }
        let Some(write) = log.poll_write() else { break };
        let result = write.perform_blocking();
        log.handle_written(write, result).unwrap();
    }
}

fn zxid(counter: u32) -> Zxid {
    Zxid::new(1, counter)
}

#[test]
fn a_sound_server_comes_back_with_a_vote_and_can_take_back_what_is_not_committed() {
    let server = Server::with_txns(20);
    let member = server.check(zxid(20), Standing::Sound);
    assert_eq!((member.zab.accepted_epoch, member.zab.current_epoch), (1, 1));
    assert_eq!(member.zab.committed, Zxid::ZERO);
    assert_eq!(member.recovered.writer.digest(), server.writer.digest());
    let mut writer = member.recovered.writer;
    writer.pop_above(zxid(5));
    let mut expected = Writer::new(TREE, Time::default());
    (1..=5).for_each(|counter| drop(create(&mut expected, zxid(counter))));
    assert_eq!((writer.last_zxid(), writer.digest()), (zxid(5), expected.digest()));
    assert_eq!(member.readable_from, Zxid::ZERO);
}

#[test]
fn what_is_committed_is_known_and_cannot_be_taken_back() {
    let mut server = Server::with_txns(20);
    let mut log = server.open_log();
    log.set_committed(zxid(12));
    let bytes = create(&mut server.writer, zxid(21));
    log.append(zxid(21), &bytes);
    drain(&server.dir(), &mut log);
    drop(log);
    let member = server.check(zxid(21), Standing::Sound);
    assert_eq!((member.zab.committed, member.readable_from), (zxid(12), zxid(12)));
    assert!(member.recovered.writer.journal_len() <= 2 * 9, "up to there nothing is kept");
    drop(member);
    // A snapshot alone proves nothing: a leader that was not established may have sent it.
    server.snapshot();
    let member = server.check(zxid(21), Standing::Sound);
    assert_eq!((member.zab.committed, member.readable_from), (zxid(12), zxid(21)));
}

#[test]
fn the_undoable_part_is_bounded() {
    let mut kept = Kept::after(zxid(2), 3, 100);
    let pushed: Vec<_> = (1..=7).map(|counter| kept.push(zxid(counter), 10)).collect();
    let none = None;
    let want = [Some(zxid(1)), Some(zxid(2)), none, none, none, Some(zxid(3)), Some(zxid(4))];
    assert_eq!(pushed, want);
    assert_eq!(kept.push(zxid(8), 90), Some(zxid(6)), "bytes count too");
}

/// R3, R2: standalone refuses; a member keeps the evidence and has no vote.
#[test]
fn r3_damage_in_the_log_is_set_aside_and_the_rest_comes_up_without_a_vote() {
    for batch in [0, 3, 9] {
        let server = Server::with_txns(40);
        let file = server.dir().join(segment::name(1));
        let offset = server.batches()[batch];
        let before: u64 = fs::read(&file).unwrap().len() as u64;
        server.flip(&file, offset + 100);
        let damaged = fs::read(&file).unwrap();
        let last = if batch == 0 { Zxid::ZERO } else { zxid(batch as u32) };
        let member = server.check(last, Standing::Damaged);
        let kept = server.dir().join("damaged.1");
        assert_eq!(fs::read(kept.join(segment::name(1))).unwrap(), damaged);
        assert_eq!(fs::read_dir(&kept).unwrap().count(), 4, "and what comes behind");
        assert_eq!(server.names("damaged."), ["damaged.1"]);
        assert!(fs::metadata(&file).map_or(true, |it| it.len() == before));
        let why = fs::read_to_string(server.dir().join("unsound")).unwrap();
        assert!(why.contains("ringlog.0000000001 is damaged at offset"), "{why}");
        assert!(why.contains(&format!("good through zxid {last}")), "{why}");
        // A leader sends the rest, and says that it is whole.
        let mut log = server.log_of(member);
        log.append(zxid(batch as u32 + 1), b"goes on");
        drain(&server.dir(), &mut log);
        drop(log);
        let recovered = recover::open(&server.dir(), OPTIONS).unwrap();
        assert_eq!(recovered.last(), zxid(batch as u32 + 1));
    }
}

#[test]
fn r3_a_missing_segment_and_an_unreadable_header_are_damage() {
    for missing in [true, false] {
        let server = Server::with_txns(40);
        let second = server.dir().join(segment::name(2));
        match missing {
            true => fs::remove_file(&second).unwrap(),
            false => server.flip(&second, 20),
        }
        server.check(zxid(15), Standing::Damaged);
        let kept = fs::read_dir(server.dir().join("damaged.1")).unwrap().count();
        assert_eq!(kept, if missing { 2 } else { 3 });
    }
}

#[test]
fn r3_a_log_whose_newest_files_are_gone_is_damage() {
    let server = Server::with_txns(40);
    server.check(zxid(40), Standing::Sound);
    let log = recover::newest_segment(&server.dir()).unwrap().unwrap();
    // What stands before them is whole; only that there was more tells.
    for sequence in (3..=log).rev() {
        fs::remove_file(server.dir().join(segment::name(sequence))).unwrap();
    }
    let member = server.recover_as(false, false);
    assert_eq!(member.zab.standing, Standing::Damaged);
    assert!(member.zab.last < zxid(40));
    let last = member.zab.last;
    drop(member);
    server.check(last, Standing::Damaged);
}

#[test]
fn the_unvoting_stay_so_until_a_leader_has_made_them_whole() {
    let server = Server::with_txns(10);
    let file = server.dir().join(segment::name(1));
    server.flip(&file, server.batches()[5] + 100);
    let member = server.check(zxid(5), Standing::Damaged);
    StandingFile::new(&server.dir()).save_sound().unwrap();
    drop(member);
    server.check(zxid(5), Standing::Sound);
}

#[test]
fn a_log_of_a_newer_release_is_refused_and_left() {
    let server = Server::with_txns(3);
    let file = server.dir().join(segment::name(1));
    let offset = server.batches()[1] as usize;
    let mut bytes = fs::read(&file).unwrap();
    bytes[offset + 80] = 9;
    let checksum = crc32c::crc32c(&bytes[offset..offset + 84]).to_le_bytes();
    bytes[offset + 84..offset + 88].copy_from_slice(&checksum);
    fs::write(&file, &bytes).unwrap();
    let dir = server.dir();
    let places =
        Places { data: &dir, log: &dir, trust_empty: false, check_digest: true, tree: TREE };
    let homes = [server.home.path(); 2];
    let error = recover(&Files { places, homes, is_autocreate: false }, OPTIONS).err().unwrap();
    assert!(matches!(error, RecoverError::Log(LogError::Newer { .. })), "{error}");
    assert_eq!(fs::read(&file).unwrap(), bytes);
    assert_eq!(StandingFile::new(&dir).load().unwrap(), Standing::Sound);
}

#[test]
fn a_log_that_contradicts_its_digests_is_set_aside() {
    let mut server = Server::with_txns(5);
    server.snapshot();
    let mut log = server.open_log();
    let mut bytes = create(&mut server.writer, zxid(6));
    *bytes.last_mut().unwrap() ^= 1;
    log.append(zxid(6), &bytes);
    drain(&server.dir(), &mut log);
    drop(log);
    server.check(zxid(5), Standing::Damaged);
    assert_eq!(server.names("damaged."), ["damaged.1"]);
}

/// A15: no snapshot at all, or none that is sound, while there is a log.
#[test]
fn a15_without_a_sound_snapshot_a_member_is_empty_and_has_no_vote() {
    for all_invalid in [true, false] {
        let server = Server::with_txns(10);
        let path = server.dir().join(directory::name(Zxid::ZERO));
        match all_invalid {
            true => server.flip(&path.join("manifest"), 40),
            false => fs::remove_dir_all(&path).unwrap(),
        }
        let member = server.check(Zxid::ZERO, Standing::Damaged);
        assert_eq!(member.recovered.writer.totals().node_count, 5);
        assert_eq!(fs::read_dir(server.dir().join("damaged.1")).unwrap().count(), 2);
        drop(member);
        // The operator puts it back: what it had acknowledged since is still not there.
        if all_invalid {
            server.flip(&path.join("manifest"), 40);
            server.check(Zxid::ZERO, Standing::Damaged);
        }
    }
}

#[test]
fn a15_an_operator_who_trusts_the_log_alone_gets_it() {
    let server = Server::with_txns(10);
    fs::remove_dir_all(server.dir().join(directory::name(Zxid::ZERO))).unwrap();
    let member = server.recover_as(true, false);
    assert_eq!((member.zab.last, member.zab.standing), (zxid(10), Standing::Sound));
    assert_eq!(member.recovered.writer.digest(), server.writer.digest());
}

/// A14: what is needed for an older snapshot is there, so the newest may be bad.
#[test]
fn a14_an_older_snapshot_with_its_log_is_as_good() {
    let mut server = Server::with_txns(10);
    server.snapshot();
    server.append(1, 11..=12);
    let newest = server.dir().join(directory::name(zxid(10)));
    server.flip(&newest.join("manifest"), 40);
    let member = server.check(zxid(12), Standing::Sound);
    assert_eq!(member.recovered.writer.digest(), server.writer.digest());
}

#[test]
fn a14_an_older_snapshot_without_its_log_is_not() {
    let mut server = Server::with_txns(10);
    let mut log = server.open_log();
    let bytes = create(&mut server.writer, Zxid::new(2, 1));
    log.reset_after(Zxid::new(2, 0));
    drain(&server.dir(), &mut log);
    log.append(Zxid::new(2, 1), &bytes);
    drain(&server.dir(), &mut log);
    drop(log);
    // The snapshot that the log goes on from is gone.
    server.check(Zxid::ZERO, Standing::Damaged);
}

/// The log was lost behind a snapshot of ours: what it held is not known.
#[test]
fn a27_a_log_that_ends_before_a_snapshot_of_ours_is_lost() {
    let server = Server::with_txns(10);
    server.snapshot();
    for name in server.names("ringlog.") {
        fs::remove_file(server.dir().join(name)).unwrap();
    }
    server.check(zxid(10), Standing::Damaged);
}

#[test]
fn a27_a_server_that_has_joined_an_epoch_has_a_log() {
    let server = Server::new();
    server.snapshot();
    server.save_epochs(1, 0);
    server.check(Zxid::ZERO, Standing::Sound);
    server.save_epochs(1, 1);
    // The check above has prepared a segment.
    server.check(Zxid::ZERO, Standing::Sound);
    for name in server.names("ringlog.") {
        fs::remove_file(server.dir().join(name)).unwrap();
    }
    let member = server.recover_as(false, false);
    assert_eq!(member.zab.standing, Standing::Damaged);
}

/// A copy of an older state beside the epoch files of today.
#[test]
fn a27_an_older_copy_of_the_epoch_files_is_known() {
    let mut server = Server::with_txns(3);
    server.append(4, 1..=2);
    let member = server.check(Zxid::new(4, 2), Standing::Damaged);
    assert_eq!((member.zab.accepted_epoch, member.zab.current_epoch), (4, 1));
}

#[test]
fn a25_damaged_epoch_files_take_the_vote_away() {
    for name in ["acceptedEpoch", "currentEpoch"] {
        let server = Server::with_txns(3);
        fs::write(server.dir().join(name), b"").unwrap();
        let member = server.check(zxid(3), Standing::Damaged);
        assert_eq!((member.zab.accepted_epoch, member.zab.current_epoch), (1, 1));
        // The leader's epoch is written over it; only the leader's word gives the vote back.
        EpochFiles::new(&server.dir()).save_accepted(2).unwrap();
        EpochFiles::new(&server.dir()).save_current(2).unwrap();
        drop(member);
        let member = server.check(zxid(3), Standing::Damaged);
        StandingFile::new(&server.dir()).save_sound().unwrap();
        drop(member);
        server.check(zxid(3), Standing::Sound);
    }
}

#[test]
fn a24_a_log_ahead_of_the_epoch_is_completed() {
    let mut server = Server::with_txns(3);
    server.save_epochs(2, 1);
    server.append(2, 1..=2);
    let member = server.check(Zxid::new(2, 2), Standing::Sound);
    assert_eq!((member.zab.accepted_epoch, member.zab.current_epoch), (2, 2));
}

/// Receives `from`'s state as a leader's snapshot.
fn install(server: &Server, from: &Writer, zxid: Zxid, form: Form) {
    let mut stream = Vec::new();
    send(from.tree(), from.last_zxid(), Some(from.digest()), &[(7, 7000)], form, &mut stream)
        .unwrap();
    let dir = server.dir();
    let load = LoadOptions { tree: TREE, now: Time::default(), threads: 1 };
    receive(&stream[..], &Incoming { dir: &dir, zxid, form, load }).unwrap();
}

/// A13: a crash after the leader's snapshot is there and before the log goes on behind it.
#[test]
fn a13_a_leaders_snapshot_is_completed_whatever_the_log_holds() {
    // The log ends before it, or in another history beyond it.
    for foreign in [false, true] {
        let mut leader = Writer::new(TREE, Time::default());
        (1..=4).for_each(|counter| drop(create(&mut leader, zxid(counter))));
        let at = Zxid::new(2, 5);
        create(&mut leader, at);
        let mut server = Server::with_txns(10);
        if foreign {
            server.append(3, 1..=3);
        }
        server.save_epochs(4, 3);
        install(&server, &leader, at, Form::Checked);
        let member = server.check(at, Standing::Sound);
        assert_eq!(member.recovered.writer.digest(), leader.digest());
        // A leader that was not established may have sent it.
        assert_eq!((member.zab.committed, member.readable_from), (Zxid::ZERO, at));
        // It is settled: what comes behind is replayed.
        let mut log = server.log_of(member);
        let next = Zxid::new(4, 1);
        let bytes = create(&mut leader, next);
        log.append(next, &bytes);
        drain(&server.dir(), &mut log);
        drop(log);
        server.save_epochs(4, 4);
        let member = server.check(next, Standing::Sound);
        assert_eq!(member.recovered.writer.digest(), leader.digest());
        drop(member);
        let path = server.dir().join(directory::name(at));
        assert!(!directory::is_pending(&path));
        // From here on, a log that is gone is a loss.
        for name in server.names("ringlog.") {
            fs::remove_file(server.dir().join(name)).unwrap();
        }
        server.check(at, Standing::Damaged);
    }
}

/// Apache's leader sends parts of what comes after its SNAP's zxid; digests prove when that is
/// over.
#[test]
fn a_fuzzy_snapshot_counts_when_the_log_has_made_it_exact() {
    let mut leader = Writer::new(TREE, Time::default());
    let txns: Vec<_> = (1..=6).map(|counter| create(&mut leader, zxid(counter))).collect();
    let server = Server::new();
    server.save_epochs(1, 1);
    // It says 3 and holds what is up to 5.
    let mut ahead = Writer::new(TREE, Time::default());
    (1..=5).for_each(|counter| drop(create(&mut ahead, zxid(counter))));
    install(&server, &ahead, zxid(3), Form::Java);
    let append = |counters: std::ops::RangeInclusive<u32>| {
        let mut log = server.log_of(server.recover_as(false, false));
        for counter in counters {
            log.append(zxid(counter), &txns[counter as usize - 1]);
            drain(&server.dir(), &mut log);
        }
    };
    // What it holds too much is not in the log: nobody may take this for the state at 4.
    append(4..=4);
    server.check(zxid(4), Standing::Damaged);
    append(5..=6);
    StandingFile::new(&server.dir()).save_sound().unwrap();
    let member = server.check(zxid(6), Standing::Sound);
    assert_eq!(member.recovered.writer.digest(), leader.digest());
    // From there on digests count again.
    let mut log = server.log_of(member);
    let mut bytes = create(&mut leader, zxid(7));
    *bytes.last_mut().unwrap() ^= 1;
    log.append(zxid(7), &bytes);
    drain(&server.dir(), &mut log);
    drop(log);
    let member = server.recover_as(false, false);
    assert_eq!((member.zab.last, member.zab.standing), (zxid(3), Standing::Damaged));
}

#[test]
fn a_fuzzy_snapshot_that_nothing_followed_counts_when_it_was_settled() {
    let mut leader = Writer::new(TREE, Time::default());
    (1..=3).for_each(|counter| drop(create(&mut leader, zxid(counter))));
    let server = Server::new();
    server.save_epochs(1, 1);
    install(&server, &leader, zxid(3), Form::Java);
    let member = server.recover_as(false, false);
    assert_eq!(member.zab.standing, Standing::Damaged);
    drop(server.log_of(member));
    // NEWLEADER came with nothing in between.
    directory::settle_exact(&server.dir(), zxid(3)).unwrap();
    StandingFile::new(&server.dir()).save_sound().unwrap();
    server.check(zxid(3), Standing::Sound);
}

#[test]
fn an_empty_server_has_no_vote_unless_somebody_vouches_for_it() {
    let server = Server::new();
    let member = server.check(Zxid::ZERO, Standing::Empty);
    assert_eq!((member.zab.accepted_epoch, member.zab.current_epoch), (0, 0));
    assert_eq!(member.recovered.writer.totals().node_count, 5);
    // A quorum of the empty has agreed on an epoch without a transaction: it has begun.
    StandingFile::new(&server.dir()).save_sound().unwrap();
    EpochFiles::new(&server.dir()).save_accepted(1).unwrap();
    EpochFiles::new(&server.dir()).save_current(1).unwrap();
    drop(member);
    server.check(Zxid::ZERO, Standing::Sound);

    let server = Server::new();
    assert_eq!(server.recover_as(false, true).zab.standing, Standing::Sound);
    assert_eq!(server.recover_as(false, false).zab.standing, Standing::Sound, "it has begun");

    let server = Server::new();
    let initialize = server.home.path().join("initialize");
    fs::write(&initialize, b"").unwrap();
    assert_eq!(server.recover_as(false, false).zab.standing, Standing::Sound);
    assert!(!initialize.exists());
    server.check(Zxid::ZERO, Standing::Sound);
    // It vouches for one start only.
    fs::remove_dir_all(server.dir()).unwrap();
    server.check(Zxid::ZERO, Standing::Empty);
    // What was found empty stays so, whoever vouches later.
    assert_eq!(server.recover_as(false, true).zab.standing, Standing::Empty);
}

#[test]
fn apaches_files_are_not_taken_for_an_empty_server() {
    for name in ["log.100000001", "snapshot.0", "snapshot.10000000a.gz"] {
        let server = Server::new();
        fs::write(server.dir().join(name), b"whatever").unwrap();
        fs::write(server.dir().join("acceptedEpoch"), b"5").unwrap();
        fs::write(server.dir().join("currentEpoch"), b"5").unwrap();
        let member = server.recover_as(false, true);
        assert_eq!(member.zab.standing, Standing::Damaged, "{name}");
        assert!(member.recovered.told.iter().any(|it| it.contains("Apache")), "{name}");
        assert_eq!((member.zab.accepted_epoch, member.zab.current_epoch), (5, 5));
        drop(member);
        server.check(Zxid::ZERO, Standing::Damaged);
        assert_eq!(fs::read(server.dir().join(name)).unwrap(), b"whatever");
    }
}
