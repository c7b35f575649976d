//! Keeping the statistics of quotas, and asking whether a change would exceed one.

use crate::tree::quota::{self, Excess, QuotaNode, StatsTrack};
use crate::tree::record::{Meta, Parts, RecordRef};
use crate::tree::writer::Writer;
use crate::zxid::Zxid;

fn length(data: Option<&[u8]>) -> i64 {
    data.map_or(0, |data| i64::try_from(data.len()).expect("frames bound data"))
}

impl Writer {
    /// What a change at `path` by so many bytes and znodes would exceed, in Apache's order: at the
    /// first hard excess it is refused, if quotas are enforced; a soft one is worth a warning.
    pub fn check_quota(&self, path: &str, bytes_delta: i64, count_delta: i64) -> Vec<Excess> {
        let Some(prefix) = self.quotas.longest_above(path) else { return Vec::new() };
        let limits = self.live(&quota::limits_path(prefix));
        let stats = self.live(&quota::stats_path(prefix));
        let (Some(limits), Some(stats)) = (limits, stats) else { return Vec::new() };
        let limits = StatsTrack::parse(limits.data());
        let current = StatsTrack::parse(stats.data());
        quota::check(prefix, &limits, &current, bytes_delta, count_delta)
    }

    /// Counts the znode just created at `path`.
    pub(super) fn count_created(&mut self, path: &str, data: Option<&[u8]>) {
        if let Some(QuotaNode::Stats(prefix)) = QuotaNode::of_path(path) {
            self.count_anew(prefix);
        }
        self.count_change(path, length(data), 1);
    }

    /// Counts the deletion of the znode at `path`.
    pub(super) fn count_deleted(&mut self, path: &str, data: Option<&[u8]>) {
        self.count_change(path, -length(data), -1);
    }

    /// Counts the change of data at `path`.
    pub(super) fn count_set(&mut self, path: &str, old: Option<&[u8]>, new: Option<&[u8]>) {
        self.count_change(path, length(new) - length(old), 0);
    }

    fn count_change(&mut self, path: &str, bytes_delta: i64, count_delta: i64) {
        let Some(prefix) = self.quotas.longest_above(path) else { return };
        let Some(stats) = self.live(&quota::stats_path(prefix)) else { return };
        let mut track = StatsTrack::parse(stats.data());
        track.set_bytes(track.bytes().wrapping_add(bytes_delta));
        track.set_count(track.count().wrapping_add(count_delta));
        self.put_stats(&stats, &track);
    }

    /// Sets the statistics of the quota on `prefix` to what is there.
    fn count_anew(&mut self, prefix: &str) {
        let Some(stats) = self.live(&quota::stats_path(prefix)) else { return };
        let track = self.counted(prefix);
        self.put_stats(&stats, &track);
    }

    /// Counts every quota anew, as part of what is loaded.
    pub(super) fn recount_quotas(&mut self) {
        let prefixes: Vec<String> = self.quotas.iter().map(str::to_owned).collect();
        for prefix in prefixes {
            let Some(old) = self.live(&quota::stats_path(&prefix)) else { continue };
            let text = self.counted(&prefix).to_string();
            let (path, data, meta) = (old.path(), Some(text.as_bytes()), *old.meta());
            let parts = Parts { path, data, meta, children: old.children().clone(), older: None };
            let new = RecordRef::new(parts, &mut self.spares);
            self.account(Some(&old), Some(&new), Zxid::ZERO);
            self.replace(new);
        }
    }

    /// The znodes and bytes of data at and below `prefix`.
    fn counted(&self, prefix: &str) -> StatsTrack {
        let view = self.tree.view(Zxid::MAX);
        let (mut count, mut bytes) = (0, 0);
        if let Some(node) = view.node(prefix) {
            (count, bytes) = (1, length(node.data()));
            view.for_each_below(prefix, |node| {
                count += 1;
                bytes += length(node.data());
            });
        }
        let mut track = StatsTrack::default();
        track.set_bytes(bytes);
        track.set_count(count);
        track
    }

    /// Nothing but the data changes: the znode's metadata stays as the client left it.
    fn put_stats(&mut self, stats: &RecordRef, track: &StatsTrack) {
        let meta = Meta { zxid: self.header().zxid, ..*stats.meta() };
        self.put_data(stats.path(), stats, meta, Some(track.to_string().as_bytes()));
    }
}
