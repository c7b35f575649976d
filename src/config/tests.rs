use proptest::prelude::*;

use super::*;
use crate::wire::membership::{self, Role};

/// Parses `text`, after a line for the data directory, and shows what `show` makes of it: the value
/// or the error.
fn check(text: &str, show: impl Fn(&Config) -> String, expected: &str) {
    check_with(Sources::default(), text, show, expected);
}

fn check_with(sources: Sources, text: &str, show: impl Fn(&Config) -> String, expected: &str) {
    let text = format!("dataDir=/no/such/dir\nclientPort=2181\n{text}");
    check_bare(sources, &text, show, expected);
}

fn check_bare(sources: Sources, text: &str, show: impl Fn(&Config) -> String, expected: &str) {
    let shown = match Config::parse(&sources, Path::new("zoo.cfg"), text.as_bytes()) {
        Ok(config) => show(&config),
        Err(error) => error.to_string(),
    };
    assert_eq!(shown, expected, "{text}");
}

fn flags(flags: &[&str]) -> Sources {
    Sources { flags: flags.iter().map(ToString::to_string).collect(), ..Sources::default() }
}

fn notes(config: &Config) -> String {
    config.notes.join("\n")
}

fn entries(text: &[u8]) -> String {
    match RawConfig::parse(text) {
        Ok(raw) => {
            let shown = |e: &raw::RawEntry| format!("{}:{}={}", e.line, e.key, e.value);
            raw.entries.iter().map(shown).collect::<Vec<_>>().join("|")
        }
        Err(error) => error.to_string(),
    }
}

#[test]
fn members_are_written_as_apache_writes_them() {
    let members = "clientPort=2181\nserver.2=b.example:2888:3888:observer;[::1]:2182\n\
        server.1=127.0.0.1:2888:3888\nserver.3=c:1:2:participant;2183\ninitLimit=1\nsyncLimit=1";
    let text = |config: &Config| config.ensemble.text().replace('\n', " ");
    let expected = "server.1=127.0.0.1:2888:3888:participant \
        server.2=b.example:2888:3888:observer;[::1]:2182 \
        server.3=c:1:2:participant;0.0.0.0:2183 version=0";
    check_in(&directory_of_server("1"), members, text, expected);
}

#[test]
fn properties_format_is_javas() {
    let cases: &[(&[u8], &str)] = &[
        (b"a=1\nb = 2 \r\nc: 3\rd 4", "1:a=1|2:b=2|3:c=3|4:d=4"),
        (b"# no\n  ! no\n\n \t\x0c\n a = #1 !2", "5:a=#1 !2"),
        (b"a\nb=\nc==1\nd:=2", "1:a=|2:b=|3:c==1|4:d==2"),
        (b"a=1\\\n  2\\\n\t3\nb=4", "1:a=123|4:b=4"),
        (b"a=1\\\\\nb=2", "1:a=1\\|2:b=2"),
        (b"a=1\\\n\nb=2", "1:a=1|3:b=2"),
        (b"a=1\\\n# 2\nb=3", "1:a=1# 2|3:b=3"),
        (b"a=1\\", "1:a=1"),
        (b"a\\=b\\:c\\ d=1", "1:a=b:c d=1"),
        (b"a=\\u0041\\t\\q\\\\", "1:a=A\tq\\"),
        (b"a=\\uD83D\\uDE00", "1:a=\u{1f600}"),
        (
            b"x\na=\\u00g1",
            "line 2: expected four hexadecimal digits after \\u, found \"a=\\\\u00g1\"",
        ),
        (
            b"a=\\ud800",
            "line 1: expected a \\u escape that is a whole character, found \"a=\\\\ud800\"",
        ),
        (b" = 1", "line 1: expected a key before the '=', found \"= 1\""),
        (b"a=\xe9", "1:a=\u{e9}"),
        ("a=\u{e9}".as_bytes(), "1:a=\u{e9}"),
        (b"\xef\xbb\xbfa=1", "1:a=1"),
        (b"", ""),
    ];
    for (text, expected) in cases {
        assert_eq!(entries(text), *expected, "{:?}", String::from_utf8_lossy(text));
    }
}

#[test]
fn last_of_repeated_keys_holds() {
    let raw = RawConfig::parse(b"a=1\nb=2\na=3").unwrap();
    assert_eq!(raw.get("a").unwrap().value, "3");
    let show = |c: &Config| format!("{} {}", c.tick_time_ms, notes(c));
    check("tickTime=1\ntickTime=2", show, "2 zoo.cfg:4: tickTime replaces what line 3 said");
}

