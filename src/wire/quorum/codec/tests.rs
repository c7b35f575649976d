use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const LIMIT: usize = 4096;

fn learner(message: &FromLearner) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    bytes
}

fn leader(message: &FromLeader) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    bytes
}

fn zxid() -> impl Strategy<Value = Zxid> {
    (0..=i64::MAX).prop_map(Zxid::from_raw)
}

fn bytes() -> impl Strategy<Value = Arc<[u8]>> {
    vec(any::<u8>(), 0..200).prop_map(Arc::from)
}

fn extensions() -> impl Strategy<Value = Extensions> {
    any::<(bool, bool)>()
        .prop_map(|(chunked_snapshot, cumulative)| Extensions { chunked_snapshot, cumulative })
}

fn request() -> impl Strategy<Value = Forwarded> {
    let id = (".{0,9}", ".{0,9}").prop_map(|(scheme, id)| Id { scheme, id });
    (any::<i64>(), any::<i32>(), any::<i32>(), vec(any::<u8>(), 0..99), vec(id, 0..4))
        .prop_map(|(session, cxid, op, body, ids)| Forwarded { session, cxid, op, body, ids })
}

const EPOCH_MAX: u32 = i32::MAX as u32;

fn from_learners() -> impl Strategy<Value = FromLearner> {
    let info = (
        any::<bool>(),
        any::<i64>().prop_map(ServerId),
        0..=EPOCH_MAX,
        any::<i32>(),
        any::<i64>(),
        extensions(),
    );
    prop_oneof![
        info.prop_map(
            |(is_observer, server, accepted_epoch, protocol, config_version, extensions)| {
                FromLearner::Info {
                    is_observer,
                    server,
                    accepted_epoch,
                    protocol,
                    config_version,
                    extensions,
                }
            }
        ),
        (zxid(), proptest::option::of(0..=EPOCH_MAX))
            .prop_map(|(last, current_epoch)| FromLearner::AckEpoch { last, current_epoch }),
        zxid().prop_map(|zxid| FromLearner::Ack { zxid }),
        (zxid(), vec(any::<(i64, i32)>(), 0..9))
            .prop_map(|(zxid, touched)| FromLearner::Ping { zxid, touched }),
        request().prop_map(FromLearner::Request),
        any::<(i64, i32)>()
            .prop_map(|(session, timeout_ms)| FromLearner::Revalidate { session, timeout_ms }),
    ]
}

fn from_leaders() -> impl Strategy<Value = FromLeader> {
    let server = || any::<i64>().prop_map(ServerId);
    prop_oneof![
        (0..=EPOCH_MAX, any::<i32>(), extensions()).prop_map(|(epoch, protocol, extensions)| {
            FromLeader::LeaderInfo { epoch, protocol, extensions }
        }),
        zxid().prop_map(|through| FromLeader::Diff { through }),
        zxid().prop_map(|after| FromLeader::Trunc { after }),
        zxid().prop_map(|zxid| FromLeader::Snap { zxid }),
        (zxid(), bytes()).prop_map(|(zxid, config)| FromLeader::NewLeader { zxid, config }),
        any::<i64>().prop_map(|raw| FromLeader::UpToDate { zxid: Zxid::from_raw(raw) }),
        (zxid(), bytes()).prop_map(|(zxid, txn)| FromLeader::Proposal { zxid, txn }),
        zxid().prop_map(|zxid| FromLeader::Commit { zxid }),
        (zxid(), server()).prop_map(|(zxid, designated_leader)| {
            FromLeader::CommitAndActivate { zxid, designated_leader }
        }),
        (zxid(), bytes()).prop_map(|(zxid, txn)| FromLeader::Inform { zxid, txn }),
        (zxid(), server(), bytes()).prop_map(|(zxid, designated_leader, txn)| {
            FromLeader::InformAndActivate { zxid, designated_leader, txn }
        }),
        zxid().prop_map(|zxid| FromLeader::Ping { zxid }),
        Just(FromLeader::Sync),
        any::<(i64, bool)>()
            .prop_map(|(session, is_valid)| FromLeader::Revalidated { session, is_valid }),
        (0..=i64::MAX as u64, bytes())
            .prop_map(|(offset, bytes)| FromLeader::Chunk { offset, bytes }),
    ]
}

