//! The sockets to the other servers of the ensemble.
//!
//! ```text
//! dial       connecting, off the core
//! quorum     the quorum port: learners' connections, and ours to the leader
//! ```

pub mod dial;

pub mod link;
pub mod listen;
pub mod streams;
pub mod workers;

pub mod quorum;
