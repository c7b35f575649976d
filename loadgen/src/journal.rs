//! `loadgen journal` writes down every acknowledged operation, `loadgen verify` holds it against
//! servers after a crash, a failover or a migration.
//!
//! ```text
//! worker ─ ask ─▶ file (on disk) ─▶ server ─ answer ─▶ file      record.rs draws the lines
//! file ─▶ model: the states that each node may be in ─▶ judge ◀─ tree of one server
//! ```
//!
//! No operation is sent before its line is on disk, and none is counted before its answer is. A
//! `kill -9` or a power cut of the journal's own machine therefore makes an acknowledged operation
//! unknown at worst, never forgotten, and never one that nobody has asked for.

mod file;
pub mod judge;
pub mod model;
pub mod record;
pub mod session;
pub mod worker;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::cli::resolve;
use crate::wire;
use file::Journal;
use record::{Header, Id, Kind, Operation, Outcome, Record, SessionEvent};
use session::{Connected, Fields, Session};
use worker::{Job, Seen, Worker};

/// How long the first connection may take, before anything is journalled.
const START: Duration = Duration::from_secs(30);

/// Changes servers and writes down what they acknowledge, whatever happens to them meanwhile.
#[derive(clap::Args, Debug)]
pub struct Flags {
    /// The journal. A file that exists is not overwritten.
    file: PathBuf,
    /// host:port of each server.
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:2181")]
    servers: Vec<String>,
    /// Workers: sessions with one operation under way each, on nodes of their own.
    #[arg(long, default_value_t = 8)]
    connections: u32,
    /// Seconds to go on for; Ctrl-C ends it well before that.
    #[arg(long, default_value_t = 30.0)]
    seconds: f64,
    /// Operations after which it is over, if that comes first.
    #[arg(long)]
    count: Option<u64>,
    /// Nodes that each worker creates, sets and deletes.
    #[arg(long, default_value_t = 64)]
    keys: u64,
    #[arg(long, default_value_t = 64)]
    value_bytes: usize,
    /// Directory for the runs; each run has a directory of its own in it.
    #[arg(long, default_value = "/journal")]
    root: String,
    #[arg(long, default_value_t = 10_000)]
    session_timeout_ms: i32,
    /// Which operations come in which order; taken from the time unless given.
    #[arg(long)]
    seed: Option<u64>,
    /// Leaves the syncs out: for a journal on a machine that will not lose power.
    #[arg(long)]
    no_sync: bool,
}

/// Runs the command; the error is one sentence for the user.
pub fn run(flags: &Flags) -> Result<ExitCode, String> {
    let refuse = |what: &str| Err(what.to_owned());
    if flags.connections == 0 || flags.keys == 0 {
        return refuse("connections and keys start at 1");
    }
    if !flags.root.starts_with('/') || flags.root.ends_with('/') || flags.root.contains(' ') {
        return refuse("--root is a path below /, without spaces");
    }
    if !(0.0..=1e9).contains(&flags.seconds) {
        return refuse("--seconds is 0 to a thousand million");
    }
    let mut servers = Vec::new();
    for server in &flags.servers {
        servers.push(resolve(server)?.address);
    }
    let seen =
        write(flags, &servers).map_err(|error| format!("{}: {error}", flags.file.display()))?;
    report(flags, &seen);
    Ok(ExitCode::SUCCESS)
}

fn write(flags: &Flags, servers: &[SocketAddr]) -> io::Result<Seen> {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let run = format!("r{:x}", since.as_micros());
    let header = Header {
        root: format!("{}/{run}", flags.root),
        run,
        session_timeout_ms: flags.session_timeout_ms,
        value_bytes: flags.value_bytes,
    };
    let journal = Journal::create(&flags.file, &header, !flags.no_sync)?;
    prepare(flags, &header, servers, &journal)?;
    let stop = Arc::new(AtomicBool::new(false));
    crate::interrupt::on_interrupt(&stop)?;
    let remaining = AtomicU64::new(flags.count.unwrap_or(u64::MAX));
    let job = Job {
        header: &header,
        servers,
        journal: &journal,
        keys: flags.keys,
        seed: flags.seed.unwrap_or(since.as_nanos() as u64),
        until: Instant::now() + Duration::from_secs_f64(flags.seconds),
        stop: &stop,
        remaining: &remaining,
    };
    let seen = work(&job, flags.connections);
    stop.store(true, Ordering::Relaxed);
    seen
}

