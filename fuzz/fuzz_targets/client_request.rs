//! Whatever a client sends: nothing panics, and what is decoded is no larger than what was sent.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringkeeper::wire::opcode::OpCode;
use ringkeeper::wire::request::{self, ConnectRequest, Op, Request};

fuzz_target!(|payload: &[u8]| {
    if let Ok(connect) = ConnectRequest::decode(payload) {
        assert!(connect.password.len() <= payload.len());
    }
    let Ok((header, body)) = request::decode_header(payload) else { return };
    if let Some(op) = header.operation() {
        check(op, body);
    }
    // The opcode of the header rarely fits: let the body be everything else, too.
    for op in OpCode::ALL {
        check(op, body);
    }
});

fn check(op: OpCode, body: &[u8]) {
    let Ok(request) = Request::decode(op, body) else { return };
    // Each entry of a list takes at least 4 bytes.
    let entries_max = body.len() / 4;
    match request {
        Request::Create(create) => assert!(create.acl.to_list().len() <= entries_max),
        Request::SetAcl { acl, .. } => assert!(acl.to_list().len() <= entries_max),
        Request::Multi(ops) => {
            assert!(ops.len() <= entries_max);
            for op in ops {
                if let Op::Create(create) = op {
                    assert!(create.acl.to_list().len() <= entries_max);
                }
            }
        }
        Request::MultiRead(ops) => assert!(ops.len() <= entries_max),
        Request::SetWatches(watches) => {
            let lists = [
                watches.data,
                watches.exist,
                watches.child,
                watches.persistent,
                watches.persistent_recursive,
            ];
            assert!(lists.iter().map(Vec::len).sum::<usize>() <= entries_max);
        }
        _ => {}
    }
}
