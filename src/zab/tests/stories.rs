//! How an ensemble begins, goes on, and takes its members back.

use crate::zab::output::Role;
use crate::zab::tests::cluster::{Cluster, server, z};
use crate::zxid::Zxid;

#[test]
fn three_servers_elect_the_largest_id_and_broadcast() {
    let mut cluster = Cluster::started(3, 0, 1);
    assert_eq!(cluster.leader(), Some(3));
    assert_eq!(cluster.followers(), [1, 2]);
    cluster.propose(3, 10);
    cluster.settle();
    for id in 1..=3 {
        assert_eq!(cluster.node(id).published, z(1, 10));
        assert_eq!(cluster.node(id).synced_by, (id != 3).then_some("DIFF"));
    }
}
