//! Part C of the catalogue: sessions, ephemerals, watches, and what clients are promised.

use crate::knobs::{Knobs, MS};
use crate::scenarios::{
    Scenario, isolate, other, restart, wait_for, wait_for_all, wait_for_writes,
};
use crate::world::World;

pub const SCENARIOS: [Scenario; 9] = [
    Scenario { name: "c03_a_session_ends_while_it_creates", knobs: short, play: c03 },
    Scenario { name: "c04_a_session_moves", knobs: busy, play: c04 },
    Scenario { name: "c05_watches_are_set_again", knobs: busy, play: c05 },
    Scenario { name: "c09_what_a_session_asks_is_done_in_order", knobs: deep, play: c09 },
    Scenario { name: "c12_everything_was_suspended", knobs: |_| {}, play: c12 },
    Scenario { name: "c13_sequential_names_over_leaders", knobs: busy, play: c13 },
    Scenario { name: "c15_multis_are_whole", knobs: busy, play: c13 },
    Scenario { name: "c16_reads_stay_in_their_session_order", knobs: deep, play: c09 },
    Scenario { name: "c17_containers_over_leaders", knobs: busy, play: c13 },
];

fn busy(knobs: &mut Knobs) {
    knobs.think_ms = 4;
    knobs.clients = 6;
}

fn short(knobs: &mut Knobs) {
    busy(knobs);
    knobs.session_timeout_ms = 800;
}

/// Many requests of one session are under way at a time.
fn deep(knobs: &mut Knobs) {
    knobs.think_ms = 1;
    knobs.cores = 2;
    knobs.delay = (MS, 4 * MS);
}

/// Clients fall silent for longer than their sessions last, and come back.
fn c03(world: &mut World) {
    for _ in 0..5 {
        wait_for_all(world);
        wait_for_writes(world, 40);
        let client = world.random.index(world.clients.len());
        let node = world.servers.len() + client;
        for server in 0..world.servers.len() {
            world.network.block(node, server);
            world.network.block(server, node);
        }
        world.run_ms(1800);
        world.network.heal(world.now);
    }
}

fn c04(world: &mut World) {
    wait_for_all(world);
    for _ in 0..60 {
        let client = world.random.index(world.clients.len());
        // The old connection still delivers what was sent on it.
        world.hang_up(client);
        let ms = world.random.between((1, 60));
        world.run_ms(ms);
    }
}

fn c05(world: &mut World) {
    for _ in 0..20 {
        wait_for(world, 2);
        let client = world.random.index(world.clients.len());
        if let Some(link) = &world.clients[client].link {
            let conn = link.conn;
            world.network.sever(world.now, conn);
        }
        let ms = world.random.between((20, 300));
        world.run_ms(ms);
    }
}

/// Leaders and connections go in the middle of it.
fn c09(world: &mut World) {
    for client in &mut world.clients {
        client.in_flight_max = 200;
    }
    for _ in 0..4 {
        let leader = wait_for_all(world);
        wait_for_writes(world, 300);
        isolate(world, leader, false);
        world.run_ms(300);
        world.network.heal(world.now);
        restart(world, other(world, leader, 0), 100);
    }
}

/// All machines stand still for a minute, as one: no session is lost by that.
fn c12(world: &mut World) {
    wait_for_all(world);
    wait_for_writes(world, 30);
    let lives = |world: &World| {
        world.checker.history.sessions.values().filter(|life| life.closed.is_none()).count()
    };
    let before = lives(world);
    for server in 0..world.servers.len() {
        world.freeze(server, 60_000);
    }
    for client in &mut world.clients {
        if let Some(link) = &mut client.link {
            // Clients were suspended as well: they have not noticed.
            link.heard_at += 60_000 * MS;
            link.pinged_at += 60_000 * MS;
        }
        client.is_quiet = true;
    }
    world.run_ms(60_001);
    for client in &mut world.clients {
        client.is_quiet = false;
    }
    world.run_ms(200);
    let after = lives(world);
    assert!(after >= before, "{before} sessions have become {after}");
}

fn c13(world: &mut World) {
    for _ in 0..5 {
        let leader = wait_for_all(world);
        wait_for_writes(world, 60);
        restart(world, leader, 300);
    }
}
