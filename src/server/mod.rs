//! The server: executors, cores and what runs on them.