#[test]
fn without_a_file_it_is_a_standalone_server_on_loopback() {
    let config = Config::load(&Sources::default()).unwrap();
    assert_eq!(config.client_address.to_string(), "127.0.0.1:2181");
    assert_eq!(config.data_dir, Path::new("./ringkeeper-data"));
    assert_eq!(config.data_log_dir, config.data_dir);
    assert!(!config.ensemble.distributed);
    assert_eq!(config.notes.len(), 1, "{:?}", config.notes);
}

#[test]
fn defaults_are_those_of_the_table() {
    check(
        "",
        |c| format!("{:?}", c.limits),
        "Limits { jute_bytes_max: 1048575, jute_extra_bytes: 1048575, connections_max: 10000, \
         connections_per_address_max: Some(60), first_frame_deadline_ms: 10000, \
         partial_frame_deadline_ms: 30000, connection_requests_max: 1000, \
         connection_outgoing_bytes_max: 33554432, outstanding_requests_max: 2147483647, \
         throttle_requests_max: None, throttle_stall_ms: 100, \
         large_request_threshold_bytes: None, large_request_bytes_max: 104857600 }",
    );
    check(
        "",
        |c| format!("{:?}", c.features),
        "Features { extended_types: false, emulate_353_ttl: false, enforce_quota: false, \
         close_session_txn: true, reconfig: false, container_check_interval_ms: 60000, \
         containers_per_minute_max: 10000, container_never_used_ms_max: None }",
    );
    check(
        "",
        |c| format!("{:?} {:?}", c.cores, c.log),
        "Cores { clients: None, pin: None } Log { writer: Auto, segment_bytes: 67108864, \
         sync_warning_threshold_ms: 1000, commit_log_count: 500 }",
    );
    check(
        "",
        |c| format!("{:?}", c.snapshot),
        "Snapshot { txn_count: 100000, log_bytes_max: Some(4294967296), trust_empty: false, \
         digest: true, serialize_last_processed_zxid: true, purge: AfterSnapshot, \
         retain_count: 3, log_size_factor: 0.33 }",
    );
    check(
        "",
        |c| format!("{:?} {:?}", c.admin, c.metrics),
        "Admin { address: Some(127.0.0.1:8080), command_url: \"/commands\", \
         idle_timeout_ms: 30000, snapshot: true, restore: true, \
         rate_limiter_interval_ms: 300000 } Metrics { prometheus: None }",
    );
    check(
        "",
        |c| format!("{:?}", c.auth),
        "Auth { skip_acl: false, digest: true, digest_algorithm: Sha1, super_digest: None, \
         enforced_schemes: [], allow_sasl_failed_clients: false, ensemble_names: [] }",
    );
    check("", notes, "");
}

#[test]
fn tick_and_session_timeouts_are_apaches() {
    let show = |c: &Config| {
        format!("{}/{}/{}", c.tick_time_ms, c.session_timeout_ms_min, c.session_timeout_ms_max)
    };
    check("", show, "3000/6000/60000");
    check("tickTime=2000", show, "2000/4000/40000");
    check("minSessionTimeout=10\nmaxSessionTimeout=-1", show, "3000/10/60000");
    check("minSessionTimeout=100\nmaxSessionTimeout=100", show, "3000/100/100");
    check("tickTime=2147483647", show, "2147483647/2147483647/2147483647");
    let tick = "a whole number from 1 to 2147483647 (milliseconds)";
    for wrong in ["0", "-5", "abc", "", "2147483648", "1.5", "0x10", "99999999999999999999"] {
        let expected = format!("zoo.cfg:3: tickTime: expected {tick}, found {wrong:?}");
        check(&format!("tickTime={wrong}"), show, &expected);
    }
    check(
        "\nminSessionTimeout=90000",
        show,
        "zoo.cfg:4: minSessionTimeout: expected at most maxSessionTimeout, which is 60000, \
         found \"90000\"",
    );
    check(
        "maxSessionTimeout=1",
        show,
        "zoo.cfg:3: minSessionTimeout: expected at most maxSessionTimeout, which is 1, \
         found \"6000\"",
    );
}

