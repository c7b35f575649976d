use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn frame(notification: &Notification) -> Vec<u8> {
    let mut bytes = Vec::new();
    notification.encode(&mut bytes);
    bytes
}

fn notifications() -> impl Strategy<Value = Notification> {
    let doing = prop::sample::select(vec![
        Doing::Looking,
        Doing::Following,
        Doing::Leading,
        Doing::Observing,
    ]);
    let vote = (any::<i64>(), 0..=i64::MAX, any::<u32>()).prop_map(|(leader, zxid, peer_epoch)| {
        let leader = ServerId(if leader == NOT_VOTING { 0 } else { leader });
        Vote { leader, zxid: Zxid::from_raw(zxid), peer_epoch }
    });
    (
        doing,
        prop::option::of(vote),
        any::<i64>(),
        2..9,
        vec(any::<u8>(), 0..99),
        vec(any::<u8>(), 0..99),
    )
        .prop_map(|(doing, vote, round, version, config, proposed)| Notification {
            doing,
            vote,
            round,
            version,
            config,
            proposed,
        })
}

fn hosts() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z][a-z0-9.-]{0,9}", "[1-9][0-9]?\\.0\\.0\\.1", "fe80::[1-9a-f]{1,4}"]
}

proptest! {
    #[test]
    fn notifications_survive_in_any_pieces(sent in vec(notifications(), 1..4)) {
        let mut stream = Vec::new();
        sent.iter().for_each(|notification| notification.encode(&mut stream));
        let (mut from, mut read) = (0, Vec::new());
        for end in 0..=stream.len() {
            while let Some((contents, length)) = decode_frame(&stream[from..end]).unwrap() {
                read.push(Notification::decode(contents).unwrap());
                from += length;
            }
        }
        prop_assert_eq!(from, stream.len());
        prop_assert_eq!(read, sent);
    }

    #[test]
    fn greetings_survive_in_any_pieces(
        server in prop::option::of(0..i64::MAX),
        addresses in vec((hosts(), any::<u16>()), 1..9),
    ) {
        let greeting = Greeting { server: server.map(ServerId), addresses };
        let mut bytes = Vec::new();
        greeting.encode(&mut bytes);
        bytes.extend_from_slice(b"more");
        let length = bytes.len() - 4;
        for end in 0..length {
            prop_assert_eq!(Greeting::decode(&bytes[..end]), Ok(None));
        }
        prop_assert_eq!(Greeting::decode(&bytes), Ok(Some((greeting, length))));
    }
}

/// A notification's fields as they are: state, leader, zxid, round, peer epoch.
fn fields(state: i32, rest: [i64; 4]) -> Vec<u8> {
    let mut bytes = state.to_be_bytes().to_vec();
    rest.iter().for_each(|&field| bytes.put_i64(field));
    bytes
}

#[test]
fn old_servers_say_less() {
    let vote = Some(Vote { leader: ServerId(3), zxid: Zxid::new(7, 9), peer_epoch: 8 });
    let expected = |vote, version| Notification {
        doing: Doing::Leading,
        vote,
        round: 5,
        version,
        config: Vec::new(),
        proposed: Vec::new(),
    };
    let full = fields(2, [3, Zxid::new(7, 9).raw(), 5, 8]);
    // Without an epoch it is that of the zxid.
    let of_zxid = vote.map(|vote| Vote { peer_epoch: 7, ..vote });
    assert_eq!(Notification::decode(&full[..28]), Ok(expected(of_zxid, 0)));
    // At this length the version is not looked at.
    let with = |version: i32| [&full[..], &version.to_be_bytes()].concat();
    assert_eq!(Notification::decode(&with(1)), Ok(expected(vote, 0)));
    // Later versions may have more behind what is known, before 2 no configuration.
    assert_eq!(Notification::decode(&[with(1), vec![9]].concat()), Ok(expected(vote, 1)));
    for length in [0, 3, 27, 29, 35, 36, 39] {
        let error = Err(DecodeError::Truncated);
        assert_eq!(Notification::decode(&with(2)[..length]), error, "{length}");
    }
}

