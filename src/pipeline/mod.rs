//! From a request to a transaction to a reply.

pub mod auth;
pub mod session;