#[test]
fn client_address_needs_a_port_and_a_host_that_resolves() {
    let show = |c: &Config| c.client_address.to_string();
    let bare = |text: &str, expected: &str| check_bare(Sources::default(), text, show, expected);
    bare("dataDir=/d\nclientPort=0", "0.0.0.0:0");
    bare("dataDir=/d\nclientPort=1\nclientPortAddress=::1", "[::1]:1");
    bare("dataDir=/d\nclientPort=1\nclientPortAddress=127.0.0.9", "127.0.0.9:1");
    bare(
        "dataDir=/d\nclientPortAddress=::1",
        "zoo.cfg:2: clientPortAddress: expected clientPort beside it, found \"::1\"",
    );
    bare(
        "dataDir=/d\nclientPort=65536",
        "zoo.cfg:2: clientPort: expected a whole number from 0 to 65535 (port), found \"65536\"",
    );
    bare(
        "dataDir=/d\nclientPort=1\nclientPortAddress=no host",
        "zoo.cfg:3: clientPortAddress: expected an address of this host or a name that resolves \
         to one, found \"no host\"",
    );
    bare(
        "dataDir=/d",
        "zoo.cfg: clientPort: expected the port for clients, which is the only way in, \
         but it is not set",
    );
    bare(
        "clientPort=1",
        "zoo.cfg: dataDir: expected the directory for the data, but it is not set",
    );
    bare(
        "dataDir=/a\\u0000b\nclientPort=1",
        "zoo.cfg:1: dataDir: expected a path, which has no NUL, found \"/a\\0b\"",
    );
}

#[test]
fn transport_secrecy_is_refused_rather_than_ignored() {
    let refused = "expected no TLS, which this version does not support, found";
    for line in ["secureClientPort=2182", "secureClientPortAddress=::", "admin.forceHttps=true"] {
        let (key, value) = line.split_once('=').unwrap();
        check(line, notes, &format!("zoo.cfg:3: {key}: {refused} {value:?}"));
    }
    let two = "server.1=a:1:2\nserver.2=b:1:2\nsslQuorum=true\ninitLimit=1\nsyncLimit=1";
    let directory = directory_of_server("1");
    check_in(
        &directory,
        two,
        notes,
        &format!(
            "zoo.cfg:5: sslQuorum: {} \"true\"",
            "expected no TLS between servers, which this version does not support, found"
        ),
    );
    check("sslQuorum=true", notes, "sslQuorum, quorum.auth: there are no other servers to protect");
}

#[test]
fn booleans_are_strict_in_apaches_own_keys_and_javas_elsewhere() {
    let show = |c: &Config| {
        format!("{} {} {}", c.features.reconfig, c.features.extended_types, c.snapshot.digest)
    };
    check(
        "reconfigEnabled=TRUE\nextendedTypesEnabled=True\ndigest.enabled=no",
        show,
        "true true false",
    );
    check(
        "reconfigEnabled=yes",
        show,
        "zoo.cfg:3: reconfigEnabled: expected true or false, found \"yes\"",
    );
    check("digest.enabled=1", notes, "zoo.cfg:3: digest.enabled=1 is false: only \"true\" is true");
    check("skipACL=true\nforceSync=false", |c| c.auth.skip_acl.to_string(), "false");
    check("skipACL=yes", |c| c.auth.skip_acl.to_string(), "true");
}

#[test]
fn file_beats_command_line_beats_environment() {
    let show = |c: &Config| c.snapshot.txn_count.to_string();
    let sources = |flag: bool| Sources {
        flags: if flag { vec!["zookeeper.snapCount=20".into()] } else { Vec::new() },
        server_jvm_flags: Some("-Xmx1g -Dzookeeper.snapCount=10".into()),
        ..Sources::default()
    };
    check_with(sources(false), "", show, "10");
    check_with(sources(true), "", show, "20");
    check_with(sources(true), "snapCount=30", show, "30");
    let both = Sources { jvm_flags: Some("-Dzookeeper.snapCount=15".into()), ..sources(false) };
    check_with(both, "", show, "15");
    check_with(
        sources(true),
        "",
        notes,
        "SERVER_JVMFLAGS: flags of a JVM mean nothing here: -Xmx1g",
    );
    check_with(
        flags(&["zookeeper.snapCount=x"]),
        "",
        show,
        "command line: zookeeper.snapCount: expected a whole number from 0 to 2147483647 \
         (transactions), found \"x\"",
    );
}

