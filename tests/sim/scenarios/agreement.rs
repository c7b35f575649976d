//! Part B of the catalogue: agreement, elections, membership.

use crate::knobs::MS;
use crate::scenarios::{
    Scenario, acknowledged, isolate, other, restart, restart_all, wait_for, wait_for_all,
    wait_for_writes,
};
use crate::world::World;

pub const SCENARIOS: [Scenario; 19] = [
    Scenario { name: "b01_epoch_is_behind_the_log", knobs: |it| slow_disks(it), play: b01 },
    Scenario { name: "b02_newleader_waits_for_the_disk", knobs: |it| slow_disks(it), play: b02 },
    Scenario { name: "b03_commit_right_after_newleader", knobs: |it| busy(it), play: b03 },
    Scenario { name: "b04_proposals_before_the_ack_of_newleader", knobs: slow_disks, play: b03 },
    Scenario { name: "b05_what_is_queued_for_the_disk_at_a_change", knobs: slow_disks, play: b05 },
    Scenario { name: "b06_history_without_holes", knobs: |it| it.commit_log_count = 3, play: b06 },
    Scenario { name: "b07_what_only_the_old_leader_has", knobs: |_| {}, play: b07 },
    Scenario { name: "b08_newleader_after_the_snapshot", knobs: short_memory, play: b08 },
    Scenario { name: "b09_snapshots_of_what_is_committed", knobs: snapshots, play: b07 },
    Scenario { name: "b10_a_gap_between_log_and_snapshot", knobs: short_memory, play: b10 },
    Scenario { name: "b11_epochs_without_transactions", knobs: |_| {}, play: b11 },
    Scenario { name: "b12_each_transaction_once", knobs: busy, play: b12 },
    Scenario { name: "b13_counter_runs_out", knobs: |it| it.counter = u32::MAX - 150, play: b13 },
    Scenario { name: "b14_disloyal_voters", knobs: |it| it.voters = 5, play: b14 },
    Scenario { name: "b17_isolated_leader", knobs: |_| {}, play: b17 },
    Scenario { name: "b17_a_leader_that_hears_nobody", knobs: |_| {}, play: deaf },
    Scenario { name: "b22_slow_and_lossy_network", knobs: lossy, play: b22 },
    Scenario { name: "b24_all_restart_at_every_step", knobs: |_| {}, play: b24 },
    Scenario { name: "b25_observers_miss_nothing", knobs: observers, play: b25 },
];

use crate::knobs::Knobs;

fn slow_disks(knobs: &mut Knobs) {
    knobs.disk = (5 * MS, 60 * MS);
}

fn busy(knobs: &mut Knobs) {
    knobs.think_ms = 3;
    knobs.clients = 6;
}

fn short_memory(knobs: &mut Knobs) {
    busy(knobs);
    knobs.commit_log_count = 1;
    knobs.snapshot_ms = 150;
    knobs.segment_bytes = 16 << 10;
}

fn snapshots(knobs: &mut Knobs) {
    knobs.snapshot_ms = 40;
}

fn lossy(knobs: &mut Knobs) {
    knobs.delay = (MS, 40 * MS);
    knobs.delay_slow = (40 * MS, 100 * MS);
    knobs.faults.break_conn = 250;
    knobs.tick_ms = 500;
    knobs.session_timeout_ms = 10_000;
}

fn observers(knobs: &mut Knobs) {
    busy(knobs);
    knobs.observers = 2;
}

/// A follower loses its power all through its synchronisation, and then decides an election.
fn b01(world: &mut World) {
    let leader = wait_for_all(world);
    let (victim, third) = (other(world, leader, 0), other(world, leader, 1));
    for round in 0..6 {
        restart(world, victim, 10);
        wait_for_writes(world, 10);
        world.run_ms(20 + round * 13);
        world.crash(victim, true);
        world.start_after(victim, 5 * MS);
    }
    world.crash(leader, true);
    world.start_after(leader, 3000 * MS);
    restart(world, third, 1500);
    world.run_ms(2500);
}

/// The same, with the leader gone at the moment at which the follower has just come back.
fn b02(world: &mut World) {
    for _ in 0..4 {
        let leader = wait_for_all(world);
        restart(world, other(world, leader, 0), 200);
        world.run_ms(330);
        restart(world, leader, 1000);
    }
}

fn b03(world: &mut World) {
    let leader = wait_for_all(world);
    for which in [0, 1, 0, 1] {
        restart(world, other(world, leader, which), 30);
        wait_for_writes(world, 40);
    }
}

/// Leaders change while every disk is behind.
fn b05(world: &mut World) {
    for _ in 0..5 {
        let leader = wait_for(world, 2);
        wait_for_writes(world, 20);
        isolate(world, leader, false);
        world.run_ms(700);
        world.network.heal(world.now);
    }
}

