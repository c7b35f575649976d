use super::*;
use crate::zab::ensemble::Member;

/// An ensemble of `voters` voters, 0 the first, as server `me` knows it.
fn ensemble(me: i64, voters: i64) -> Ensemble {
    let member =
        |id| Member { id: ServerId(id), is_observer: id >= voters, group: None, weight: 1 };
    Ensemble {
        me: ServerId(me),
        members: (0..voters.max(me + 1)).map(member).collect(),
        config: Arc::from(&b"version=0"[..]),
        config_version: 0,
        tick: Duration::from_secs(2),
        init_limit_ticks: 10,
        sync_limit_ticks: 5,
        commit_log_count: 500,
        commit_log_bytes_max: 1 << 20,
    }
}

fn vote(leader: i64, peer_epoch: u32, zxid: Zxid) -> Vote {
    Vote { leader: ServerId(leader), zxid, peer_epoch }
}

/// `FLEPredicateTest`.
#[test]
fn a_vote_supersedes_by_epoch_then_zxid_then_id() {
    let ensemble = ensemble(0, 5);
    let check = |new: (i64, u64, u32), old: (i64, u64, u32), expected| {
        let vote =
            |(id, zxid, epoch): (i64, u64, u32)| vote(id, epoch, Zxid::from_raw(zxid as i64));
        assert_eq!(supersedes(&ensemble, &vote(new), &vote(old)), expected, "{new:?} {old:?}");
    };
    check((4, 0, 0), (3, 0, 2), false);
    check((0, 0, 1), (1, 0, 0), true);
    check((0, 1, 0), (1, 0, 0), true);
    check((1, 1, 0), (0, 1, 0), true);
    check((1, 1, 0), (1, 1, 0), false);
}
