use proptest::prelude::*;

use super::*;
use crate::wire::jute::Write;
use crate::wire::path;

fn bytes(put: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    put(&mut bytes);
    bytes
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .map(|digit| char::from(digit).to_digit(16).unwrap() as u8)
        .collect();
    assert!(digits.len().is_multiple_of(2));
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn put_create(out: &mut Vec<u8>, path: &str, data: Option<&[u8]>, flags: i32) {
    out.put_string(path);
    out.put_buffer(data);
    out.extend_from_slice(EncodedAcl::OPEN.as_bytes());
    out.put_i32(flags);
}

fn create(
    op: OpCode,
    path: &'static str,
    flags: i32,
    ttl_ms: Option<i64>,
) -> CreateRequest<'static> {
    CreateRequest { op, path, data: Some(b"x"), acl: EncodedAcl::OPEN, flags, ttl_ms }
}

fn put_entry(out: &mut Vec<u8>, op: i32) {
    out.put_i32(op);
    out.put_bool(false);
    out.put_i32(-1);
}

fn put_end(out: &mut Vec<u8>) {
    out.put_i32(-1);
    out.put_bool(true);
    out.put_i32(-1);
}

/// A multi of one create with this opcode and these flags.
fn multi_of_create(op: OpCode, flags: i32, ttl_ms: Option<i64>) -> Vec<u8> {
    bytes(|out| {
        put_entry(out, op.raw());
        put_create(out, "/a", Some(b"x"), flags);
        if let Some(ttl_ms) = ttl_ms {
            out.put_i64(ttl_ms);
        }
        put_end(out);
    })
}

/// A body of every operation, and what it is.
fn every_request() -> Vec<(OpCode, Vec<u8>, Request<'static>)> {
    let path = "/a/b";
    let with_path = |put: &dyn Fn(&mut Vec<u8>)| {
        bytes(|out| {
            out.put_string("/a/b");
            put(out);
        })
    };
    let watch = with_path(&|out| out.put_bool(true));
    let version = with_path(&|out| out.put_i32(7));
    let plain = with_path(&|_| {});
    let kind = |raw| with_path(&|out| out.put_i32(raw));
    let set_data = with_path(&|out| {
        out.put_buffer(None);
        out.put_i32(7);
    });
    let set_acl = with_path(&|out| {
        out.extend_from_slice(EncodedAcl::OPEN.as_bytes());
        out.put_i32(7);
    });
    let acl = EncodedAcl::OPEN;
    let mut requests = vec![
        (OpCode::Delete, version.clone(), Request::Delete { path, version: 7 }),
        (OpCode::Exists, watch.clone(), Request::Exists { path, watch: true }),
        (OpCode::GetData, watch.clone(), Request::GetData { path, watch: true }),
        (OpCode::SetData, set_data, Request::SetData { path, data: None, version: 7 }),
        (OpCode::GetAcl, plain.clone(), Request::GetAcl { path }),
        (OpCode::SetAcl, set_acl, Request::SetAcl { path, acl, version: 7 }),
        (OpCode::GetChildren, watch.clone(), Request::GetChildren { path, watch: true }),
        (OpCode::Sync, plain.clone(), Request::Sync { path }),
        (OpCode::Ping, Vec::new(), Request::Ping),
        (OpCode::GetChildren2, watch, Request::GetChildren2 { path, watch: true }),
        (OpCode::CheckWatches, kind(2), Request::CheckWatches { path, kind: WatcherType::Data }),
        (OpCode::RemoveWatches, kind(3), Request::RemoveWatches { path, kind: WatcherType::Any }),
        (OpCode::DeleteContainer, plain.clone(), Request::DeleteContainer { path }),
        (OpCode::GetEphemerals, plain.clone(), Request::GetEphemerals { prefix: path }),
        (OpCode::GetAllChildrenNumber, plain, Request::GetAllChildrenNumber { path }),
        (
            OpCode::AddWatch,
            kind(1),
            Request::AddWatch { path, mode: AddWatchMode::PersistentRecursive },
        ),
        (OpCode::WhoAmI, Vec::new(), Request::WhoAmI),
        (
            OpCode::CreateSession,
            4000_i32.to_be_bytes().to_vec(),
            Request::CreateSession { timeout_ms: 4000 },
        ),
        (OpCode::CloseSession, Vec::new(), Request::CloseSession),
    ];
    requests.extend(every_create());
    requests.extend(every_compound());
    requests
}

