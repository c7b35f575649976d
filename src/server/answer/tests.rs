//! Our answers beside those of Apache's 3.9.5 in `tests/golden/words-3.9.5` (see its README).

use std::net::{Ipv4Addr, Ipv6Addr};

use super::*;
use crate::server::report::{
    ClientReport, EnsembleConf, EnsembleReport, LeaderReport, Question, SessionReport, WatchCounts,
};
use crate::server::stages::{Stage, Stages};
use crate::zxid::Zxid;

macro_rules! golden {
    ($name:literal) => {
        include_str!(concat!("../../../tests/golden/words-3.9.5/", $name, ".txt"))
    };
}

const FIRST: i64 = 0x10000257d240000;
const SECOND: i64 = 0x10000257d240001;

/// Sun Nov 22 14:52:00 UTC 2026.
const MINUTE_WALL_MS: i64 = 1_795_359_120_000;

fn connection(port: u16, session: i64, packets: u64) -> ConnectionReport {
    ConnectionReport {
        peer: (Ipv4Addr::LOCALHOST, port).into(),
        session,
        timeout_ms: 0,
        queued: 0,
        received: packets,
        sent: packets,
        established_wall_ms: 0,
        expires_wall_ms: MINUTE_WALL_MS + 13_000,
        last_op: None,
        last_xid: -1,
        last_zxid: 0,
        last_response_wall_ms: 0,
        last_latency_ms: 0,
        latency_ms: Summary::default(),
        interest: 1,
    }
}

/// The connection on which the word itself came.
fn asking(port: u16) -> ConnectionReport {
    ConnectionReport { sent: 0, interest: 0, ..connection(port, 0, 1) }
}

fn summary(values: &[u64]) -> Summary {
    let mut summary = Summary::default();
    for value in values {
        summary.add(*value);
    }
    summary
}

/// The server of the recording, asked on a connection from `port`.
fn recorded(port: u16) -> ServerReport {
    let first = ConnectionReport {
        timeout_ms: 10_000,
        established_wall_ms: 1_795_359_118_648,
        last_op: Some(OpCode::GetChildren),
        last_xid: 9,
        last_zxid: 7,
        last_response_wall_ms: 2_784_771,
        last_latency_ms: 1,
        latency_ms: summary(&[0, 22, 0, 0, 1, 1, 1]),
        ..connection(47910, FIRST, 10)
    };
    let second = ConnectionReport {
        timeout_ms: 30_000,
        established_wall_ms: 1_795_359_118_703,
        expires_wall_ms: MINUTE_WALL_MS + 33_000,
        last_op: Some(OpCode::Exists),
        last_xid: 3,
        last_zxid: 7,
        last_response_wall_ms: 2_784_769,
        latency_ms: summary(&[0, 1, 0]),
        ..connection(47916, SECOND, 4)
    };
    let mut client = ClientReport {
        connections: 3,
        connection_reports: vec![first, asking(port), second],
        watch_counts: WatchCounts { connections: 2, paths: 2, watches: 3 },
        watches_by_path: vec![
            ("/app/one".into(), vec![FIRST, SECOND]),
            ("/nothing".into(), vec![SECOND]),
        ],
        watches_by_session: vec![
            (FIRST, vec!["/app/one".into()]),
            (SECOND, vec!["/app/one".into(), "/nothing".into()]),
        ],
        ..ClientReport::default()
    };
    client.stats.packets_received = 19;
    client.stats.packets_sent = 19;
    client.stats.latency_ms = summary(&[0, 22, 1, 1, 1, 2, 0, 1, 1, 1]);
    let session = |session, timeout_ms, second: i64| SessionReport {
        session,
        timeout_ms,
        expires_wall_ms: MINUTE_WALL_MS + second * 1000,
    };
    ServerReport {
        serving: true,
        clients: vec![client],
        last_zxid: Zxid::from_raw(7),
        node_count: 10,
        sessions: vec![session(SECOND, 30_000, 29), session(FIRST, 10_000, 9)],
        ephemerals: vec![
            (SECOND, vec!["/app/three".into()]),
            (FIRST, vec!["/app/one".into(), "/app/two".into()]),
        ],
        data_dir_size: 67_109_358,
        log_dir_size: 67_109_358,
        conf: configured(24181),
        digests: vec![
            (Zxid::from_raw(0x80), 9_128_828_071),
            (Zxid::from_raw(0x100), 8_969_575_467),
        ],
        trace_mask: TRACE_MASK_DEFAULT,
        ..ServerReport::default()
    }
}

