//! The transaction log.
