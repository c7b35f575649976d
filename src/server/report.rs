//! What the server says of itself: plain values that cross the cores.
//!
//! A [`Question`] goes from the client core that was asked to the pipeline, from there to every
//! client core, and comes back with a [`ClientReport`] each. The pipeline makes a [`ServerReport`]
//! of them, which the asking core writes out (`answer::Answer`). Nobody reads another core's
//! counters, so counting costs an increment and no sharing.
//!
//! Counters run since the start or the last `srst`; what is *level* (connections, watches, sizes)
//! is not touched by it, as in `ServerStats.reset`.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::server::four_letter::Word;
use crate::server::stages::StageReport;
use crate::server::summary::{Percentiles, Sizes, Summary};
use crate::wire::acl::Acl;
use crate::wire::membership::Membership;
use crate::wire::opcode::OpCode;
use crate::zxid::Zxid;

/// What somebody wants to know, and so which parts of the reports must be filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    pub word: Word,
    /// Asked over HTTP, where some answers say more than the words'.
    pub is_http: bool,
}

impl Question {
    /// Whether [`ClientReport::connection_reports`] is read.
    pub const fn wants_connections(self) -> bool {
        matches!(self.word, Word::Cons | Word::Stat | Word::Dump)
    }

    /// Whether [`ClientReport::watches_by_path`] is read.
    pub const fn wants_watches_by_path(self) -> bool {
        matches!(self.word, Word::Wchp)
    }

    /// Whether [`ClientReport::watches_by_session`] is read.
    pub const fn wants_watches_by_connection(self) -> bool {
        matches!(self.word, Word::Wchc)
    }

    /// Whether [`ServerReport::sessions`] and [`ServerReport::ephemerals`] are read.
    pub const fn wants_sessions(self) -> bool {
        matches!(self.word, Word::Dump)
    }

    /// Whether [`ServerReport::digests`] is read.
    pub const fn wants_digests(self) -> bool {
        matches!(self.word, Word::Hash)
    }

    /// Whether the directories' sizes are read, which somebody must add up from the files.
    pub const fn wants_directory_sizes(self) -> bool {
        let is_told = matches!(self.word, Word::Conf | Word::Dirs);
        is_told || self.is_http && matches!(self.word, Word::Srvr | Word::Stat)
    }

    /// Whether the stages' histograms are read: 240 KiB a core, so only copied on demand.
    pub const fn wants_stages(self) -> bool {
        matches!(self.word, Word::Mntr)
    }

    /// Whether [`ServerReport::root_acl`] is read: by who asks whether he may ask for more.
    pub const fn wants_root_acl(self) -> bool {
        self.is_http && matches!(self.word, Word::Ruok)
    }

    /// Whether the server's counters start again (`srst`): each core calls its `reset`.
    pub const fn resets_statistics(self) -> bool {
        matches!(self.word, Word::Srst)
    }

    /// Whether each connection's counters start again (`crst`).
    pub const fn resets_connection_statistics(self) -> bool {
        matches!(self.word, Word::Crst)
    }
}