fn configured(client_port: u16) -> ConfReport {
    ConfReport {
        client_port: Some(client_port),
        data_dir: "/var/lib/zookeeper/version-2".into(),
        log_dir: "/var/lib/zookeeper/version-2".into(),
        tick_time_ms: 2000,
        session_timeout_ms_min: 4000,
        session_timeout_ms_max: 40_000,
        ..ConfReport::default()
    }
}

/// Compares an answer with Apache's, whose version is first put into ours' place.
fn check(word: Word, report: &ServerReport, golden: &str) {
    let version = "3.9.5-293c895a8d966a3ecb92872be4a1daf87d725da2, built on 2026-02-11 20:18 UTC";
    assert_eq!(format(word, report), golden.replace(version, &full_version()), "{word:?}");
}

#[test]
fn answers_are_apaches_to_the_byte() {
    check(Word::Srvr, &recorded(1), golden!("srvr"));
    let mut stat = recorded(47946);
    stat.clients[0].stats.packets_received = 20;
    stat.clients[0].stats.packets_sent = 20;
    check(Word::Stat, &stat, golden!("stat"));
    check(Word::Cons, &recorded(47948), golden!("cons"));
    check(Word::Dump, &recorded(47960), golden!("dump"));
    let report = recorded(1);
    check(Word::Wchs, &report, golden!("wchs"));
    check(Word::Wchp, &report, golden!("wchp"));
    check(Word::Wchc, &report, golden!("wchc"));
    check(Word::Conf, &report, golden!("conf"));
    check(Word::Dirs, &report, golden!("dirs"));
    check(Word::Gtmk, &report, golden!("gtmk"));
    check(Word::Stmk { mask: 7 }, &report, golden!("stmk"));
    check(Word::Isro, &report, golden!("isro"));
    check(Word::Ruok, &report, golden!("ruok"));
    check(Word::Crst, &report, golden!("crst"));
    check(Word::Srst, &report, golden!("srst"));
    check(Word::Hash, &report, golden!("hash"));
    check(Word::TelnetClose, &report, "");
}

#[test]
fn members_of_an_ensemble_answer_as_apaches_do() {
    let mut sizes = crate::server::summary::Sizes::default();
    for size in [48, 95] {
        sizes.add(size);
    }
    let leading = LeaderReport { proposal_sizes: sizes, ..LeaderReport::default() };
    let mut leader = ServerReport {
        serving: true,
        mode: Mode::Leader,
        last_zxid: Zxid::new(1, 0x15),
        node_count: 10,
        ensemble: Some(EnsembleReport { leading: Some(leading), ..EnsembleReport::default() }),
        clients: vec![ClientReport { connections: 3, ..ClientReport::default() }],
        ..ServerReport::default()
    };
    let stats = &mut leader.clients[0].stats;
    (stats.packets_received, stats.packets_sent) = (11, 10);
    stats.latency_ms = summary(&[0, 3, 3, 3, 3, 3, 3, 3, 0, 0]);
    check(Word::Srvr, &leader, golden!("srvr-leader"));

    let member = |id, port| format!("server.{id}=127.0.0.1:{}:{port}:participant\n", port - 100);
    let ensemble = EnsembleConf {
        init_limit_ticks: 10,
        sync_limit_ticks: 5,
        election_algorithm: 3,
        election_port: 24482,
        quorum_port: 24382,
        is_observer: false,
        membership: member(1, 24482) + &member(2, 24483) + &member(3, 24484) + "version=0",
    };
    leader.conf = ConfReport { server_id: 1, ensemble: Some(ensemble), ..configured(24281) };
    (leader.data_dir_size, leader.log_dir_size) = (67_110_114, 67_110_114);
    check(Word::Conf, &leader, golden!("conf-member"));
}

