//! What a four letter word is answered with, in the shape of Apache's 3.9.5.
//!
//! An [`Answer`] is an iterator of text in chunks of [`CHUNK_BYTES`] or little more, so that a
//! million watches are neither written out in one piece nor in one turn of the asking core.

use std::borrow::Cow;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use crate::server::four_letter::Word;
use crate::server::metrics::{self, Value};
use crate::server::report::{ConfReport, ConnectionReport, Mode, ServerReport, SessionReport};
use crate::server::summary::Summary;
use crate::wire::opcode::OpCode;

/// The version that is spoken, and whose server this is. Clients read the digits up to the first
/// hyphen and take their features from them.
pub const VERSION: &str = concat!("3.9.5-ringkeeper-", env!("CARGO_PKG_VERSION"));

/// When this was built, in the only form that go-zookeeper's `FLWSrvr` reads: Apache's until 3.5.
/// Apache's own 3.9 writes `2026-02-11 20:18 UTC`, and that library takes its answers for broken. A
/// build script may set it; a build without one says when the version was begun, and stays
/// reproducible.
pub const BUILT_ON: &str = match option_env!("RINGKEEPER_BUILT_ON") {
    Some(built_on) => built_on,
    None => "11/22/2026 00:00 UTC",
};

/// A chunk is handed out when it has reached this many bytes: one send of a size that a socket
/// buffer holds. It exceeds it by less than a line.
pub const CHUNK_BYTES: usize = 64 << 10;

/// The trace mask of a server that was never told another (`ZooTrace`).
pub const TRACE_MASK_DEFAULT: i64 = 306;

const NOT_SERVING: &str = "This ZooKeeper instance is not currently serving requests";

/// The environment's names, in Apache's order.
const ENVIRONMENT: [&str; 18] = [
    "zookeeper.version",
    "host.name",
    "java.version",
    "java.vendor",
    "java.home",
    "java.class.path",
    "java.library.path",
    "java.io.tmpdir",
    "java.compiler",
    "os.name",
    "os.arch",
    "os.version",
    "user.name",
    "user.home",
    "user.dir",
    "os.memory.free",
    "os.memory.max",
    "os.memory.total",
];

/// The version line's value: version and build time.
pub fn full_version() -> String {
    format!("{VERSION}, built on {BUILT_ON}")
}

/// The whole answer to `word` at once; for answers that may be long, iterate an [`Answer`].
pub fn format(word: Word, report: &ServerReport) -> String {
    Answer::new(word, report).collect()
}

/// The answer to a word, chunk by chunk.
pub struct Answer<'a> {
    lines: Box<dyn Iterator<Item = Line<'a>> + 'a>,
}

