//! A whole run of a seed: chaos, then healing, then everything must work.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use ringkeeper::zxid::Zxid;

use crate::knobs::{Knobs, MS};
use crate::world::{Stage, World};

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub hash: u64,
    pub steps: u64,
    pub txns: usize,
    pub elections: u64,
    pub reads: u64,
    pub events: u64,
    pub simulated_ms: u64,
    /// How long after the healing everything worked, in milliseconds.
    pub settled_ms: u64,
}

/// What went wrong, and how it came to it.
#[derive(Clone, Debug)]
pub struct Failure {
    pub what: String,
    pub kept: Vec<String>,
}

/// Runs a seed.
pub fn run(seed: u64, knobs: Knobs, is_printed: bool) -> Result<Outcome, Failure> {
    let mut world = World::new(seed, knobs, is_printed);
    let run = catch_unwind(AssertUnwindSafe(|| live(&mut world)));
    run.map_err(|cause| failure(&world, &*cause))
}

/// What a run has ended with, and what led to it.
pub fn failure(world: &World, cause: &(dyn Any + Send)) -> Failure {
    let what = match (cause.downcast_ref::<String>(), cause.downcast_ref::<&str>()) {
        (Some(what), _) => what.clone(),
        (None, Some(what)) => (*what).to_owned(),
        (None, None) => "a panic without words".to_owned(),
    };
    let what = format!("{what} [at {:.6} s]", world.now as f64 / 1e9);
    Failure { what, kept: world.trace.kept().map(str::to_owned).collect() }
}

fn live(world: &mut World) -> Outcome {
    world.let_faults_loose();
    world.run_ms(world.knobs.chaos_ms);
    let settled_ms = settle(world);
    Outcome {
        hash: world.trace.hash(),
        steps: world.trace.steps,
        txns: world.checker.history.len(),
        elections: world.checker.servers.elections,
        reads: world.checker.clients.reads,
        events: world.checker.clients.events,
        simulated_ms: world.now / MS,
        settled_ms,
    }
}

/// Heals everything, and waits until all servers serve, every client has written again and all
/// servers have published the same; how long that took, in milliseconds. That it happens in time
/// is the liveness that is promised.
pub fn settle(world: &mut World) -> u64 {
    world.heal_all();
    let since = world.now;
    let before: Vec<u64> = world.clients.iter().map(|client| client.acknowledged).collect();
    let settle_ms = world.knobs.settle_ms;
    let servers = world.servers.len();
    let works = |world: &World| {
        (0..servers).all(|server| world.is_serving(server))
            && world.clients.iter().zip(&before).all(|(it, before)| it.acknowledged > before + 2)
    };
    let is_alive = world.run_until(settle_ms, works);
    assert!(is_alive, "Liveness: {}", stuck(world, &before));
    let settled_ms = (world.now - since) / MS;
    for client in &mut world.clients {
        client.is_quiet = true;
    }
    let agrees = |world: &World| {
        let last = world.checker.history.last;
        let published = |server: usize| {
            let process = world.servers[server].process.as_ref();
            process.is_some_and(|it| it.published >= last && it.log.durable() == last)
        };
        (0..servers).all(published) && world.checker.clients.sessions_end(&world.checker.history)
    };
    // Sessions may still end meanwhile; each end is published everywhere.
    world.run_ms(100);
    let is_level = world.run_until(settle_ms, agrees);
    assert!(is_level, "Liveness: the servers do not come to the same point: {}", stuck(world, &[]));
    for server in 0..servers {
        final_state(world, server);
    }
    world.stage = Stage::Done;
    settled_ms
}

/// Tree and digest of a server at the end are the history's, added up anew.
fn final_state(world: &World, server: usize) {
    let process = world.servers[server].process.as_ref().expect("all servers run");
    let last = process.published;
    let digest = process.replica.pipeline().writer().tree().view(last).compute_digest();
    world.checker.history.equal_digests(server, last, digest);
    let sessions: Vec<i64> =
        process.replica.pipeline().sessions().at(last).into_iter().map(|(id, _)| id).collect();
    let alive = world.checker.history.sessions.iter();
    let alive: Vec<i64> =
        alive.filter(|(_, life)| life.closed.is_none()).map(|(id, _)| *id).collect();
    assert_eq!(sessions, alive, "EqualSessions: on server {server} at {last}");
}

fn stuck(world: &World, before: &[u64]) -> String {
    let mut what = String::new();
    for (index, server) in world.servers.iter().enumerate() {
        what += &match &server.process {
            Some(process) => format!(
                "server {index} is {:?} since {} ms with a log of {} published {}; ",
                process.role,
                (world.now - process.since) / MS,
                process.log.appended(),
                process.published
            ),
            None => format!("server {index} is down; "),
        };
    }
    for (client, before) in world.clients.iter().zip(before) {
        if client.acknowledged <= before + 2 {
            let link = client.link.as_ref();
            what += &format!(
                "client {} has {} of {before}, is on {:?}; ",
                client.index,
                client.acknowledged,
                link.map(|link| (link.server, link.is_ready, link.outstanding.len()))
            );
        }
    }
    what += &format!("the history ends at {}", world.checker.history.last);
    assert!(world.checker.history.last >= Zxid::ZERO);
    what
}