/// What a client core counts.
///
/// Its owner increments the fields; [`ClientStats::count_reply`] and [`ClientStats::count_event`]
/// do so for what is sent.
#[derive(Clone, Debug, Default)]
pub struct ClientStats {
    pub connections_accepted: u64,
    /// Closed unanswered because a limit of connections was reached.
    pub connections_rejected: u64,
    pub accepts_failed: u64,
    /// Connections closed, by whichever side.
    pub connections_closed: u64,
    /// Connect requests read, answered or not.
    pub connect_requests: u64,
    /// Connections closed because no connect request came in time.
    pub sessionless_expired: u64,
    /// Connections closed because a frame that had begun did not end in time.
    pub partial_frames_expired: u64,
    /// Frames longer than `jute.maxbuffer`, or of negative length.
    pub frames_refused: u64,
    /// Times that reading a connection stopped because the pipeline or the peer was behind.
    pub stalls: u64,
    /// Connections closed because of `largeRequestMaxBytes`.
    pub large_requests_rejected: u64,
    /// Times that a request had to wait because of `request_throttle_max_requests`.
    pub throttle_waits: u64,
    pub slow_readers_dropped: u64,
    /// Clients turned away because they had seen a later zxid than this server.
    pub clients_ahead: u64,
    pub auth_failed: u64,
    pub packets_received: u64,
    /// Replies, events and connect responses.
    pub packets_sent: u64,
    pub bytes_received: u64,
    /// All bytes sent, events included.
    pub bytes_sent: u64,
    pub events_sent: u64,
    /// The part of `bytes_sent` that was events.
    pub event_bytes_sent: u64,
    /// From a request's arrival to its reply, all requests, in milliseconds.
    pub latency_ms: Summary,
    /// The same of requests that became no transaction.
    pub read_latency_ms: Percentiles,
    /// The same of requests that became a transaction.
    pub update_latency_ms: Percentiles,
    /// Replies that carry a body, in bytes.
    pub response_sizes: Sizes,
}

impl ClientStats {
    /// Counts a reply to `op` that left `latency_ms` milliseconds after its request came.
    pub fn count_reply(&mut self, op: OpCode, latency_ms: u64) {
        self.packets_sent += 1;
        self.latency_ms.add(latency_ms);
        if op.is_write() {
            self.update_latency_ms.add(latency_ms);
        } else {
            self.read_latency_ms.add(latency_ms);
        }
    }

    /// Counts a watch event of `bytes` bytes, its length prefix included; `bytes_sent` is the
    /// caller's, for all that it sends.
    pub fn count_event(&mut self, bytes: u64) {
        self.packets_sent += 1;
        self.events_sent += 1;
        self.event_bytes_sent += bytes;
    }

    /// Starts every counter again (`srst`), but for the failed authentications, which Apache
    /// keeps as a gauge.
    pub fn reset(&mut self) {
        *self = ClientStats { auth_failed: self.auth_failed, ..ClientStats::default() };
    }

    /// Takes in another core's counters.
    pub fn merge(&mut self, other: &ClientStats) {
        self.connections_accepted += other.connections_accepted;
        self.connections_rejected += other.connections_rejected;
        self.accepts_failed += other.accepts_failed;
        self.connections_closed += other.connections_closed;
        self.connect_requests += other.connect_requests;
        self.sessionless_expired += other.sessionless_expired;
        self.partial_frames_expired += other.partial_frames_expired;
        self.frames_refused += other.frames_refused;
        self.stalls += other.stalls;
        self.large_requests_rejected += other.large_requests_rejected;
        self.throttle_waits += other.throttle_waits;
        self.slow_readers_dropped += other.slow_readers_dropped;
        self.clients_ahead += other.clients_ahead;
        self.auth_failed += other.auth_failed;
        self.packets_received += other.packets_received;
        self.packets_sent += other.packets_sent;
        self.bytes_received += other.bytes_received;
        self.bytes_sent += other.bytes_sent;
        self.events_sent += other.events_sent;
        self.event_bytes_sent += other.event_bytes_sent;
        self.latency_ms.merge(&other.latency_ms);
        self.read_latency_ms.merge(&other.read_latency_ms);
        self.update_latency_ms.merge(&other.update_latency_ms);
        self.response_sizes.merge(&other.response_sizes);
    }
}