/// A piece of an answer, written out when its turn comes.
enum Line<'a> {
    Text(Cow<'a, str>),
    Path(&'a str),
    IndentedPath(&'a str),
    Session(i64),
    IndentedSession(i64),
    /// A session that heads a list.
    HeadSession(i64),
    Connection {
        connection: &'a ConnectionReport,
        brief: bool,
    },
    /// A connection where only its peer and session matter.
    ExpiringConnection(&'a ConnectionReport),
    /// So many of them expire at a time.
    Expiry {
        count: usize,
        wall_ms: i64,
    },
}

impl<'a> Answer<'a> {
    /// The answer to `word` from a `report` in which all is filled in that the word's question
    /// wants.
    pub fn new(word: Word, report: &'a ServerReport) -> Answer<'a> {
        let lines = match word {
            Word::Ruok => text("imok"),
            Word::Gtmk => text(report.trace_mask.to_string()),
            Word::Stmk { mask } => text(mask.to_string()),
            Word::Envi => text(environment_lines(report)),
            Word::TelnetClose => text(""),
            Word::Isro => text(read_only(report)),
            // Apache ends this one sentence without a line's end.
            Word::Hash if !report.serving => text(NOT_SERVING),
            _ if !report.serving => text(format!("{NOT_SERVING}\n")),
            Word::Conf => text(configuration(report)),
            Word::Cons => cons(report),
            Word::Crst => text("Connection stats reset.\n"),
            Word::Dirs => text(directories(report)),
            Word::Dump => dump(report),
            Word::Hash => Box::new(report.digests.iter().map(|(zxid, digest)| {
                let line = format!("{:x}: {}\n", zxid.raw(), *digest as i64);
                Line::Text(line.into())
            })),
            Word::Mntr => text(monitor(report)),
            Word::Srst => text("Server stats reset.\n"),
            Word::Srvr => text(head(report) + &state(report)),
            Word::Stat => stat(report),
            Word::Wchc => watches_by_connection(report),
            Word::Wchp => watches_by_path(report),
            Word::Wchs => text(watch_summary(report)),
        };
        Answer { lines }
    }
}

impl Iterator for Answer<'_> {
    type Item = String;

    /// The next chunk, never empty; `None` when all has been said.
    fn next(&mut self) -> Option<String> {
        let mut chunk = String::new();
        while chunk.len() < CHUNK_BYTES {
            let Some(line) = self.lines.next() else { break };
            line.write(&mut chunk).expect("a string takes all that is written");
        }
        (!chunk.is_empty()).then_some(chunk)
    }
}

type Lines<'a> = Box<dyn Iterator<Item = Line<'a>> + 'a>;

fn text<'a>(text: impl Into<Cow<'a, str>>) -> Lines<'a> {
    Box::new(std::iter::once(Line::Text(text.into())))
}

impl Line<'_> {
    fn write(&self, out: &mut String) -> std::fmt::Result {
        match self {
            Line::Text(text) => out.write_str(text),
            Line::Path(path) => writeln!(out, "{path}"),
            Line::IndentedPath(path) => writeln!(out, "\t{path}"),
            Line::Session(session) => writeln!(out, "{session:#x}"),
            Line::IndentedSession(session) => writeln!(out, "\t{session:#x}"),
            Line::HeadSession(session) => writeln!(out, "{session:#x}:"),
            Line::Connection { connection, brief } => write_connection(out, connection, *brief),
            Line::ExpiringConnection(connection) => {
                let peer = Peer(connection.peer);
                writeln!(out, "\tip: {peer} sessionId: {:#x}", connection.session)
            }
            Line::Expiry { count, wall_ms } => {
                writeln!(out, "{count} expire at {}:", Date(*wall_ms))
            }
        }
    }
}

fn read_only(report: &ServerReport) -> &'static str {
    match report.mode {
        _ if !report.serving => "null",
        Mode::ReadOnly => "ro",
        _ => "rw",
    }
}

fn environment_lines(report: &ServerReport) -> String {
    let lines = environment(report).map(|(name, value)| format!("{name}={value}\n"));
    "Environment:\n".to_owned() + &lines.collect::<String>()
}

/// What `envi` shows: Apache's names first, in its order, then what else is in force.
pub(super) fn environment(report: &ServerReport) -> impl Iterator<Item = (&str, Cow<'_, str>)> {
    let apaches = ENVIRONMENT.into_iter().map(|name| {
        let value = match name {
            "zookeeper.version" => Cow::from(full_version()),
            name => report.environment.get(name).map_or("<NA>", String::as_str).into(),
        };
        (name, value)
    });
    let others = report.environment.iter().map(|(name, value)| (name.as_str(), value.into()));
    apaches.chain(others.filter(|(name, _)| !ENVIRONMENT.contains(name)))
}

fn configuration(report: &ServerReport) -> String {
    let ConfReport { data_dir, log_dir, .. } = &report.conf;
    let conf = &report.conf;
    let or_none = |value: Option<u32>| value.map_or(-1, i64::from);
    let mut out = String::new();
    for (name, value) in [
        ("clientPort", or_none(conf.client_port.map(u32::from)).to_string()),
        ("secureClientPort", or_none(conf.secure_client_port.map(u32::from)).to_string()),
        ("dataDir", data_dir.clone()),
        ("dataDirSize", report.data_dir_size.to_string()),
        ("dataLogDir", log_dir.clone()),
        ("dataLogSize", report.log_dir_size.to_string()),
        ("tickTime", conf.tick_time_ms.to_string()),
        ("maxClientCnxns", conf.connections_per_address_max.to_string()),
        ("minSessionTimeout", conf.session_timeout_ms_min.to_string()),
        ("maxSessionTimeout", conf.session_timeout_ms_max.to_string()),
        ("clientPortListenBacklog", or_none(conf.listen_backlog).to_string()),
        ("serverId", conf.server_id.to_string()),
    ] {
        out += &format!("{name}={value}\n");
    }
    let Some(ensemble) = &conf.ensemble else { return out };
    for (name, value) in [
        ("initLimit", ensemble.init_limit_ticks),
        ("syncLimit", ensemble.sync_limit_ticks),
        ("electionAlg", ensemble.election_algorithm),
        ("electionPort", ensemble.election_port.into()),
        ("quorumPort", ensemble.quorum_port.into()),
        ("peerType", ensemble.is_observer.into()),
    ] {
        out += &format!("{name}={value}\n");
    }
    if report.mode == Mode::ReadOnly {
        return out;
    }
    // The space and the missing line's end are Apache's.
    out + "membership: \n" + ensemble.membership.trim_end()
}

