//! The sockets to the other servers of the ensemble.

pub mod dial;

pub mod election;
