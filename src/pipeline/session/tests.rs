use std::time::Duration;

use proptest::prelude::*;

use super::*;

const TICK_MS: u32 = 2000;
const OWNER: Owner = Owner::Connection { core: 1, connection: 7 };

fn at_ms(ms: u64) -> Time {
    Time::from_nanos(ms * 1_000_000)
}

fn zxid(counter: u32) -> Zxid {
    Zxid::new(1, counter)
}

fn sessions() -> Sessions {
    Sessions::new(TICK_MS, 1, 5000)
}

/// One session that was made at 0 and expires at `expires_ms`.
fn one_session(timeout_ms: i32) -> Sessions {
    let mut sessions = sessions();
    sessions.create(9, timeout_ms, Some(OWNER), zxid(1), at_ms(0));
    sessions
}

/// Polls at every tick after the last one up to `until_ms`, and says when what expired.
fn poll_ticks(sessions: &mut Sessions, from_ms: u64, until_ms: u64) -> Vec<(u64, i64)> {
    let ticks = (from_ms..=until_ms).filter(|ms| ms.is_multiple_of(u64::from(TICK_MS)));
    ticks
        .flat_map(|ms| sessions.poll_expired(at_ms(ms)).into_iter().map(move |id| (ms, id)))
        .collect()
}

/// From `new Random(id ^ 0xB3415C00L).nextBytes(new byte[16])` on a JVM.
#[test]
fn passwords_are_those_of_java() {
    for (id, expected) in [
        (1, 0x054c_c74a_3732_7db2_15e7_02e2_0c73_f005_u128),
        (0x0100_0007_a82d_0bcc, 0xce15_72a3_476d_6279_954d_97b1_e7b1_2d7a),
        (0xfe12_3456_78ab_cdef_u64.cast_signed(), 0xf7aa_663f_3fad_da09_74ca_2adb_e337_8a32),
    ] {
        assert_eq!(u128::from_be_bytes(password(id)), expected, "{id:#x}");
        assert!(is_password(id, &password(id)));
        for at in 0..PASSWORD_SIZE {
            let mut wrong = password(id);
            wrong[at] ^= 0x40;
            assert!(!is_password(id, &wrong));
        }
        assert!(!is_password(id, &password(id)[..15]));
        assert!(!is_password(id, b""));
    }
    assert!(!is_password(0, &password(0)));
}

/// From Apache's expression, evaluated on a JVM.
#[test]
fn ids_begin_as_apaches() {
    for (start_ms, server_id, expected) in [
        (1_234_567_890_123, 1, 0x011f_71fb_04cb_0000_u64),
        (1_234_567_890_123, 254, 0xfe1f_71fb_04cb_0000),
        (5000, 128, 0x8000_0000_1388_0000),
    ] {
        let first = Sessions::new(TICK_MS, server_id, start_ms).next_id();
        assert_eq!(first, expected.cast_signed());
    }
    // The mark of containers is no session.
    assert_eq!(Sessions::new(TICK_MS, 128, 0).next_id(), i64::MIN + 1);
}

#[test]
fn an_id_that_is_known_is_not_given_again() {
    let mut sessions = sessions();
    let first = Sessions::new(TICK_MS, 1, 5000).next_id();
    sessions.create(first, 4000, None, Zxid::ZERO, at_ms(0));
    assert_eq!(sessions.next_id(), first + 1);
    assert_eq!(sessions.next_id(), first + 2);
}

#[test]
fn timeouts_are_kept_within_bounds() {
    assert_eq!(clamp_timeout(1, 4000, 40_000), 4000);
    assert_eq!(clamp_timeout(100_000_000, 4000, 40_000), 40_000);
    assert_eq!(clamp_timeout(-5, 4000, 40_000), 4000);
    assert_eq!(clamp_timeout(10_000, 4000, 40_000), 10_000);
    assert_eq!(clamp_timeout(10_000, 9000, 8000), 8000);
}

