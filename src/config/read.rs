//! Every key with its type, unit, range and default.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::error::ConfigError;
use super::properties::{Key, Properties};
use super::secret::Secret;
use super::*;
use crate::pipeline::auth::DigestAlgorithm;

/// Apache keeps these numbers in a Java `int`.
const INT_MAX: u64 = i32::MAX as u64;
const MIB: u64 = 1 << 20;

/// What a server without a zoo.cfg does.
const DEFAULT_CLIENT_PORT: u16 = 2181;
const DEFAULT_DATA_DIR: &str = "./ringkeeper-data";

/// Connections without a limit, as Apache's `maxCnxns=0` has it, end here: each costs a descriptor
/// and buffers, and everything is bounded.
const CONNECTIONS_CEILING: u64 = 1_000_000;
/// The shortest `jute.maxbuffer`: a connect request is 45 bytes.
const JUTE_BYTES_FLOOR: u64 = 64;
/// The longest `jute.maxbuffer`: a frame is held in memory whole, once per connection at worst.
const JUTE_BYTES_CEILING: u64 = 256 * MIB;
/// The smallest and the largest log segment.
const SEGMENT_BYTES_MIN: u64 = 4 * MIB;
const SEGMENT_BYTES_MAX: u64 = 4096 * MIB;

const _: () = assert!(2 * JUTE_BYTES_CEILING + MIB <= SEGMENT_BYTES_MAX);

/// Turns the merged settings into a [`Config`].
pub(super) fn config(mut properties: Properties) -> Result<Config, ConfigError> {
    let p = &mut properties;
    let data_dir = data_dir(p)?;
    let data_log_dir = match p.text(Key::Zoo("dataLogDir")) {
        Some(text) => path(p, "dataLogDir", text)?,
        None => data_dir.clone(),
    };
    refuse_tls(p)?;
    let mut client_address = client_address(p)?;
    let ensemble = ensemble::read(p, &data_dir, &mut client_address)?;
    let client_address = client_address.ok_or_else(|| {
        let expected = "the port for clients, which is the only way in";
        ConfigError::missing(&p.source, "clientPort", expected)
    })?;
    refuse_unsupported_ensemble(p, &ensemble)?;
    let tick_time_ms = p.count(Key::Zoo("tickTime"), "milliseconds", 1..=INT_MAX, 3000)?;
    let (session_timeout_ms_min, session_timeout_ms_max) = session_timeouts(p, tick_time_ms)?;
    let read_only_mode = p.boolean(Key::Bare("readonlymode.enabled"), false)?;
    let limits = limits(p)?;
    let features = features(p)?;
    check_extended_types(p, &features, &ensemble)?;
    let local_sessions = p.boolean(Key::Zoo("localSessionsEnabled"), false)?;
    let mut config = Config {
        file: None,
        written: String::new(),
        data_dir_autocreate: p.boolean(Key::Zk("datadir.autocreate"), true)?,
        db_autocreate: db_autocreate(p)?,
        client_listen_backlog: backlog(p)?,
        client_tcp_keep_alive: p.boolean(Key::Zk("clientTcpKeepAlive"), false)?,
        local_sessions,
        local_sessions_upgrading: p.boolean(Key::Zoo("localSessionsUpgradingEnabled"), false)?,
        cores: cores(p)?,
        log: log(p, &limits)?,
        snapshot: snapshot(p)?,
        auth: auth(p)?,
        four_letter_words: four_letter_words(p, read_only_mode),
        admin: admin(p)?,
        metrics: metrics(p)?,
        properties: p.effective(),
        notes: Vec::new(),
        data_dir,
        data_log_dir,
        client_address,
        tick_time_ms,
        session_timeout_ms_min,
        session_timeout_ms_max,
        read_only_mode,
        ensemble,
        limits,
        features,
    };
    note_what_is_not_there(p, &config);
    accepted::note_the_rest(p)?;
    config.notes = std::mem::take(&mut p.notes);
    Ok(config)
}

