//! The oracles: each a function named after the invariant that it guards.
//!
//! The committed history is known here as soon as any server publishes it, and a second tree, which
//! keeps every version, is built from it. Servers and clients are then held against that: what a
//! server has published is a prefix of it, and what a client is told is what it says.

pub mod clients;
pub mod history;
pub mod servers;

use crate::checker::clients::Clients;
use crate::checker::history::History;
use crate::checker::servers::Servers;

/// All oracles of a run.
pub struct Checker {
    pub history: History,
    pub servers: Servers,
    pub clients: Clients,
}

/// Ends the run: `invariant` does not hold.
pub fn violated(invariant: &str, what: impl std::fmt::Display) -> ! {
    panic!("{invariant}: {what}");
}

/// [`violated`], unless `holds`.
pub fn check(holds: bool, invariant: &str, what: impl FnOnce() -> String) {
    if !holds {
        violated(invariant, what());
    }
}
