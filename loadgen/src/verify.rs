//! `loadgen verify`: reads what a server has and tells in what it differs from the journal.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::cli::resolve;
use crate::journal::judge::{Fault, Finding, Found, Strictness, Tree, judge};
use crate::journal::model::Model;
use crate::journal::session::{Connected, Fields, Session};
use crate::plan::Target;
use crate::wire;

/// Sessions that read a server's nodes side by side.
const READERS: usize = 8;

/// How often nodes of sessions that should expire are looked at again.
const EXPIRY_POLL: Duration = Duration::from_millis(250);

/// The server could not be asked, or the journal not be read: nothing was found out.
const EXIT_UNKNOWN: u8 = 2;

/// Holds a journal against servers. Exit code 0: all as acknowledged; 1: something is missing or
/// wrong; 2: it could not be found out.
#[derive(clap::Args, Debug)]
pub struct Flags {
    /// What `loadgen journal` has written.
    file: PathBuf,
    /// host:port of each server; each of them is asked for everything.
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:2181")]
    servers: Vec<String>,
    /// Compares values alone: for a copy that has versions and zxids of its own.
    #[arg(long)]
    values_only: bool,
    /// Does not wait for sessions to expire that the journal has left open.
    #[arg(long)]
    no_wait: bool,
    /// Seconds to wait for a server that does not answer.
    #[arg(long, default_value_t = 30.0)]
    patience: f64,
    /// Findings that are listed, of each server.
    #[arg(long, default_value_t = 20)]
    list: usize,
    /// One JSON object with all findings.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Verdict {
    run: String,
    acknowledged: u64,
    refused: u64,
    unknown: u64,
    sessions: u64,
    sessions_expired: u64,
    /// Found in the journal itself.
    contradictions: Vec<String>,
    servers: Vec<ServerVerdict>,
}

#[derive(Serialize)]
struct ServerVerdict {
    server: String,
    nodes: usize,
    findings: Vec<Finding>,
}

