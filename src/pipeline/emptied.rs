//! What groups are made of, used again: a busy server's group is mostly like the one before it, and
//! a write alone is a group of its own, which would cost five allocations.
//!
//! Events are shared by the clients' cores: they are free again when the last core has let go.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::pipeline::{Outbox, Published};
use crate::tree::effects::Event;

/// Parts of each kind that are kept: as many groups as are on their way at a time, as a rule.
const KEPT_MAX: usize = 8;

/// Parts that one large group has grown beyond this, in bytes or in replies or events, are freed.
const KEPT_BYTES_MAX: usize = 64 << 10;
const KEPT_ITEMS_MAX: usize = 1024;

/// Parts of groups that were told.
#[derive(Debug, Default)]
pub(super) struct Emptied {
    outboxes: Vec<Outbox>,
    by_core: Vec<Vec<Outbox>>,
    events: Vec<Vec<Event>>,
    /// What the clients' cores may still look at, oldest first.
    told: VecDeque<Arc<Vec<Event>>>,
    /// What nobody looks at any more.
    shells: Vec<Arc<Vec<Event>>>,
    /// The events of a group that has none.
    none: Arc<Vec<Event>>,
}

impl Emptied {
    /// An empty outbox, perhaps with room.
    pub fn outbox(&mut self) -> Outbox {
        self.outboxes.pop().unwrap_or_default()
    }

    /// Keeps an outbox that was told.
    pub fn keep_outbox(&mut self, mut outbox: Outbox) {
        outbox.clear();
        let is_small = outbox.bytes.capacity() <= KEPT_BYTES_MAX
            && outbox.replies.capacity() <= KEPT_ITEMS_MAX;
        if is_small && outbox.bytes.capacity() > 0 && self.outboxes.len() < KEPT_MAX {
            self.outboxes.push(outbox);
        }
    }

    /// An empty list of outboxes.
    pub fn by_core(&mut self) -> Vec<Outbox> {
        self.by_core.pop().unwrap_or_default()
    }

    /// An empty list of events.
    pub fn events(&mut self) -> Vec<Event> {
        self.events.pop().unwrap_or_default()
    }

    fn keep_events(&mut self, events: Vec<Event>) {
        if events.capacity() <= KEPT_ITEMS_MAX && self.events.len() < KEPT_MAX {
            self.events.push(events);
        }
    }

    /// The same events, for several cores to look at.
    pub fn shared(&mut self, mut events: Vec<Event>) -> Arc<Vec<Event>> {
        if events.is_empty() {
            self.keep_events(events);
            return Arc::clone(&self.none);
        }
        let mut shared = self.shells.pop().unwrap_or_default();
        let shell = Arc::get_mut(&mut shared).expect("a shell is nobody else's");
        std::mem::swap(shell, &mut events);
        self.keep_events(events);
        if self.told.len() < KEPT_MAX {
            self.told.push_back(Arc::clone(&shared));
        }
        shared
    }

    /// Lets go of events that nobody looks at any more: they hold records.
    pub fn free_events(&mut self) {
        while let Some(mut told) = self.told.pop_front_if(|told| Arc::get_mut(told).is_some()) {
            let events = Arc::get_mut(&mut told).expect("nobody else has it");
            events.clear();
            if events.capacity() <= KEPT_ITEMS_MAX {
                self.shells.push(told);
            }
        }
    }

    /// Keeps what is left of a group whose outboxes were handed out.
    pub fn keep_told(&mut self, told: Published) {
        let mut outboxes = told.outboxes;
        outboxes.drain(..).for_each(|outbox| self.keep_outbox(outbox));
        if self.by_core.len() < KEPT_MAX {
            self.by_core.push(outboxes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::writer::{TreeConfig, Writer};
    use crate::wire::response::EventKind;
    use crate::zxid::Zxid;

    fn events() -> Vec<Event> {
        let config = TreeConfig { seed: 1, extended_types: true };
        let writer = Writer::new(config, crate::time::Time::default());
        let root = writer.node("/").expect("there is a root");
        vec![Event::new(EventKind::NodeDataChanged, Zxid::new(1, 1), &root)]
    }

    #[test]
    fn events_are_used_again_when_the_last_core_has_let_go_of_them() {
        let mut emptied = Emptied::default();
        let first = emptied.shared(events());
        let address = Arc::as_ptr(&first);
        emptied.free_events();
        assert_ne!(Arc::as_ptr(&emptied.shared(events())), address);
        assert_eq!(first.len(), 1);
        drop(first);
        emptied.free_events();
        // The second was dropped too, and lies above it.
        let again = [emptied.shared(events()), emptied.shared(events())];
        assert!(again.iter().any(|events| Arc::as_ptr(events) == address));
        assert!(again.iter().all(|events| events.len() == 1));
    }

    #[test]
    fn what_is_kept_is_empty_and_bounded() {
        let mut emptied = Emptied::default();
        for bytes in [KEPT_BYTES_MAX + 1, 1, 0] {
            emptied.keep_outbox(Outbox { bytes: vec![0; bytes], replies: Vec::new() });
        }
        assert_eq!(emptied.outboxes.len(), 1);
        assert!(emptied.outbox().bytes.is_empty());
        for _ in 0..2 * KEPT_MAX {
            emptied.keep_outbox(Outbox { bytes: vec![0; 9], replies: Vec::new() });
            emptied.keep_events(Vec::with_capacity(1));
        }
        assert_eq!((emptied.outboxes.len(), emptied.events.len()), (KEPT_MAX, KEPT_MAX));
    }
}
