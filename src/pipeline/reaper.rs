//! The reaper of containers and TTL nodes: when it looks, and what it finds.
//!
//! Source: `ContainerManager.java`. Ages are by the monotonic clock, so a jump of the wall clock
//! deletes nothing; a node's age starts anew when the server does.

use std::time::Duration;

use crate::pipeline::Settings;
use crate::time::Time;
use crate::tree::writer::Writer;
use crate::wire::stat::Lifetime;

const MINUTE: Duration = Duration::from_secs(60);

/// When containers and TTL nodes are looked through next.
#[derive(Debug)]
pub(super) struct Reaper {
    interval: Duration,
    due: Time,
}

impl Reaper {
    pub(super) fn new(settings: &Settings, now: Time) -> Reaper {
        let interval = Duration::from_millis(settings.container_check_interval_ms.max(1));
        Reaper { interval, due: now + interval }
    }

    /// The next look.
    pub(super) fn due(&self) -> Time {
        self.due
    }

    /// The nodes to delete, at most this interval's share of the limit per minute.
    pub(super) fn candidates(
        &mut self,
        now: Time,
        writer: &Writer,
        settings: &Settings,
    ) -> Vec<String> {
        self.due = now + self.interval;
        let share = settings.containers_per_minute_max as u128 * self.interval.as_millis()
            / MINUTE.as_millis();
        let count_max = usize::try_from(share.max(1)).unwrap_or(usize::MAX);
        let never_used = match settings.container_never_used_ms_max {
            0 => None,
            ms => Some(Duration::from_millis(ms)),
        };
        let reapable = writer.reapable();
        let containers = reapable.containers().filter(|&(path, since)| {
            let Some(node) = writer.node(path) else {
                return false;
            };
            let is_used = node.meta().cversion > 0;
            node.child_count() == 0
                && (is_used || never_used.is_some_and(|never_used| now.since(since) > never_used))
        });
        let ttl_nodes = reapable.ttl_nodes().filter(|&(path, since)| {
            let Some(node) = writer.node(path) else {
                return false;
            };
            match Lifetime::of_owner(node.owner(), settings.extended_types) {
                Lifetime::Ttl(ttl_ms) => {
                    let ttl = Duration::from_millis(ttl_ms.unsigned_abs());
                    node.child_count() == 0 && now.since(since) > ttl
                }
                _ => false,
            }
        });
        let paths = containers.chain(ttl_nodes).map(|(path, _)| path.to_owned());
        paths.take(count_max).collect()
    }
}
