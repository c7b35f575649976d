//! The sockets to the other servers of the ensemble.
//!
//! ```text
//! dial       connecting, off the core
//! election   the election port: notifications, one connection between any two servers
//! quorum     the quorum port: learners' connections, and ours to the leader
//! ```
//! On a ring, connections of the quorum port have tokens whose low half begins with the bits 10,
//! those of the election port with 11: those of clients begin with 0 there, and the clients'
//! listener has all ones.

pub mod dial;

pub mod election;

pub mod link;
pub mod listen;
pub mod streams;
pub mod workers;

pub mod quorum;
