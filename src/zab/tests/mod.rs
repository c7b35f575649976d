//! Stories of a whole ensemble.

mod chaos;
mod cluster;
mod invariants;
mod stories;
