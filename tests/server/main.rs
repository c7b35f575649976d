//! Stories of one server: real processes on loopback, killed, starved, lied to and asked too much.
//!
//! A raw client speaks to them, so that each test decides which bytes are sent and when they are
//! read. Nothing sleeps to be sure: what must happen is polled for, with a deadline.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests watch from outside: sockets, files and the clock are theirs"
)]

mod client;
mod damage;
mod hostile;
mod process;
mod sessions;
