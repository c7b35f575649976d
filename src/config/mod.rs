//! The configuration: zoo.cfg as written ([`raw::RawConfig`]) and as meant ([`Config`]).
//!
//! Reading order: [`raw`] is the file's format, `properties` merges the file with the flags and the
//! environment, `read` gives every key its type, unit, range and default, `ensemble` does so for
//! the `server.N` lines, and `accepted` holds a sentence for each key that Apache knows and that
//! means nothing here. What a key means to an operator stands in `docs/configuration.md`.
//!
//! A [`Config`] is plain values. Each limit carries its unit in its name, and everything that is
//! worth a line at start is in [`Config::notes`], for the server to log. No secret is in a note, in
//! an error or in the `Debug` output.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

pub mod ensemble;
pub mod error;
pub mod properties;
pub mod raw;
pub mod secret;

mod accepted;
mod read;
#[cfg(test)]
mod tests;

use ensemble::Ensemble;
use error::{ConfigError, Origin};
use properties::{Properties, Sources};
use raw::RawConfig;
use secret::Secret;

use crate::pipeline::auth::DigestAlgorithm;

/// The largest zoo.cfg that is read; a bigger file is something else.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Everything a server has to know before it starts.
#[derive(Clone, Debug)]
pub struct Config {
    /// The zoo.cfg, or `None` when the server runs on its defaults.
    pub file: Option<PathBuf>,
    /// The text of the zoo.cfg with its secrets redacted, entry by entry; empty without one.
    pub written: String,
    /// Where snapshots and `myid` live.
    pub data_dir: PathBuf,
    /// Where the log lives; `data_dir` unless said otherwise.
    pub data_log_dir: PathBuf,
    /// Whether missing data directories are made at start.
    pub data_dir_autocreate: bool,
    /// Whether an empty database of a member of an ensemble is as it should be, when there is no
    /// `initialize` file; `None` where nothing is said, which Apache takes for true.
    pub db_autocreate: Option<bool>,
    /// Where clients connect; port 0 means any free one.
    pub client_address: SocketAddr,
    /// The length of the kernel's queue of connections to accept; `None` is the system's default.
    pub client_listen_backlog: Option<u32>,
    /// Whether clients' sockets have `SO_KEEPALIVE`.
    pub client_tcp_keep_alive: bool,
    /// The unit of session and ensemble timeouts.
    pub tick_time_ms: u64,
    /// The shortest session timeout that a client can get.
    pub session_timeout_ms_min: u64,
    /// The longest session timeout that a client can get.
    pub session_timeout_ms_max: u64,
    /// Whether a member of an ensemble serves reads while it has no leader.
    pub read_only_mode: bool,
    /// Whether sessions stay on the server that they were opened on until they need more.
    pub local_sessions: bool,
    /// Whether a local session becomes a global one with its first ephemeral znode.
    pub local_sessions_upgrading: bool,
    /// The members of the ensemble, if this is not a server on its own.
    pub ensemble: Ensemble,
    /// Which cores do what.
    pub cores: Cores,
    /// The transaction log.
    pub log: Log,
    /// Snapshots, and what is kept of them.
    pub snapshot: Snapshot,
    /// What is bounded.
    pub limits: Limits,
    /// Kinds of znodes and checks that are switched on.
    pub features: Features,
    /// Who clients are.
    pub auth: Auth,
    /// The four-letter words that are answered.
    pub four_letter_words: FourLetterWords,
    /// The administration server.
    pub admin: Admin,
    /// Where metrics are exported.
    pub metrics: Metrics,
    /// Every system property in force by its full name, secrets redacted: what `sysp` shows.
    pub properties: BTreeMap<String, String>,
    /// What an operator should know about this configuration, a sentence each.
    pub notes: Vec<String>,
}

/// Which cores do what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cores {
    /// How many cores serve clients; `None` lets the machine's topology decide.
    pub clients: Option<u32>,
    /// Whether executors are pinned; `None` means where there are more than two cores.
    pub pin: Option<bool>,
}

/// How the log reaches the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogWriter {
    /// The faster one on this volume, by a probe at start.
    Auto,
    /// `O_DIRECT` and `O_DSYNC` with aligned buffers.
    Direct,
    /// A mapping, then `fdatasync`.
    Mmap,
}

