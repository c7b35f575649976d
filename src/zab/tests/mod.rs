//! Stories of a whole ensemble.

mod chaos;
mod cluster;
mod deliver;
mod faults;
mod invariants;
mod java;
mod members;
mod relays;
mod stories;
