//! Snapshots: the tree at one version, on disk.
