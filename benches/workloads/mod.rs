//! The hot paths, one row each: what the gate counts instructions of, what criterion times, and
//! what the allocation test watches.
//!
//! A row is the code that the server runs, fed with what its neighbours would feed it, without
//! network and disk: time is made up, seeds are fixed, and all that is random is fixed with them.
//! So a row does the same work each time, to within what a hash or an address makes of it.
//!
//! A row's state is steady: a run leaves the tree as large as it was, so that the same row may run
//! ten times under valgrind and a million times under criterion. Trees have 100,000 znodes, in a
//! thousand to a parent: the count of instructions hardly knows of a tree's size (a million, where
//! caches matter, is `benches/tree.rs`), and valgrind builds them in seconds.

mod codec;
mod cores;
mod ensemble;
pub mod frames;
mod log;
mod serving;
mod snapshot;
mod tree;

/// Counts or times what is measured of a run: preparing inputs and draining sockets is not.
pub trait Meter {
    /// Does `work`, measured.
    fn measure(&mut self, work: &mut dyn FnMut());
}

/// One run of a row.
pub type Run = Box<dyn FnMut(&mut dyn Meter)>;

/// One hot path.
pub struct Row {
    /// The family and what is done, as in `tree/get`.
    pub name: &'static str,
    /// What is done so many times in one run, and named by `per`.
    pub count: u32,
    pub per: &'static str,
    /// Builds its state: a closure that runs it once.
    pub make: fn() -> Run,
}

/// All rows, in the order of the table.
pub fn rows() -> Vec<Row> {
    let families: [&[Row]; 7] = [
        codec::ROWS,
        tree::ROWS,
        log::ROWS,
        snapshot::ROWS,
        cores::ROWS,
        serving::ROWS,
        ensemble::ROWS,
    ];
    let copy = |row: &Row| Row { name: row.name, count: row.count, per: row.per, make: row.make };
    families.into_iter().flatten().map(copy).collect()
}