#[test]
fn a_server_that_does_not_serve_says_so() {
    let mut report = recorded(1);
    report.serving = false;
    for word in Word::ALL {
        let sentence = golden!("not-serving");
        let answer = match word {
            Word::Ruok => "imok",
            Word::Gtmk => "306",
            Word::Stmk { .. } => "0",
            Word::Isro => "null",
            Word::TelnetClose => "",
            Word::Hash => sentence.trim_end(),
            Word::Envi => continue,
            _ => sentence,
        };
        check(word, &report, answer);
    }
}

#[test]
fn a_read_only_server_says_so() {
    let report = ServerReport { mode: Mode::ReadOnly, ..recorded(1) };
    assert_eq!(format(Word::Isro, &report), "ro");
    let answer = format(Word::Srvr, &report);
    let second = answer.lines().nth(1);
    assert_eq!(second, Some("READ-ONLY mode; serving only read-only clients"));
    assert!(answer.contains("\nMode: read-only\n"), "{answer}");
}

#[test]
fn dump_tells_local_sessions_from_global_ones() {
    let sessions = |mode, has_local: bool| {
        let own = recorded(1).sessions.split_off(1);
        let own_sessions = has_local.then_some(own);
        let dump = format(Word::Dump, &ServerReport { mode, own_sessions, ..recorded(1) });
        let end = dump.find("ephemeral nodes").expect("they follow");
        dump[..end].lines().map(|it| it.split(" at ").next().unwrap_or(it)).collect::<String>()
    };
    let one = "1 expire\t0x100";
    let first = sessions(Mode::Leader, true);
    assert!(first.starts_with("SessionTracker dump:Local Session Sets (1)/(1):"), "{first}");
    assert!(first.contains("Global Session Sets (2)/(2):") && first.contains(one), "{first}");
    let first = sessions(Mode::Follower, true);
    assert!(first.starts_with("SessionTracker dump:Local Session Sets (1)/(1):"), "{first}");
    assert!(first.contains("Global Sessions(2):0x100"), "{first}");
    assert!(first.contains("\t10000ms0x100") && first.ends_with("\t30000ms"), "{first}");
    let first = sessions(Mode::Observer, false);
    assert!(first.starts_with("SessionTracker dump:Global Sessions(2):0x100"), "{first}");
}

#[test]
fn environment_has_apaches_names_and_then_ours() {
    let mut report = recorded(1);
    report.environment.insert("host.name".into(), "one.example".into());
    report.environment.insert("a.cores".into(), "4".into());
    let answer = format(Word::Envi, &report);
    let names: Vec<_> = answer.lines().map(|line| line.split('=').next().expect("one")).collect();
    let apaches: Vec<_> = golden!("envi-names").lines().chain(["a.cores"]).collect();
    assert_eq!(names, apaches);
    assert!(answer.contains("\nhost.name=one.example\njava.version=<NA>\n"), "{answer}");
    assert!(answer.contains("\nzookeeper.version=3.9.5-ringkeeper-"), "{answer}");
}

/// A leader that has measured something of everything.
fn measured() -> ServerReport {
    let mut report = recorded(1);
    let leading = LeaderReport::default();
    report.mode = Mode::Leader;
    report.ensemble = Some(EnsembleReport { leading: Some(leading), ..EnsembleReport::default() });
    report.startup = Some(Default::default());
    report.open_file_descriptors = Some(74);
    report.max_file_descriptors = Some(20_000);
    report.clients[0].stats.response_sizes.add(52);
    report.clients[0].stats.count_reply(OpCode::SetData, 3);
    let mut stages = Stages::new();
    for stage in Stage::ALL {
        stages.record(stage, 1000, 1);
    }
    report.pipeline_stages = stages.report();
    report
}