#[test]
fn environment_is_split_as_a_shell_splits() {
    let show = |c: &Config| {
        let shown = |(key, value): (&String, &String)| format!("{key}={value}");
        c.properties.iter().map(shown).collect::<Vec<_>>().join("|")
    };
    let check = |flags: &str, expected: &str| {
        let sources = Sources { server_jvm_flags: Some(flags.into()), ..Sources::default() };
        check_with(sources, "", show, expected);
    };
    check("-Da=1  '-Db=2 3'\t-Dc=\"4 5\"6 -Dd=7\\ 8\n-De", "a=1|b=2 3|c=4 56|d=7 8|e=");
    check("", "");
    check(
        "-Da='1",
        "SERVER_JVMFLAGS: SERVER_JVMFLAGS: expected a closing quote for each opening one, \
         found one that is left open",
    );
    check("-D=1", "SERVER_JVMFLAGS: -D: expected -DKEY=VALUE, found \"=1\"");
    check(
        "-Dreadonlymode.enabled=true -Djute.maxbuffer=0x2000",
        "jute.maxbuffer=0x2000|readonlymode.enabled=true",
    );
}

#[test]
fn flags_without_the_prefix_are_honoured_and_so_are_they_in_the_file() {
    let show = |c: &Config| {
        format!(
            "{} {} {}",
            c.limits.jute_bytes_max, c.features.container_check_interval_ms, c.read_only_mode
        )
    };
    let all = ["jute.maxbuffer=8192", "znode.container.checkIntervalMs=100"];
    check_with(flags(&all), "", show, "8192 100 false");
    check_with(
        flags(&all),
        "jute.maxbuffer=4096\nreadonlymode.enabled=true",
        show,
        "4096 100 true",
    );
}

#[test]
fn java_number_literals() {
    let show = |c: &Config| c.snapshot.txn_count.to_string();
    for (text, expected) in [("0x10", "16"), ("#a", "10"), ("010", "8"), ("+9", "9"), ("0", "2")] {
        check(&format!("snapCount={text}"), show, expected);
    }
    for wrong in ["--1", "0x-1", "", "0x", "1e3"] {
        let expected = format!(
            "zoo.cfg:3: snapCount: expected a whole number from 0 to 2147483647 (transactions), \
             found {wrong:?}"
        );
        check(&format!("snapCount={wrong}"), show, &expected);
    }
}

#[test]
fn limits_that_apache_leaves_open_are_finite() {
    let show = |c: &Config| {
        format!("{} {:?}", c.limits.connections_max, c.limits.connections_per_address_max)
    };
    check("maxCnxns=0\nmaxClientCnxns=0", show, "1000000 None");
    check("maxCnxns=7\nmaxClientCnxns=5", show, "7 Some(5)");
    check(
        "jute.maxbuffer=2147483647",
        show,
        "zoo.cfg:3: jute.maxbuffer: expected a whole number from 64 to 268435456 (bytes), \
         found \"2147483647\"",
    );
}

#[test]
fn segments_hold_the_longest_transaction() {
    let show = |c: &Config| (c.log.segment_bytes >> 20).to_string();
    check("preAllocSize=16384", show, "16");
    check("preAllocSize=16384\nringkeeper.log.segmentSizeInKb=8192", show, "8");
    check("preAllocSize=64\njute.maxbuffer=100", show, "4");
    check("jute.maxbuffer=104857600", show, "201");
    check("ringkeeper.log.writer=mmap", |c| format!("{:?}", c.log.writer), "Mmap");
    check(
        "ringkeeper.log.writer=x",
        show,
        "zoo.cfg:3: ringkeeper.log.writer: expected one of auto, direct, mmap, found \"x\"",
    );
}

#[test]
fn cores_and_pinning_are_automatic_or_said() {
    let show = |c: &Config| format!("{:?} {:?}", c.cores.clients, c.cores.pin);
    check("ringkeeper.cores=auto\nringkeeper.pin=auto", show, "None None");
    check("ringkeeper.cores=3\nringkeeper.pin=false", show, "Some(3) Some(false)");
    check(
        "ringkeeper.pin=maybe",
        show,
        "zoo.cfg:3: ringkeeper.pin: expected one of true, false, auto, found \"maybe\"",
    );
    check(
        "ringkeeper.cores=0",
        show,
        "zoo.cfg:3: ringkeeper.cores: expected a whole number from 1 to 1024 (cores, or auto), \
         found \"0\"",
    );
}

#[test]
fn purge_is_on_unless_switched_off() {
    let show = |c: &Config| format!("{:?} {}", c.snapshot.purge, c.snapshot.retain_count);
    check("autopurge.snapRetainCount=1", show, "AfterSnapshot 3");
    check("autopurge.purgeInterval=0\nautopurge.snapRetainCount=5", show, "Off 5");
    check("autopurge.purgeInterval=2", show, "Every { interval_ms: 7200000 } 3");
}

