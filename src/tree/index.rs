//! Znodes that may have to be deleted some day: containers and those with a time to live.

use std::collections::BTreeMap;

use crate::time::Time;
use crate::tree::record::RecordRef;
use crate::wire::stat::Lifetime;

/// Paths, each with the moment from which its znode ages.
#[derive(Default)]
pub struct Reapable {
    containers: BTreeMap<Box<str>, Time>,
    ttls: BTreeMap<Box<str>, Time>,
}

impl Reapable {
    /// Containers, each with when it was created, loaded, or last left without children.
    pub fn containers(&self) -> impl Iterator<Item = (&str, Time)> {
        self.containers.iter().map(|(path, time)| (&**path, *time))
    }

    /// TTL znodes, each with when it was created, loaded, or last written.
    pub fn ttl_nodes(&self) -> impl Iterator<Item = (&str, Time)> {
        self.ttls.iter().map(|(path, time)| (&**path, *time))
    }

    /// Notes the change of a znode from `old` to `new`, at least one of which is there.
    pub fn change(
        &mut self,
        old: Option<&RecordRef>,
        new: Option<&RecordRef>,
        extended: bool,
        now: Time,
    ) {
        let lifetime = |record: &RecordRef| Lifetime::of_owner(record.meta().owner, extended);
        if let (Some(old), None) = (old, new) {
            match lifetime(old) {
                Lifetime::Container => drop(self.containers.remove(old.path())),
                Lifetime::Ttl(_) => drop(self.ttls.remove(old.path())),
                Lifetime::Persistent | Lifetime::Ephemeral(_) => {}
            }
        }
        let Some(new) = new else { return };
        let ages = match lifetime(new) {
            Lifetime::Container => &mut self.containers,
            Lifetime::Ttl(_) => &mut self.ttls,
            Lifetime::Persistent | Lifetime::Ephemeral(_) => return,
        };
        let starts = old.is_none_or(|old| {
            let emptied = !old.children().is_empty() && new.children().is_empty();
            emptied || old.meta().mzxid != new.meta().mzxid
        });
        if starts {
            ages.insert(new.path().into(), now);
        }
    }
}
