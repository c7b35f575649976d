//! What servers of Apache 3.9.5 said to each other: voters and observers, their clients, their
//! restarts and a reconfiguration, recorded between their ports.

use super::*;

/// The bytes of lower-case hexadecimal digits.
fn hex(text: &str) -> Vec<u8> {
    let digit = |index: usize| u8::from_str_radix(&text[index..index + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digit).collect()
}

/// The bytes decode to the message, and the message is written as these bytes.
fn check_learner(golden: &str, expected: FromLearner) {
    let golden = hex(golden);
    let mut written = Vec::new();
    expected.encode(&mut written);
    assert_eq!(written, golden);
    assert_eq!(FromLearner::decode(&golden, 4096), Ok(Some((expected, golden.len()))));
}

fn check_leader(golden: &[u8], expected: FromLeader) {
    let mut written = Vec::new();
    expected.encode(&mut written);
    assert_eq!(written, golden);
    assert_eq!(FromLeader::decode(golden, 4096), Ok(Some((expected, golden.len()))));
}

const SESSION: i64 = 0x0100_00d3_e44f_0000;

fn local() -> Id {
    Id { scheme: "ip".to_owned(), id: "127.0.0.1".to_owned() }
}

#[test]
fn learners_join() {
    let info = |is_observer, server| FromLearner::Info {
        is_observer,
        server: ServerId(server),
        accepted_epoch: 0,
        protocol: 0x10000,
        config_version: 0,
        extensions: Extensions::default(),
    };
    check_learner(
        "0000000b00000000000000000000001400000000000000020001000000000000\
         00000000ffffffff",
        info(false, 2),
    );
    check_learner(
        "0000001000000000000000000000001400000000000000040001000000000000\
         00000000ffffffff",
        info(true, 4),
    );
    check_learner(
        "0000001200000000000000000000000400000000ffffffff",
        FromLearner::AckEpoch { last: Zxid::ZERO, current_epoch: Some(0) },
    );
    check_learner(
        "000000030000000100000000ffffffffffffffff",
        FromLearner::Ack { zxid: Zxid::new(1, 0) },
    );
}

#[test]
fn learners_answer_pings() {
    check_learner(
        "0000000500000001000000050000001804\
         0000d3e529000000002710010000d3e44f000000002710ffffffff",
        FromLearner::Ping {
            zxid: Zxid::new(1, 5),
            touched: vec![(0x0400_00d3_e529_0000, 10_000), (SESSION, 10_000)],
        },
    );
    // With nothing to say it is an empty buffer, not null.
    check_learner(
        "00000005000000010000000500000000ffffffff",
        FromLearner::Ping { zxid: Zxid::new(1, 5), touched: Vec::new() },
    );
}

#[test]
fn learners_pass_requests_on() {
    let request = |cxid, op, body: &[u8], ids| {
        FromLearner::Request(Forwarded { session: SESSION, cxid, op, body: body.to_vec(), ids })
    };
    check_learner(
        "00000001ffffffffffffffff00000020010000d3e44f0000000000010000000500000002\
         2f61000000027630ffffffff00000001000000026970000000093132372e302e302e31",
        request(1, 5, b"\0\0\0\x02/a\0\0\0\x02v0\xff\xff\xff\xff", vec![local()]),
    );
    // sync
    check_learner(
        "00000001ffffffffffffffff00000016010000d3e44f00000000000300000009\
         000000022f6100000001000000026970000000093132372e302e302e31",
        request(3, 9, b"\0\0\0\x02/a", vec![local()]),
    );
    // The beginning of a session is the server's own, its end the client's.
    check_learner(
        "00000001ffffffffffffffff00000014010000d3e44f000000000000fffffff6\
         00002710ffffffff",
        request(0, -10, &[0, 0, 0x27, 0x10], Vec::new()),
    );
    check_learner(
        "00000001ffffffffffffffff00000010010000d3e44f00000000025cfffffff5\
         00000001000000026970000000093132372e302e302e31",
        request(0x25c, -11, &[], vec![local()]),
    );
}

#[test]
fn sessions_move() {
    check_learner(
        "00000006ffffffffffffffff0000000c010000d3e44f000000002710ffffffff",
        FromLearner::Revalidate { session: SESSION, timeout_ms: 10_000 },
    );
    check_leader(
        &hex("00000006ffffffffffffffff00000009010000d3e44f000001ffffffff"),
        FromLeader::Revalidated { session: SESSION, is_valid: true },
    );
}

#[test]
fn leaders_get_learners_in_step() {
    check_leader(
        &hex("0000001100000001000000000000000400010000ffffffff"),
        FromLeader::LeaderInfo { epoch: 1, protocol: 0x10000, extensions: Extensions::default() },
    );
    check_leader(
        &hex("0000000d0000000000000000ffffffffffffffff"),
        FromLeader::Diff { through: Zxid::ZERO },
    );
    let config = "server.1=127.0.0.1:24401:24501:participant\n\
                  server.2=127.0.0.1:24402:24502:participant\n\
                  server.3=127.0.0.1:24203:24303:participant\n\
                  server.4=127.0.0.1:24404:24504:observer\n\
                  version=0";
    let head = hex("0000000a0000000100000000000000b2");
    check_leader(
        &[&head, config.as_bytes(), &[0xff; 4]].concat(),
        FromLeader::NewLeader { zxid: Zxid::new(1, 0), config: config.as_bytes().into() },
    );
    check_leader(
        &hex("0000000cffffffffffffffffffffffffffffffff"),
        FromLeader::UpToDate { zxid: Zxid::from_raw(-1) },
    );
}

#[test]
fn leaders_propose_commit_and_ping() {
    let txn = "010000d3e44f0000000000010000000100000002000001a204677e4600000001\
               000000022f61000000036f6e65000000010000001f00000005776f726c640000\
               0006616e796f6e6500000000010000000200000001a6d20ae4";
    let zxid = Zxid::new(1, 2);
    let golden = |kind: &str| hex(&format!("{kind}000000010000000200000059{txn}ffffffff"));
    let txn: Arc<[u8]> = hex(txn).into();
    check_leader(&golden("00000002"), FromLeader::Proposal { zxid, txn: txn.clone() });
    check_leader(&golden("00000008"), FromLeader::Inform { zxid, txn });
    check_leader(
        &hex("000000040000000100000001ffffffffffffffff"),
        FromLeader::Commit { zxid: Zxid::new(1, 1) },
    );
    check_leader(
        &hex("000000050000000100000005ffffffffffffffff"),
        FromLeader::Ping { zxid: Zxid::new(1, 5) },
    );
    check_leader(&hex("000000070000000000000000ffffffffffffffff"), FromLeader::Sync);
}

#[test]
fn leaders_commit_reconfigurations() {
    let (zxid, designated_leader) = (Zxid::new(1, 2), ServerId(2));
    check_leader(
        &hex("000000090000000100000002000000080000000000000002ffffffff"),
        FromLeader::CommitAndActivate { zxid, designated_leader },
    );
    let config = "server.1=127.0.0.1:27201:27301:participant;127.0.0.1:27101\n\
                  server.2=127.0.0.1:27202:27302:participant;127.0.0.1:27102\n\
                  server.3=127.0.0.1:27203:27303:participant;127.0.0.1:27103\n\
                  version=100000002";
    let txn = [
        &hex("020000f79fcf0000000000010000000100000002000001a2048b494700000010\
             000000112f7a6f6f6b65657065722f636f6e666967000000c2"),
        config.as_bytes(),
        &hex("ffffffff000000020000000051c6d660"),
    ]
    .concat();
    check_leader(
        &[&hex("000000130000000100000002000001130000000000000002"), &txn[..], &[0xff; 4]].concat(),
        FromLeader::InformAndActivate { zxid, designated_leader, txn: txn.as_slice().into() },
    );
}