#[test]
fn four_letter_words_follow_the_list() {
    let show = |c: &Config| {
        let words = ["srvr", "isro", "mntr", "dump"];
        words.into_iter().filter(|word| c.four_letter_words.allow(word)).collect::<String>()
    };
    check("", show, "srvr");
    check("4lw.commands.whitelist= mntr , ", show, "srvrmntr");
    check("4lw.commands.whitelist=mntr,*", show, "srvrisromntrdump");
    check_with(flags(&["readonlymode.enabled=true"]), "", show, "srvrisro");
}

#[test]
fn enforced_schemes_must_be_there() {
    let show = |c: &Config| c.auth.enforced_schemes.join(",");
    check("enforce.auth.schemes=digest", show, "");
    check("enforce.auth.enabled=true\nenforce.auth.schemes=digest, ip", show, "digest,ip");
    check("sessionRequireClientSASLAuth=true", show, "sasl");
    check(
        "enforce.auth.enabled=true",
        show,
        "zoo.cfg: enforce.auth.schemes: expected schemes that this server has: ip, digest, \
         but it is not set",
    );
    check(
        "enforce.auth.enabled=true\nenforce.auth.schemes=sasl",
        show,
        "zoo.cfg:4: enforce.auth.schemes: expected schemes that this server has: ip, digest, \
         found \"sasl\"",
    );
    let algorithm = |c: &Config| format!("{:?}", c.auth.digest_algorithm);
    check("DigestAuthenticationProvider.digestAlg=SHA3-256", algorithm, "Sha3");
    check(
        "DigestAuthenticationProvider.digestAlg=MD5",
        show,
        "zoo.cfg:3: DigestAuthenticationProvider.digestAlg: expected one of SHA1, SHA-1, SHA, \
         SHA-256, SHA-512, SHA3-256, found \"MD5\"",
    );
}

#[test]
fn secrets_are_shown_nowhere() {
    let sources = Sources {
        server_jvm_flags: Some(
            "-Dzookeeper.ssl.keyStore.password=hunter2 -javaagent:x=hunter2".into(),
        ),
        flags: vec!["zookeeper.SASLAuthenticationProvider.superPassword=hunter2".into()],
        ..Sources::default()
    };
    let text = "dataDir=/d\nclientPort=1\n\
        DigestAuthenticationProvider.superDigest=super:hunter2\nssl.keyStore.passwordPath=/p";
    let config = Config::parse(&sources, Path::new("zoo.cfg"), text.as_bytes()).unwrap();
    assert_eq!(config.auth.super_digest.as_ref().unwrap().reveal(), "super:hunter2");
    let shown = format!("{config:?} {:?}", config.auth.super_digest);
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(shown.contains("/p"), "a path is no secret");
    assert!(config.written.contains("superDigest=(redacted)"), "{}", config.written);
    let error = ConfigError::value(&Origin::Default, "ssl.keyStore.password", "a", "hunter2");
    assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    let wrong = b"dataDir=/d\nsuperDigest=hunter2\\u00";
    let error = Config::parse(&sources, Path::new("zoo.cfg"), wrong).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
}

#[test]
fn metrics_and_admin_are_addresses_or_off() {
    let show = |c: &Config| format!("{:?} {:?}", c.metrics.prometheus, c.admin.address);
    let prometheus = "metricsProvider.className=\
        org.apache.zookeeper.metrics.prometheus.PrometheusMetricsProvider";
    check(&format!("{prometheus}\nadmin.enableServer=false"), show, "Some(0.0.0.0:7000) None");
    let both = "metricsProvider.httpPort=7001\nmetricsProvider.httpHost=::1\nadmin.serverPort=0";
    check(&format!("{prometheus}\n{both}"), show, "Some([::1]:7001) Some(127.0.0.1:0)");
    check(
        "metricsProvider.className=a.B",
        show,
        "zoo.cfg:3: metricsProvider.className: expected one of \
         org.apache.zookeeper.metrics.prometheus.PrometheusMetricsProvider, \
         org.apache.zookeeper.metrics.impl.DefaultMetricsProvider, \
         org.apache.zookeeper.metrics.impl.NullMetricsProvider, found \"a.B\"",
    );
}

#[test]
fn keys_without_effect_are_accepted_with_a_note() {
    check(
        "jvm.pause.monitor=true\nnio.numWorkerThreads=4\nmy.own.key=5",
        notes,
        "zoo.cfg:3: jvm.pause.monitor: no effect: there are no garbage collector's pauses to look \
         for\n\
         zoo.cfg:5: my.own.key is not a key known here; kept as property zookeeper.my.own.key\n\
         zoo.cfg:4: nio.numWorkerThreads: no effect: the cores are those of ringkeeper.cores",
    );
    check("my.own.key=5", |c| c.properties["zookeeper.my.own.key"].clone(), "5");
    check_with(
        flags(&["com.sun.management.jmxremote"]),
        "",
        notes,
        "command line: com.sun.management.jmxremote: no effect: there is no JMX",
    );
}

