//! The nodes that a run needs, made before it; those that are there already are left.

use crate::clock::Nanos;
use crate::plan::{Directory, End, Plan, Workload};
use crate::role::{Io, Role, Room, failed};
use crate::session::{Pending, State, Step};
use crate::tally::Kind;
use crate::wire::{self, Message};

/// Creates under way at once.
const IN_FLIGHT: usize = 256;

/// What is to be made, by number: the parents, the directory's entries, then the pool.
pub struct Preparation {
    parents: Vec<String>,
    directory: Directory,
    entries: u64,
    /// Nodes that a counted `delete` deletes.
    pool: u64,
}

impl Preparation {
    pub fn of(plan: &Plan) -> Preparation {
        let (directory, entries) = plan.prepared();
        let path = format!("{}{}", plan.root, directory.suffix());
        let ends = path.match_indices('/').map(|(at, _)| at).skip(1).chain([path.len()]);
        let pool = match plan.end {
            End::Count(count) if plan.workload == Workload::Delete => count,
            _ => 0,
        };
        Preparation {
            parents: ends.map(|end| path[..end].to_owned()).collect(),
            directory,
            entries,
            pool,
        }
    }

    fn count(&self) -> u64 {
        self.parents.len() as u64 + self.entries + self.pool
    }

    /// Writes the path of node `number`, and says whether it holds a value.
    fn path(&self, plan: &Plan, path: &mut Vec<u8>, number: u64) -> bool {
        let parents = self.parents.len() as u64;
        if number < parents {
            path.clear();
            path.extend_from_slice(self.parents[number as usize].as_bytes());
            return false;
        }
        let entry = number - parents;
        if entry < self.entries {
            plan.entry_path(path, self.directory, entry);
            return self.directory == Directory::Keys;
        }
        plan.made_path(path, plan.first + entry - self.entries);
        true
    }
}

pub struct Preparer {
    preparation: Preparation,
    joined: bool,
    next: u64,
}

impl Preparer {
    pub fn new(preparation: Preparation) -> Preparer {
        Preparer { preparation, joined: false, next: 0 }
    }
}

impl Role for Preparer {
    fn joined(&mut self, _io: &mut Io<'_>, _fresh: bool) {
        self.joined = true;
    }

    fn is_armed(&self) -> bool {
        self.joined
    }

    fn room(&mut self, io: &mut Io<'_>) -> Room {
        let session = &io.session;
        let room = session.state == State::Live
            && session.pending.len() < IN_FLIGHT
            && self.next < self.preparation.count();
        if room { Room::Yes } else { Room::No }
    }

    fn start(&mut self, io: &mut Io<'_>, intended: Nanos) {
        let plan = io.plan();
        let mut path = std::mem::take(io.path);
        let number = self.next;
        self.next += 1;
        let value = self.preparation.path(plan, &mut path, number);
        let value: &[u8] = if value { &plan.value } else { &[] };
        let frame = io.request(wire::CREATE, Step::Prepare, intended, number);
        frame.bytes(&path).bytes(value).open_acl().int(wire::PERSISTENT).finish();
        *io.path = path;
    }

    fn reply(&mut self, io: &mut Io<'_>, _pending: &Pending, message: &Message<'_>) {
        if message.error != wire::ERROR_NODE_EXISTS {
            failed(io, Kind::Preparation, message.error);
        }
    }

    /// What may not have been made is made again, and all that came behind it.
    fn lost(&mut self, _io: &mut Io<'_>, pending: &Pending) {
        self.next = self.next.min(pending.number);
    }

    fn remaining(&self) -> u64 {
        self.preparation.count() - self.next
    }
}