/// One connection, as `cons`, `stat` and `dump` show it.
#[derive(Clone, Debug)]
pub struct ConnectionReport {
    pub peer: SocketAddr,
    /// 0 before the session is there.
    pub session: i64,
    pub timeout_ms: i32,
    /// Requests read and not yet answered.
    pub queued: usize,
    pub received: u64,
    pub sent: u64,
    pub established_wall_ms: i64,
    /// When it is closed if nothing more is heard on it, on the wall clock.
    pub expires_wall_ms: i64,
    pub last_op: Option<OpCode>,
    /// The last xid that the client counted itself; -1 before the first.
    pub last_xid: i32,
    /// The zxid in the last reply; 0 before the first.
    pub last_zxid: i64,
    /// 0 before the first reply.
    pub last_response_wall_ms: i64,
    pub last_latency_ms: u64,
    pub latency_ms: Summary,
    /// What is waited for, in Java's selector bits: 0 nothing, 1 to read, 4 to write, 5 both.
    pub interest: u8,
}

/// How many watches a core holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchCounts {
    /// Connections with at least one watch.
    pub connections: usize,
    /// Paths with at least one.
    pub paths: usize,
    /// Pairs of connection and path.
    pub watches: usize,
}

/// Some of a core's watches: a path and a session each.
#[derive(Clone, Debug, Default)]
pub struct WatchRows {
    /// The paths, one behind the other.
    paths: String,
    /// Where each one's path ends, and the session.
    rows: Vec<(usize, i64)>,
}

impl WatchRows {
    /// Adds a watch.
    pub fn push(&mut self, path: &str, session: i64) {
        self.paths.push_str(path);
        self.rows.push((self.paths.len(), session));
    }

    /// The watches, in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = (&str, i64)> {
        let mut start = 0;
        self.rows.iter().map(move |(end, session)| {
            let path = &self.paths[start..*end];
            start = *end;
            (path, *session)
        })
    }
}

/// One client core's part of the answer.
#[derive(Clone, Debug, Default)]
pub struct ClientReport {
    pub stats: ClientStats,
    pub connections: usize,
    /// Requests read and not yet answered, on all connections.
    pub outstanding: usize,
    /// Only where [`Question::wants_connections`].
    pub connection_reports: Vec<ConnectionReport>,
    pub watch_counts: WatchCounts,
    /// The watches as they stood in the core's table, for [`ClientReport::sort_watches`].
    pub watches: Vec<WatchRows>,
    /// Path and sessions that watch it; only where [`Question::wants_watches_by_path`].
    pub watches_by_path: Vec<(String, Vec<i64>)>,
    /// Session and paths that it watches; only where [`Question::wants_watches_by_connection`].
    pub watches_by_session: Vec<(i64, Vec<String>)>,
    /// Filled only where [`Question::wants_stages`].
    pub stages: StageReport,
}

impl ClientReport {
    /// Puts the watches in order: by path or by session, as the question wants them.
    pub fn sort_watches(&mut self, question: Question) {
        let watches = std::mem::take(&mut self.watches);
        let mut watches: Vec<(&str, i64)> = watches.iter().flat_map(WatchRows::iter).collect();
        if question.wants_watches_by_path() {
            watches.sort_unstable();
            for watching in watches.chunk_by(|one, other| one.0 == other.0) {
                let sessions = watching.iter().map(|(_, session)| *session).collect();
                self.watches_by_path.push((watching[0].0.to_owned(), sessions));
            }
        } else if question.wants_watches_by_connection() {
            watches.sort_unstable_by_key(|(path, session)| (*session, *path));
            for watched in watches.chunk_by(|one, other| one.1 == other.1) {
                let paths = watched.iter().map(|(path, _)| (*path).to_owned()).collect();
                self.watches_by_session.push((watched[0].1, paths));
            }
        }
    }
}

/// What the server is, as `Mode:` and `zk_server_state` say it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    #[default]
    Standalone,
    Leader,
    Follower,
    Observer,
    ReadOnly,
}

impl Mode {
    /// Apache's word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Mode::Standalone => "standalone",
            Mode::Leader => "leader",
            Mode::Follower => "follower",
            Mode::Observer => "observer",
            Mode::ReadOnly => "read-only",
        }
    }
}

