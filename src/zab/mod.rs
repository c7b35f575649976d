//! Agreement: who leads, and in which order transactions happen, as a plain value.
//!
//! In: `handle_*` and `propose`. Out: [`Zab::poll_output`], which is drained after every call that
//! goes in, before the next.
//!
//! Handlers carry the names of the actions of Apache's TLA+ specification
//! (`zookeeper-specifications/protocol-spec/Zab.tla`).
//!
//! The invariant that the whole server stands on: **the tree holds exactly the log**. A
//! transaction is applied when it is appended, on the leader and on learners alike, and published
//! to clients when it is committed; both go back together, and only when a leader says so (TRUNC,
//! SNAP). What was appended and not committed when a leadership ends stays in both, unpublished,
//! until the next leader confirms it or takes it away.

pub mod ensemble;

pub mod election;

pub mod output;