/// Says which settings are understood and have no effect in this version.
fn note_what_is_not_there(p: &mut Properties, config: &Config) {
    let missing = [
        (
            !config.auth.ensemble_names.is_empty(),
            "ensembleAuthName: this version has no scheme `ensemble`",
        ),
        (
            config.features.emulate_353_ttl,
            "emulate353TTLNodes: TTL nodes have the layout of 3.5.4 and later",
        ),
        (
            matches!(config.snapshot.purge, Purge::Every { .. }),
            "autopurge.purgeInterval: purging follows each snapshot, whatever the interval",
        ),
    ];
    for (_, note) in missing.into_iter().filter(|(applies, _)| *applies) {
        p.note(note);
    }
}

fn data_dir(p: &mut Properties) -> Result<PathBuf, ConfigError> {
    match p.text(Key::Zoo("dataDir")) {
        Some(text) => path(p, "dataDir", text),
        None if p.source == Origin::Default => {
            p.note(format!("no zoo.cfg: a server on its own with its data in {DEFAULT_DATA_DIR}"));
            Ok(DEFAULT_DATA_DIR.into())
        }
        None => Err(ConfigError::missing(&p.source, "dataDir", "the directory for the data")),
    }
}

fn path(p: &mut Properties, key: &'static str, text: String) -> Result<PathBuf, ConfigError> {
    if text.contains('\0') {
        let origin = p.find(Key::Zoo(key)).map_or(Origin::Default, |(_, written)| written.origin);
        return Err(ConfigError::value(&origin, key, "a path, which has no NUL", &text));
    }
    if Path::new(&text).is_relative() {
        p.note(format!("{key}={text} is relative to the directory that the server starts in"));
    }
    Ok(text.into())
}

/// The wildcard is IPv4's; `clientPortAddress=::` takes both kinds.
fn client_address(p: &mut Properties) -> Result<Option<SocketAddr>, ConfigError> {
    if p.source == Origin::Default {
        return Ok(Some((Ipv4Addr::LOCALHOST, DEFAULT_CLIENT_PORT).into()));
    }
    let host = p.find(Key::Zoo("clientPortAddress"));
    if !p.has(Key::Zoo("clientPort")) {
        return match host {
            None => Ok(None),
            Some((key, written)) => {
                let expected = "clientPort beside it";
                Err(ConfigError::value(&written.origin, &key, expected, &written.value))
            }
        };
    }
    let port = port(p, Key::Zoo("clientPort"), 0)?;
    let Some((key, written)) = host else {
        return Ok(Some((Ipv4Addr::UNSPECIFIED, port).into()));
    };
    let address = ensemble::resolve(&written.value, port).ok_or_else(|| {
        let expected = "an address of this host or a name that resolves to one";
        ConfigError::value(&written.origin, &key, expected, &written.value)
    })?;
    Ok(Some(address))
}

fn port(p: &mut Properties, key: Key, default: u16) -> Result<u16, ConfigError> {
    let port = p.count(key, "port", 0..=u64::from(u16::MAX), default.into())?;
    Ok(u16::try_from(port).expect("the range is a port's"))
}

fn backlog(p: &mut Properties) -> Result<Option<u32>, ConfigError> {
    let key = Key::Zoo("clientPortListenBacklog");
    let backlog = p.integer(key, "connections", -1..=i64::from(i32::MAX), -1)?;
    Ok(u32::try_from(backlog).ok().filter(|&backlog| backlog > 0))
}

/// A promise of secrecy that cannot be kept is an error, not a note.
fn refuse_tls(p: &mut Properties) -> Result<(), ConfigError> {
    let expected = "no TLS, which this version does not support";
    for key in ["secureClientPort", "secureClientPortAddress"] {
        if let Some((key, written)) = p.find(Key::Zoo(key)) {
            return Err(ConfigError::value(&written.origin, &key, expected, &written.value));
        }
    }
    refuse_when_true(p, Key::Zk("admin.forceHttps"), expected)
}