/// The transaction log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// How it is written.
    pub writer: LogWriter,
    /// The size of a segment, a multiple of 1 MiB that holds at least two of the longest records.
    pub segment_bytes: u64,
    /// A sync that takes longer is worth a warning.
    pub sync_warning_threshold_ms: u64,
    /// How many committed transactions a leader keeps in memory for learners that lag behind.
    pub commit_log_count: u64,
}

/// When old snapshots and the log segments that only they need are deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purge {
    /// Never.
    Off,
    /// After each snapshot.
    AfterSnapshot,
    /// At start and then once in each interval.
    Every {
        /// The interval.
        interval_ms: u64,
    },
}

/// Snapshots, and what is kept of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// How many transactions may follow a snapshot before the next one is due. Apache takes one
    /// after a random number between half of this and this.
    pub txn_count: u64,
    /// How many bytes of log may follow a snapshot before the next one is due; `None` for any.
    pub log_bytes_max: Option<u64>,
    /// Whether a server with a log and no snapshot may start.
    pub trust_empty: bool,
    /// Whether the tree's digest is kept, logged with each transaction and checked.
    pub digest: bool,
    /// Whether snapshots in Java's format end with the last processed zxid.
    pub serialize_last_processed_zxid: bool,
    /// When old snapshots go.
    pub purge: Purge,
    /// How many snapshots a purge leaves, at least 3.
    pub retain_count: u32,
    /// A learner gets the log instead of a snapshot while the log it lacks is smaller than this
    /// part of the snapshot; negative for never.
    pub log_size_factor: f64,
}

/// What is bounded. A bound that is reached is back-pressure or a refusal, never more memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest frame and the longest data of a znode.
    pub jute_bytes_max: u32,
    /// How much longer than that a record of the server's own may be when it is read back.
    pub jute_extra_bytes: u32,
    /// Connections of the whole server.
    pub connections_max: u32,
    /// Connections from one address; `None` for any number.
    pub connections_per_address_max: Option<u32>,
    /// How long a connection may take to send its first frame.
    pub first_frame_deadline_ms: u64,
    /// How long a connection may take to send the rest of a frame that it has begun.
    pub partial_frame_deadline_ms: u64,
    /// Requests of one connection that are not answered yet; more are left in the socket.
    pub connection_requests_max: u32,
    /// Bytes that wait to be sent to one connection. A client that reads too slowly for its watch
    /// events is dropped beyond it.
    pub connection_outgoing_bytes_max: u64,
    /// Requests of the whole server that are not answered yet; with more of them each connection
    /// may have one, and the others are left in the sockets.
    pub outstanding_requests_max: u32,
    /// With so many requests of the whole server unanswered none more is taken; `None` for no such
    /// bound.
    pub throttle_requests_max: Option<u32>,
    /// How soon it is looked again whether more are taken.
    pub throttle_stall_ms: u64,
    /// A request of more bytes is a large one; `None` when no request is.
    pub large_request_threshold_bytes: Option<u32>,
    /// The bytes of large requests in flight; a connection whose large request exceeds it is
    /// closed.
    pub large_request_bytes_max: u64,
}

/// Kinds of znodes and checks that are switched on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Whether there are TTL znodes.
    pub extended_types: bool,
    /// Whether TTL znodes have the layout of ZooKeeper 3.5.3.
    pub emulate_353_ttl: bool,
    /// Whether hard quotas refuse.
    pub enforce_quota: bool,
    /// Whether a session's end lists its ephemeral znodes in its transaction.
    pub close_session_txn: bool,
    /// Whether the ensemble may be changed by clients.
    pub reconfig: bool,
    /// How often containers and TTL znodes are looked at.
    pub container_check_interval_ms: u64,
    /// How many of them are deleted in a minute.
    pub containers_per_minute_max: u64,
    /// After how long a container that never had a child goes; `None` for never.
    pub container_never_used_ms_max: Option<u64>,
}