#[test]
fn a_session_expires_at_the_tick_after_its_timeout_and_once() {
    let mut sessions = one_session(5000);
    assert_eq!(sessions.expiries(), BTreeMap::from([(6000, vec![9])]));
    assert!(sessions.poll_expired(at_ms(5999)).is_empty());
    assert_eq!(sessions.poll_expired(at_ms(6000)), [9]);
    assert!(sessions.poll_expired(at_ms(8000)).is_empty());
    assert!(!sessions.touch(9, at_ms(6001)));
    assert_eq!(sessions.check(9, OWNER), Err(ErrorCode::SessionExpired));
    assert_eq!(sessions.count(), 1);
    assert!(sessions.close(9, zxid(2)));
    assert!(!sessions.close(9, zxid(3)));
    assert_eq!(sessions.count(), 0);
}

#[test]
fn a_touched_session_lives_on() {
    let mut sessions = one_session(4000);
    assert!(poll_ticks(&mut sessions, 0, 4000).is_empty());
    assert!(sessions.touch(9, at_ms(5000)));
    // 5000 + 4000, rounded up to a tick.
    assert_eq!(poll_ticks(&mut sessions, 6000, 20_000), [(10_000, 9)]);
}

#[test]
fn a_comeback_with_a_shorter_timeout_counts() {
    let mut sessions = one_session(40_000);
    assert!(sessions.reopen(9, &password(9), 4000, OWNER, at_ms(1000)));
    assert_eq!(sessions.timeout_ms(9), Some(40_000));
    assert_eq!(poll_ticks(&mut sessions, 2000, 60_000), [(6000, 9)]);
}

#[test]
fn a_comeback_needs_the_password_and_moves_the_session() {
    let moved = Owner::Learner(ServerId(3));
    let mut sessions = one_session(4000);
    assert_eq!(sessions.check(9, OWNER), Ok(()));
    assert!(!sessions.reopen(9, &password(8), 4000, moved, at_ms(0)));
    assert!(!sessions.reopen(8, &password(8), 4000, moved, at_ms(0)));
    assert_eq!(sessions.owner(9), Some(OWNER));
    assert!(sessions.reopen(9, &password(9), 4000, moved, at_ms(0)));
    assert_eq!(sessions.check(9, OWNER), Err(ErrorCode::SessionMoved));
    assert_eq!(sessions.check(9, moved), Ok(()));
    sessions.set_closing(9);
    assert!(!sessions.reopen(9, &password(9), 4000, OWNER, at_ms(0)));
    assert_eq!(sessions.check(8, moved), Err(ErrorCode::SessionExpired));
}

#[test]
fn a_session_without_owner_belongs_to_who_asks_first() {
    let mut sessions = sessions();
    sessions.create(9, 4000, None, zxid(1), at_ms(0));
    assert_eq!(sessions.check(9, OWNER), Ok(()));
    assert_eq!(sessions.check(9, Owner::Learner(ServerId(1))), Err(ErrorCode::SessionMoved));
}

#[test]
fn what_was_not_committed_is_undone() {
    let mut sessions = sessions();
    sessions.create(1, 4000, None, zxid(1), at_ms(0));
    sessions.create(2, 4000, None, zxid(2), at_ms(0));
    sessions.close(1, zxid(3));
    sessions.create(3, 4000, None, zxid(4), at_ms(0));
    sessions.close(3, zxid(5));
    sessions.handle_committed(zxid(1));
    assert_eq!(sessions.at(zxid(1)), [(1, 4000)]);
    assert_eq!(sessions.at(zxid(2)), [(1, 4000), (2, 4000)]);
    assert_eq!(sessions.at(zxid(4)), [(2, 4000), (3, 4000)]);
    assert_eq!(sessions.at(zxid(5)), [(2, 4000)]);
    sessions.pop_above(zxid(1), at_ms(3000));
    assert_eq!(sessions.iter().collect::<Vec<_>>(), [(1, 4000)]);
    // It came back with its whole timeout: 3000 + 4000, rounded up.
    assert_eq!(poll_ticks(&mut sessions, 4000, 20_000), [(8000, 1)]);
    // What is committed is not undone.
    sessions.pop_above(Zxid::ZERO, at_ms(9000));
    assert!(sessions.contains(1));
}

