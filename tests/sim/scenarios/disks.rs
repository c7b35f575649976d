//! Part A of the catalogue: durability, log, snapshot, disk.

use crate::disk::{Decay, Small};
use crate::knobs::{Knobs, MS};
use crate::scenarios::{
    Scenario, damage_epoch, isolate, other, restart, restart_all, wait_for, wait_for_all,
    wait_for_writes,
};
use crate::world::World;

pub const SCENARIOS: [Scenario; 12] = [
    Scenario { name: "a10_the_leader_cannot_write", knobs: |_| {}, play: a10 },
    Scenario { name: "a11_a_passing_error_leaves_no_hole", knobs: |_| {}, play: a11 },
    Scenario { name: "a12_a_cut_that_is_interrupted", knobs: slow_disks, play: a12 },
    Scenario { name: "a13_a_snapshot_that_is_interrupted", knobs: slow_disks, play: a13 },
    Scenario { name: "a18_misdirected_and_lost_writes", knobs: |_| {}, play: a18 },
    Scenario { name: "a24_a_crash_between_the_epochs", knobs: slow_disks, play: a24 },
    Scenario { name: "a25_damaged_epochs", knobs: |_| {}, play: a25 },
    Scenario { name: "a27_an_older_copy_of_a_disk", knobs: |_| {}, play: a27 },
    Scenario { name: "a28_snapshots_while_everything_changes", knobs: snapshots, play: a28 },
    Scenario { name: "a29_a_snapshot_is_one_version", knobs: snapshots, play: a28 },
    Scenario { name: "a31_a_crash_between_write_and_ack", knobs: slow_disks, play: a31 },
    Scenario { name: "r05_a_wiped_server_beside_a_stale_one", knobs: |_| {}, play: wiped },
];

fn slow_disks(knobs: &mut Knobs) {
    knobs.disk = (3 * MS, 50 * MS);
}

fn snapshots(knobs: &mut Knobs) {
    knobs.snapshot_ms = 30;
    knobs.think_ms = 3;
    knobs.clients = 6;
    knobs.segment_bytes = 16 << 10;
}

fn a10(world: &mut World) {
    for _ in 0..4 {
        let leader = wait_for_all(world);
        world.servers[leader].fails_next_write = true;
        wait_for_writes(world, 30);
    }
}

fn a11(world: &mut World) {
    let leader = wait_for_all(world);
    let follower = other(world, leader, 0);
    for _ in 0..4 {
        world.servers[follower].fails_next_write = true;
        wait_for_writes(world, 20);
        wait_for_all(world);
    }
    restart_all(world);
}

/// What only an old leader has is taken back, and its power fails all the while.
fn a12(world: &mut World) {
    for _ in 0..5 {
        let leader = wait_for_all(world);
        isolate(world, leader, false);
        world.run_ms(400);
        wait_for(world, 2);
        wait_for_writes(world, 10);
        world.network.heal(world.now);
        let ms = world.random.between((50, 500));
        world.run_ms(ms);
        world.crash(leader, true);
        world.start_after(leader, 20 * MS);
    }
}

fn a13(world: &mut World) {
    let leader = wait_for_all(world);
    let victim = other(world, leader, 0);
    world.crash(victim, false);
    world.servers[victim].disk.wipe();
    world.servers[victim].is_hurt = true;
    world.start_after(victim, MS);
    for _ in 0..12 {
        let ms = world.random.between((20, 260));
        world.run_ms(ms);
        world.crash(victim, true);
        world.start_after(victim, 5 * MS);
    }
    wait_for_all(world);
    restart(world, leader, 300);
}

fn a18(world: &mut World) {
    for decay in [Decay::Flip, Decay::Lost, Decay::Misdirected] {
        let leader = wait_for_all(world);
        wait_for_writes(world, 30);
        let victim = other(world, leader, 0);
        world.crash(victim, false);
        let random = &mut world.random;
        assert!(world.servers[victim].disk.decay(random, decay), "nothing is there to decay");
        world.start_after(victim, 100 * MS);
        wait_for_writes(world, 20);
    }
}

fn a24(world: &mut World) {
    for _ in 0..8 {
        restart_all(world);
        let ms = world.random.between((150, 700));
        world.run_ms(ms);
    }
    for server in 0..world.servers.len() {
        let disk = &world.servers[server].disk;
        assert!(disk.accepted_epoch.value() >= disk.current_epoch.value());
    }
}

fn a25(world: &mut World) {
    for is_current in [true, false] {
        let leader = wait_for_all(world);
        let victim = other(world, leader, 0);
        world.crash(victim, false);
        damage_epoch(world, victim, is_current);
        world.start_after(victim, 100 * MS);
        wait_for_all(world);
        let disk = &world.servers[victim].disk;
        assert!(matches!(disk.current_epoch, Small::Holds(_)), "it is not written anew");
        assert!(matches!(disk.accepted_epoch, Small::Holds(_)), "it is not written anew");
    }
}

/// One server gets an older copy of its disk back: it is brought up to date by the others.
fn a27(world: &mut World) {
    let leader = wait_for_all(world);
    let victim = other(world, leader, 0);
    world.crash(victim, false);
    let older = world.servers[victim].disk.clone();
    world.start_after(victim, 50 * MS);
    wait_for_all(world);
    wait_for_writes(world, 50);
    world.crash(victim, false);
    world.servers[victim].disk = older;
    world.start_after(victim, 50 * MS);
    wait_for_all(world);
}

fn a28(world: &mut World) {
    for _ in 0..4 {
        wait_for(world, 2);
        wait_for_writes(world, 120);
        restart_all(world);
    }
}

/// Power fails at any moment around a write, for all at once.
fn a31(world: &mut World) {
    for _ in 0..6 {
        wait_for(world, 2);
        wait_for_writes(world, 10);
        let ms = world.random.between((1, 60));
        world.run_ms(ms);
        restart_all(world);
    }
}

/// One server has missed everything, another is wiped: what the third alone has stays.
fn wiped(world: &mut World) {
    let leader = wait_for_all(world);
    let (stale, wiped) = (other(world, leader, 0), other(world, leader, 1));
    world.crash(stale, false);
    wait_for_writes(world, 40);
    world.crash(wiped, false);
    world.crash(leader, false);
    world.servers[wiped].disk.wipe();
    world.start_after(stale, 20 * MS);
    world.start_after(wiped, 20 * MS);
    world.run_ms(3000);
    assert!(world.leader().is_none(), "a stale and an empty server have elected");
    world.start_after(leader, 0);
    wait_for_all(world);
}
