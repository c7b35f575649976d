//! Quotas: limits that clients set on subtrees, and the statistics kept against them.
//!
//! A quota on `/a` is the two znodes `/zookeeper/quota/a/zookeeper_limits` and `…/zookeeper_stats`,
//! both made by a client. Each server rewrites the statistics itself on every change below `/a`.
//! Source: `Quotas.java`, `StatsTrack.java`, `DataTree.java`, and `checkQuota` in
//! `ZooKeeperServer.java`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::wire::path;

/// The parent of all quotas.
pub const QUOTA_PATH: &str = "/zookeeper/quota";
const LIMITS_NAME: &str = "zookeeper_limits";
const STATS_NAME: &str = "zookeeper_stats";

/// The path of the limits of the quota on `prefix`.
pub fn limits_path(prefix: &str) -> String {
    format!("{QUOTA_PATH}{prefix}/{LIMITS_NAME}")
}

/// The path of the statistics of the quota on `prefix`.
pub fn stats_path(prefix: &str) -> String {
    format!("{QUOTA_PATH}{prefix}/{STATS_NAME}")
}

/// What a znode below [`QUOTA_PATH`] is to the quota on a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaNode<'a> {
    Limits(&'a str),
    Stats(&'a str),
}

impl QuotaNode<'_> {
    /// What the znode at `path` is, if it is part of a quota. There is none on the root.
    pub fn of_path(path: &str) -> Option<QuotaNode<'_>> {
        let below = path.strip_prefix(QUOTA_PATH).filter(|below| below.starts_with('/'))?;
        match path::split(below)? {
            ("/", _) => None,
            (prefix, LIMITS_NAME) => Some(QuotaNode::Limits(prefix)),
            (prefix, STATS_NAME) => Some(QuotaNode::Stats(prefix)),
            _ => None,
        }
    }
}

/// The text of a limits or statistics znode: numbers by name.
///
/// `count` and `bytes` come first, and the odd `=;` behind them makes old parsers ignore the rest:
/// `count=1,bytes=2=;byteHardLimit=3;countHardLimit=4`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatsTrack(BTreeMap<String, i64>);

impl StatsTrack {
    /// Reads the text. What is no number, or no pair, counts as not there: a client wrote it.
    pub fn parse(data: Option<&[u8]>) -> StatsTrack {
        let text = String::from_utf8_lossy(data.unwrap_or_default());
        let pair = |pair: &str| -> Option<(String, i64)> {
            let mut parts = pair.split('=');
            let (name, value) = (parts.next()?, parts.next()?);
            let value = if value.is_empty() { -1 } else { value.parse().ok()? };
            Some((name.to_owned(), value))
        };
        StatsTrack(text.split([',', ';']).filter_map(pair).collect())
    }

    /// A number; -1 where it is not there.
    fn value(&self, name: &str) -> i64 {
        self.0.get(name).copied().unwrap_or(-1)
    }

    /// Limit or current number of znodes; -1 is none.
    pub fn count(&self) -> i64 {
        self.value("count")
    }

    /// Limit or current number of bytes of data; -1 is none.
    pub fn bytes(&self) -> i64 {
        self.value("bytes")
    }

    /// The number of znodes that is refused to be exceeded; -1 is none.
    pub fn count_hard_limit(&self) -> i64 {
        self.value("countHardLimit")
    }

    /// The number of bytes that is refused to be exceeded; -1 is none.
    pub fn byte_hard_limit(&self) -> i64 {
        self.value("byteHardLimit")
    }

    /// Sets the number of znodes.
    pub fn set_count(&mut self, count: i64) {
        self.0.insert("count".to_owned(), count);
    }

    /// Sets the number of bytes.
    pub fn set_bytes(&mut self, bytes: i64) {
        self.0.insert("bytes".to_owned(), bytes);
    }
}

impl fmt::Display for StatsTrack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "count={},bytes={}", self.count(), self.bytes())?;
        let rest = self.0.iter().filter(|(name, _)| !matches!(name.as_str(), "count" | "bytes"));
        for (index, (name, value)) in rest.enumerate() {
            write!(f, "{};{name}={value}", if index == 0 { "=" } else { "" })?;
        }
        Ok(())
    }
}

/// What a quota counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    Count,
    Bytes,
}

/// A quota that a change exceeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excess {
    /// The path that the quota is on.
    pub prefix: String,
    pub measure: Measure,
    /// Whether the change must be refused; otherwise it is only worth a warning.
    pub hard: bool,
    pub limit: i64,
    /// What it would be after the change.
    pub current: i64,
}

