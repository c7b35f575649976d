//! Leaders come and go: what was asked is done once, or its connection is closed.

use proptest::collection::vec;
use proptest::prelude::*;

use super::ensemble::{request, sync};
use super::world::World;
use super::*;

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    Ask(usize, (OpCode, Vec<u8>)),
    Connect(usize),
    /// The session of this connection comes back through this server.
    Reconnect(usize, usize),
    CarryUp(usize),
    CarryDown(usize),
    CarryLate,
    Commit,
    Confirm,
    /// The server with this number is left out.
    Elect(usize),
    Join(usize),
    LoseLeader(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        30 => (0..9_usize, request()).prop_map(|(of, request)| Step::Ask(of, request)),
        2 => (0..3_usize).prop_map(Step::Connect),
        2 => (0..9_usize, 0..3_usize).prop_map(|(of, member)| Step::Reconnect(of, member)),
        20 => (0..3_usize).prop_map(Step::CarryUp),
        30 => (0..3_usize).prop_map(Step::CarryDown),
        2 => Just(Step::CarryLate),
        12 => Just(Step::Commit),
        3 => Just(Step::Confirm),
        2 => (0..3_usize).prop_map(Step::Elect),
        3 => (0..3_usize).prop_map(Step::Join),
        1 => (0..3_usize).prop_map(Step::LoseLeader),
    ]
}

fn take(world: &mut World, step: &Step) {
    match step {
        Step::Ask(of, request) => {
            let connection = of % world.connections.len();
            world.ask(connection, request);
        }
        Step::Connect(member) => {
            world.connect(*member);
        }
        Step::Reconnect(of, member) => {
            let connection = of % world.connections.len();
            if let Some(session) = world.connections[connection].session {
                world.reconnect(*member, session);
            }
        }
        Step::CarryUp(learner) => drop(world.carry_up(*learner)),
        Step::CarryDown(learner) => drop(world.carry_down(*learner)),
        Step::CarryLate => drop(world.carry_late()),
        Step::Commit => world.commit(),
        Step::Confirm => world.confirm(),
        Step::Elect(without) => {
            world.elect([(without + 1) % 3, (without + 2) % 3]);
        }
        Step::Join(member) => world.join(*member),
        // Without its leader or with its leadership gone, until it is elected or joins.
        Step::LoseLeader(member) => world.lose_leader(*member),
    }
}

fn run(modes: Modes, steps: &[Step]) -> World {
    let mut world = World::led_with(modes);
    for member in 0..3 {
        world.connect(member);
    }
    world.settle();
    steps.iter().for_each(|step| take(&mut world, step));
    world.heal();
    world.check_same();
    world.check_requests();
    world
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 250,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn nothing_is_lost_and_nothing_is_done_twice(steps in vec(step(), 1..250)) {
        run(Modes::default(), &steps);
    }

    #[test]
    fn the_same_holds_for_local_sessions(steps in vec(step(), 1..250)) {
        let modes = Modes {
            local_sessions: true,
            local_sessions_upgrading: true,
            ..Modes::default()
        };
        let world = run(modes, &steps);
        for member in &world.members {
            assert!(member.pipeline.locals.upgrades().next().is_none(), "half global for ever");
            let known = member.pipeline.local_sessions().iter();
            let both = known.filter(|(session, _)| member.pipeline.sessions().contains(*session));
            assert_eq!(both.count(), 0, "local and global at once");
        }
    }
}

#[test]
fn requests_under_way_outlive_their_leader() {
    let mut world = World::led();
    let connection = world.connect(1);
    world.settle();
    world.ask(connection, &create("/before", PERSISTENT));
    world.carry_up(1);
    world.carry_down(1);
    // Proposed and logged here, and not committed; asked and not proposed; asked without a leader.
    world.ask(connection, &create("/under-way", PERSISTENT));
    world.ask(connection, &sync());
    world.lose_leader(1);
    world.ask(connection, &set("/before", b"2", 0));
    world.ask(connection, &(OpCode::Create, Vec::new()));
    assert!(world.connections[connection].answers.is_empty());
    world.elect([1, 2]);
    world.heal();
    world.check_same();
    world.check_requests();
    let errors = world.connections[connection].answers.iter().map(|it| it.error);
    let refused = ErrorCode::MarshallingError.raw();
    assert_eq!(errors.collect::<Vec<i32>>(), [0, 0, 0, 0, refused]);
    assert!(!world.connections[connection].is_closed);
}
