//! Host settings: what each does to a ZooKeeper server, what it is here, and how to change it and
//! put it back exactly.
//!
//! The knowledge is data, one file for each family of knobs; the engine that reads, judges, changes
//! and puts back is small and knows none of them by name. In reading order:

// ── The words ──
pub mod knob;

pub mod form;

// ── What is known: one file for each family ──
pub mod kernel;

pub mod memory;

pub mod disk;

pub mod nic;

pub mod cpu;

pub mod unit;

pub mod seccomp;

// ── The engine ──
pub mod system;

pub mod host;

pub mod judge;

pub mod state;

pub mod change;

pub mod report;

use knob::Knob;

/// Every knob, family by family.
pub fn knobs() -> impl Iterator<Item = &'static Knob> {
    let families = [
        kernel::KNOBS,
        memory::KNOBS,
        disk::KNOBS,
        nic::KNOBS,
        cpu::KNOBS,
        unit::KNOBS,
        seccomp::KNOBS,
    ];
    families.into_iter().flatten()
}

#[cfg(test)]
mod tests;
