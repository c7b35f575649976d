//! The multi-version znode tree: one writer, many readers.

pub mod watch;