proptest! {
    #[test]
    fn what_learners_say_survives_in_any_pieces(messages in vec(from_learners(), 1..5)) {
        let mut stream = Vec::new();
        messages.iter().for_each(|message| message.encode(&mut stream));
        let (mut from, mut read) = (0, Vec::new());
        for end in 0..=stream.len() {
            while let Some((message, length)) =
                FromLearner::decode(&stream[from..end], LIMIT).unwrap()
            {
                read.push(message);
                from += length;
            }
        }
        prop_assert_eq!(from, stream.len());
        prop_assert_eq!(read, messages);
    }

    #[test]
    fn what_leaders_say_survives_in_any_pieces(messages in vec(from_leaders(), 1..5)) {
        let mut stream = Vec::new();
        messages.iter().for_each(|message| message.encode(&mut stream));
        let (mut from, mut read) = (0, Vec::new());
        for end in 0..=stream.len() {
            while let Some((message, length)) =
                FromLeader::decode(&stream[from..end], LIMIT).unwrap()
            {
                read.push(message);
                from += length;
            }
        }
        prop_assert_eq!(from, stream.len());
        prop_assert_eq!(read, messages);
    }
}

/// A packet's bytes from its fields as they are.
fn packet(kind: i32, zxid: i64, data: Option<&[u8]>, authinfo: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.put_i32(kind);
    bytes.put_i64(zxid);
    bytes.put_buffer(data);
    bytes.extend_from_slice(authinfo);
    bytes
}

const NULL: &[u8] = &[0xff; 4];

#[test]
fn a_length_beyond_the_limit_is_an_error_at_once() {
    let too_long = Err(DecodeError::TooLong { length: LIMIT + 1, limit: LIMIT });
    let mut bytes = packet(PROPOSAL, 1, Some(&[0; LIMIT + 1]), NULL);
    bytes.truncate(16);
    assert_eq!(FromLeader::decode(&bytes, LIMIT), too_long);
    assert_eq!(FromLeader::decode(&bytes, LIMIT + 1), Ok(None));
    assert_eq!(FromLeader::decode(&bytes[..15], LIMIT), Ok(None));
    // Of a chunk the limit is its own.
    let chunk = packet(CHUNK, 0, Some(&[0; CHUNK_BYTES_MAX + 5]), NULL);
    let error = FromLeader::decode(&chunk[..16], usize::MAX).unwrap_err();
    let limit = CHUNK_BYTES_MAX + 4;
    assert_eq!(error, DecodeError::TooLong { length: limit + 1, limit });

    let negative = packet(PROPOSAL, 1, None, NULL);
    let negative = [&negative[..12], &[0xff, 0xff, 0xff, 0xfe]].concat();
    assert_eq!(FromLeader::decode(&negative, LIMIT), Err(DecodeError::NegativeLength));
}

#[test]
fn authinfo_is_bounded_in_count_and_in_bytes() {
    let data = [0; 16];
    let with =
        |authinfo: &[u8]| FromLearner::decode(&packet(REQUEST, -1, Some(&data), authinfo), LIMIT);
    let length = (LIMIT / 8 + 1) * 8;
    let count = (length as u32 / 8).to_be_bytes();
    assert_eq!(with(&count), Err(DecodeError::TooLong { length, limit: LIMIT }));
    let error = with(&[0x7f, 0xff, 0xff, 0xff]);
    assert_eq!(error, Err(DecodeError::TooLong { length: 0x7fff_ffff * 8, limit: LIMIT }));
    assert_eq!(with(&[0xff, 0xff, 0xff, 0xfe]), Err(DecodeError::NegativeLength));
    // Two strings that would each do, but not together.
    let mut two = 1i32.to_be_bytes().to_vec();
    two.put_buffer(Some(&[b'a'; LIMIT - 8]));
    two.put_i32(1);
    assert!(matches!(with(&two), Err(DecodeError::TooLong { length: 1, .. })));
    let fits = two.len() - 4;
    two.truncate(fits);
    two.put_i32(0);
    assert!(matches!(with(&two), Ok(Some((FromLearner::Request(it), _))) if it.ids.len() == 1));
}

#[test]
fn a_name_that_is_not_text_counts_for_nobody() {
    let mut authinfo = 2i32.to_be_bytes().to_vec();
    authinfo.put_string("digest");
    authinfo.put_buffer(Some(&[0xed, 0xa0, 0xbd, 0xed, 0xb8, 0x80]));
    authinfo.put_string("ip");
    authinfo.put_string("127.0.0.1");
    let bytes = packet(REQUEST, -1, Some(&[0; 16]), &authinfo);
    let Ok(Some((FromLearner::Request(request), length))) = FromLearner::decode(&bytes, LIMIT)
    else {
        panic!("not a request");
    };
    assert_eq!(request.ids, [Id { scheme: "ip".to_owned(), id: "127.0.0.1".to_owned() }]);
    assert_eq!(length, bytes.len());
}

