//! No target: writes to `fuzz/corpus/` what the targets begin with, made of real values: the log of
//! an Apache server (`tests/golden/apache-3.9.5.log`), the tree that it makes, and requests of
//! every kind.

mod scratch;

use std::path::{Path, PathBuf};

// The coverage counters of a sanitized build are theirs.
use libfuzzer_sys as _;
use ringkeeper::snapshot::frame::{FileReader, Kind, Pace, Place};
use ringkeeper::snapshot::java::{self, Compression};
use ringkeeper::snapshot::java_log::LogReader;
use ringkeeper::snapshot::{directory, write};
use ringkeeper::time::Time;
use ringkeeper::tree::writer::{TreeConfig, Writer};
use ringkeeper::wire::acl::{EncodedAcl, Id};
use ringkeeper::wire::election::{Doing, Greeting, Notification, VERSION, Vote};
use ringkeeper::wire::jute::Write as _;
use ringkeeper::wire::opcode::OpCode;
use ringkeeper::wire::quorum::{Extensions, Forwarded, FromLeader, FromLearner, ServerId};
use ringkeeper::wire::request::Request;
use ringkeeper::wire::txn;
use ringkeeper::zxid::Zxid;

const GOLDEN: &[u8] = include_bytes!("../../tests/golden/apache-3.9.5.log");
const SESSIONS: [(i64, i32); 2] = [(0x0100_0000_0000_0001, 30_000), (9, 4000)];
const ZOO_CFG: [&str; 4] = [
    "tickTime=2000\ndataDir=/var/lib/zookeeper\nclientPort=2181\ninitLimit=5\nsyncLimit=2\n\
     server.1=zoo1:2888:3888\nserver.2=[::1]:2888:3888:observer;127.0.0.1:2181\n\
     server.3=zoo3:2888:3888|zoo3b:2889:3889:participant;2181\nmultiAddress.enabled=true\n",
    "clientPort = 2181\r\n# a comment\n! another\nauto\\\n  purge.purgeInterval : 24\n\
     autopurge.snapRetainCount 5\nk\\u0065y\\ with=\\t\\n\\\\v\u{e9}\nmaxClientCnxns=0\n",
    "server.1=a:1:2\nserver.2=b:1:2\nserver.3=c:1:2\nserver.4=d:1:2\ngroup.1=1:2\ngroup.2=3:4\n\
     weight.1=1\nweight.2=0\ninitLimit=10\nsyncLimit=5\nclientPort=0\nstandaloneEnabled=false\n",
    "clientPort=2181\nsnapCount=10000\npreAllocSize=65536\nfsync.warningthresholdms=20\n\
     jute.maxbuffer=0x100000\nextendedTypesEnabled=true\n4lw.commands.whitelist=stat, ruok\n\
     minSessionTimeout=4000\nmaxSessionTimeout=40000\nglobalOutstandingLimit=1000\n\
     ringkeeper.log.writer=mmap\nringkeeper.cores=auto\nsnapshotSizeFactor=-1\n\
     enforce.auth.enabled=true\nenforce.auth.schemes=digest,ip\nskipACL=yes\n\
     metricsProvider.className=\
     org.apache.zookeeper.metrics.prometheus.PrometheusMetricsProvider\n",
];

fn main() {
    let payloads = golden_payloads();
    assert!(payloads.len() > 50);
    put_all("txn", payloads.iter().cloned());
    put_all("client_request", requests());
    put_all("zoo_cfg", zoo_cfgs());
    put_all("quorum_from_learner", [from_learner()]);
    put_all("quorum_from_leader", [[vec![0], from_leader(&payloads)].concat(), vec![1; 40]]);
    put_all("election_frame", [[vec![0], election()].concat(), [&[1], &election()[39..]].concat()]);
    put_all("log_batch", programs());
    let whole: Vec<u8> = payloads.iter().flat_map(|it| slice(it)).collect();
    put_all("java_log", [[&[0], GOLDEN].concat(), [&[1], &whole[..]].concat()]);
    let writer = golden_tree(&payloads);
    put_all("java_snapshot", java_snapshots(&writer));
    let archives = archives(&writer);
    put_all("snapshot_archive", archives.iter().map(|(_, archive)| archive.clone()));
    put_all("snapshot", snapshots(&archives));
}

const EXTENSIONS: Extensions = Extensions::ALL;