fn work(job: &Job<'_>, workers: u32) -> io::Result<Seen> {
    thread::scope(|scope| {
        let running: Vec<_> =
            (1..=workers).map(|index| scope.spawn(move || Worker::new(job, index).run())).collect();
        let mut seen = Seen { closed: true, ..Seen::default() };
        for worker in running {
            seen.merge(&worker.join().expect("a worker reports its errors as values")?);
        }
        Ok(seen)
    })
}

fn report(flags: &Flags, seen: &Seen) {
    let refused: u64 = seen.refused.values().sum();
    println!(
        "{}: {} acknowledged, {refused} refused, {} of unknown outcome",
        flags.file.display(),
        seen.acknowledged,
        seen.unknown,
    );
    println!(
        "{} reconnects, {} sessions expired, longest wait for an acknowledgement {} ms",
        seen.reconnects,
        seen.sessions_expired,
        seen.gap.as_millis(),
    );
    if !seen.closed {
        println!("some sessions could not be closed: they expire by themselves");
    }
}

/// Makes the directories: the run's own are journalled as operations of worker 0.
fn prepare(
    flags: &Flags,
    header: &Header,
    servers: &[SocketAddr],
    journal: &Journal,
) -> io::Result<()> {
    let mut session = Session::new(servers, 0, header.session_timeout_ms);
    if session.connect(Instant::now() + START) != Connected::Opened {
        return Err(io::Error::other("no server has opened a session"));
    }
    let event = |event| Record::Session { worker: 0, event, session: session.id };
    let (opened, closed) = (event(SessionEvent::Opened), event(SessionEvent::Closed));
    journal.note(&opened);
    let ends = flags.root.match_indices('/').map(|(at, _)| at).skip(1).chain([flags.root.len()]);
    for end in ends {
        match create(&mut session, &flags.root[..end], b"")? {
            (0 | wire::ERROR_NODE_EXISTS, _) => {}
            (code, _) => return Err(io::Error::other(format!("preparing failed: error {code}"))),
        }
    }
    let root = &header.root;
    let mut paths = vec![root.clone(), format!("{root}/queue")];
    paths.extend((1..=flags.connections).map(|worker| format!("{root}/w{worker}")));
    for (number, path) in (1..).zip(paths) {
        let id = Id { worker: 0, number };
        let operations = vec![Operation { kind: Kind::Create, path: path.clone() }];
        journal.note(&Record::Ask { id, operations });
        journal.sync()?;
        let (code, zxid) = create(&mut session, &path, header.value(id).as_bytes())?;
        if code != 0 {
            return Err(io::Error::other(format!("preparing failed: error {code}")));
        }
        let outcome = Outcome::Ok { zxid, results: vec!["0".to_owned()] };
        journal.note(&Record::Outcome { id, outcome });
    }
    if session.close() {
        journal.note(&closed);
    }
    journal.sync()
}

/// The error code of a create, and its zxid.
fn create(session: &mut Session, path: &str, value: &[u8]) -> io::Result<(i32, i64)> {
    let reply = session
        .call(wire::CREATE2, |frame| frame.bytes(path.as_bytes()).bytes(value).open_acl().int(0));
    let reply = reply.map_err(|_| io::Error::other("the server hung up while preparing"))?;
    if reply.error != 0 {
        return Ok((reply.error, reply.zxid));
    }
    let mut fields = Fields(&reply.body);
    fields.text()?;
    Ok((0, fields.stat()?.modified_zxid))
}