fn directories(report: &ServerReport) -> String {
    let ServerReport { data_dir_size, log_dir_size, .. } = report;
    format!("datadir_size: {data_dir_size}\nlogdir_size: {log_dir_size}\n")
}

/// What `srvr` and `stat` begin with.
fn head(report: &ServerReport) -> String {
    let warning = match report.mode {
        Mode::ReadOnly => "READ-ONLY mode; serving only read-only clients\n",
        _ => "",
    };
    format!("Zookeeper version: {}\n{warning}", full_version())
}

/// What `srvr` and `stat` end with.
fn state(report: &ServerReport) -> String {
    let stats = report.stats();
    let (min, max) = (stats.latency_ms.min(), stats.latency_ms.max());
    let mut out = format!("Latency min/avg/max: {min}/{:?}/{max}\n", stats.latency_ms.average());
    out += &format!("Received: {}\n", stats.packets_received);
    out += &format!("Sent: {}\n", stats.packets_sent);
    out += &format!("Connections: {}\n", report.connections());
    out += &format!("Outstanding: {}\n", report.outstanding());
    out += &format!("Zxid: {}\n", report.last_zxid);
    out += &format!("Mode: {}\n", report.mode.name());
    out += &format!("Node count: {}\n", report.node_count);
    if let Some(leading) = report.ensemble.as_ref().and_then(|all| all.leading.as_ref()) {
        let sizes = match leading.proposal_sizes.seen {
            Some(seen) => format!("{}/{}/{}", seen.last, seen.min, seen.max),
            None => "-1/-1/-1".to_owned(),
        };
        out += &format!("Proposal sizes last/min/max: {sizes}\n");
    }
    out
}

fn connections(report: &ServerReport) -> impl Iterator<Item = &ConnectionReport> {
    report.clients.iter().flat_map(|client| &client.connection_reports)
}

fn stat(report: &ServerReport) -> Lines<'_> {
    let brief = true;
    let connections =
        connections(report).map(move |connection| Line::Connection { connection, brief });
    let head = text(head(report) + "Clients:\n");
    Box::new(head.chain(connections).chain(text("\n".to_owned() + &state(report))))
}

fn cons(report: &ServerReport) -> Lines<'_> {
    let brief = false;
    let connections =
        connections(report).map(move |connection| Line::Connection { connection, brief });
    Box::new(connections.chain(text("\n")))
}

/// One connection's line (`ServerCnxn.dumpConnectionInfo`).
fn write_connection(
    out: &mut String,
    connection: &ConnectionReport,
    brief: bool,
) -> std::fmt::Result {
    let ConnectionReport { interest, queued, received, sent, session, timeout_ms, .. } = connection;
    let peer = Peer(connection.peer);
    write!(out, " {peer}[{interest:x}](queued={queued},recved={received},sent={sent}")?;
    if !brief && *session != 0 {
        let op = connection.last_op.map_or("NA", operation);
        let established = connection.established_wall_ms;
        write!(out, ",sid={session:#x},lop={op},est={established},to={timeout_ms}")?;
        if connection.last_xid >= 0 {
            write!(out, ",lcxid={:#x}", connection.last_xid)?;
        }
        write!(out, ",lzxid={:#x}", connection.last_zxid)?;
        write!(out, ",lresp={}", connection.last_response_wall_ms)?;
        let latency_ms = &connection.latency_ms;
        let average = latency_ms.sum.checked_div(latency_ms.count).unwrap_or(0);
        write!(out, ",llat={},minlat={}", connection.last_latency_ms, latency_ms.min())?;
        write!(out, ",avglat={average},maxlat={}", latency_ms.max())?;
    }
    writeln!(out, ")")
}