/// Compares `current` with `limits` after a change by so many bytes and znodes: every excess, in
/// Apache's order. The first hard one refuses the change.
pub fn check(
    prefix: &str,
    limits: &StatsTrack,
    current: &StatsTrack,
    bytes_delta: i64,
    count_delta: i64,
) -> Vec<Excess> {
    let of = |measure, soft: i64, hard: i64, current: i64, delta: i64| {
        let is_hard = hard > -1;
        let limit = if is_hard { hard } else { soft };
        let current = current.saturating_add(delta);
        let exceeded = delta != 0 && limit > -1 && current > limit;
        let prefix = prefix.to_owned();
        exceeded.then_some(Excess { prefix, measure, hard: is_hard, limit, current })
    };
    let (soft, hard) = (limits.count(), limits.count_hard_limit());
    let count = of(Measure::Count, soft, hard, current.count(), count_delta);
    let (soft, hard) = (limits.bytes(), limits.byte_hard_limit());
    let bytes = of(Measure::Bytes, soft, hard, current.bytes(), bytes_delta);
    [count, bytes].into_iter().flatten().collect()
}

/// The paths that have a quota.
#[derive(Default)]
pub struct QuotaPaths(BTreeSet<Box<str>>);

impl QuotaPaths {
    /// Notes that there is a quota on `prefix`, or that there is none.
    pub fn set(&mut self, prefix: &str, present: bool) {
        match present {
            true => self.0.insert(prefix.into()),
            false => self.0.remove(prefix),
        };
    }

    /// Every path with a quota, in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|prefix| &**prefix)
    }

    /// The longest path with a quota that is `path` or above it.
    pub fn longest_above<'p>(&self, path: &'p str) -> Option<&'p str> {
        if self.0.is_empty() {
            return None;
        }
        let has = |path: &&str| self.0.contains(*path);
        std::iter::once(path).chain(path::ancestors(path)).find(has)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_comes_back_as_apache_writes_it() {
        for text in [
            "count=1,bytes=2",
            "count=-1,bytes=-1",
            "count=1,bytes=2=;byteHardLimit=3;countHardLimit=4",
        ] {
            assert_eq!(StatsTrack::parse(Some(text.as_bytes())).to_string(), text);
        }
        assert_eq!(StatsTrack::parse(None).to_string(), "count=-1,bytes=-1");
        let odd = StatsTrack::parse(Some(b"count=,bytes=x,=;;byteHardLimit=7,zzz\xff"));
        assert_eq!((odd.count(), odd.bytes(), odd.byte_hard_limit()), (-1, -1, 7));
    }

    #[test]
    fn quota_nodes_are_known_by_their_paths() {
        let of = QuotaNode::of_path;
        assert_eq!(of("/zookeeper/quota/a/b/zookeeper_limits"), Some(QuotaNode::Limits("/a/b")));
        assert_eq!(of("/zookeeper/quota/a/zookeeper_stats"), Some(QuotaNode::Stats("/a")));
        for none in ["/zookeeper/quota", "/zookeeper/quota/zookeeper_limits", "/zookeeper_stats"] {
            assert_eq!(of(none), None, "{none}");
        }
        assert_eq!(of("/zookeeper/quotax/a/zookeeper_limits"), None);
        assert_eq!(limits_path("/a/b"), "/zookeeper/quota/a/b/zookeeper_limits");
        assert_eq!(stats_path("/a"), "/zookeeper/quota/a/zookeeper_stats");
    }

    #[test]
    fn the_longest_path_wins() {
        let mut paths = QuotaPaths::default();
        assert_eq!(paths.longest_above("/a/b"), None);
        paths.set("/a", true);
        paths.set("/a/b/c", true);
        assert_eq!(paths.longest_above("/a/b/c/d"), Some("/a/b/c"));
        assert_eq!(paths.longest_above("/a/b/cc"), Some("/a"));
        assert_eq!(paths.longest_above("/a"), Some("/a"));
        assert_eq!(paths.longest_above("/ab"), None);
        paths.set("/a/b/c", false);
        assert_eq!(paths.longest_above("/a/b/c/d"), Some("/a"));
    }

    #[test]
    fn a_hard_limit_hides_the_soft_one() {
        let limits = |text: &str| StatsTrack::parse(Some(text.as_bytes()));
        let current = limits("count=5,bytes=10");
        let check = |text: &str, bytes, count| check("/a", &limits(text), &current, bytes, count);
        assert_eq!(check("count=6,bytes=11", 1, 1), []);
        let soft = &check("count=5,bytes=-1", 0, 1)[0];
        assert_eq!((soft.hard, soft.limit, soft.current), (false, 5, 6));
        let hard = &check("count=1,bytes=1=;byteHardLimit=10;countHardLimit=9", 1, 1)[..];
        assert_eq!(hard.len(), 1);
        assert_eq!((hard[0].hard, hard[0].measure, hard[0].limit), (true, Measure::Bytes, 10));
        assert_eq!(check("count=1,bytes=1", 0, 0), []);
    }
}
