//! `loadgen`: load on a ZooKeeper server, on any ZooKeeper server, and what it showed.
//!
//! ```text
//! cli      words to a Plan              plan · keys     what is sent
//! run      Plan to Outcome              observer        who is told of each operation
//! outcome  what is written as JSON      table · hgrm    what people read
//! ```

pub mod cli;
pub mod compare;
pub mod echo;
pub mod html;
pub mod interrupt;
pub mod journal;
pub mod keys;
pub mod local;
pub mod machine;
pub mod observer;
pub mod outcome;
pub mod plan;
pub mod run;
pub mod verify;