/// A packet of each kind that a learner sends.
fn from_learner() -> Vec<u8> {
    let mut out = Vec::new();
    for message in [
        FromLearner::Info {
            is_observer: true,
            server: ServerId(3),
            accepted_epoch: 2,
            protocol: 0x10000,
            config_version: 0x1_0000_0001,
            extensions: EXTENSIONS,
        },
        FromLearner::AckEpoch { last: Zxid::new(1, 7), current_epoch: Some(1) },
        FromLearner::AckEpoch { last: Zxid::ZERO, current_epoch: None },
        FromLearner::Ack { zxid: Zxid::new(2, 0) },
        FromLearner::Ping { zxid: Zxid::new(2, 1), touched: SESSIONS.to_vec() },
        FromLearner::Request(Forwarded {
            session: SESSIONS[0].0,
            cxid: 1,
            op: 9,
            body: b"\0\0\0\x02/a".to_vec(),
            ids: vec![Id { scheme: "ip".to_owned(), id: "127.0.0.1".to_owned() }],
        }),
        FromLearner::Revalidate { session: 5, timeout_ms: 4000 },
    ] {
        message.encode(&mut out);
    }
    out
}

/// A packet of each kind that a leader sends.
fn from_leader(payloads: &[Vec<u8>]) -> Vec<u8> {
    let (zxid, designated_leader) = (Zxid::new(2, 1), ServerId(1));
    let txn: std::sync::Arc<[u8]> = payloads[1].as_slice().into();
    let mut out = Vec::new();
    for message in [
        FromLeader::LeaderInfo { epoch: 2, protocol: 0x10000, extensions: EXTENSIONS },
        FromLeader::Diff { through: zxid },
        FromLeader::Trunc { after: zxid },
        FromLeader::Snap { zxid },
        FromLeader::NewLeader { zxid, config: b"server.1=a:1:2\nversion=0".as_slice().into() },
        FromLeader::UpToDate { zxid: Zxid::from_raw(-1) },
        FromLeader::Proposal { zxid, txn: txn.clone() },
        FromLeader::Commit { zxid },
        FromLeader::CommitAndActivate { zxid, designated_leader },
        FromLeader::Inform { zxid, txn: txn.clone() },
        FromLeader::InformAndActivate { zxid, designated_leader, txn },
        FromLeader::Ping { zxid },
        FromLeader::Sync,
        FromLeader::Revalidated { session: 5, is_valid: true },
        FromLeader::Chunk { offset: 9, bytes: b"of a snapshot".as_slice().into() },
    ] {
        message.encode(&mut out);
    }
    out
}

/// A greeting of 35 bytes and two votes.
fn election() -> Vec<u8> {
    let addresses = vec![("127.0.0.1".to_owned(), 24302)];
    let mut out = Vec::new();
    Greeting { server: Some(ServerId(2)), addresses }.encode(&mut out);
    let vote = Vote { leader: ServerId(2), zxid: Zxid::new(1, 7), peer_epoch: 1 };
    for (vote, proposed) in [(Some(vote), &b"server.2=b:1:2\nversion=100000007"[..]), (None, b"")] {
        let config = b"server.1=a:1:2\nversion=0".to_vec();
        let (doing, proposed) = (Doing::Looking, proposed.to_vec());
        Notification { doing, vote, round: 1, version: VERSION, config, proposed }.encode(&mut out);
    }
    out
}

/// Writes the seeds of a target, a file each.
fn put_all(target: &str, seeds: impl IntoIterator<Item = Vec<u8>>) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    std::fs::create_dir_all(&dir).expect("the directory can be made");
    let mut count = 0;
    for seed in seeds {
        std::fs::write(dir.join(format!("seed{count:03}")), seed).expect("it can be written");
        count += 1;
    }
    println!("{target}: {count} seeds");
}

/// The bytes behind their length, as a target takes them.
fn slice(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("seeds are short");
    [&length.to_be_bytes(), bytes].concat()
}

fn golden_payloads() -> Vec<Vec<u8>> {
    let log = LogReader::new(GOLDEN, PathBuf::from("golden")).expect("it is a log");
    let mut log = log.expect("it has a header");
    let mut payloads = Vec::new();
    while let Some(payload) = log.next_payload().expect("it is sound") {
        payloads.push(payload.to_vec());
    }
    payloads
}

fn golden_tree(payloads: &[Vec<u8>]) -> Writer {
    let mut writer = Writer::new(TreeConfig { seed: 7, extended_types: true }, Time::default());
    for payload in payloads {
        let logged = txn::decode(payload).expect("a transaction");
        writer.apply(&logged.header, &logged.txn).expect("it fits");
    }
    writer
}

