//! Ensembles to which everything happens at once, for many seeds.

use crate::zab::ensemble::Member;
use crate::zab::output::{Role, Standing};
use crate::zab::tests::cluster::{Cluster, Disk, Log, TICK, Work, server};
use crate::zxid::Zxid;

/// One run. What has happened when an assertion fails is in the trace.
fn run(seed: u64) {
    let mut cluster = Cluster::new(0, 0, seed);
    let shapes = [(3, 0), (3, 1), (4, 0), (5, 0), (5, 2), (1, 1), (2, 0)];
    let (voters, observers) = shapes[cluster.random(shapes.len())];
    let random = cluster.random(1 << 30) as u64;
    cluster = Cluster::new(voters, observers, random);
    if voters == 5 && cluster.random(2) == 0 {
        let groups = |member: &Member| Member { group: Some(member.id.0 % 3), ..member.clone() };
        cluster.members = cluster.members.iter().map(groups).collect();
    }
    cluster.commit_log_count = [0, 2, 5, 500][cluster.random(4)];
    cluster.counter_max = [None, Some(7), Some(30)][cluster.random(3)];
    cluster.has_observer_masters = observers > 0 && !seed.is_multiple_of(3);
    cluster.start_all();
    for _ in 0..60 {
        disturb(&mut cluster);
        let steps = cluster.random(40);
        for _ in 0..steps {
            cluster.step();
        }
    }
    mend(&mut cluster);
    cluster.settle();
    let leader = cluster.leader().expect("it has settled");
    let before = cluster.node(leader).published;
    cluster.propose(leader, 3);
    cluster.settle();
    let after = cluster.node(cluster.leader().expect("it has settled")).published;
    assert!(after > before, "nothing is committed any more");
}

fn mend(cluster: &mut Cluster) {
    cluster.heal();
    for id in ids(cluster) {
        cluster.node_mut(id).disk.is_slow = false;
        if cluster.node(id).has_resigned {
            cluster.kill(id);
            cluster.node_mut(id).has_resigned = false;
        }
    }
    cluster.start_all();
}

fn ids(cluster: &Cluster) -> Vec<i64> {
    cluster.nodes.keys().map(|id| id.0).collect()
}

fn disturb(cluster: &mut Cluster) {
    let ids = ids(cluster);
    let id = ids[cluster.random(ids.len())];
    let other = ids[cluster.random(ids.len())];
    match cluster.random(22) {
        0..=6 => {
            let count = 1 + cluster.random(6);
            if let Some(leader) = cluster.leader() {
                cluster.propose(leader, count);
            }
        }
        7 | 8 if cluster.node(id).is_up() => {
            cluster.kill(id);
            forget_what_is_committed(cluster, id);
        }
        9 | 10 if !cluster.node(id).is_up() => cluster.start(id),
        11 => cluster.node_mut(id).disk.is_slow = true,
        12 | 13 => cluster.node_mut(id).disk.is_slow = false,
        14 if id != other => cluster.cut(id, other),
        15 => cluster.heal(),
        16 => {
            let ticks = cluster.random(8) as u32;
            cluster.now = cluster.now + TICK * ticks;
            cluster.fire_timeouts();
        }
        17 => {
            let published = cluster.node(id).published;
            cluster.node_mut(id).journal_floor = published;
        }
        18 => {
            if let Some(leader) = cluster.leader() {
                cluster.confirm(leader);
            }
        }
        19 if cluster.node(id).is_up() => {
            cluster.with(server(id), |zab, now| zab.resign(now));
            cluster.node_mut(id).has_resigned = true;
        }
        20 if cluster.node(id).has_resigned => {
            cluster.kill(id);
            cluster.node_mut(id).has_resigned = false;
            cluster.start(id);
        }
        21 => damage(cluster, id),
        _ => {}
    }
}

/// The mark of what is committed on a disk may be old.
fn forget_what_is_committed(cluster: &mut Cluster, id: i64) {
    let is_old = cluster.random(2) == 0;
    let disk = &mut cluster.node_mut(id).disk;
    if is_old {
        disk.committed = Zxid::ZERO;
    }
    disk.committed = disk.committed.min(disk.log.last());
}

/// A server that is down loses its disk, or the end of its log, if all others are whole.
fn damage(cluster: &mut Cluster, id: i64) {
    let is_whole = |disk: &Disk| {
        let is_marked = disk.works.iter().any(|work| matches!(work, Work::Sound));
        disk.standing == Standing::Sound && !is_marked
    };
    // Without it the others are to be a quorum.
    let voters = cluster.members.iter().filter(|member| !member.is_observer).count();
    let is_needed = voters < 3;
    if is_needed
        || cluster.node(id).is_up()
        || !cluster.nodes.values().all(|node| is_whole(&node.disk))
    {
        return;
    }
    let (is_wiped, keep) = (cluster.random(2) == 0, cluster.random(10));
    let disk = &mut cluster.node_mut(id).disk;
    if is_wiped {
        disk.log = Log::default();
        disk.state.clear();
        (disk.accepted_epoch, disk.current_epoch) = (0, 0);
        disk.committed = Zxid::ZERO;
        disk.standing = Standing::Empty;
        return;
    }
    let lost = disk.log.txns.len().saturating_sub(keep);
    disk.log.txns.truncate(disk.log.txns.len() - lost);
    let last = disk.log.last();
    disk.state.retain(|(zxid, _)| *zxid <= last);
    disk.committed = disk.committed.min(last);
    disk.standing = Standing::Damaged;
    if keep % 2 == 0 {
        (disk.accepted_epoch, disk.current_epoch) = (0, 0);
    }
}

fn run_seeds(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        if let Err(panic) = std::panic::catch_unwind(|| run(seed)) {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn everything_happens_at_once() {
    let seeds = std::env::var("ZAB_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    let first = std::env::var("ZAB_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0);
    run_seeds(first..first + seeds.unwrap_or(300));
}

#[test]
fn the_same_seed_is_the_same_run() {
    let trace = |seed| {
        let mut cluster = Cluster::started(3, 1, seed);
        for _ in 0..30 {
            disturb(&mut cluster);
            cluster.step();
        }
        cluster.trace
    };
    assert_eq!(trace(7), trace(7));
    assert_ne!(trace(7), trace(8));
}

#[test]
fn a_leader_serves_alone_where_it_is_the_only_voter() {
    let mut cluster = Cluster::started(1, 0, 1);
    cluster.propose(1, 3);
    cluster.confirm(1);
    cluster.settle();
    assert_eq!(cluster.node(1).role, Role::Leading { epoch: 1 });
    assert_eq!(cluster.node(1).confirmed.len(), 1);
}