/// An operation's short name (`FinalRequestProcessor.java`, `lastOp`).
pub(super) const fn operation(op: OpCode) -> &'static str {
    match op {
        OpCode::Ping => "PING",
        OpCode::CreateSession => "SESS",
        OpCode::CloseSession => "CLOS",
        OpCode::Multi => "MULT",
        OpCode::MultiRead => "MLTR",
        OpCode::Create | OpCode::Create2 | OpCode::CreateTtl | OpCode::CreateContainer => "CREA",
        OpCode::Delete | OpCode::DeleteContainer => "DELE",
        OpCode::SetData => "SETD",
        OpCode::Reconfig => "RECO",
        OpCode::SetAcl => "SETA",
        OpCode::Sync => "SYNC",
        OpCode::Check => "CHEC",
        OpCode::Exists => "EXIS",
        OpCode::GetData => "GETD",
        OpCode::SetWatches => "SETW",
        OpCode::SetWatches2 => "STW2",
        OpCode::AddWatch => "ADDW",
        OpCode::GetAcl => "GETA",
        OpCode::GetChildren | OpCode::GetChildren2 => "GETC",
        OpCode::GetAllChildrenNumber => "GETACN",
        OpCode::CheckWatches => "CHKW",
        OpCode::RemoveWatches => "REMW",
        OpCode::WhoAmI => "HOMI",
        OpCode::GetEphemerals => "GETE",
        OpCode::Auth | OpCode::Sasl | OpCode::Error => "NA",
    }
}

fn dump(report: &ServerReport) -> Lines<'_> {
    let sessions = session_dump(report);
    let owners = report.ephemerals.len();
    let heading = format!("ephemeral nodes dump:\nSessions with Ephemerals ({owners}):\n");
    let ephemerals = report.ephemerals.iter().flat_map(|(session, paths)| {
        let paths = paths.iter().map(|path| Line::IndentedPath(path));
        std::iter::once(Line::HeadSession(*session)).chain(paths)
    });
    let mut open: Vec<_> = connections(report).collect();
    open.sort_by_key(|connection| (connection.expires_wall_ms, connection.peer));
    let open = expiry_sets(
        "Connections dump:\nConnections ",
        open.into_iter()
            .map(|connection| (connection.expires_wall_ms, Line::ExpiringConnection(connection))),
    );
    Box::new(sessions.chain(text(heading)).chain(ephemerals).chain(open))
}

/// The sessions by when they expire; a learner knows that of none but its own, and lists the others
/// with their timeouts (`LeaderSessionTracker.java`, `LearnerSessionTracker.java`).
fn session_dump(report: &ServerReport) -> Lines<'_> {
    let own = report.own_sessions.as_deref().map(|own| session_sets("Local Session ", own));
    let is_learner = matches!(report.mode, Mode::Follower | Mode::Observer | Mode::ReadOnly);
    let global: Lines<'_> = if is_learner {
        let mut sessions: Vec<_> = report.sessions.iter().collect();
        sessions.sort_by_key(|session| session.session);
        let heading = format!("Global Sessions({}):\n", sessions.len());
        let lines = sessions
            .into_iter()
            .map(|it| Line::Text(format!("{:#x}\t{}ms\n", it.session, it.timeout_ms).into()));
        Box::new(text(heading).chain(lines))
    } else {
        let heading = if own.is_some() { "Global Session " } else { "Session " };
        session_sets(heading, &report.sessions)
    };
    Box::new(text("SessionTracker dump:\n").chain(own.into_iter().flatten()).chain(global))
}

fn session_sets<'a>(heading: &str, sessions: &'a [SessionReport]) -> Lines<'a> {
    let mut sessions: Vec<_> = sessions.iter().collect();
    sessions.sort_by_key(|session| (session.expires_wall_ms, session.session));
    let line = |it: &'a SessionReport| (it.expires_wall_ms, Line::IndentedSession(it.session));
    expiry_sets(heading, sessions.into_iter().map(line))
}

/// Members by the time at which they expire, soonest first (`ExpiryQueue.dump`); `members` come
/// sorted.
fn expiry_sets<'a>(heading: &str, members: impl Iterator<Item = (i64, Line<'a>)>) -> Lines<'a> {
    let mut sets: Vec<(i64, Vec<Line<'a>>)> = Vec::new();
    let mut count = 0;
    for (expires, line) in members {
        count += 1;
        match sets.last_mut() {
            Some((at, lines)) if *at == expires => lines.push(line),
            _ => sets.push((expires, vec![line])),
        }
    }
    let heading = format!("{heading}Sets ({})/({count}):\n", sets.len());
    Box::new(text(heading).chain(sets.into_iter().flat_map(|(wall_ms, lines)| {
        std::iter::once(Line::Expiry { count: lines.len(), wall_ms }).chain(lines)
    })))
}