fn requests() -> Vec<Vec<u8>> {
    let strings: [&dyn Fn(&mut Vec<u8>); 6] = [
        &|out| {
            out.put_string("/a/b");
            out.put_i32(1);
        },
        &|out| {
            out.put_string("/a");
            out.put_buffer(Some(b"data"));
            out.put_i32(-1);
        },
        &|out| {
            out.put_string("/a");
            out.extend_from_slice(EncodedAcl::OPEN.as_bytes());
            out.put_i32(2);
        },
        &|out| {
            out.put_string("/a");
            out.put_buffer(None);
            out.extend_from_slice(EncodedAcl::OPEN.as_bytes());
            out.put_i32(5);
            out.put_i64(60_000);
        },
        &|out| {
            out.put_i64(7);
            for list in 1..=5 {
                out.put_length(list);
                (0..list).for_each(|_| out.put_string("/watched"));
            }
        },
        &|out| {
            for op in [OpCode::Create2, OpCode::Delete, OpCode::SetData, OpCode::Check] {
                out.put_i32(op.raw());
                out.put_bool(false);
                out.put_i32(-1);
                out.put_string("/m");
                match op {
                    OpCode::Create2 => {
                        out.put_buffer(Some(b"x"));
                        out.extend_from_slice(EncodedAcl::OPEN.as_bytes());
                        out.put_i32(2);
                    }
                    OpCode::SetData => {
                        out.put_buffer(Some(b"y"));
                        out.put_i32(0);
                    }
                    _ => out.put_i32(-1),
                }
            }
            out.put_i32(-1);
            out.put_bool(true);
            out.put_i32(-1);
        },
    ];
    let mut requests = Vec::new();
    for op in OpCode::ALL {
        for body in strings {
            let mut request = Vec::new();
            request.put_i32(1);
            request.put_i32(op.raw());
            body(&mut request);
            if Request::decode(op, &request[8..]).is_ok() {
                requests.push(request);
            }
        }
    }
    requests
}

fn zoo_cfgs() -> Vec<Vec<u8>> {
    let flags = b"-Dzookeeper.snapCount=100 \"-Djute.maxbuffer=4096\" -Xmx1g";
    let with = |flags: &[u8]| {
        let flags = slice(flags);
        ZOO_CFG.map(|text| [&flags[..], text.as_bytes()].concat())
    };
    [with(flags), with(b"")].concat()
}

/// Programs for the log's encoder and its spoiler. They have no other form than their bytes.
fn programs() -> Vec<Vec<u8>> {
    let program = |seed: u32| {
        let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
        let mut byte = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state >> 9) as u8
        };
        let length = 40 + seed as usize % 100;
        std::iter::once(1).chain(std::iter::repeat_with(&mut byte).take(length)).collect()
    };
    (0..64).map(program).collect()
}

fn java_snapshots(writer: &Writer) -> Vec<Vec<u8>> {
    let dir = scratch::dir("java");
    let mut snapshots = Vec::new();
    for (mode, method) in [(0, Compression::None), (1, Compression::Snappy), (2, Compression::Gzip)]
    {
        let (zxid, digest) = (writer.last_zxid(), writer.digest());
        let path = java::write(&dir, writer.tree(), zxid, digest, &SESSIONS, method);
        let bytes = std::fs::read(path.expect("it can be written")).expect("it is there");
        snapshots.push([&[mode], &bytes[..]].concat());
    }
    snapshots
}

/// The archives of our snapshot of the tree, each with its kind.
fn archives(writer: &Writer) -> Vec<(Kind, Vec<u8>)> {
    let (zxid, digest) = (writer.last_zxid(), writer.digest());
    let dir = scratch::dir("ours");
    let path = dir.join(directory::name(zxid));
    let written = write::write_at(&dir, writer.tree(), zxid, digest, &SESSIONS, Pace::Full);
    written.expect("it can be written");
    let mut archives = Vec::new();
    for kind in [Kind::Acls, Kind::Sessions, Kind::Znodes, Kind::Manifest] {
        let place = Place { zxid, kind, index: 0 };
        let mut file = FileReader::open(&path, place).expect("it is there");
        while let Some(frame) = file.next_frame().expect("it is sound") {
            archives.push((kind, frame.archive.to_vec()));
        }
    }
    archives
}

fn snapshots(archives: &[(Kind, Vec<u8>)]) -> Vec<Vec<u8>> {
    let mut whole = vec![1];
    let mut frames = vec![0];
    for (kind, archive) in archives.iter().filter(|(kind, _)| *kind != Kind::Manifest) {
        whole.extend(slice(archive));
        if *kind == Kind::Znodes {
            // The header of a file is 32 bytes; the target makes the checksum.
            frames.extend((archive.len() as u32).to_le_bytes());
            frames.extend(0_u32.to_le_bytes());
            frames.extend(32_u64.to_le_bytes());
            frames.extend_from_slice(archive);
            frames.resize(1 + (frames.len() - 1).next_multiple_of(16), 0);
        }
    }
    vec![whole, frames]
}
