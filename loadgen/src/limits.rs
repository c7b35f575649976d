//! What the process may have of the system: files for many sockets, and exact timers.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files beside the connections: standard streams, epoll, `/proc`, slack.
const FILES_BESIDE: u64 = 64;

/// Lets the process have `connections` sockets; the error says what is missing.
pub fn allow_connections(connections: usize) -> Result<(), String> {
    let need = connections as u64 + FILES_BESIDE;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= need) {
        return Ok(());
    }
    let hard = limit.maximum.filter(|maximum| *maximum < need);
    // Raising the hard limit is for the privileged; where that fails the soft one decides.
    let raised = Rlimit { current: Some(need), maximum: Some(hard.map_or(need, |_| need)) };
    let soft = Rlimit { current: Some(need), maximum: limit.maximum };
    let done = match hard {
        Some(_) => setrlimit(Resource::Nofile, raised),
        None => setrlimit(Resource::Nofile, soft),
    };
    done.map_err(|_| {
        let most = limit.maximum.unwrap_or(0);
        format!("{connections} connections need {need} files, and the limit is {most}: ulimit -Hn")
    })
}

/// Lets the calling thread sleep to the microsecond: by default Linux adds up to 50 to each wait.
pub fn sharpen_timers() {
    // Where it is refused, waits are a little longer, which the send lag shows.
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1_000));
}
