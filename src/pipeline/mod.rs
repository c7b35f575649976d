//! From a request to a transaction to a reply.