/// Who clients are, and what they must have shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// Whether no ACL is checked.
    pub skip_acl: bool,
    /// Whether there is the scheme `digest`.
    pub digest: bool,
    /// The hash of its ids. All servers of an ensemble must agree on it.
    pub digest_algorithm: DigestAlgorithm,
    /// The `user:digest` whose holder may do everything.
    pub super_digest: Option<Secret>,
    /// A client must have authenticated by one of these before its first request; empty for none.
    /// `sasl` is among them when `sessionRequireClientSASLAuth` says so.
    pub enforced_schemes: Vec<String>,
    /// Whether a connection survives a failed SASL exchange.
    pub allow_sasl_failed_clients: bool,
    /// The names of the ensemble that the scheme `ensemble` takes; without any it is not there.
    pub ensemble_names: Vec<String>,
}

/// The four-letter words that are answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FourLetterWords {
    /// Every word.
    All,
    /// These; `srvr` is always among them.
    Only(BTreeSet<String>),
}

impl FourLetterWords {
    /// Whether `word` is answered.
    pub fn allow(&self, word: &str) -> bool {
        match self {
            FourLetterWords::All => true,
            FourLetterWords::Only(words) => words.contains(word),
        }
    }
}

/// The administration server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Where it listens; `None` when there is none.
    pub address: Option<SocketAddr>,
    /// The path that its commands are under: `/commands`.
    pub command_url: String,
    /// After how long without a request a connection is closed.
    pub idle_timeout_ms: u64,
    /// Whether a snapshot can be fetched.
    pub snapshot: bool,
    /// Whether a snapshot can be restored.
    pub restore: bool,
    /// The least time between two snapshots or two restores.
    pub rate_limiter_interval_ms: u64,
}

/// Where metrics are exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// Where Prometheus finds `/metrics`; `None` when it does not.
    pub prometheus: Option<SocketAddr>,
}

impl Config {
    /// Reads the zoo.cfg that `sources` names, the `myid` and dynamic files that it leads to, and
    /// merges all with the flags.
    ///
    /// # Errors
    /// The first setting that cannot be honoured, or the file that cannot be read.
    pub fn load(sources: &Sources) -> Result<Config, ConfigError> {
        let Some(path) = &sources.file else { return build(sources, None) };
        let bytes = read_small(path)?;
        Config::parse(sources, path, &bytes)
    }

    /// [`Config::load`] for a zoo.cfg whose bytes are at hand; `path` is named in errors.
    ///
    /// # Errors
    /// As for [`Config::load`].
    pub fn parse(sources: &Sources, path: &Path, bytes: &[u8]) -> Result<Config, ConfigError> {
        let raw = parse_raw(path, bytes)?;
        build(sources, Some((path, &raw)))
    }
}

fn build(sources: &Sources, file: Option<(&Path, &RawConfig)>) -> Result<Config, ConfigError> {
    let properties = Properties::gather(sources, file)?;
    let mut config = read::config(properties)?;
    if let Some((path, raw)) = file {
        config.file = Some(path.into());
        config.written = redacted(raw);
    }
    Ok(config)
}

fn redacted(raw: &RawConfig) -> String {
    let mut text = String::new();
    for entry in &raw.entries {
        let hidden = secret::is_secret(&entry.key);
        let value = if hidden { secret::REDACTED } else { entry.value.as_str() };
        text.extend([&entry.key, "=", value, "\n"]);
    }
    text
}

/// Reads a properties file and names it in the error.
fn parse_raw(path: &Path, bytes: &[u8]) -> Result<RawConfig, ConfigError> {
    RawConfig::parse(bytes).map_err(|fault| ConfigError {
        origin: Origin::File { path: path.into(), line: fault.line },
        key: "line".into(),
        expected: fault.expected.into(),
        // The line may hold a secret, and its key is what could not be read.
        found: match secret::is_secret(&fault.found) {
            true => secret::REDACTED.into(),
            false => format!("found {:?}", fault.found),
        },
    })
}

/// The bytes of a file that a configuration names.
fn read_small(path: &Path) -> Result<Vec<u8>, ConfigError> {
    let fault = |found: String| ConfigError {
        origin: Origin::File { path: path.into(), line: 0 },
        key: "file".into(),
        expected: format!("a readable file of at most {FILE_BYTES_MAX} bytes"),
        found,
    };
    let metadata = std::fs::metadata(path).map_err(|error| fault(error.to_string()))?;
    if metadata.len() > FILE_BYTES_MAX {
        return Err(fault(format!("found {} bytes", metadata.len())));
    }
    std::fs::read(path).map_err(|error| fault(error.to_string()))
}