fn refuse_when_true(p: &mut Properties, key: Key, expected: &str) -> Result<(), ConfigError> {
    if !p.boolean(key, false)? {
        return Ok(());
    }
    let (name, written) = p.find(key).expect("what is true is set");
    Err(ConfigError::value(&written.origin, &name, expected, &written.value))
}

/// What protects the ports between servers is refused where there are such ports.
fn refuse_unsupported_ensemble(
    p: &mut Properties,
    ensemble: &ensemble::Ensemble,
) -> Result<(), ConfigError> {
    let peer_type = p.find(Key::Zoo("peerType"));
    if let Some((key, written)) = peer_type {
        let value = written.value.to_ascii_lowercase();
        if value != "observer" && value != "participant" {
            let expected = "participant or observer";
            return Err(ConfigError::value(&written.origin, &key, expected, &written.value));
        }
        p.note("peerType: the server lines decide who observes");
    }
    let sasl = p.boolean(Key::Zoo("quorum.auth.enableSasl"), false)?;
    let server_requires = p.boolean(Key::Zoo("quorum.auth.serverRequireSasl"), false)?;
    let learner_requires = p.boolean(Key::Zoo("quorum.auth.learnerRequireSasl"), false)?;
    if (server_requires || learner_requires) && !sasl {
        let expected = "true, since a quorum.auth key requires SASL";
        return Err(ConfigError::missing(&p.source, "quorum.auth.enableSasl", expected));
    }
    if server_requires && !learner_requires {
        let expected = "true, since quorum.auth.serverRequireSasl is";
        return Err(ConfigError::missing(&p.source, "quorum.auth.learnerRequireSasl", expected));
    }
    p.boolean(Key::Zoo("portUnification"), false)?;
    p.boolean(Key::Zoo("sslQuorumReloadCertFiles"), false)?;
    let tls = "no TLS between servers, which this version does not support";
    let no_sasl = "no SASL between servers, which this version does not support";
    if ensemble.distributed {
        refuse_when_true(p, Key::Zoo("sslQuorum"), tls)?;
        refuse_when_true(p, Key::Zoo("quorum.auth.enableSasl"), no_sasl)?;
    } else if p.boolean(Key::Zoo("sslQuorum"), false)? || sasl {
        p.note("sslQuorum, quorum.auth: there are no other servers to protect");
    }
    Ok(())
}

fn session_timeouts(p: &mut Properties, tick_time_ms: u64) -> Result<(u64, u64), ConfigError> {
    let mut timeout = |key: &'static str, ticks: u64| -> Result<u64, ConfigError> {
        let timeout = p.integer(Key::Zoo(key), "milliseconds", -1..=i64::from(i32::MAX), -1)?;
        // Clients hold a timeout in a Java int.
        Ok(u64::try_from(timeout).unwrap_or((tick_time_ms * ticks).min(INT_MAX)))
    };
    let min = timeout("minSessionTimeout", 2)?;
    let max = timeout("maxSessionTimeout", 20)?;
    if min <= max {
        return Ok((min, max));
    }
    let written = p.find(Key::Zoo("minSessionTimeout")).or(p.find(Key::Zoo("maxSessionTimeout")));
    let origin = written.map_or(p.source.clone(), |(_, written)| written.origin);
    let expected = format!("at most maxSessionTimeout, which is {max}");
    Err(ConfigError::value(&origin, "minSessionTimeout", expected, &min.to_string()))
}

fn cores(p: &mut Properties) -> Result<Cores, ConfigError> {
    let auto = |p: &mut Properties, key| p.text(key).is_none_or(|text| text == "auto");
    let (clients, pin) = (Key::Bare("ringkeeper.cores"), Key::Bare("ringkeeper.pin"));
    let clients = match auto(p, clients) {
        true => None,
        false => Some(p.count(clients, "cores, or auto", 1..=1024, 1)?),
    };
    let pin = match auto(p, pin) {
        true => None,
        false => Some(choice(p, pin, &["true", "false", "auto"])? == Some(0)),
    };
    let clients = clients.map(|cores| u32::try_from(cores).expect("the range is a u32's"));
    Ok(Cores { clients, pin })
}

