//! What Apache's other keys mean here: a sentence for each, logged where one is set.

use super::error::{ConfigError, Origin};
use super::properties::Properties;

const THREADS: &str = "no effect: the cores are those of ringkeeper.cores";
const NETTY: &str = "no effect: there is one kind of connection";
const TLS: &str = "no effect: this version does not support TLS";
const SASL: &str = "no effect: this version does not support SASL";
const THROTTLE: &str = "no effect: overload is answered by back-pressure to the sockets";
const CACHE: &str = "no effect: replies are encoded each time";
const BATCH: &str = "no effect: a group commit takes what has arrived and waits for nothing";
const STALE: &str = "no effect: requests of closed connections are not told apart";
const MONITOR: &str = "no effect: there are no garbage collector's pauses to look for";
const PEERS: &str = "no effect on a server on its own";
const MESSAGES: &str = "no effect: messages are not recorded";

/// What a zoo.cfg key that Apache parses itself means here, by its beginning.
pub(super) const ZOO: &[(&str, &str)] = &[
    ("jvm.pause.", MONITOR),
    ("metricsProvider.", "no effect: the exporter has no threads and no JVM of its own"),
    ("quorum.auth.", SASL),
    ("quorum.cnxn.threads.size", THREADS),
];

/// What a property `zookeeper.K` means here, by the beginning of K. The first that fits holds.
pub(super) const SYSTEM: &[(&str, &str)] = &[
    ("IPAuthenticationProvider.usexforwardedfor", "no effect: only the peer's address counts"),
    ("SASLAuthenticationProvider.", SASL),
    ("X509AuthenticationProvider.", TLS),
    ("admin.httpVersion", "no effect: the server speaks HTTP/1.1"),
    ("admin.needClientAuth", TLS),
    ("admin.portUnification", TLS),
    ("audit.", "no effect: no audit log is written"),
    ("authProvider.", "no effect: the schemes are built in, and no class can be loaded"),
    ("bitHashCacheSize", "no effect: watches have one table"),
    ("client.", TLS),
    ("commitProcessor.", THREADS),
    ("connection_throttle_", THROTTLE),
    ("electionPortBindRetry", PEERS),
    ("enableEagerACLCheck", "no effect: ACLs are checked where the order is made"),
    ("fastleader.", PEERS),
    ("fips-mode", TLS),
    ("flushDelay", BATCH),
    ("follower.", PEERS),
    ("forceSnapshotSync", PEERS),
    ("intBufferStartingSizeBytes", THREADS),
    ("kerberos.", SASL),
    ("leader", PEERS),
    ("learner.", PEERS),
    ("letAnySaslUserDoX", SASL),
    ("log4j", "no effect: the filter is RINGKEEPER_LOG"),
    ("log.", "no effect: the trace goes to standard error"),
    ("maxBatchSize", BATCH),
    ("maxGetChildrenResponseCacheSize", CACHE),
    ("maxInProcessingDeadWatchers", "no effect: a closed connection's watches go at once"),
    ("maxResponseCacheSize", CACHE),
    ("maxWriteQueuePollTime", BATCH),
    ("messageTracker.", MESSAGES),
    ("netty.", NETTY),
    ("nio.", THREADS),
    ("observer", PEERS),
    ("pathStats.", "no effect: no statistics are kept by path"),
    ("quorumCnxnTimeoutMs", PEERS),
    ("request_stale_", STALE),
    ("request_throttle", THROTTLE),
    ("requireKerberosConfig", SASL),
    ("root.logger", "no effect: the filter is RINGKEEPER_LOG"),
    ("sasl", SASL),
    ("security.auth_to_local", SASL),
    ("server.", "no effect outside zoo.cfg"),
    ("serverCnxnFactory", NETTY),
    ("snapshot.compression.method", "no effect: snapshots have their own format"),
    ("ssl.", TLS),
    ("superUser", SASL),
    ("throttled_op_wait_time", THROTTLE),
    ("txnLogSizeLimitInKb", "no effect: a segment has the size ringkeeper.log.segmentSizeInKb"),
    ("watchManagerName", "no effect: watches have one table"),
    ("watcherClean", "no effect: a closed connection's watches go at once"),
];

/// Properties without Apache's prefix that mean something to its server, by their beginning.
pub(super) const BARE: &[(&str, &str)] = &[
    ("com.sun.management.", "no effect: there is no JMX"),
    ("follower.nodelay", PEERS),
    ("java.security.auth.login.config", SASL),
    ("leader.nodelay", PEERS),
    ("org.apache.zookeeper.", "no effect: there is no JVM"),
];

fn meaning(table: &[(&str, &'static str)], key: &str) -> Option<&'static str> {
    table.iter().find(|(start, _)| key.starts_with(start)).map(|&(_, meaning)| meaning)
}

/// Adds a note for each setting that nobody has read. Of the server's own keys none is without
/// effect, so there it is a slip of the pen and an error.
pub(super) fn note_the_rest(properties: &mut Properties) -> Result<(), ConfigError> {
    let mut notes = Vec::new();
    for (key, written) in &properties.zoo {
        if properties.read.contains(key) {
            continue;
        }
        let meaning = meaning(ZOO, key).unwrap_or("no effect");
        notes.push(format!("{}: {key}: {meaning}", written.origin));
    }
    for (full, written) in &properties.system {
        if properties.read.contains(full) {
            continue;
        }
        let origin = &written.origin;
        if full.starts_with("ringkeeper.") {
            let expected = "a ringkeeper key that docs/configuration.md lists";
            return Err(ConfigError::value(origin, full, expected, &written.value));
        }
        let short = full.strip_prefix("zookeeper.");
        let in_file = matches!(origin, Origin::File { .. });
        let shown = short.filter(|_| in_file).unwrap_or(full);
        notes.push(match (short.and_then(|key| meaning(SYSTEM, key)), meaning(BARE, full)) {
            (Some(meaning), _) | (None, Some(meaning)) => format!("{origin}: {shown}: {meaning}"),
            (None, None) => {
                format!("{origin}: {shown} is not a key known here; kept as property {full}")
            }
        });
    }
    properties.notes.extend(notes);
    Ok(())
}