#[test]
fn a_configuration_is_as_long_as_it_says() {
    let head = [fields(0, [1, 0, 1, 0]), 2i32.to_be_bytes().to_vec()].concat();
    let with = |length: i32, config: &[u8]| {
        Notification::decode(&[&head[..], &length.to_be_bytes(), config].concat())
    };
    assert_eq!(with(3, b"a=b").unwrap().config, b"a=b");
    assert_eq!(with(4, b"a=b"), Err(DecodeError::Truncated));
    assert_eq!(with(i32::MAX, b"a=b"), Err(DecodeError::Truncated));
    assert_eq!(with(-2, b"a=b"), Err(DecodeError::NegativeLength));
}

#[test]
fn who_has_no_vote_is_told_from_who_lies() {
    let vote = |leader, zxid, epoch| {
        let bytes = [fields(0, [leader, zxid, 1, epoch]), vec![0; 4]].concat();
        Notification::decode(&bytes).map(|notification| notification.vote)
    };
    assert_eq!(vote(i64::MIN, i64::MIN, i64::MIN), Ok(None));
    assert_eq!(vote(1, -1, 0), Ok(None));
    assert_eq!(vote(1, -2, 0), Err(DecodeError::OutOfRange("zxid")));
    assert_eq!(vote(1, 0, -1), Err(DecodeError::OutOfRange("epoch")));
    assert_eq!(vote(1, 0, 1 << 32), Err(DecodeError::OutOfRange("epoch")));
    for state in [-1, 4, i32::MAX] {
        let bytes = fields(state, [1, 0, 1, 0]);
        assert_eq!(Notification::decode(&bytes), Err(DecodeError::OutOfRange("state")));
    }
}

#[test]
fn frames_have_a_length_within_bounds() {
    let frame = |length: i32| length.to_be_bytes();
    assert_eq!(decode_frame(&frame(0)), Err(DecodeError::Truncated));
    assert_eq!(decode_frame(&frame(-1)), Err(DecodeError::NegativeLength));
    assert_eq!(decode_frame(&frame(i32::MIN)), Err(DecodeError::NegativeLength));
    let (length, limit) = (FRAME_BYTES_MAX + 1, FRAME_BYTES_MAX);
    assert_eq!(decode_frame(&frame(524_289)), Err(DecodeError::TooLong { length, limit }));
    assert_eq!(decode_frame(&frame(524_288)), Ok(None));
    assert_eq!(decode_frame(&[0, 0, 0, 1, 7, 8]), Ok(Some((&[7][..], 5))));
}

/// A greeting's bytes from its fields as they are.
fn greeting(protocol: i64, server: i64, addresses: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.put_i64(protocol);
    bytes.put_i64(server);
    bytes.put_buffer(Some(addresses));
    bytes
}

fn greeted(bytes: &[u8]) -> Result<Option<Greeting>> {
    Ok(Greeting::decode(bytes)?.map(|(greeting, _)| greeting))
}

#[test]
fn greetings_of_all_ages_are_understood() {
    let old = 7i64.to_be_bytes();
    let bare = |server| Greeting { server, addresses: Vec::new() };
    assert_eq!(Greeting::decode(&old), Ok(Some((bare(Some(ServerId(7))), 8))));
    assert_eq!(greeted(&i64::MAX.to_be_bytes()), Ok(Some(bare(None))));
    assert_eq!(greeted(&greeting(-65536, 7, b"0.0.0.0:1")), Ok(Some(bare(Some(ServerId(7))))));
    let list = b"a.b:1|[::1]:65535|[::]:3|10.0.0.1:0";
    let addresses = [("a.b", 1), ("::1", 65535), ("10.0.0.1", 0)];
    let addresses = addresses.map(|(host, port)| (host.to_owned(), port)).to_vec();
    let expected = Greeting { server: None, addresses };
    assert_eq!(greeted(&greeting(-65535, i64::MAX, list)), Ok(Some(expected)));
}