/// The index of the word that `key` has, or `None` where it is not set.
fn choice(p: &mut Properties, key: Key, words: &[&str]) -> Result<Option<usize>, ConfigError> {
    let Some((name, written)) = p.find(key) else { return Ok(None) };
    let index = words.iter().position(|word| written.value.eq_ignore_ascii_case(word));
    if index.is_some() {
        return Ok(index);
    }
    let expected = format!("one of {}", words.join(", "));
    Err(ConfigError::value(&written.origin, &name, expected, &written.value))
}

fn log(p: &mut Properties, limits: &Limits) -> Result<Log, ConfigError> {
    let writers = [LogWriter::Auto, LogWriter::Direct, LogWriter::Mmap];
    let writer = choice(p, Key::Bare("ringkeeper.log.writer"), &["auto", "direct", "mmap"])?;
    let kib = SEGMENT_BYTES_MAX / 1024;
    let pre_alloc_kib = p.count(Key::Zk("preAllocSize"), "KiB", 0..=kib, 65536)?;
    let own = Key::Bare("ringkeeper.log.segmentSizeInKb");
    let wanted = p.count(own, "KiB", 0..=kib, pre_alloc_kib)? * 1024;
    // The longest transaction is a request of `jute_bytes_max` that the server has added to, and
    // one segment takes at least that.
    let longest = u64::from(limits.jute_bytes_max) + u64::from(limits.jute_extra_bytes);
    let least = (longest + MIB).max(SEGMENT_BYTES_MIN);
    let segment_bytes = wanted.max(least).next_multiple_of(MIB);
    if wanted < least {
        let mib = segment_bytes / MIB;
        p.note(format!("log segments are {mib} MiB: smaller ones would not hold the longest txn"));
    }
    if p.text(Key::Zk("forceSync")).is_some_and(|text| text == "no") {
        p.note("forceSync=no: every transaction is durable before it is acknowledged all the same");
    }
    let threshold = Key::Bare("fsync.warningthresholdms");
    Ok(Log {
        writer: writers[writer.unwrap_or(0)],
        segment_bytes,
        sync_warning_threshold_ms: p.count(threshold, "milliseconds", 0..=INT_MAX, 1000)?,
        commit_log_count: p.count(Key::Zk("commitLogCount"), "txns", 0..=INT_MAX, 500)?.max(500),
    })
}

fn snapshot(p: &mut Properties) -> Result<Snapshot, ConfigError> {
    let txn_count = p.count(Key::Zk("snapCount"), "transactions", 0..=INT_MAX, 100_000)?;
    if txn_count < 2 {
        p.note("snapCount is 2: fewer would be a snapshot with each transaction");
    }
    let size_key = Key::Zk("snapSizeLimitInKb");
    let log_kib = p.integer(size_key, "KiB", i64::MIN..=i64::MAX / 1024, 4 << 20)?;
    let keep = Key::Zoo("autopurge.snapRetainCount");
    let mut retain_count = p.integer(keep, "snapshots", i64::from(i32::MIN)..=1_000_000, 3)?;
    if retain_count < 3 {
        p.note("autopurge.snapRetainCount is 3: fewer are not safe to live on");
        retain_count = 3;
    }
    Ok(Snapshot {
        txn_count: txn_count.max(2),
        log_bytes_max: u64::try_from(log_kib).ok().filter(|&kib| kib > 0).map(|kib| kib * 1024),
        trust_empty: p.boolean(Key::Zk("snapshot.trust.empty"), false)?,
        digest: p.boolean(Key::Zk("digest.enabled"), true)?,
        serialize_last_processed_zxid: p
            .boolean(Key::Zk("serializeLastProcessedZxid.enabled"), true)?,
        purge: purge(p)?,
        retain_count: u32::try_from(retain_count).expect("the range is a u32's"),
        log_size_factor: log_size_factor(p)?,
    })
}

