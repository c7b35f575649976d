//! Containers and TTL nodes, and when they go.

use super::*;
use crate::wire::error::ErrorCode::*;

const INTERVAL_MS: u64 = 60_000;

/// Lets `ms` pass with the session kept alive.
fn wait_alive(bench: &mut Bench, session: i64, ms: u64) {
    for _ in 0..ms / TICK_MS {
        bench.pipeline.handle_touch(bench.now, session);
        bench.wait(TICK_MS);
    }
}

#[test]
fn a_container_goes_after_its_last_child() {
    let (mut bench, session) = Bench::connected();
    for path in ["/used", "/unused", "/busy"] {
        bench.done(session, create_container(path));
    }
    bench.done(session, create("/used/child", PERSISTENT));
    bench.done(session, create("/busy/child", PERSISTENT));
    wait_alive(&mut bench, session, INTERVAL_MS * 2);
    assert!(bench.stat("/used").is_some(), "it has its child");
    bench.done(session, delete("/used/child", -1));
    wait_alive(&mut bench, session, INTERVAL_MS);
    assert_eq!(bench.stat("/used"), None);
    let txn = Txn::Delete { path: "/used", by_reaper: true };
    assert_eq!(bench.last_txn(), format!("{txn:?}"));
    assert_eq!(bench.logged.last().unwrap().session, 0);
    assert!(bench.stat("/unused").is_some(), "it never had one");
    assert!(bench.stat("/busy").is_some());
}

#[test]
fn a_container_that_nobody_uses_goes_where_that_is_configured() {
    let never = 3 * INTERVAL_MS;
    let mut bench = Bench::with(Settings { container_never_used_ms_max: never, ..settings() });
    let session = bench.connect(A);
    bench.done(session, create_container("/unused"));
    wait_alive(&mut bench, session, never);
    assert!(bench.stat("/unused").is_some());
    wait_alive(&mut bench, session, 2 * INTERVAL_MS);
    assert_eq!(bench.stat("/unused"), None);
}

#[test]
fn a_ttl_node_goes_when_it_was_not_written_for_its_time() {
    let (mut bench, session) = Bench::connected();
    let ttl_ms = 100_000;
    for path in ["/idle", "/written", "/parent"] {
        bench.done(session, create_ttl(path, 5, ttl_ms));
    }
    bench.done(session, create("/parent/child", PERSISTENT));
    wait_alive(&mut bench, session, INTERVAL_MS);
    bench.done(session, set("/written", b"", -1));
    wait_alive(&mut bench, session, INTERVAL_MS);
    assert_eq!(bench.stat("/idle"), None);
    assert!(bench.stat("/written").is_some(), "a write gives it its time again");
    assert!(bench.stat("/parent").is_some(), "it has a child");
    wait_alive(&mut bench, session, 2 * INTERVAL_MS);
    assert_eq!(bench.stat("/written"), None);
}

#[test]
fn no_more_go_at_a_time_than_is_allowed() {
    let mut bench = Bench::with(Settings { containers_per_minute_max: 3, ..settings() });
    let session = bench.connect(A);
    for index in 0..8 {
        bench.done(session, create_ttl(&format!("/t{index}"), 5, 1));
    }
    let left = |bench: &Bench| bench.pipeline.writer().reapable().ttl_nodes().count();
    for expected in [5, 2, 0] {
        wait_alive(&mut bench, session, INTERVAL_MS);
        assert_eq!(left(&bench), expected);
    }
}

#[test]
fn nothing_goes_while_the_log_has_no_room() {
    let (mut bench, session) = Bench::connected();
    bench.done(session, create_ttl("/t", 5, 1));
    bench.pipeline.set_room(Room::SessionsOnly);
    wait_alive(&mut bench, session, 2 * INTERVAL_MS);
    assert!(bench.stat("/t").is_some());
    bench.pipeline.set_room(Room::Plenty);
    wait_alive(&mut bench, session, INTERVAL_MS);
    assert_eq!(bench.stat("/t"), None);
}

#[test]
fn a_client_may_ask_for_what_the_reaper_does() {
    let (mut bench, session) = Bench::connected();
    let ask = |path: &str| {
        let mut body = Vec::new();
        body.put_string(path);
        (OpCode::DeleteContainer, body)
    };
    bench.done(session, create_container("/c"));
    bench.done(session, create("/c/child", PERSISTENT));
    bench.done(session, create("/e", EPHEMERAL));
    assert_eq!(bench.error(session, ask("/none")), NoNode.raw());
    assert_eq!(bench.error(session, ask("/c")), NotEmpty.raw());
    assert_eq!(bench.error(session, ask("/e")), BadVersion.raw());
    assert_eq!(bench.error(session, ask("/zookeeper")), BadArguments.raw());
    bench.done(session, delete("/c/child", -1));
    bench.done(session, ask("/c"));
    assert_eq!(bench.stat("/c"), None);
}
