//! Many are told of one change: in several turns of the core's loop, with others' requests between.

use std::io::Write as _;

use crate::client::{PERSISTENT, create, data_of, get, set, watch_below};
use crate::process::Server;

/// More than the core tells in one turn, and not a multiple of that.
const WATCHERS: usize = 500;

/// Each watcher hears of each change once and in order, before it sees what was changed, also where
/// its own request comes while others are being told.
#[test]
fn everybody_is_told_of_everything_in_order() {
    let server = Server::serving(&["maxClientCnxns=0"]);
    let mut writer = server.client();
    writer.done(&create("/n", b"", PERSISTENT));
    let mut watchers: Vec<_> = (0..WATCHERS).map(|_| server.client()).collect();
    for watcher in &mut watchers {
        watcher.done(&watch_below("/n"));
    }
    for round in 1..10_u8 {
        // Three changes one after the other: some are told of the second before others of the
        // first.
        let bytes: Vec<u8> =
            (0..3).flat_map(|change| writer.encode(&set("/n", &[round, change]))).collect();
        writer.socket.write_all(&bytes).unwrap();
        for watcher in watchers.iter_mut().step_by(3) {
            watcher.send(&get("/n", false));
        }
        let zxids = [0; 3].map(|_| writer.receive().zxid);
        for (index, watcher) in watchers.iter_mut().enumerate() {
            let (mut told, mut is_answered) = (Vec::new(), index % 3 != 0);
            while told.len() < 3 || !is_answered {
                let reply = watcher.receive();
                if reply.xid == -1 {
                    told.push(reply.zxid);
                } else {
                    is_answered = true;
                    let data = data_of(&reply);
                    let seen = if data.first() == Some(&round) { data[1] + 1 } else { 0 };
                    assert_eq!(told.len(), usize::from(seen), "round {round}, watcher {index}");
                }
            }
            assert_eq!(told, zxids, "round {round}, watcher {index}");
        }
    }
    // Nothing came twice: the next thing is what is asked for.
    for watcher in &mut watchers {
        watcher.ping();
    }
}