fn every_create() -> Vec<(OpCode, Vec<u8>, Request<'static>)> {
    let plain = bytes(|out| put_create(out, "/a", Some(b"x"), 1));
    let ttl = bytes(|out| {
        put_create(out, "/a", Some(b"x"), 5);
        out.put_i64(60_000);
    });
    let mut requests = vec![(
        OpCode::CreateTtl,
        ttl,
        Request::Create(create(OpCode::CreateTtl, "/a", 5, Some(60_000))),
    )];
    for op in [OpCode::Create, OpCode::Create2, OpCode::CreateContainer] {
        requests.push((op, plain.clone(), Request::Create(create(op, "/a", 1, None))));
    }
    requests
}

fn every_multi() -> Vec<(OpCode, Vec<u8>, Request<'static>)> {
    let multi = bytes(|out| {
        put_entry(out, 1);
        put_create(out, "/a", Some(b"x"), 0);
        put_entry(out, 13);
        out.put_string("/a");
        out.put_i32(0);
        put_entry(out, 5);
        out.put_string("/a");
        out.put_buffer(Some(b"q"));
        out.put_i32(0);
        put_entry(out, 2);
        out.put_string("/a");
        out.put_i32(-1);
        put_end(out);
    });
    let ops = vec![
        Op::Create(create(OpCode::Create, "/a", 0, None)),
        Op::Check { path: "/a", version: 0 },
        Op::SetData { path: "/a", data: Some(b"q"), version: 0 },
        Op::Delete { path: "/a", version: -1 },
    ];
    let multi_read = bytes(|out| {
        for (op, path) in [(4, "/nope"), (8, "/a")] {
            put_entry(out, op);
            out.put_string(path);
            out.put_bool(true);
        }
        put_end(out);
    });
    let reads = vec![ReadOp::GetData { path: "/nope" }, ReadOp::GetChildren { path: "/a" }];
    vec![
        (OpCode::Multi, multi, Request::Multi(ops)),
        (OpCode::MultiRead, multi_read, Request::MultiRead(reads)),
    ]
}

fn every_compound() -> Vec<(OpCode, Vec<u8>, Request<'static>)> {
    let put_lists = |out: &mut Vec<u8>, count| {
        out.put_i64(9);
        for path in ["/d", "/e", "/c", "/p", "/r"].into_iter().take(count) {
            out.put_i32(1);
            out.put_string(path);
        }
    };
    let watches = |persistent: &[&'static str], recursive: &[&'static str]| SetWatches {
        relative_zxid: Zxid::from_raw(9),
        data: vec!["/d"],
        exist: vec!["/e"],
        child: vec!["/c"],
        persistent: persistent.to_vec(),
        persistent_recursive: recursive.to_vec(),
    };
    let reconfig = bytes(|out| {
        out.put_buffer(None);
        out.put_string("2");
        out.put_string("");
        out.put_i64(-1);
    });
    let reconfig_is = ReconfigRequest {
        joining: None,
        leaving: Some("2"),
        members: Some(""),
        current_config: -1,
    };
    let auth = bytes(|out| {
        out.put_i32(0);
        out.put_string("digest");
        out.put_buffer(Some(b"u:p"));
    });
    let mut compound = every_multi();
    compound.extend([
        (OpCode::Reconfig, reconfig, Request::Reconfig(reconfig_is)),
        (OpCode::Auth, auth, Request::Auth { scheme: "digest", auth: b"u:p" }),
        (
            OpCode::SetWatches,
            bytes(|out| put_lists(out, 3)),
            Request::SetWatches(watches(&[], &[])),
        ),
        (
            OpCode::SetWatches2,
            bytes(|out| put_lists(out, 5)),
            Request::SetWatches(watches(&["/p"], &["/r"])),
        ),
        (
            OpCode::Sasl,
            bytes(|out| out.put_buffer(Some(b"t"))),
            Request::Sasl { token: Some(b"t") },
        ),
    ]);
    compound
}

