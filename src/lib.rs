//! Ringkeeper: a ZooKeeper server on io_uring, a thread per core.
//!
//! The map of the code, in reading order. Three layers, each of which knows only those above it in
//! this file:
//!
//! * **Core**, plain values: no clock, no I/O, no await, no lock, no thread, no `unsafe`.
//! * **Durable**: files, and nothing of the protocol.
//! * **Shell**: executors, rings, sockets and cores. Every await is here.

// ── The words everything is written in ──
pub mod time;
pub mod zxid;

// ── Core ──
pub mod wire;

pub mod tree;

pub mod pipeline;

pub mod zab;

pub mod replica;

// ── Durable ──
pub mod log;

pub mod snapshot;

// ── Shell ──
pub mod config;

pub mod io;

pub mod server;

pub mod check;

pub mod cli;
