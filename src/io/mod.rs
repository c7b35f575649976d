//! The thin face to the kernel: sockets, the log file's writes, wakes, waits, clocks and executors.
//!
//! Each core has one [`ring::Ring`] and runs one plain loop over it, as the only task of a glommio
//! executor. The core waits in its ring's own `io_uring_enter`, not in glommio's reactor; see
//! [`executor`] for why.

pub mod ring;

mod multishot;

mod slab;

mod places;

#[expect(unsafe_code, reason = "the kernel reads and writes memory that operations own")]
mod uring;

pub mod wake;

pub mod listener;

pub mod connector;

pub mod executor;

pub mod clock;