fn purge(p: &mut Properties) -> Result<Purge, ConfigError> {
    let key = Key::Zoo("autopurge.purgeInterval");
    if !p.has(key) {
        return Ok(Purge::AfterSnapshot);
    }
    let hours = p.integer(key, "hours", i64::from(i32::MIN)..=1_000_000, 0)?;
    match u64::try_from(hours) {
        Ok(hours @ 1..) => Ok(Purge::Every { interval_ms: hours * 3_600_000 }),
        _ => {
            p.note("autopurge.purgeInterval=0: snapshots and log segments are kept for ever");
            Ok(Purge::Off)
        }
    }
}

fn log_size_factor(p: &mut Properties) -> Result<f64, ConfigError> {
    const DEFAULT: f64 = 0.33;
    let Some((name, written)) = p.find(Key::Zk("snapshotSizeFactor")) else { return Ok(DEFAULT) };
    match written.value.parse::<f64>() {
        Ok(factor) if factor <= 1.0 => Ok(factor),
        _ => {
            let expected = "a number of at most 1, negative for never";
            Err(ConfigError::value(&written.origin, &name, expected, &written.value))
        }
    }
}

fn limits(p: &mut Properties) -> Result<Limits, ConfigError> {
    let narrow = |number: u64| u32::try_from(number).expect("the range is a u32's");
    let jute = p.count(
        Key::Bare("jute.maxbuffer"),
        "bytes",
        JUTE_BYTES_FLOOR..=JUTE_BYTES_CEILING,
        0xf_ffff,
    )?;
    let extra_key = Key::Zk("jute.maxbuffer.extrasize");
    let extra = p.count(extra_key, "bytes", 0..=JUTE_BYTES_CEILING, jute)?.max(1024);
    let connections = p.count(Key::Zk("maxCnxns"), "connections", 0..=INT_MAX, 10_000)?;
    let connections = match connections {
        0 => CONNECTIONS_CEILING,
        some => some.min(CONNECTIONS_CEILING),
    };
    let int = i64::from(i32::MIN)..=i64::from(i32::MAX);
    let per_address = p.integer(Key::Zoo("maxClientCnxns"), "connections", int.clone(), 60)?;
    let threshold = p.integer(Key::Zk("largeRequestThreshold"), "bytes", int, -1)?;
    let outstanding = Key::Zk("globalOutstandingLimit");
    let throttle = Key::Zk("request_throttle_max_requests");
    let stall = Key::Zk("request_throttle_stall_time");
    let first = Key::Zk("nio.sessionlessCnxnTimeout");
    let partial = Key::Bare("ringkeeper.partialFrameTimeoutMs");
    let requests = Key::Bare("ringkeeper.maxInFlightPerConnection");
    let outgoing = Key::Bare("ringkeeper.maxOutgoingBytesPerConnection");
    Ok(Limits {
        jute_bytes_max: narrow(jute),
        jute_extra_bytes: narrow(extra),
        connections_max: narrow(connections),
        connections_per_address_max: u32::try_from(per_address).ok().filter(|&count| count > 0),
        first_frame_deadline_ms: p.count(first, "milliseconds", 1..=INT_MAX, 10_000)?,
        partial_frame_deadline_ms: p.count(partial, "milliseconds", 1..=INT_MAX, 30_000)?,
        connection_requests_max: narrow(p.count(requests, "requests", 1..=1_000_000, 1000)?),
        connection_outgoing_bytes_max: p.count(
            outgoing,
            "bytes",
            MIB..=1 << 40,
            (32 * MIB).max(4 * jute),
        )?,
        outstanding_requests_max: narrow(p.count(outstanding, "requests", 1..=INT_MAX, INT_MAX)?),
        throttle_requests_max: Some(narrow(p.count(throttle, "requests", 0..=INT_MAX, 0)?))
            .filter(|&count| count > 0),
        throttle_stall_ms: p.count(stall, "milliseconds", 1..=INT_MAX, 100)?,
        large_request_threshold_bytes: u32::try_from(threshold).ok().filter(|&bytes| bytes > 0),
        large_request_bytes_max: p.count(
            Key::Zk("largeRequestMaxBytes"),
            "bytes",
            1..=INT_MAX,
            100 * MIB,
        )?,
    })
}