#[test]
fn every_operation_is_decoded_and_bytes_after_it_are_ignored() {
    let requests = every_request();
    for op in OpCode::ALL {
        let known = requests.iter().any(|(known, ..)| *known == op);
        assert_eq!(known, !matches!(op, OpCode::Check | OpCode::Error), "{op:?}");
    }
    for (op, body, request) in requests {
        assert_eq!(Request::decode(op, &body).as_ref(), Ok(&request));
        let longer = [&body[..], &[1, 2, 3]].concat();
        assert_eq!(Request::decode(op, &longer), Ok(request));
    }
}

#[test]
fn every_truncation_is_an_error() {
    for (op, body, _) in every_request() {
        for end in 0..body.len() {
            let decoded = Request::decode(op, &body[..end]);
            assert_eq!(decoded, Err(DecodeError::Truncated), "{op:?} cut at {end}");
        }
    }
}

/// What the Java client's and the probe's requests look like, byte by byte.
#[test]
fn requests_as_clients_send_them() {
    let frame = hex("0000000a 00000004 00000002 2f61 01");
    let (header, body) = decode_header(&frame).unwrap();
    assert_eq!(header, RequestHeader { xid: 10, op: 4 });
    assert_eq!(header.operation(), Some(OpCode::GetData));
    let decoded = Request::decode(OpCode::GetData, body);
    assert_eq!(decoded, Ok(Request::GetData { path: "/a", watch: true }));

    let empty_multi = hex("ffffffff 01 ffffffff");
    assert_eq!(Request::decode(OpCode::Multi, &empty_multi), Ok(Request::Multi(vec![])));

    let create =
        hex("00000002 2f61 ffffffff 00000001 0000001f 00000005 776f726c64 00000006 616e796f6e65
         00000003");
    let expected = CreateRequest {
        op: OpCode::Create,
        path: "/a",
        data: None,
        acl: EncodedAcl::OPEN,
        flags: 3,
        ttl_ms: None,
    };
    assert_eq!(Request::decode(OpCode::Create, &create), Ok(Request::Create(expected)));
}

#[test]
fn headers_name_what_clients_may_ask_for() {
    let operation = |op| RequestHeader { xid: 1, op }.operation();
    assert_eq!(operation(107), Some(OpCode::WhoAmI));
    assert_eq!(operation(-11), Some(OpCode::CloseSession));
    for refused in [0, 13, -1, 999] {
        assert_eq!(operation(refused), None, "{refused}");
    }
    assert_eq!(decode_header(&[0; 7]), Err(DecodeError::Truncated));
}

#[test]
fn connect_requests_with_and_without_the_read_only_byte() {
    let text = "00000000 0000000000000007 00002710 0100000000000001
                00000010 000102030405060708090a0b0c0d0e0f";
    let old = hex(text);
    assert_eq!(old.len(), 44);
    let expected = ConnectRequest {
        protocol_version: 0,
        last_zxid_seen: Zxid::from_raw(7),
        timeout_ms: 10_000,
        session: 0x0100_0000_0000_0001,
        password: &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        read_only: None,
    };
    assert_eq!(ConnectRequest::decode(&old), Ok(expected));
    let new = hex(&format!("{text} 01"));
    let expected = ConnectRequest { read_only: Some(true), ..expected };
    assert_eq!(ConnectRequest::decode(&new), Ok(expected));
    for end in 0..44 {
        assert_eq!(ConnectRequest::decode(&old[..end]), Err(DecodeError::Truncated));
    }
}

#[test]
fn a_multi_decides_over_its_creates_by_their_flags() {
    let decode = |op, flags, ttl_ms: Option<i64>| {
        let body = multi_of_create(op, flags, ttl_ms);
        match Request::decode(OpCode::Multi, &body) {
            Ok(Request::Multi(ops)) => match &ops[..] {
                [Op::Create(create)] => Ok((create.op, create.ttl_ms)),
                ops => panic!("{ops:?}"),
            },
            Ok(request) => panic!("{request:?}"),
            Err(error) => Err(error),
        }
    };
    let refused = Err(DecodeError::OutOfRange("create mode in a multi"));
    assert_eq!(decode(OpCode::Create, 0, None), Ok((OpCode::Create, None)));
    assert_eq!(decode(OpCode::Create2, 1, None), Ok((OpCode::Create2, None)));
    assert_eq!(decode(OpCode::Create, 4, None), Ok((OpCode::CreateContainer, None)));
    assert_eq!(decode(OpCode::CreateContainer, 0, None), Ok((OpCode::CreateContainer, None)));
    assert_eq!(decode(OpCode::Create, 99, None), refused);
    assert_eq!(decode(OpCode::Create2, 5, None), refused);
    assert_eq!(decode(OpCode::CreateTtl, 5, Some(8)), Ok((OpCode::CreateTtl, Some(8))));
    assert_eq!(decode(OpCode::CreateTtl, 0, Some(8)), Ok((OpCode::Create, None)));
    assert_eq!(decode(OpCode::CreateTtl, 99, Some(8)), Ok((OpCode::Create, None)));
}

#[test]
fn multis_hold_only_what_belongs_there() {
    for op in [3, 4, 7, 8, 14, 20, 22, -11, 999] {
        let body = bytes(|out| {
            put_entry(out, op);
            out.put_string("/a");
            out.put_bool(false);
            put_end(out);
        });
        let decoded = Request::decode(OpCode::Multi, &body);
        assert_eq!(decoded, Err(DecodeError::UnexpectedType(op)));
    }
    let write = multi_of_create(OpCode::Create, 0, None);
    assert_eq!(
        Request::decode(OpCode::MultiRead, &write),
        Err(DecodeError::UnexpectedType(OpCode::Create.raw()))
    );
}

#[test]
fn unknown_modes_and_types_are_refused() {
    let body = |raw: i32| {
        bytes(|out| {
            out.put_string("/a");
            out.put_i32(raw);
        })
    };
    for raw in [-1, 2, 7] {
        let decoded = Request::decode(OpCode::AddWatch, &body(raw)).map(|_| ());
        assert_eq!(decoded, Err(DecodeError::OutOfRange("addWatch mode")));
    }
    for raw in [-1, 0, 6] {
        for op in [OpCode::CheckWatches, OpCode::RemoveWatches] {
            let decoded = Request::decode(op, &body(raw)).map(|_| ());
            assert_eq!(decoded, Err(DecodeError::OutOfRange("watcher type")));
        }
    }
}

/// Every operation that begins with a path, and a multi, with `path` in its place.
fn with_path(path: &[u8]) -> Vec<(OpCode, Vec<u8>)> {
    let usual = ["/a/b", "/a"].map(|path| bytes(|out| out.put_string(path)));
    let with = |rest: &[u8]| [&bytes(|out| out.put_buffer(Some(path)))[..], rest].concat();
    let mut bodies = Vec::new();
    for (op, body, _) in every_request() {
        let rest = usual.iter().find_map(|usual| body.strip_prefix(&usual[..]));
        bodies.extend(rest.map(|rest| (op, with(rest))));
    }
    assert_eq!(bodies.len(), 19);
    let multi = bytes(|out| {
        put_entry(out, OpCode::Delete.raw());
        out.extend(with(&[0; 4]));
        put_end(out);
    });
    bodies.push((OpCode::Multi, multi));
    bodies
}

/// The path of a decoded request of those above.
fn path_of<'a>(request: &Request<'a>) -> &'a str {
    match request {
        Request::Create(create) => create.path,
        Request::GetEphemerals { prefix } => prefix,
        Request::Multi(ops) => match &ops[..] {
            [Op::Delete { path, .. }] => path,
            ops => panic!("{ops:?}"),
        },
        Request::Delete { path, .. }
        | Request::Exists { path, .. }
        | Request::GetData { path, .. }
        | Request::SetData { path, .. }
        | Request::GetAcl { path }
        | Request::SetAcl { path, .. }
        | Request::GetChildren { path, .. }
        | Request::Sync { path }
        | Request::GetChildren2 { path, .. }
        | Request::CheckWatches { path, .. }
        | Request::RemoveWatches { path, .. }
        | Request::DeleteContainer { path }
        | Request::GetAllChildrenNumber { path }
        | Request::AddWatch { path, .. } => path,
        request => panic!("{request:?}"),
    }
}