#[test]
fn strangers_are_refused() {
    for protocol in [-1, -65534, -65537, i64::MIN] {
        let error = Err(DecodeError::OutOfRange("protocol"));
        assert_eq!(greeted(&protocol.to_be_bytes()), error, "{protocol}");
    }
    let error = Err(DecodeError::OutOfRange("server"));
    assert_eq!(greeted(&greeting(-65536, -1, b"a:1")), error);
    for addresses in ["", "a", ":1", "a:", "a:b", "a:65536", "a:-1", "a:1:2", "[a]1", "[a", "a:1|"]
    {
        let error = Err(DecodeError::OutOfRange("address"));
        assert_eq!(greeted(&greeting(-65535, 1, addresses.as_bytes())), error, "{addresses}");
    }
    assert_eq!(greeted(&greeting(-65536, 1, &[0xff])), Err(DecodeError::NotUtf8));
    let long = greeting(-65536, 1, &[b'a'; ADDRESSES_BYTES_MAX + 1]);
    let (length, limit) = (ADDRESSES_BYTES_MAX + 1, ADDRESSES_BYTES_MAX);
    assert_eq!(greeted(&long[..20]), Err(DecodeError::TooLong { length, limit }));
    let negative = [&long[..16], &[0xff; 4]].concat();
    assert_eq!(greeted(&negative), Err(DecodeError::NegativeLength));
}

#[test]
fn what_old_receivers_would_misread_is_not_sent() {
    let notification = Notification {
        doing: Doing::Looking,
        vote: None,
        round: 1,
        version: 1,
        config: b"left out".to_vec(),
        proposed: b"this too".to_vec(),
    };
    assert_eq!(frame(&notification).len(), 44);
}

/// How Apache's servers of 3.5 and later read a frame's contents (`WorkerReceiver.run`): fields in
/// order, a configuration by its length, and nothing behind it. Those of 3.4 stop at the version.
fn as_apache_reads(contents: &[u8]) -> ([i64; 4], i32, &[u8]) {
    let field = |at: usize| i64::from_be_bytes(contents[at..at + 8].try_into().unwrap());
    let number = |at: usize| i32::from_be_bytes(contents[at..at + 4].try_into().unwrap());
    assert!(contents.len() > 40, "not an older format, which is told by its length alone");
    let length = usize::try_from(number(40)).unwrap();
    assert!(length <= contents.len());
    ([field(4), field(12), field(20), field(28)], number(36), &contents[44..44 + length])
}

#[test]
fn proposed_members_stand_where_apache_does_not_look() {
    let plain = Notification {
        doing: Doing::Looking,
        vote: Some(Vote { leader: ServerId(3), zxid: Zxid::new(7, 9), peer_epoch: 8 }),
        round: 5,
        version: VERSION,
        config: b"server.1=a:1:2\nversion=700000001".to_vec(),
        proposed: Vec::new(),
    };
    let proposed = b"server.3=c:1:2\nversion=700000009".to_vec();
    let with = Notification { proposed: proposed.clone(), ..plain.clone() };
    let (short, long) = (frame(&plain), frame(&with));
    // What is added is added at the end of the frame, and only the frame's length knows of it.
    assert_eq!(long[4..short.len()], short[4..]);
    assert_eq!(&long[short.len()..], [b"next\0\0\0\x20", &proposed[..]].concat());
    let length = u32::try_from(long.len() - 4).unwrap();
    assert_eq!(long[..4], length.to_be_bytes());
    assert_eq!(as_apache_reads(&long[4..]), as_apache_reads(&short[4..]));
    let (_, version, config) = as_apache_reads(&long[4..]);
    assert_eq!((version, config), (VERSION, &plain.config[..]));
    assert_eq!(Notification::decode(&long[4..]), Ok(with));
}

