//! Requests as clients put them on the wire, and replies as they read them.

use ringkeeper::wire::acl::EncodedAcl;
use ringkeeper::wire::jute::{Reader, Write as _};
use ringkeeper::wire::opcode::OpCode;
use ringkeeper::wire::response::{begin_frame, finish_frame};

/// The data of a znode: 100 bytes.
pub const DATA: [u8; 100] = [7; 100];

const PERSISTENT: i32 = 0;

/// Appends a request's frame.
pub fn request(out: &mut Vec<u8>, xid: i32, op: OpCode, body: impl FnOnce(&mut Vec<u8>)) {
    let frame = begin_frame(out);
    out.put_i32(xid);
    out.put_i32(op.raw());
    body(out);
    finish_frame(out, frame);
}

/// The first frame of a connection: a new session of 30 s.
pub fn connect() -> Vec<u8> {
    let mut out = Vec::new();
    let frame = begin_frame(&mut out);
    out.put_i32(0);
    out.put_i64(0);
    out.put_i32(30_000);
    out.put_i64(0);
    out.put_buffer(Some(&[0; 16]));
    out.put_bool(false);
    finish_frame(&mut out, frame);
    out
}

pub fn get(out: &mut Vec<u8>, xid: i32, path: &str, watch: bool) {
    read(out, xid, OpCode::GetData, path, watch);
}

/// A read that takes a path and whether to watch.
pub fn read(out: &mut Vec<u8>, xid: i32, op: OpCode, path: &str, watch: bool) {
    request(out, xid, op, |body| {
        body.put_string(path);
        body.put_bool(watch);
    });
}

pub fn set(out: &mut Vec<u8>, xid: i32, path: &str) {
    request(out, xid, OpCode::SetData, |body| put_set(body, path));
}

fn put_set(body: &mut Vec<u8>, path: &str) {
    body.put_string(path);
    body.put_buffer(Some(&DATA));
    body.put_i32(-1);
}

pub fn create(out: &mut Vec<u8>, xid: i32, path: &str) {
    request(out, xid, OpCode::Create, |body| {
        body.put_string(path);
        body.put_buffer(Some(&DATA));
        body.extend_from_slice(EncodedAcl::OPEN.as_bytes());
        body.put_i32(PERSISTENT);
    });
}

pub fn delete(out: &mut Vec<u8>, xid: i32, path: &str) {
    request(out, xid, OpCode::Delete, |body| {
        body.put_string(path);
        body.put_i32(-1);
    });
}

/// A multi that sets each of `paths`.
pub fn multi_set(out: &mut Vec<u8>, xid: i32, paths: &[String]) {
    request(out, xid, OpCode::Multi, |body| {
        for path in paths {
            body.put_i32(OpCode::SetData.raw());
            body.put_bool(false);
            body.put_i32(-1);
            put_set(body, path);
        }
        body.put_i32(-1);
        body.put_bool(true);
        body.put_i32(-1);
    });
}

/// A persistent, not recursive watch.
pub fn add_watch(out: &mut Vec<u8>, xid: i32, path: &str) {
    request(out, xid, OpCode::AddWatch, |body| {
        body.put_string(path);
        body.put_i32(0);
    });
}

/// How many frames `bytes` hold; each is whole and says that its request succeeded.
pub fn count_successes(bytes: &[u8]) -> usize {
    let mut reader = Reader::new(bytes);
    let mut count = 0;
    while !reader.is_empty() {
        let length = reader.i32().expect("frames are whole");
        let mut payload = Reader::new(reader.take(length as usize).expect("frames are whole"));
        let (xid, _zxid) = (payload.i32().expect("a header"), payload.i64().expect("a header"));
        assert_eq!(payload.i32(), Ok(0), "request {xid} failed");
        count += 1;
    }
    count
}