/// A frame may be all path. Nothing in the way recurses or takes longer than the bytes are many.
#[test]
fn paths_as_long_and_as_deep_as_a_frame_are_decoded_and_judged() {
    let long = format!("/{}", "n".repeat(1 << 20));
    let deep = "/a".repeat(1 << 19);
    let dots = "/..".repeat(1 << 18);
    let slashes = "/".repeat(1 << 20);
    for (path, valid) in [(&long, true), (&deep, true), (&dots, false), (&slashes, false)] {
        for (op, body) in with_path(path.as_bytes()) {
            let request = Request::decode(op, &body).unwrap();
            assert!(path_of(&request) == path, "{op:?}");
        }
        assert_eq!(path::is_valid(path), valid);
        assert_eq!(path::ancestors(path).last(), Some("/"));
    }
    assert_eq!(path::ancestors(&long).count(), 1);
    assert_eq!(path::ancestors(&deep).count(), 1 << 19);
}

/// Java's decoder puts U+FFFD in the place of these, which no path may hold either.
#[test]
fn bytes_that_are_no_text_are_no_path() {
    for path in [
        // A lone surrogate, a pair of them as CESU-8 has it, and NUL as modified UTF-8 has it.
        &b"/\xed\xa0\x80"[..],
        b"/\xed\xa0\xbd\xed\xb8\x80",
        b"/\xc0\x80",
        // Longer than need be, cut off, begun in the middle, and beyond the last character.
        b"/\xe0\x80\xaf",
        b"/a\xe4\xb8",
        b"/\x80",
        b"/\xf4\x90\x80\x80",
        b"/\xff\xfe",
    ] {
        for (op, body) in with_path(path) {
            assert_eq!(Request::decode(op, &body), Err(DecodeError::NotUtf8), "{op:?} {path:?}");
        }
    }
    assert!(!path::is_valid("/\u{fffd}"));
}