#[test]
fn a_closing_that_was_refused_is_tried_again() {
    let mut sessions = one_session(4000);
    assert_eq!(poll_ticks(&mut sessions, 0, 6000), [(6000, 9)]);
    sessions.handle_close_refused(9, at_ms(6000));
    assert!(sessions.touch(9, at_ms(6000)));
    assert_eq!(poll_ticks(&mut sessions, 8000, 30_000), [(12_000, 9)]);
}

#[test]
fn a_suspended_machine_expires_nobody() {
    let mut sessions = one_session(4000);
    assert!(poll_ticks(&mut sessions, 0, 2000).is_empty());
    assert!(sessions.poll_expired(at_ms(62_000)).is_empty());
    assert_eq!(sessions.grace_count(), 1);
    assert_eq!(poll_ticks(&mut sessions, 64_000, 80_000), [(68_000, 9)]);
    assert_eq!(sessions.grace_count(), 1);
}

#[test]
fn a_poll_is_wanted_every_tick_so_that_no_quiet_time_looks_like_a_jump() {
    let mut sessions = sessions();
    assert_eq!(sessions.poll_timeout(), None);
    sessions.create(9, 40_000, None, zxid(1), at_ms(100));
    assert!(sessions.poll_expired(at_ms(100)).is_empty());
    let mut expired = Vec::new();
    while expired.is_empty() {
        let due = sessions.poll_timeout().expect("there is a session");
        // Half a tick late each time, as a busy core may be.
        let now = due + Duration::from_millis(999);
        expired = sessions.poll_expired(now);
        assert!(now < at_ms(44_000));
    }
    assert_eq!((expired, sessions.grace_count()), (vec![9], 0));
    assert_eq!(sessions.poll_timeout(), None);
}

#[test]
fn a_new_leader_gives_everybody_time_and_forgets_owners() {
    let mut sessions = one_session(4000);
    sessions.set_closing(9);
    sessions.handle_leading(at_ms(10_000));
    assert_eq!(sessions.check(9, Owner::Learner(ServerId(2))), Ok(()));
    assert_eq!(poll_ticks(&mut sessions, 10_000, 30_000), [(16_000, 9)]);
}

proptest! {
    /// Against the obvious model: a session expires at the first tick after its last touch plus
    /// its timeout, whatever was touched, closed or undone in between.
    #[test]
    fn nobody_expires_early_or_late(
        timeouts in prop::collection::vec(1..9000_i32, 1..8),
        touches in prop::collection::vec((0..20_000_u64, 0..8_usize), 0..40),
    ) {
        let tick_ms = u64::from(TICK_MS);
        let mut sessions = sessions();
        let mut last: Vec<u64> = vec![0; timeouts.len()];
        for (id, timeout_ms) in timeouts.iter().enumerate() {
            sessions.create(id as i64 + 1, *timeout_ms, None, zxid(id as u32 + 1), at_ms(0));
        }
        let mut touches = touches;
        touches.sort_unstable();
        let mut touches = touches.into_iter().peekable();
        let mut expired = vec![None; timeouts.len()];
        for tick in 0..20 {
            let now_ms = tick * tick_ms;
            while let Some((ms, index)) = touches.next_if(|(ms, _)| *ms < now_ms) {
                let index = index % timeouts.len();
                if sessions.touch(index as i64 + 1, at_ms(ms)) {
                    prop_assert_eq!(expired[index], None);
                    last[index] = ms;
                }
            }
            for id in sessions.poll_expired(at_ms(now_ms)) {
                let index = id as usize - 1;
                prop_assert_eq!(expired[index].replace(now_ms), None);
            }
        }
        for (index, timeout_ms) in timeouts.iter().enumerate() {
            let end_ms = last[index] + *timeout_ms as u64;
            let at = expired[index].expect("all touches are over");
            prop_assert!(at > end_ms && at <= end_ms + tick_ms, "{} {}", at, end_ms);
        }
    }
}