#[test]
fn a_slip_in_one_of_our_own_keys_is_refused() {
    let list = "expected a ringkeeper key that docs/configuration.md lists, found";
    check("ringkeeper.core=2", notes, &format!("zoo.cfg:3: ringkeeper.core: {list} \"2\""));
    let expected = format!("command line: ringkeeper.pins: {list} \"\"");
    check_with(flags(&["ringkeeper.pins"]), "", notes, &expected);
}

/// Every key that is read, and every one that has a sentence, stands in the manual.
#[test]
fn the_manual_lists_every_key() {
    let manual = include_str!("../../docs/configuration.md");
    let sources = [include_str!("read.rs"), include_str!("ensemble.rs")];
    let mut keys: Vec<&str> = properties::ZOO_KEYS.to_vec();
    for table in [accepted::ZOO, accepted::SYSTEM, accepted::BARE] {
        keys.extend(table.iter().map(|(start, _)| start));
    }
    for start in ["Key::Zoo(\"", "Key::Zk(\"", "Key::Bare(\""] {
        let ends = sources.iter().flat_map(|source| source.split(start).skip(1));
        keys.extend(ends.map(|rest| rest.split('"').next().unwrap()));
    }
    assert!(keys.len() > 150, "only {} keys were found", keys.len());
    for key in keys {
        assert!(manual.contains(&format!("`{key}")), "{key} is not in the manual");
    }
}

/// A data directory with a `myid` of `id`.
fn directory_of_server(id: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("myid"), id).unwrap();
    directory
}

/// As [`check`], in a data directory of its own, whose name is `DIR` in what is shown.
fn check_in(
    directory: &tempfile::TempDir,
    text: &str,
    show: impl Fn(&Config) -> String,
    expected: &str,
) {
    let name = directory.path().to_str().unwrap();
    let text = format!("dataDir={name}\nclientPort=2181\n{}", text.replace("DIR", name));
    let shown = match Config::parse(&Sources::default(), Path::new("zoo.cfg"), text.as_bytes()) {
        Ok(config) => show(&config),
        Err(error) => error.to_string().replace(name, "DIR"),
    };
    assert_eq!(shown, expected, "{text}");
}

#[test]
fn one_server_line_is_a_server_on_its_own() {
    let show = |c: &Config| format!("{} {}", c.ensemble.distributed, c.ensemble.servers.len());
    check("server.1=a:2888:3888", show, "false 1");
    check(
        "server.1=a:2888:3888\nserver.2=b:2888:3888:observer",
        show,
        "zoo.cfg: server.N: expected a second participant, since there are observers, \
         but it is not set",
    );
    check(
        "server.2=b:2888:3888:observer",
        show,
        "zoo.cfg: server.N: expected a participant besides the observers, but it is not set",
    );
    check(
        "standaloneEnabled=false",
        show,
        "zoo.cfg: server.N: expected a participant, since standaloneEnabled=false, \
         but it is not set",
    );
    let directory = directory_of_server("1\n");
    let line = "server.1=a:1:2;2191\nstandaloneEnabled=false\ninitLimit=1\nsyncLimit=1";
    check_in(
        &directory,
        line,
        show,
        "zoo.cfg: server.1: expected the client address of clientPort, 0.0.0.0:2181, \
         found \"0.0.0.0:2191\"",
    );
    check_in(&directory, &line.replace("2191", "2181"), show, "true 1");
}

#[test]
fn an_ensemble_needs_its_limits_and_this_servers_id() {
    let show = |c: &Config| {
        let e = &c.ensemble;
        format!("{} {:?} {}/{}", e.distributed, e.my_id, e.init_limit_ticks, e.sync_limit_ticks)
    };
    let three = "server.1=a:1:2\nserver.2=b:1:2\nserver.3=c:1:2:observer\n";
    let whole = format!("{three}initLimit=10\nsyncLimit=5");
    check_in(&directory_of_server(" 2 \nrest"), &whole, show, "true Some(2) 10/5");
    check_in(
        &directory_of_server("2"),
        &format!("{three}initLimit=10"),
        show,
        "zoo.cfg: syncLimit: expected a number of ticks above 0 in an ensemble, but it is not set",
    );
    check_in(
        &directory_of_server("9"),
        &whole,
        show,
        "zoo.cfg:3: server.9: expected a line for this server, whose myid is 9, but it is not set",
    );
    check_in(
        &directory_of_server("x"),
        &whole,
        show,
        "DIR/myid:1: myid: expected this server's number, found \"x\"",
    );
    check_in(
        &tempfile::tempdir().unwrap(),
        &whole,
        show,
        "DIR/myid: myid: expected a file with this server's number, but it is not set",
    );
}

