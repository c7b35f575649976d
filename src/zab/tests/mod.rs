//! Stories of a whole ensemble.

mod cluster;
mod invariants;
mod stories;
