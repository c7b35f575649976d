//! Stories with an end that is known: the rows of the catalogue of faults that are marked for the
//! simulator, each under its number. Clients work meanwhile, and all oracles look on.

mod agreement;
mod clients;
mod disks;

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::disk::Small;
use crate::knobs::{Knobs, MS};
use crate::run::{Failure, failure, settle};
use crate::world::World;

/// A story.
pub struct Scenario {
    pub name: &'static str,
    pub knobs: fn(&mut Knobs),
    pub play: fn(&mut World),
}

/// All of them.
pub fn all() -> impl Iterator<Item = &'static Scenario> {
    [&agreement::SCENARIOS[..], &disks::SCENARIOS[..], &clients::SCENARIOS[..]]
        .into_iter()
        .flatten()
}

/// Seeds with which each is played.
pub const SEEDS: u64 = 5;

/// Plays a story, and then lets everything settle.
pub fn play(scenario: &Scenario, seed: u64, is_printed: bool) -> Result<(), Failure> {
    let mut knobs = Knobs::quiet();
    (scenario.knobs)(&mut knobs);
    let mut world = World::new(seed, knobs, is_printed);
    let played = catch_unwind(AssertUnwindSafe(|| {
        (scenario.play)(&mut world);
        settle(&mut world);
    }));
    played.map_err(|cause| failure(&world, &*cause))
}

/// Waits until a leader serves and `count` servers with it; which one leads.
fn wait_for(world: &mut World, count: usize) -> usize {
    let is_served = |world: &World| {
        let serving = (0..world.servers.len()).filter(|it| world.is_serving(*it)).count();
        world.leader().is_some() && serving >= count
    };
    assert!(world.run_until(20_000, is_served), "no leader with {count} servers");
    world.leader().expect("it was seen")
}

/// Waits for all servers.
fn wait_for_all(world: &mut World) -> usize {
    wait_for(world, world.servers.len())
}

/// Another voter than `not`, the `which`-th.
fn other(world: &World, not: usize, which: usize) -> usize {
    (0..world.knobs.voters).filter(|it| *it != not).nth(which).expect("there are others")
}

/// Cuts a server off from all others, and from clients where `alone` says so.
fn isolate(world: &mut World, server: usize, alone: bool) {
    let nodes = if alone { world.servers.len() + world.clients.len() } else { world.servers.len() };
    for node in (0..nodes).filter(|it| *it != server) {
        world.network.block(node, server);
        world.network.block(server, node);
    }
}

/// A server goes down for so many milliseconds.
fn restart(world: &mut World, server: usize, down_ms: u64) {
    world.crash(server, false);
    world.start_after(server, down_ms * MS);
}

/// All servers lose their power, and come back in some order.
fn restart_all(world: &mut World) {
    for server in 0..world.servers.len() {
        world.crash(server, true);
        let down_ms = world.random.between((10, 300));
        world.start_after(server, down_ms * MS);
    }
}

/// How many writes clients know to be done.
fn acknowledged(world: &World) -> u64 {
    world.clients.iter().map(|client| client.acknowledged).sum()
}

/// Waits until `count` more writes are done.
fn wait_for_writes(world: &mut World, count: u64) {
    let goal = acknowledged(world) + count;
    assert!(world.run_until(20_000, |world| acknowledged(world) >= goal), "writes stand still");
}

/// Damages an epoch's file.
fn damage_epoch(world: &mut World, server: usize, is_current: bool) {
    let disk = &mut world.servers[server].disk;
    match is_current {
        true => disk.current_epoch = Small::Damaged,
        false => disk.accepted_epoch = Small::Damaged,
    }
    world.servers[server].is_hurt = true;
}