#[test]
fn server_lines_are_parsed_whole() {
    let show = |value: &str| match membership::parse_server(1, value) {
        Ok(server) => {
            let hosts = server.addresses.iter();
            let hosts = hosts.map(|a| format!("{},{},{}", a.host, a.quorum_port, a.election_port));
            let observes = if server.role == Role::Observer { " observer" } else { "" };
            let client = server.client.map(|(host, port)| format!(" {host},{port}"));
            hosts.collect::<Vec<_>>().join(" ") + observes + &client.unwrap_or_default()
        }
        Err(expected) => expected,
    };
    let form = "host:quorumPort:electionPort[:participant|observer][;[clientHost:]clientPort]";
    for (value, expected) in [
        ("h:1:2", "h,1,2"),
        ("h:1:2:Observer", "h,1,2 observer"),
        ("h:1:2:participant;2181", "h,1,2 0.0.0.0,2181"),
        ("[::1]:1:2;[::2]:2181", "::1,1,2 ::2,2181"),
        ("h:1:2|i:3:4", "h,1,2 i,3,4"),
        ("h:1:2;", "h,1,2"),
        ("h:1", form),
        ("h", form),
        ("", form),
        (":1:2", form),
        ("h:1:2:observer:x", form),
        ("h:1:1", "a quorum port and an election port that differ"),
        ("h:0:1", "a port from 1 to 65535 where \"0\" stands"),
        ("h:1:65536", "a port from 1 to 65535 where \"65536\" stands"),
        ("h:1:2:voter", "the role participant or observer after the ports"),
        ("h:1:2|i:3:4:observer|j:5:6:participant", "the same role for every address"),
        ("[::1:1:2", "a ']' and a ':' after the IPv6 address"),
        ("h:1:2;x", "a client port from 0 to 65535 after ';'"),
    ] {
        assert_eq!(show(value), expected, "{value}");
    }
    assert!(membership::parse_server(1, "h:1:2;3;4").is_err());
}

#[test]
fn contradictory_server_lines_are_refused() {
    check(
        "server.1=a:1:2\nserver.01=b:1:2",
        notes,
        "zoo.cfg:3: server.1: expected one line for server 1, found \"a:1:2\"",
    );
    check(
        "server.1=a:1:2\nserver.2=a:3:2",
        notes,
        "zoo.cfg:4: server.2: expected a port that server.1 does not have, found \"a:3:2\"",
    );
    check(
        "server.x=a:1:2",
        notes,
        "zoo.cfg:3: server.x: expected server.N with a number N from 0, found \"a:1:2\"",
    );
    check(
        "server.1=a:1:2|b:1:2",
        notes,
        "zoo.cfg:3: server.1: expected one address, or multiAddress.enabled=true, \
         found \"a:1:2|b:1:2\"",
    );
    check(
        "server.1=a:1:2\nserver.2=b:1:2\ngroup.1=1",
        notes,
        "zoo.cfg:5: server.2: expected a group for every server that votes, but it is not set",
    );
    check(
        "server.1=a:1:2\ngroup.1=1\ngroup.2=1",
        notes,
        "zoo.cfg:5: group.2: expected servers that are in no other group, found \"1\"",
    );
    check(
        "server.1=a:1:2\ngroup.1=1:7",
        notes,
        "zoo.cfg:4: group.1: expected ids of server lines, found \"1:7\"",
    );
}

#[test]
fn groups_and_weights_reach_their_servers() {
    let lines = "server.1=a:1:2\nserver.2=b:1:2\nserver.3=c:1:2\n\
        group.1=1:2\ngroup.2=3\nweight.3=0\ninitLimit=1\nsyncLimit=1";
    let show = |c: &Config| {
        let servers = c.ensemble.servers.iter();
        let shown = servers.map(|s| format!("{}:{:?}:{}", s.id, s.group, s.weight));
        shown.collect::<Vec<_>>().join(" ")
    };
    check_in(&directory_of_server("1"), lines, show, "1:Some(1):1 2:Some(1):1 3:Some(2):0");
}