#[test]
fn texts_that_are_no_path_are_decoded_and_refused_by_their_judge() {
    for path in ["/a\0b", "/\0", "\0", "/a\nb", "", "a", "/a/", "/\u{1f600}", "/\u{feff}\u{fff9}"] {
        for (op, body) in with_path(path.as_bytes()) {
            assert_eq!(Request::decode(op, &body).map(|it| path_of(&it)), Ok(path), "{op:?}");
        }
        assert!(!path::is_valid(path), "{path:?}");
    }
}

#[test]
fn lengths_that_lie_are_errors_wherever_they_stand() {
    use DecodeError::{NegativeLength, Truncated};
    for (length, error) in
        [(i32::MAX, Truncated), (5, Truncated), (-2, NegativeLength), (i32::MIN, NegativeLength)]
    {
        let lying = |before: &[u8]| [before, &length.to_be_bytes(), b"/a"].concat();
        let path = bytes(|out| out.put_string("/a"));
        let seen = [0; 8];
        for (op, body) in [
            (OpCode::GetData, lying(&[])),
            (OpCode::SetData, lying(&path)),
            (OpCode::SetAcl, lying(&path)),
            (OpCode::Create, lying(&[&path[..], &[0xff; 4]].concat())),
            (OpCode::SetWatches, lying(&seen)),
            (OpCode::SetWatches2, lying(&[&seen[..], &[0; 16]].concat())),
            (OpCode::Sasl, lying(&[])),
        ] {
            assert_eq!(Request::decode(op, &body), Err(error), "{op:?} {length}");
        }
        let connect = lying(&[0; 24]);
        assert_eq!(ConnectRequest::decode(&connect), Err(error), "{length}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for op in OpCode::ALL {
            let _ = Request::decode(op, &bytes);
        }
        let _ = ConnectRequest::decode(&bytes);
        let _ = decode_header(&bytes);
    }

    /// Flips a byte of a valid request: the decoder must get deep into damaged bytes.
    #[test]
    fn no_damage_makes_a_decoder_panic(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        for (op, mut body, _) in every_request() {
            if !body.is_empty() {
                let at = at.index(body.len());
                body[at] = byte;
                let _ = Request::decode(op, &body);
            }
        }
    }
}