/// Everybody becomes leader in its turn, with little history in memory.
fn b06(world: &mut World) {
    for _ in 0..4 {
        let leader = wait_for_all(world);
        restart(world, other(world, leader, 0), 400);
        wait_for_writes(world, 20);
        wait_for_all(world);
        restart(world, leader, 400);
    }
}

/// A leader goes on alone for a moment; what only it has is gone when it comes back.
fn b07(world: &mut World) {
    for _ in 0..3 {
        let leader = wait_for_all(world);
        isolate(world, leader, false);
        world.run_ms(300);
        restart(world, leader, 900);
        world.network.heal(world.now);
        world.run_ms(200);
        isolate(world, leader, false);
        wait_for_writes(world, 10);
        world.network.heal(world.now);
    }
}

/// A wiped server takes a snapshot while much is being written, again and again.
fn b08(world: &mut World) {
    let leader = wait_for_all(world);
    let victim = other(world, leader, 0);
    for _ in 0..4 {
        world.crash(victim, false);
        world.servers[victim].disk.wipe();
        world.start_after(victim, 50 * MS);
        wait_for_writes(world, 60);
        wait_for_all(world);
    }
}

fn b10(world: &mut World) {
    let leader = wait_for_all(world);
    let victim = other(world, leader, 1);
    restart(world, victim, 2500);
    wait_for_writes(world, 400);
    wait_for_all(world);
}

/// Leaders and followers die right after each election: no epoch is led twice.
fn b11(world: &mut World) {
    for round in 0..8 {
        let leader = wait_for(world, 2);
        restart(world, leader, 100);
        if round % 2 == 0 {
            restart(world, other(world, leader, 0), 150);
        }
    }
    let elections = world.checker.servers.elections;
    assert!(elections >= 4, "only {elections} elections");
}

/// Followers come and go on connections that break at every step of their synchronisation.
fn b12(world: &mut World) {
    wait_for_all(world);
    for _ in 0..60 {
        for conn in world.network.open_conns() {
            if world.random.below(4) == 0 {
                world.network.sever(world.now, conn);
            }
        }
        let ms = world.random.between((5, 120));
        world.run_ms(ms);
    }
}

/// The 32 bits run out: an epoch follows, and no zxid wraps.
fn b13(world: &mut World) {
    wait_for_all(world);
    wait_for_writes(world, 400);
    let last = world.checker.history.last;
    assert!(last.epoch() > 1, "the history ends at {last}");
}

/// Voters change sides while a leader is being made.
fn b14(world: &mut World) {
    for _ in 0..6 {
        let leader = wait_for(world, 3);
        isolate(world, leader, false);
        let joins_late = other(world, leader, 0);
        restart(world, joins_late, 250);
        world.run_ms(150);
        restart(world, other(world, leader, 1), 100);
        world.run_ms(400);
        world.network.heal(world.now);
    }
}

/// A leader that is cut off stops acknowledging in time, and the others go on.
fn b17(world: &mut World) {
    let leader = wait_for_all(world);
    isolate(world, leader, true);
    let limit = world.knobs.tick_ms * u64::from(world.knobs.sync_limit) + world.knobs.tick_ms;
    world.run_ms(limit);
    assert!(!world.is_serving(leader), "it still leads after {limit} ms");
    wait_for_writes(world, 20);
    world.network.heal(world.now);
    wait_for_all(world);
}

/// What a leader says arrives, and what it is told does not: it costs one election, in which it is
/// voted for and not found, and then another leads.
fn deaf(world: &mut World) {
    for _ in 0..3 {
        let leader = wait_for_all(world);
        wait_for_writes(world, 20);
        for other in (0..world.servers.len()).filter(|it| *it != leader) {
            world.network.block(other, leader);
        }
        // It gives up after 1000 ms, and is dialled for as long.
        world.run_ms(2000);
        let before = acknowledged(world);
        let has_another = |world: &World| acknowledged(world) > before + 10;
        assert!(world.run_until(1500, has_another), "a leader that hears nobody is elected again");
        world.network.heal(world.now);
    }
}

fn b22(world: &mut World) {
    world.let_faults_loose();
    wait_for(world, 2);
    world.run_ms(15_000);
    let done = acknowledged(world);
    assert!(done > 20, "only {done} writes");
}

fn b24(world: &mut World) {
    for _ in 0..10 {
        let ms = world.random.between((1, 600));
        world.run_ms(ms);
        restart_all(world);
    }
}

/// Observers follow through all of it, and decide nothing.
fn b25(world: &mut World) {
    let leader = wait_for_all(world);
    for observer in [3, 4] {
        restart(world, observer, 50);
        wait_for_writes(world, 60);
    }
    let followers = [other(world, leader, 0), other(world, leader, 1)];
    let before = world.checker.history.last;
    followers.into_iter().for_each(|it| restart(world, it, 3000));
    world.run_ms(2500);
    let last = world.checker.history.last;
    assert!(!world.is_serving(leader), "observers have kept a leader");
    assert!(last.epoch() == before.epoch(), "observers have elected");
    wait_for_all(world);
}