#[test]
fn what_stands_behind_the_configuration_and_makes_no_sense_is_skipped() {
    let head = [fields(0, [1, 0, 1, 0]), 2i32.to_be_bytes().to_vec(), vec![0; 4]].concat();
    for rest in [
        &b"nex"[..],
        b"next",
        b"next\0\0\0\x04abc",
        b"next\xff\xff\xff\xff",
        b"next\xff\xff\xff\xfe",
        b"next\x7f\xff\xff\xffabc",
        b"text\0\0\0\x03abc",
    ] {
        let read = Notification::decode(&[&head[..], rest].concat()).unwrap();
        assert_eq!((&read.proposed[..], &read.config[..]), (&b""[..], &b""[..]), "{rest:?}");
    }
    let read = Notification::decode(&[&head[..], b"next\0\0\0\x03abcde"].concat()).unwrap();
    assert_eq!(read.proposed, b"abc");
}

#[test]
fn proposed_members_do_not_make_a_frame_too_long() {
    let mut notification = Notification {
        doing: Doing::Looking,
        vote: None,
        round: 1,
        version: VERSION,
        config: vec![b'c'; 1000],
        proposed: vec![b'p'; FRAME_BYTES_MAX - 44 - 1000 - 8],
    };
    let longest = frame(&notification);
    assert_eq!(longest.len(), 4 + FRAME_BYTES_MAX);
    let (contents, _) = decode_frame(&longest).unwrap().unwrap();
    assert_eq!(Notification::decode(contents).as_ref(), Ok(&notification));
    notification.proposed.push(b'p');
    assert_eq!(frame(&notification).len(), 4 + 44 + 1000, "they are left out");
}

/// What servers of Apache 3.9.5 said to each other, recorded between their ports.
mod golden {
    use super::*;

    /// The bytes of lower-case hexadecimal digits.
    fn hex(text: &str) -> Vec<u8> {
        let digit = |index: usize| u8::from_str_radix(&text[index..index + 2], 16).unwrap();
        (0..text.len()).step_by(2).map(digit).collect()
    }

    const CONFIG: &str = "server.1=127.0.0.1:24401:24501:participant\n\
                          server.2=127.0.0.1:24202:24302:participant\n\
                          server.3=127.0.0.1:24403:24503:participant\n\
                          server.4=127.0.0.1:24404:24504:observer\n\
                          version=0";

    /// The digits of a frame up to its configuration.
    fn check(head: &str, doing: Doing, vote: Option<Vote>, round: i64) {
        let golden = [&hex(head)[..], CONFIG.as_bytes()].concat();
        let config = CONFIG.as_bytes().to_vec();
        let expected =
            Notification { doing, vote, round, version: VERSION, config, proposed: Vec::new() };
        assert_eq!(frame(&expected), golden);
        let (contents, length) = decode_frame(&golden).unwrap().unwrap();
        assert_eq!(length, golden.len());
        assert_eq!(Notification::decode(contents), Ok(expected));
    }

    #[test]
    fn servers_greet() {
        let golden = hex("ffffffffffff000000000000000000020000000f3132372e302e302e313a3234333032");
        let addresses = vec![("127.0.0.1".to_owned(), 24302)];
        let greeting = Greeting { server: Some(ServerId(2)), addresses };
        let mut written = Vec::new();
        greeting.encode(&mut written);
        assert_eq!(written, golden);
        assert_eq!(Greeting::decode(&golden), Ok(Some((greeting, golden.len()))));
    }

    #[test]
    fn servers_vote() {
        let vote = |leader, peer_epoch| {
            Some(Vote { leader: ServerId(leader), zxid: Zxid::ZERO, peer_epoch })
        };
        check(
            "000000de00000000000000000000000200000000000000000000000000000001\
             000000000000000000000002000000b2",
            Doing::Looking,
            vote(2, 0),
            1,
        );
        // After the election the epoch of the vote is that which it began.
        check(
            "000000de00000001000000000000000300000000000000000000000000000001\
             000000000000000100000002000000b2",
            Doing::Following,
            vote(3, 1),
            1,
        );
        check(
            "000000de00000002000000000000000300000000000000000000000000000001\
             000000000000000100000002000000b2",
            Doing::Leading,
            vote(3, 1),
            1,
        );
    }

    #[test]
    fn observers_ask() {
        check(
            "000000de00000000800000000000000080000000000000000000000000000001\
             800000000000000000000002000000b2",
            Doing::Looking,
            None,
            1,
        );
    }
}