fn features(p: &mut Properties) -> Result<Features, ConfigError> {
    let interval = Key::Bare("znode.container.checkIntervalMs");
    let per_minute = Key::Bare("znode.container.maxPerMinute");
    let never_used = Key::Bare("znode.container.maxNeverUsedIntervalMs");
    let never_used = p.integer(never_used, "milliseconds", i64::MIN..=i64::MAX, 0)?;
    Ok(Features {
        extended_types: p.boolean(Key::Zk("extendedTypesEnabled"), false)?,
        emulate_353_ttl: p.boolean(Key::Zk("emulate353TTLNodes"), false)?,
        enforce_quota: p.boolean(Key::Zk("enforceQuota"), false)?,
        close_session_txn: p.boolean(Key::Zk("closeSessionTxn.enabled"), true)?,
        reconfig: p.boolean(Key::Zoo("reconfigEnabled"), false)?,
        container_check_interval_ms: p.count(interval, "milliseconds", 1..=INT_MAX, 60_000)?,
        containers_per_minute_max: p.count(per_minute, "containers", 1..=INT_MAX, 10_000)?,
        container_never_used_ms_max: u64::try_from(never_used).ok().filter(|&ms| ms > 0),
    })
}

/// A TTL znode's owner has the bits of a session of a server of id 255.
fn db_autocreate(p: &mut Properties) -> Result<Option<bool>, ConfigError> {
    let key = || Key::Zk("db.autocreate");
    p.has(key()).then(|| p.boolean(key(), true)).transpose()
}

fn check_extended_types(
    p: &Properties,
    features: &Features,
    ensemble: &ensemble::Ensemble,
) -> Result<(), ConfigError> {
    match ensemble.my_id {
        Some(id) if features.extended_types && id > 254 => {
            let expected = "an id of at most 254 beside extendedTypesEnabled=true";
            Err(ConfigError::value(&p.source, "myid", expected, &id.to_string()))
        }
        _ => Ok(()),
    }
}

fn auth(p: &mut Properties) -> Result<Auth, ConfigError> {
    let digest = p.boolean(Key::Zk("DigestAuthenticationProvider.enabled"), true)?;
    let algorithm = Key::Zk("DigestAuthenticationProvider.digestAlg");
    let names = DigestAlgorithm::NAMES.map(|(name, _)| name);
    let algorithm = choice(p, algorithm, &names)?.map(|index| DigestAlgorithm::NAMES[index].1);
    let super_digest = Key::Zk("DigestAuthenticationProvider.superDigest");
    let ensemble_names = list(p, Key::Zk("ensembleAuthName"));
    let skip_acl = p.text(Key::Zk("skipACL")).is_some_and(|text| text == "yes");
    if skip_acl {
        p.note("skipACL=yes: every client may do everything");
    }
    let enforced_schemes = enforced_schemes(p, digest, !ensemble_names.is_empty())?;
    Ok(Auth {
        skip_acl,
        digest,
        digest_algorithm: algorithm.unwrap_or_default(),
        super_digest: p.text(super_digest).map(Secret::new),
        enforced_schemes,
        allow_sasl_failed_clients: p.boolean(Key::Zk("allowSaslFailedClients"), false)?,
        ensemble_names,
    })
}