#[test]
fn old_learners_say_less_of_themselves() {
    let mut data = 7i64.to_be_bytes().to_vec();
    let mut decoded = |more: &[u8]| {
        data.extend_from_slice(more);
        let bytes = packet(OBSERVER_INFO, 3 << 32, Some(&data), NULL);
        match FromLearner::decode(&bytes, LIMIT) {
            Ok(Some((
                FromLearner::Info {
                    is_observer: true,
                    server: ServerId(7),
                    accepted_epoch: 3,
                    protocol,
                    config_version,
                    ..
                },
                _,
            ))) => (protocol, config_version),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(decoded(&[]), (1, 0));
    assert_eq!(decoded(&[0, 1, 0, 0]), (0x10000, 0));
    assert_eq!(decoded(&[0, 0, 0, 1, 0, 0, 0, 2]), (0x10000, 0x1_0000_0002));
    let nameless = packet(FOLLOWER_INFO, 0, None, NULL);
    assert_eq!(FromLearner::decode(&nameless, LIMIT), Err(DecodeError::Truncated));
}

#[test]
fn an_empty_java_server_acknowledges_an_epoch_at_minus_one() {
    let bytes = packet(ACK_EPOCH, -1, Some(&[0; 4]), NULL);
    let expected = FromLearner::AckEpoch { last: Zxid::ZERO, current_epoch: Some(0) };
    assert_eq!(FromLearner::decode(&bytes, LIMIT), Ok(Some((expected, bytes.len()))));
    let bytes = packet(ACK_EPOCH, 5, Some(&[0xff, 0xff, 0xff, 0xfe]), NULL);
    let error = Err(DecodeError::OutOfRange("epoch"));
    assert_eq!(FromLearner::decode(&bytes, LIMIT), error);
}

#[test]
fn each_side_speaks_only_its_own_packets() {
    for kind in [PROPOSAL, COMMIT, SYNC, CHUNK, 0, -1, 20] {
        let bytes = packet(kind, 1, None, NULL);
        let error = Err(DecodeError::UnexpectedType(kind));
        assert_eq!(FromLearner::decode(&bytes, LIMIT), error, "{kind}");
    }
    for kind in [REQUEST, ACK, FOLLOWER_INFO, OBSERVER_INFO, ACK_EPOCH, 0, -1, 20, 99] {
        let bytes = packet(kind, 1, None, NULL);
        let error = Err(DecodeError::UnexpectedType(kind));
        assert_eq!(FromLeader::decode(&bytes, LIMIT), error, "{kind}");
    }
}

#[test]
fn a_history_never_ends_below_zero() {
    let data = Some(&[0; 20][..]);
    for kind in [ACK, FOLLOWER_INFO] {
        let bytes = packet(kind, -1, data, NULL);
        let error = Err(DecodeError::OutOfRange("zxid"));
        assert_eq!(FromLearner::decode(&bytes, LIMIT), error, "{kind}");
    }
    for kind in [LEADER_INFO, DIFF, TRUNC, SNAP, NEW_LEADER, PROPOSAL, COMMIT, INFORM] {
        let bytes = packet(kind, i64::MIN, data, NULL);
        let error = Err(DecodeError::OutOfRange("zxid"));
        assert_eq!(FromLeader::decode(&bytes, LIMIT), error, "{kind}");
    }
}

#[test]
fn a_damaged_chunk_is_seen() {
    let whole = leader(&FromLeader::Chunk { offset: 9, bytes: Arc::from(*b"some state") });
    for damaged in 16..whole.len() - 4 {
        let mut bytes = whole.clone();
        bytes[damaged] ^= 0x10;
        assert_eq!(FromLeader::decode(&bytes, LIMIT), Err(DecodeError::Checksum), "{damaged}");
    }
}

#[test]
fn extensions_that_are_unknown_are_left_out() {
    let mut authinfo = 2i32.to_be_bytes().to_vec();
    for (scheme, id) in [("other", "chunked_snapshot"), ("ringkeeper", "what,chunked_snapshot")] {
        authinfo.put_string(scheme);
        authinfo.put_string(id);
    }
    let decoded = |authinfo: &[u8]| {
        let bytes = packet(LEADER_INFO, 1 << 32, Some(&[0, 1, 0, 0]), authinfo);
        match FromLeader::decode(&bytes, LIMIT) {
            Ok(Some((FromLeader::LeaderInfo { extensions, .. }, _))) => extensions,
            other => panic!("{other:?}"),
        }
    };
    assert!(decoded(&authinfo).chunked_snapshot);
    let only_other = [&1i32.to_be_bytes()[..], &authinfo[4..33]].concat();
    assert!(!decoded(&only_other).chunked_snapshot);
    assert!(!decoded(NULL).chunked_snapshot);
}

#[test]
fn a_servers_own_requests_carry_null_and_clients_a_list() {
    let request = |op| {
        let (body, ids) = (vec![0, 0, 0x27, 0x10], Vec::new());
        FromLearner::Request(Forwarded { session: 5, cxid: 0, op, body, ids })
    };
    assert_eq!(learner(&request(-10))[36..], *NULL);
    assert_eq!(learner(&request(1))[36..], [0; 4]);
}
