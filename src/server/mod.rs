//! The server: recovery, then one executor per core, then the end.
//!
//! ```text
//! main thread     recover ─► start the executors ─► wait for a signal or a fault ─► join
//! executor        its ring, and its roles in one loop (core)
//!   clients       connections, reads, watches (client, request, connection, four_letter)
//!   pipeline      batches through pipeline and log, publishing (writer, disk, snapshots)
//! background      segments, snapshots (background)
//! ```

pub mod stages;
pub mod summary;

pub mod four_letter;

pub mod report;

pub mod metrics;

pub mod answer;

pub mod admission;
pub mod mesh;
pub mod message;
pub mod overload;
pub mod placement;
pub mod slots;

pub mod connection;

pub mod client;
mod client_port;
mod request;
pub mod word;

pub mod disk;
pub mod questions;
pub mod snapshots;

pub mod answering;
pub mod background;

pub mod http;

pub mod peers;

pub mod keeper;

pub mod member;
mod members_file;

mod reporting;
pub mod writer;

pub mod core;

#[expect(clippy::disallowed_types, reason = "small files are made durable")]
pub mod small_file;

pub mod epochs;
pub mod standing;

pub mod reach;
pub mod recover;
pub mod recover_member;

pub mod ensemble;

mod start;

pub use start::{ServerError, probe, run};

use crate::io::ring::Token;
use crate::tree::watch::Watcher;

/// The largest buffer that an idle connection keeps, in bytes.
pub(crate) const KEPT_BYTES_MAX: usize = 4096;

/// The watcher that a connection is.
fn watcher(token: Token) -> Watcher {
    Watcher(token.0)
}

/// The connection that a watcher is.
fn token(watcher: Watcher) -> Token {
    Token(watcher.0)
}
