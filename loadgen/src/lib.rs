//! `loadgen`: load on a ZooKeeper server, on any ZooKeeper server, and what it showed.
//!
//! ```text
//! cli      words to a Plan              plan · keys     what is sent
//! run      Plan to Outcome              observer        who is told of each operation
//! outcome  what is written as JSON      table · hgrm · html   what people read
//! local    throw-away servers           compare         two targets in turn
//! echo     the generator's own cost   floor           what no set can do without
//! journal  what was acknowledged        verify          what of it is there
//! ```

pub mod cli;
pub mod hgrm;
pub mod keys;
pub mod knee;
pub mod live;
pub mod observer;
pub mod outcome;
pub mod plan;
pub mod run;
pub mod table;

mod assemble;
pub mod clock;
mod driver;
pub mod histogram;
mod limits;

pub mod fake;
mod process;
mod role;
mod sample;
mod schedule;
mod session;
mod shared;
mod tally;
mod wire;

pub mod html;
pub mod interrupt;
pub mod machine;

pub mod compare;
pub mod echo;
pub mod floor;
pub mod journal;
pub mod local;
pub mod verify;