#[test]
fn monitored_names_are_apaches_or_ours() {
    let answer = format(Word::Mntr, &measured());
    for line in answer.lines() {
        let (name, value) = line.split_once('\t').expect("a tab stands before the value");
        let known = golden!("mntr-names-leader").lines().any(|apaches| apaches == name);
        assert!(known || name.contains("_ringkeeper_"), "{name}");
        let is_text = ["zk_version", "zk_server_state", "zk_peer_state"].contains(&name);
        assert!(is_text || value.parse::<f64>().is_ok(), "{line}");
    }
    for stage in Stage::ALL {
        let line = format!("zk_ringkeeper_stage_{}_ns_cnt\t1\n", stage.name());
        assert!(answer.contains(&line), "{line}");
    }
}

#[test]
fn standalone_and_follower_name_only_what_apaches_do() {
    let follower = ServerReport {
        mode: Mode::Follower,
        ensemble: Some(EnsembleReport::default()),
        ..recorded(1)
    };
    for (report, apaches) in [
        (follower, golden!("mntr-names-follower")),
        (recorded(1), golden!("mntr-names-standalone")),
    ] {
        for line in format(Word::Mntr, &report).lines() {
            let name = line.split('\t').next().expect("there is a first");
            let known = apaches.lines().any(|apaches| apaches == name);
            assert!(known || name.contains("_ringkeeper_"), "{name}");
        }
    }
}

#[test]
fn gauges_come_in_apaches_order_and_within_collectds_buffer() {
    let answer = format(Word::Mntr, &measured());
    let order = |name: &str| answer.find(&format!("{name}\t"));
    let mut last = 0;
    let gauges = golden!("mntr-names-standalone").lines();
    for name in gauges.take_while(|name| *name != "zk_watch_bytes") {
        // Sizes that belong together stand together here.
        let Some(at) = order(name).filter(|_| !name.contains("response_size")) else { continue };
        assert!(at >= last, "{name}");
        last = at;
    }
    // What collectd, the Datadog agent and the usual dashboards read.
    for name in [
        "zk_version",
        "zk_server_state",
        "zk_avg_latency",
        "zk_min_latency",
        "zk_max_latency",
        "zk_packets_received",
        "zk_packets_sent",
        "zk_num_alive_connections",
        "zk_outstanding_requests",
        "zk_znode_count",
        "zk_watch_count",
        "zk_ephemerals_count",
        "zk_approximate_data_size",
        "zk_open_file_descriptor_count",
        "zk_max_file_descriptor_count",
        "zk_global_sessions",
        "zk_local_sessions",
        "zk_uptime",
        "zk_synced_followers",
        "zk_pending_syncs",
        "zk_learners",
        "zk_quorum_size",
    ] {
        let at = order(name).expect(name);
        assert!(at < 4000, "{name} stands at {at}");
    }
}

#[test]
fn summaries_have_apaches_lines() {
    let mut report = recorded(1);
    for latency_ms in [1, 1, 1, 22] {
        report.clients[0].stats.count_reply(OpCode::Create, latency_ms);
    }
    let answer = format(Word::Mntr, &report);
    let expected = "zk_avg_updatelatency\t6.25\nzk_min_updatelatency\t1\nzk_max_updatelatency\t22\n\
        zk_cnt_updatelatency\t4\nzk_sum_updatelatency\t25\nzk_p50_updatelatency\t1\n\
        zk_p95_updatelatency\t22\nzk_p99_updatelatency\t22\nzk_p999_updatelatency\t22\n";
    assert!(answer.contains(expected), "{answer}");
}

#[test]
fn a_path_watched_on_two_cores_is_named_once() {
    let mut report = recorded(1);
    let further = ClientReport {
        watches_by_path: vec![("/zoo".into(), vec![9]), ("/app/one".into(), vec![8])],
        ..ClientReport::default()
    };
    report.clients.push(further);
    let answer = "/app/one\n\t0x10000257d240000\n\t0x10000257d240001\n\t0x8\n\
        /nothing\n\t0x10000257d240001\n/zoo\n\t0x9\n\n";
    check(Word::Wchp, &report, answer);
}