fn watches_by_connection(report: &ServerReport) -> Lines<'_> {
    let sessions = report.clients.iter().flat_map(|client| &client.watches_by_session);
    let lines = sessions.flat_map(|(session, paths)| {
        let paths = paths.iter().map(|path| Line::IndentedPath(path));
        std::iter::once(Line::Session(*session)).chain(paths)
    });
    Box::new(lines.chain(text("\n")))
}

/// A path that is watched on several cores is named once: where more than one core has watches
/// the paths are sorted, which brings it together.
fn watches_by_path(report: &ServerReport) -> Lines<'_> {
    let mut paths: Vec<&(String, Vec<i64>)> =
        report.clients.iter().flat_map(|client| &client.watches_by_path).collect();
    let cores = report.clients.iter().filter(|client| !client.watches_by_path.is_empty());
    if cores.count() > 1 {
        paths.sort_by_key(|(path, _)| path);
    }
    let mut last: Option<&str> = None;
    let lines = paths.into_iter().flat_map(move |(path, sessions)| {
        let is_new = last.replace(path) != Some(path.as_str());
        let sessions = sessions.iter().map(|session| Line::IndentedSession(*session));
        is_new.then_some(Line::Path(path)).into_iter().chain(sessions)
    });
    Box::new(lines.chain(text("\n")))
}

fn watch_summary(report: &ServerReport) -> String {
    let counts = report.watch_counts();
    let (connections, paths) = (counts.connections, counts.paths);
    let watches = counts.watches;
    format!("{connections} connections watching {paths} paths\nTotal watches:{watches}\n")
}

fn monitor(report: &ServerReport) -> String {
    let mut out = format!("zk_version\t{}\n", full_version());
    out += &format!("zk_server_state\t{}\n", report.mode.name());
    if let Some(state) = metrics::peer_state(report.mode) {
        out += &format!("zk_peer_state\t{state}\n");
    }
    metrics::visit(report, &mut |name, value| {
        let mut line = |name: &str, value: &dyn std::fmt::Debug| {
            out += &format!("zk_{name}\t{value:?}\n");
        };
        let mut basic = |summary: &Summary| {
            line(&format!("avg_{name}"), &summary.average());
            line(&format!("min_{name}"), &summary.min());
            line(&format!("max_{name}"), &summary.max());
            line(&format!("cnt_{name}"), &summary.count);
            line(&format!("sum_{name}"), &summary.sum);
        };
        match value {
            Value::Gauge(value) | Value::Counter(value) => line(name, &value),
            Value::GaugeReal(value) => line(name, &value),
            Value::Basic(summary) => basic(summary),
            Value::Advanced(percentiles) => {
                basic(&percentiles.summary);
                for (prefix, quantile) in metrics::QUANTILES {
                    line(&format!("{prefix}_{name}"), &percentiles.quantile(quantile));
                }
            }
        }
    });
    out
}

/// An address as Java writes it: a slash, no host name, IPv6 unabbreviated.
struct Peer(SocketAddr);

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let port = self.0.port();
        match self.0.ip().to_canonical() {
            IpAddr::V4(address) => write!(f, "/{address}:{port}"),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, g, h, i] = address.segments();
                write!(f, "/[{a:x}:{b:x}:{c:x}:{d:x}:{e:x}:{g:x}:{h:x}:{i:x}]:{port}")
            }
        }
    }
}

/// Milliseconds since 1970 as Java writes a date: `Sun Nov 22 14:52:09 UTC 2026`, always in UTC.
struct Date(i64);

impl std::fmt::Display for Date {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
        const MONTHS: [&str; 12] =
            ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        let seconds = self.0.div_euclid(1000);
        let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        // Years are counted from 0000-03-01, so that a leap day ends one: eras of 400 years, and
        // within a year months of 153 days in every five.
        let day_of_era = (days + 719_468).rem_euclid(146_097);
        let era = (days + 719_468).div_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = (month_from_march + 2) % 12;
        let year = era * 400 + year_of_era + i64::from(month < 2);
        let weekday = WEEKDAYS[days.rem_euclid(7) as usize];
        let month = MONTHS[month as usize];
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{weekday} {month} {day:02} {hour:02}:{minute:02}:{second:02} UTC {year}")
    }
}

#[cfg(test)]
mod tests;