/// A live session, as `dump` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionReport {
    pub session: i64,
    pub timeout_ms: i32,
    /// When it ends if nothing more is heard of it, rounded up to the tick, on the wall clock.
    pub expires_wall_ms: i64,
}

/// What the pipeline counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct PipelineCounters {
    /// Transactions prepared, those of errors not included.
    pub txns: u64,
    /// Requests answered with an error by the writer.
    pub errors: u64,
    /// Writes refused because the disk has no room.
    pub refused_no_room: u64,
    pub sessions_expired: u64,
    /// Sessions that moved here from another connection or server.
    pub connections_revalidated: u64,
    pub snapshots_taken: u64,
    pub snapshot_errors: u64,
    /// From a snapshot's start to its manifest being durable, in milliseconds.
    pub snapshot_time_ms: Summary,
    /// Transactions whose digest was not the tree's after applying them.
    pub digest_mismatches: u64,
}

impl PipelineCounters {
    /// Starts every counter again (`srst`).
    pub fn reset(&mut self) {
        *self = PipelineCounters::default();
    }
}

/// What the log counts.
#[derive(Clone, Debug, Default)]
pub struct LogCounters {
    /// Batches made durable.
    pub writes: u64,
    /// Bytes of those batches, their padding included.
    pub bytes: u64,
    /// Transactions in a batch.
    pub batch_txns: Summary,
    /// Batches that took longer than `fsync.warningthresholdms`.
    pub slow_syncs: u64,
    /// From handing a batch to the kernel to its being durable, in milliseconds.
    pub sync_ms: Percentiles,
}

impl LogCounters {
    /// Starts every counter again (`srst`).
    pub fn reset(&mut self) {
        *self = LogCounters::default();
    }
}

/// What the start cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StartupReport {
    pub snapshot_load_ms: u64,
    /// Transactions replayed from the log on top of the snapshot.
    pub txns_loaded: u64,
    pub txns_load_ms: u64,
}

/// The server's part in an ensemble.
#[derive(Clone, Debug, Default)]
pub struct EnsembleReport {
    /// Voting members.
    pub quorum_size: usize,
    pub elections_begun: u64,
    pub election_ms: Summary,
    pub proposals_received: u64,
    pub commits_received: u64,
    /// Only while leading.
    pub leading: Option<LeaderReport>,
    pub my_id: i64,
    /// The server that leads, or is elected to.
    pub leader: Option<i64>,
    /// What the server does, in the words of Zab's phases (`ZabState`).
    pub phase: &'static str,
    pub members: Membership,
    /// The observers that are in step, on the leader or on a follower that serves observers.
    pub observers: Vec<i64>,
    /// Whether this server is such a follower.
    pub is_observer_master: bool,
    /// Only on an observer: the server that serves it.
    pub observer_master: Option<i64>,
}

/// What only a leader knows.
#[derive(Clone, Debug, Default)]
pub struct LeaderReport {
    pub leading_ms: u64,
    pub learners: usize,
    pub synced_followers: usize,
    pub synced_observers: usize,
    pub synced_non_voting_followers: usize,
    pub pending_syncs: usize,
    /// A proposal's bytes.
    pub proposal_sizes: Sizes,
    pub proposals: u64,
    pub commits: u64,
    /// Learners brought up to date by transactions, and by a snapshot.
    pub diffs_sent: u64,
    pub snapshots_sent: u64,
}

/// The configuration as it is meant, in `conf`'s words.
#[derive(Clone, Debug, Default)]
pub struct ConfReport {
    /// `None` where the port is not open.
    pub client_port: Option<u16>,
    pub secure_client_port: Option<u16>,
    pub data_dir: String,
    pub log_dir: String,
    pub tick_time_ms: u64,
    /// 0 is no limit.
    pub connections_per_address_max: u32,
    pub session_timeout_ms_min: u64,
    pub session_timeout_ms_max: u64,
    /// `None` where the system's own is used.
    pub listen_backlog: Option<u32>,
    pub server_id: i64,
    pub ensemble: Option<EnsembleConf>,
}