#[test]
fn a_million_watches_come_in_bounded_chunks() {
    let sessions: Vec<i64> = (1..=1_000_000).collect();
    let mut report = ServerReport { serving: true, ..ServerReport::default() };
    report.clients.push(ClientReport {
        watches_by_path: vec![("/one".into(), sessions)],
        ..ClientReport::default()
    });
    let mut bytes = 0;
    for chunk in Answer::new(Word::Wchp, &report) {
        assert!(chunk.len() < CHUNK_BYTES + 32, "{}", chunk.len());
        bytes += chunk.len();
    }
    assert!(bytes > 7_000_000, "{bytes}");
}

#[test]
fn connections_without_a_session_or_an_answer_are_shown_as_far_as_known() {
    let mut report = recorded(1);
    report.clients[0].connection_reports = vec![ConnectionReport {
        peer: (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 7).into(),
        ..connection(7, -1, 0)
    }];
    let line = " /[2001:db8:0:0:0:0:0:1]:7[1](queued=0,recved=0,sent=0,sid=0xffffffffffffffff,\
        lop=NA,est=0,to=0,lzxid=0x0,lresp=0,llat=0,minlat=0,avglat=0,maxlat=0)\n\n";
    check(Word::Cons, &report, line);
    let mapped = Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped();
    assert_eq!(Peer((mapped, 7).into()).to_string(), "/10.0.0.1:7");
}

#[test]
fn dates_are_the_calendars() {
    for (wall_ms, date) in [
        (0, "Thu Jan 01 00:00:00 UTC 1970"),
        (-1, "Wed Dec 31 23:59:59 UTC 1969"),
        (951_782_399_999, "Mon Feb 28 23:59:59 UTC 2000"),
        (951_782_400_000, "Tue Feb 29 00:00:00 UTC 2000"),
        (4_107_542_400_000, "Mon Mar 01 00:00:00 UTC 2100"),
        (MINUTE_WALL_MS, "Sun Nov 22 14:52:00 UTC 2026"),
    ] {
        assert_eq!(Date(wall_ms).to_string(), date);
    }
}

#[test]
fn questions_want_what_their_answers_read() {
    for word in Word::ALL {
        let mut report = recorded(1);
        report.clients[0].stages = Stages::new().report();
        let question = Question { word, is_http: false };
        let full = format(word, &report);
        let changed = |change: &dyn Fn(&mut ServerReport)| {
            let mut report = report.clone();
            change(&mut report);
            format(word, &report) != full
        };
        let connections = changed(&|report| report.clients[0].connection_reports.clear());
        assert_eq!(connections, question.wants_connections(), "{word:?}");
        let by_path = changed(&|report| report.clients[0].watches_by_path.clear());
        assert_eq!(by_path, question.wants_watches_by_path(), "{word:?}");
        let by_session = changed(&|report| report.clients[0].watches_by_session.clear());
        assert_eq!(by_session, question.wants_watches_by_connection(), "{word:?}");
        let sessions = changed(&|report| report.sessions.clear());
        assert_eq!(sessions, question.wants_sessions(), "{word:?}");
        let digests = changed(&|report| report.digests.clear());
        assert_eq!(digests, question.wants_digests(), "{word:?}");
        let sizes = changed(&|report| report.log_dir_size += 1);
        assert_eq!(sizes, question.wants_directory_sizes(), "{word:?}");
        let stages = changed(&|report| {
            let mut stages = Stages::new();
            stages.record(Stage::Send, 5, 1);
            report.clients[0].stages = stages.report();
        });
        assert_eq!(stages, question.wants_stages(), "{word:?}");
    }
}

#[test]
fn version_is_what_kazoo_and_go_zookeeper_can_read() {
    // kazoo takes the digits and dots at the front. go-zookeeper wants
    // `[A-Za-z0-9\.\-]+, built on (\d\d/\d\d/\d\d\d\d \d\d:\d\d [A-Za-z0-9:\+\-]+)`, and parses it
    // as month, day, year.
    assert!(VERSION.starts_with("3.9.5-"), "{VERSION}");
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
    assert!(VERSION.chars().all(is_plain), "{VERSION}");
    let shape: String =
        BUILT_ON.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(shape, "00/00/0000 00:00 UTC");
}
