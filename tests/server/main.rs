//! Stories of one server: real processes on loopback, killed, starved, lied to and asked too much.
//!
//! A raw client speaks to them, so that each test decides which bytes are sent and when they are
//! read. Nothing sleeps to be sure: what must happen is polled for, with a deadline.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "tests watch from outside: sockets and the clock are theirs, panics their errors"
)]

mod client;
mod damage;
mod fan_out;
mod full;
mod hostile;
mod http;
mod process;
mod sessions;
mod stop;
mod two_cores;
mod words;