/// The part of [`ConfReport`] that a member of an ensemble has.
#[derive(Clone, Debug, Default)]
pub struct EnsembleConf {
    pub init_limit_ticks: u32,
    pub sync_limit_ticks: u32,
    pub election_algorithm: u32,
    pub election_port: u16,
    pub quorum_port: u16,
    pub is_observer: bool,
    /// The dynamic configuration's text: `server.N=…` lines and `version=…`.
    pub membership: String,
}

/// Everything a word or a metric can ask for, at one moment.
#[derive(Clone, Debug, Default)]
pub struct ServerReport {
    /// Whether requests are served; if not, most words are answered with a sentence saying so.
    pub serving: bool,
    pub clients: Vec<ClientReport>,
    /// The pipeline's own stages; [`ServerReport::stages`] adds the clients'.
    pub pipeline_stages: StageReport,
    pub mode: Mode,
    pub last_zxid: Zxid,
    pub node_count: usize,
    /// Bytes of all paths and data, as `DataTree.approximateDataSize` counts them.
    pub approximate_data_size: u64,
    /// Ephemeral znodes.
    pub ephemerals_count: usize,
    pub global_sessions: usize,
    /// Sessions that only this server knows.
    pub local_sessions: usize,
    /// Only where [`Question::wants_sessions`].
    pub sessions: Vec<SessionReport>,
    /// The same of sessions that only this server knows; `None` where there can be none.
    pub own_sessions: Option<Vec<SessionReport>>,
    /// Session and its ephemeral znodes; only where [`Question::wants_sessions`].
    pub ephemerals: Vec<(i64, Vec<String>)>,
    /// Bytes of the files in the snapshots' directory; only where
    /// [`Question::wants_directory_sizes`].
    pub data_dir_size: u64,
    /// Bytes of the files in the log's directory; likewise.
    pub log_dir_size: u64,
    /// The version that the newest snapshot on this server's disk is of.
    pub last_snapshot: Zxid,
    /// When it was finished, in seconds since 1970; only over HTTP.
    pub last_snapshot_wall_seconds: Option<i64>,
    pub started_wall_ms: i64,
    pub uptime_ms: u64,
    /// What `envi` shows, by Java's names (`host.name`, `os.name`, …); Apache's missing ones are
    /// shown as `<NA>`, further ones after them.
    pub environment: BTreeMap<String, String>,
    pub conf: ConfReport,
    pub pipeline: PipelineCounters,
    pub log: LogCounters,
    /// `None` before the tree is loaded.
    pub startup: Option<StartupReport>,
    pub ensemble: Option<EnsembleReport>,
    /// `None` where the system does not say.
    pub open_file_descriptors: Option<u64>,
    pub max_file_descriptors: Option<u64>,
    /// CPU time of the whole process, in milliseconds.
    pub process_cpu_ms: Option<u64>,
    /// Resident memory, in bytes.
    pub resident_bytes: Option<u64>,
    /// The tree's digest every so many transactions, oldest first; only where
    /// [`Question::wants_digests`].
    pub digests: Vec<(Zxid, u64)>,
    /// Who may do what with the root; `None` where it is open to all. Only where
    /// [`Question::wants_root_acl`].
    pub root_acl: Option<Vec<Acl>>,
    /// The tree's digest at `last_zxid`.
    pub tree_digest: u64,
    /// The trace mask: a number that `stmk` stores and `gtmk` shows.
    pub trace_mask: i64,
}

impl ServerReport {
    /// All client cores' counters in one.
    pub fn stats(&self) -> ClientStats {
        let mut sum = ClientStats::default();
        for client in &self.clients {
            sum.merge(&client.stats);
        }
        sum
    }

    /// Open connections.
    pub fn connections(&self) -> usize {
        self.clients.iter().map(|client| client.connections).sum()
    }