#[test]
fn a_dynamic_file_holds_the_server_lines_alone() {
    let directory = directory_of_server("1");
    let dynamic = directory.path().join("zoo.cfg.dynamic.1f");
    std::fs::write(&dynamic, "server.1=a:1:2;2181\nserver.2=b:1:2;2181\n").unwrap();
    let show = |c: &Config| format!("{} {}", c.ensemble.version, c.ensemble.servers.len());
    let text = "dynamicConfigFile=DIR/zoo.cfg.dynamic.1f\ninitLimit=1\nsyncLimit=1";
    check_in(&directory, text, show, "31 2");
    check_in(
        &directory,
        &format!("{text}\nserver.3=c:1:2"),
        show,
        "zoo.cfg:6: server.3: expected to stand in the file of dynamicConfigFile, which is set, \
         found \"c:1:2\"",
    );
    std::fs::write(&dynamic, "server.1=a:1:2\nversion=1\n").unwrap();
    check_in(
        &directory,
        text,
        show,
        "DIR/zoo.cfg.dynamic.1f:2: version: expected nothing but server, group and weight lines \
         in a dynamic file, found \"1\"",
    );
    std::fs::write(&dynamic, "server.1=a:1:2\nserver.1=b:1:2\n").unwrap();
    check_in(
        &directory,
        text,
        show,
        "DIR/zoo.cfg.dynamic.1f:2: server.1: expected one line for it, and \
         DIR/zoo.cfg.dynamic.1f:1 has it too, found \"b:1:2\"",
    );
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let sources = Sources { file: Some(directory.path().join("none.cfg")), ..Sources::default() };
    let error = Config::load(&sources).unwrap_err().to_string();
    assert!(error.contains("none.cfg: file: expected a readable file"), "{error}");
    let sources = Sources { file: Some(directory.path().into()), ..Sources::default() };
    assert!(Config::load(&sources).is_err(), "a directory is no file");
}

/// Every key with a type of its own, for the property tests to give values to.
const TYPED: &str = "
    tickTime minSessionTimeout clientPort clientPortListenBacklog snapCount server.1
    server.2 group.1 weight.1 jute.maxbuffer maxCnxns initLimit snapSizeLimitInKb
    znode.container.maxNeverUsedIntervalMs snapshotSizeFactor largeRequestThreshold
    preAllocSize ringkeeper.cores autopurge.purgeInterval autopurge.snapRetainCount
    observerMasterPort 4lw.commands.whitelist
";

proptest! {
    #[test]
    fn any_bytes_parse_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(raw) = RawConfig::parse(&bytes) {
            prop_assert!(raw.entries.iter().all(|entry| !entry.key.is_empty()));
        }
        let _ = Config::parse(&Sources::default(), Path::new("zoo.cfg"), &bytes);
    }

    #[test]
    fn any_line_of_structure_parses_or_is_refused(text in "[a\\\\u0 =:#!\n\r\t\"é]{0,60}") {
        let _ = RawConfig::parse(text.as_bytes());
    }

    #[test]
    fn any_value_of_a_typed_key_is_taken_or_refused(
        key in proptest::sample::select(TYPED.split_whitespace().collect::<Vec<_>>()),
        value in "(-?[0-9]{0,20}|[0-9a-z:;|.\\[\\]]{0,24}|[+#0x-]{0,3}[0-9a-f]{0,17})",
    ) {
        let text = format!("dataDir=/no/such/dir\nclientPort=2181\n{key}={value}");
        let config = Config::parse(&Sources::default(), Path::new("zoo.cfg"), text.as_bytes());
        if let Ok(config) = config {
            prop_assert!(config.session_timeout_ms_min <= config.session_timeout_ms_max);
            prop_assert_eq!(config.log.segment_bytes % (1 << 20), 0);
        }
    }

    #[test]
    fn what_is_escaped_is_read_back(key in "[a-zA-Z.=: ]{1,12}", value in "\\PC{0,20}") {
        prop_assume!(!raw::trim(&key).is_empty());
        let escape = |text: &str| {
            let unit = |unit: u16| format!("\\u{unit:04x}");
            text.encode_utf16().map(unit).collect::<String>()
        };
        let text = format!("{}={}", escape(&key), escape(&value));
        let raw = RawConfig::parse(text.as_bytes()).unwrap();
        prop_assert_eq!(&raw.entries[0].key, raw::trim(&key));
        prop_assert_eq!(&raw.entries[0].value, raw::trim(&value));
    }
}
