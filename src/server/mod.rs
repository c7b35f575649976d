//! The server: executors, cores and what runs on them.

// ── What the server says of itself ──
pub mod summary;

pub mod stages;

pub mod report;

pub mod four_letter;

pub mod metrics;

pub mod answer;