    /// Requests read and not yet answered.
    pub fn outstanding(&self) -> usize {
        self.clients.iter().map(|client| client.outstanding).sum()
    }

    /// The watches of all cores. A path that is watched on two cores counts twice in `paths`.
    pub fn watch_counts(&self) -> WatchCounts {
        let mut sum = WatchCounts::default();
        for client in &self.clients {
            sum.connections += client.watch_counts.connections;
            sum.paths += client.watch_counts.paths;
            sum.watches += client.watch_counts.watches;
        }
        sum
    }

    /// The stages of all cores in one.
    pub fn stages(&self) -> StageReport {
        let mut sum = self.pipeline_stages.clone();
        for client in &self.clients {
            sum.merge(&client.stages);
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_told_apart_as_reads_and_updates() {
        let mut stats = ClientStats::default();
        stats.count_reply(OpCode::GetData, 2);
        stats.count_reply(OpCode::Ping, 0);
        stats.count_reply(OpCode::Create2, 7);
        stats.count_event(60);
        assert_eq!(stats.packets_sent, 4);
        assert_eq!((stats.events_sent, stats.event_bytes_sent), (1, 60));
        assert_eq!(stats.latency_ms.average(), 3.0);
        assert_eq!(stats.read_latency_ms.summary.count, 2);
        assert_eq!(stats.update_latency_ms.summary.sum, 7);
    }

    #[test]
    fn resetting_keeps_the_failed_authentications() {
        let mut stats = ClientStats { auth_failed: 3, bytes_sent: 9, ..ClientStats::default() };
        stats.count_reply(OpCode::Exists, 1);
        stats.reset();
        assert_eq!(stats.auth_failed, 3);
        assert_eq!((stats.bytes_sent, stats.packets_sent, stats.latency_ms.count), (0, 0, 0));
    }

    #[test]
    fn a_server_is_the_sum_of_its_cores() {
        let mut one = ClientReport { connections: 2, outstanding: 1, ..ClientReport::default() };
        one.watch_counts = WatchCounts { connections: 1, paths: 2, watches: 3 };
        one.stats.count_reply(OpCode::Exists, 1);
        let mut other = ClientReport { connections: 3, ..ClientReport::default() };
        other.stats.count_reply(OpCode::Delete, 5);
        let report = ServerReport { clients: vec![one, other], ..ServerReport::default() };
        assert_eq!((report.connections(), report.outstanding()), (5, 1));
        assert_eq!(report.watch_counts().watches, 3);
        let stats = report.stats();
        assert_eq!((stats.latency_ms.min(), stats.latency_ms.max()), (1, 5));
        assert_eq!(stats.packets_sent, 2);
    }

    #[test]
    fn watches_are_told_by_path_and_by_session() {
        let watches = [("/b", 2), ("/a", 9), ("/b", 1), ("/a", 2)];
        let sorted = |word| {
            let mut report = ClientReport::default();
            for part in watches.chunks(3) {
                let mut rows = WatchRows::default();
                part.iter().for_each(|(path, session)| rows.push(path, *session));
                assert!(rows.iter().eq(part.iter().copied()));
                report.watches.push(rows);
            }
            report.sort_watches(Question { word, is_http: false });
            report
        };
        let (a, b) = ("/a".to_owned(), "/b".to_owned());
        let by_path = sorted(Word::Wchp).watches_by_path;
        assert_eq!(by_path, [(a.clone(), vec![2, 9]), (b.clone(), vec![1, 2])]);
        let by_session = sorted(Word::Wchc).watches_by_session;
        assert_eq!(by_session, [(1, vec![b.clone()]), (2, vec![a.clone(), b]), (9, vec![a])]);
    }

    #[test]
    fn reports_may_cross_cores() {
        fn check<T: Send + std::fmt::Debug>() {}
        check::<Question>();
        check::<ClientReport>();
        check::<ServerReport>();
    }
}
