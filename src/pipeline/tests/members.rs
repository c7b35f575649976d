//! A change of the members, as the leader checks it: its order of checks is Apache's.

use super::*;
use crate::pipeline::reconfig::{CONFIG_PATH, MembersNow};
use crate::wire::error::ErrorCode::*;
use crate::wire::membership::Membership;
use crate::wire::quorum::ServerId;
use crate::zab::output::Role;

const NOW: &str = "server.1=h1:1:2:participant;3\nserver.2=h2:1:2:participant;3\n\
                   server.3=h3:1:2:observer;3\nversion=100000000";

/// A leader of `NOW`, whose servers are all in step, and where everybody may do everything.
fn leader(settings: Settings) -> (Bench, i64) {
    let mut bench = Bench::with(settings);
    bench.pipeline.handle_role(Role::Leading { epoch: 1 }, 1, bench.now, bench.wall);
    let session = bench.connect(A);
    bench.pipeline.put_members(NOW.as_bytes(), bench.wall);
    bench.pipeline.handle_members(members(false));
    (bench, session)
}

fn open() -> Settings {
    Settings { reconfig: true, skip_acl: true, ..settings() }
}

fn members(is_changing: bool) -> MembersNow {
    let current = Membership::parse(NOW.as_bytes()).unwrap();
    MembersNow { current, is_changing, synced: vec![ServerId(1), ServerId(2)] }
}

fn request(
    joining: Option<&str>,
    leaving: Option<&str>,
    members: Option<&str>,
    version: i64,
) -> (OpCode, Vec<u8>) {
    let mut body = Vec::new();
    for part in [joining, leaving, members] {
        body.put_buffer(part.map(str::as_bytes));
    }
    body.put_i64(version);
    (OpCode::Reconfig, body)
}

#[test]
fn a_change_is_answered_with_the_members_and_their_stat() {
    let (mut bench, session) = leader(open());
    let joins = "server.3=h3:1:2:participant;3";
    let answer = bench.done(session, request(Some(joins), None, None, -1));
    let zxid = bench.pipeline.prepared();
    let text = format!(
        "server.1=h1:1:2:participant;0.0.0.0:3\nserver.2=h2:1:2:participant;0.0.0.0:3\n\
         server.3=h3:1:2:participant;0.0.0.0:3\nversion={:x}",
        zxid.raw()
    );
    let node = bench.pipeline.writer().node(CONFIG_PATH).unwrap();
    assert_eq!(node.data(), Some(text.as_bytes()));
    let mut expected = Vec::new();
    expected.put_buffer(Some(text.as_bytes()));
    node.stat().encode(&mut expected);
    assert_eq!(answer.body, expected);
    assert_eq!((node.stat().version, node.stat().mzxid), (-1, zxid));
    // It is not in force yet: nobody may ask for another one.
    let refused = bench.error(session, request(None, Some("3"), None, -1));
    assert_eq!(refused, ReconfigInProgress.raw());
}

#[test]
fn a_change_is_refused_as_apache_refuses_it() {
    let (mut bench, session) = leader(open());
    let mut check = |body: (OpCode, Vec<u8>), error: ErrorCode| {
        assert_eq!(bench.error(session, body), error.raw());
    };
    check(request(None, None, None, 7), BadVersion);
    check(request(Some("server.4=h4"), None, None, 0x1_0000_0000), BadArguments);
    check(request(None, Some("x"), None, -1), MarshallingError);
    check(request(None, Some("1"), None, -1), BadArguments);
    check(request(None, None, Some("server.1=h1:1:2"), -1), BadArguments);
    let strangers = "server.7=h7:1:2,server.8=h8:1:2";
    check(request(None, None, Some(strangers), -1), NewConfigNoQuorum);
    bench.pipeline.handle_members(members(true));
    assert_eq!(bench.error(session, request(None, None, None, 7)), ReconfigInProgress.raw());

    let (mut bench, session) = leader(Settings { skip_acl: false, ..open() });
    assert_eq!(bench.error(session, request(None, Some("3"), None, -1)), NoAuth.raw());
    let (mut bench, session) = leader(Settings { reconfig: false, ..open() });
    assert_eq!(bench.error(session, request(None, Some("3"), None, -1)), ReconfigDisabled.raw());
    // One voter is enough where that is allowed.
    let (mut bench, session) = leader(Settings { standalone_enabled: false, ..open() });
    bench.pipeline.handle_members(MembersNow { synced: vec![ServerId(1)], ..members(false) });
    bench.done(session, request(None, Some("2"), None, -1));
}
