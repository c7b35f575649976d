//! Bytes to values and back: ZooKeeper's jute encoding of requests, replies and transactions.
//!
//! Decoding borrows from the frame and allocates only for lists, whose declared count is first
//! checked against the bytes that are there. After this module a value is well formed; whether it
//! is *allowed* is for `pipeline` to say.
//!
//! ```text
//! frame on the client port      length i32 │ payload
//! request payload               xid i32 │ opcode i32 │ body
//! reply payload                 xid i32 │ zxid i64 │ error i32 │ body (only when error is 0)
//! transaction in log and ZAB    TxnHeader │ record │ TxnDigest (optional)
//! ```

pub mod error;
pub mod jute;

pub mod acl;
pub mod opcode;
pub mod path;
pub mod stat;

pub mod request;
pub mod response;

pub mod txn;

pub mod membership;

pub mod election;
pub mod quorum;