/// Runs the command. What kept it from finding out is told here, with exit code 2.
pub fn run(flags: &Flags) -> Result<ExitCode, String> {
    let verdict = match find_out(flags) {
        Ok(verdict) => verdict,
        Err(what) => {
            eprintln!("loadgen verify: {what}");
            return Ok(ExitCode::from(EXIT_UNKNOWN));
        }
    };
    if flags.json {
        let text = serde_json::to_string(&verdict).expect("a verdict has only text keys");
        println!("{text}");
    } else {
        print!("{}", tell(&verdict, flags.list));
    }
    let clean = verdict.contradictions.is_empty()
        && verdict.servers.iter().all(|server| server.findings.is_empty());
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn find_out(flags: &Flags) -> Result<Verdict, String> {
    let text = std::fs::read_to_string(&flags.file)
        .map_err(|error| format!("{}: {error}", flags.file.display()))?;
    let model = Model::read(&text).map_err(|what| format!("{}: {what}", flags.file.display()))?;
    let servers: Vec<Target> =
        flags.servers.iter().map(|server| resolve(server)).collect::<Result<_, _>>()?;
    let strictness = if flags.values_only { Strictness::Values } else { Strictness::Whole };
    let patience = Duration::try_from_secs_f64(flags.patience)
        .map_err(|_| "--patience is no time".to_owned())?;
    let mut verdicts = Vec::new();
    for Target { name, address } in servers {
        let reader = Reader { server: address, patience };
        let asked = |what: String| format!("{name}: {what}");
        let tree = reader.tree(&model).map_err(asked)?;
        let mut findings = judge(&model, &tree, strictness);
        if !flags.no_wait {
            findings.extend(reader.outlived(&model, &tree).map_err(asked)?);
        }
        verdicts.push(ServerVerdict { server: name, nodes: tree.len(), findings });
    }
    Ok(Verdict {
        run: model.header.run.clone(),
        acknowledged: model.counts.acknowledged,
        refused: model.counts.failed,
        unknown: model.counts.unknown,
        sessions: model.counts.sessions,
        sessions_expired: model.counts.expired,
        contradictions: model.contradictions,
        servers: verdicts,
    })
}

fn tell(verdict: &Verdict, list: usize) -> String {
    let mut lines = vec![format!(
        "journal {}: {} acknowledged, {} refused, {} unknown; {} sessions, {} of them expired",
        verdict.run,
        verdict.acknowledged,
        verdict.refused,
        verdict.unknown,
        verdict.sessions,
        verdict.sessions_expired,
    )];
    let contradictions = verdict.contradictions.iter();
    lines.extend(contradictions.take(list).map(|what| format!("CONTRADICTION {what}")));
    for ServerVerdict { server, nodes, findings } in &verdict.servers {
        if findings.is_empty() {
            lines.push(format!("{server}: {nodes} nodes, all as acknowledged"));
            continue;
        }
        let count = |fault| findings.iter().filter(|finding| finding.fault == fault).count();
        let counts = [
            (Fault::Missing, "missing"),
            (Fault::Wrong, "wrong"),
            (Fault::Surplus, "too much"),
            (Fault::Torn, "half done"),
            (Fault::Outlived, "outlived their sessions"),
        ]
        .map(|(fault, name)| (count(fault), name));
        let counts = counts.iter().filter(|(count, _)| *count > 0);
        let counts: Vec<String> = counts.map(|(count, name)| format!("{count} {name}")).collect();
        lines.push(format!("{server}: {nodes} nodes; {}", counts.join(", ")));
        for Finding { fault, path, what } in findings.iter().take(list) {
            lines.push(format!("{} {path}: {what}", format!("{fault:?}").to_uppercase()));
        }
        if findings.len() > list {
            lines.push(format!("… and {} more", findings.len() - list));
        }
    }
    lines.push(String::new());
    lines.join("\n")
}

/// Reads one server, and only that one.
struct Reader {
    server: SocketAddr,
    patience: Duration,
}

impl Reader {
    /// A session that is up to date with what the ensemble had committed.
    fn session(&self) -> Result<Session, String> {
        let deadline = Instant::now() + self.patience;
        let mut session = Session::new(&[self.server], 0, 30_000);
        while Instant::now() < deadline {
            if session.connect(deadline) != Connected::Opened {
                continue;
            }
            match session.call(wire::SYNC, |frame| frame.bytes(b"/")) {
                Ok(reply) if reply.error == 0 => return Ok(session),
                _ => session = Session::new(&[self.server], 0, 30_000),
            }
        }
        Err("the server did not answer in time".to_owned())
    }

    /// Everything below the run's root.
    fn tree(&self, model: &Model) -> Result<Tree, String> {
        let mut session = self.session()?;
        let root = &model.header.root;
        let mut paths = vec![root.clone()];
        for child in children(&mut session, root)? {
            let directory = format!("{root}/{child}");
            let names = children(&mut session, &directory)?;
            paths.push(directory.clone());
            paths.extend(names.iter().map(|name| format!("{directory}/{name}")));
        }
        session.close();
        thread::scope(|scope| {
            let share = paths.len().div_ceil(READERS).max(1);
            let readers: Vec<_> = paths
                .chunks(share)
                .map(|paths| scope.spawn(|| read_all(&mut self.session()?, paths)))
                .collect();
            let mut tree = Tree::new();
            for reader in readers {
                tree.extend(reader.join().expect("a reader reports its errors as values")?);
            }
            Ok(tree)
        })
    }

    /// Waits for the sessions that nobody has closed, and finds their nodes that stay.
    fn outlived(&self, model: &Model, tree: &Tree) -> Result<Vec<Finding>, String> {
        let mut left: BTreeSet<&String> = tree
            .iter()
            .filter(|(_, found)| model.open_sessions.contains(&found.stat.owner))
            .map(|(path, _)| path)
            .collect();
        let timeout_ms = model.header.session_timeout_ms.unsigned_abs();
        // A new leader gives each session its whole time again; it is checked once a tick.
        let patience = Duration::from_millis(u64::from(timeout_ms)) * 2 + Duration::from_secs(5);
        let deadline = Instant::now() + patience;
        let mut session = self.session()?;
        while !left.is_empty() && Instant::now() < deadline {
            thread::sleep(EXPIRY_POLL);
            let mut still = BTreeSet::new();
            for path in left {
                if read(&mut session, path)?.is_some() {
                    still.insert(path);
                }
            }
            left = still;
        }
        session.close();
        let what = format!("there {} s after the journal's end", patience.as_secs());
        let finding = |path: &String| Finding {
            fault: Fault::Outlived,
            path: path.clone(),
            what: what.clone(),
        };
        Ok(left.into_iter().map(finding).collect())
    }
}

fn read_all(session: &mut Session, paths: &[String]) -> Result<Tree, String> {
    let mut tree = Tree::new();
    for path in paths {
        if let Some(found) = read(session, path)? {
            tree.insert(path.clone(), found);
        }
    }
    session.close();
    Ok(tree)
}

fn read(session: &mut Session, path: &str) -> Result<Option<Found>, String> {
    let reply = session.call(wire::GET_DATA, |frame| frame.bytes(path.as_bytes()).bool(false));
    let reply = reply.map_err(|_| "the server hung up while it was read".to_owned())?;
    match reply.error {
        0 => {
            let mut fields = Fields(&reply.body);
            let value = fields.bytes().map_err(|error| error.to_string())?.to_vec();
            let stat = fields.stat().map_err(|error| error.to_string())?;
            Ok(Some(Found { value, stat }))
        }
        wire::ERROR_NO_NODE => Ok(None),
        code => Err(format!("{path} could not be read: error {code}")),
    }
}

/// Names in the directory; none when it is not there.
fn children(session: &mut Session, path: &str) -> Result<Vec<String>, String> {
    let reply = session.call(wire::GET_CHILDREN, |frame| frame.bytes(path.as_bytes()).bool(false));
    let reply = reply.map_err(|_| "the server hung up while it was read".to_owned())?;
    match reply.error {
        0 => {
            let mut fields = Fields(&reply.body);
            let count = fields.int().map_err(|error| error.to_string())?;
            let names = (0..count).map(|_| fields.text()).collect::<Result<_, _>>();
            names.map_err(|error| error.to_string())
        }
        wire::ERROR_NO_NODE => Ok(Vec::new()),
        code => Err(format!("{path} could not be listed: error {code}")),
    }
}