fn enforced_schemes(
    p: &mut Properties,
    digest: bool,
    ensemble: bool,
) -> Result<Vec<String>, ConfigError> {
    let key = Key::Zk("enforce.auth.schemes");
    let schemes = list(p, key);
    let enabled = p.boolean(Key::Zk("enforce.auth.enabled"), false)?;
    if p.boolean(Key::Zk("sessionRequireClientSASLAuth"), false)? {
        p.note("sessionRequireClientSASLAuth=true: there is no SASL, so no client can pass");
        return Ok(vec!["sasl".into()]);
    }
    if !enabled {
        return Ok(Vec::new());
    }
    let mut known = vec!["ip"];
    known.extend(digest.then_some("digest"));
    known.extend(ensemble.then_some("ensemble"));
    let expected = format!("schemes that this server has: {}", known.join(", "));
    match p.find(key) {
        Some((name, written)) => {
            let all_known = schemes.iter().all(|scheme| known.contains(&scheme.as_str()));
            if schemes.is_empty() || !all_known {
                return Err(ConfigError::value(&written.origin, &name, expected, &written.value));
            }
            Ok(schemes)
        }
        None => Err(ConfigError::missing(&p.source, "enforce.auth.schemes", expected)),
    }
}

/// The words of a comma-separated list.
fn list(p: &mut Properties, key: Key) -> Vec<String> {
    let text = p.text(key).unwrap_or_default();
    text.split(',').map(raw::trim).filter(|word| !word.is_empty()).map(String::from).collect()
}

fn four_letter_words(p: &mut Properties, read_only_mode: bool) -> FourLetterWords {
    let words = list(p, Key::Zk("4lw.commands.whitelist"));
    if words.iter().any(|word| word == "*") {
        return FourLetterWords::All;
    }
    let mut words: BTreeSet<String> = words.into_iter().collect();
    words.insert("srvr".into());
    if read_only_mode {
        // Clients look for a writable server with it.
        words.insert("isro".into());
    }
    FourLetterWords::Only(words)
}

fn admin(p: &mut Properties) -> Result<Admin, ConfigError> {
    // Apache switches it off for the exact word only.
    let enabled = p.text(Key::Zk("admin.enableServer")).is_none_or(|text| text != "false");
    let port = port(p, Key::Zk("admin.serverPort"), 8080)?;
    // Loopback, where Apache listens on every address: snapshots and restores are behind it.
    let address = http_address(p, Key::Zk("admin.serverAddress"), "127.0.0.1", port)?;
    let command_url =
        p.text(Key::Zk("admin.commandURL")).unwrap_or_else(|| "/commands".to_string());
    let interval = Key::Zk("admin.rateLimiterIntervalInMS");
    Ok(Admin {
        address: enabled.then_some(address),
        command_url,
        idle_timeout_ms: p.count(
            Key::Zk("admin.idleTimeout"),
            "milliseconds",
            1..=INT_MAX,
            30_000,
        )?,
        snapshot: p.boolean(Key::Zk("admin.snapshot.enabled"), true)?,
        restore: p.boolean(Key::Zk("admin.restore.enabled"), true)?,
        rate_limiter_interval_ms: p.count(interval, "milliseconds", 0..=INT_MAX, 300_000)?,
    })
}

fn http_address(
    p: &mut Properties,
    key: Key,
    default: &str,
    port: u16,
) -> Result<SocketAddr, ConfigError> {
    let host = p.text(key).unwrap_or_else(|| default.to_string());
    ensemble::resolve(&host, port).ok_or_else(|| {
        let (name, written) = p.find(key).expect("the default is an address");
        ConfigError::value(&written.origin, &name, "an address of this host", &host)
    })
}

const PROMETHEUS: &str = "org.apache.zookeeper.metrics.prometheus.PrometheusMetricsProvider";
const METRICS_CLASSES: [&str; 3] = [
    PROMETHEUS,
    "org.apache.zookeeper.metrics.impl.DefaultMetricsProvider",
    "org.apache.zookeeper.metrics.impl.NullMetricsProvider",
];

fn metrics(p: &mut Properties) -> Result<Metrics, ConfigError> {
    let class = choice(p, Key::Zoo("metricsProvider.className"), &METRICS_CLASSES)?;
    let port = port(p, Key::Zoo("metricsProvider.httpPort"), 7000)?;
    let address = http_address(p, Key::Zoo("metricsProvider.httpHost"), "0.0.0.0", port)?;
    Ok(Metrics { prometheus: (class == Some(0)).then_some(address) })
}
