//! Ctrl-C and SIGTERM: seen once as a flag, so that what was begun can be tidied up.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// From the first signal on `stop` is true; a second one ends the process at once.
pub fn on_interrupt(stop: &Arc<AtomicBool>) -> io::Result<()> {
    for signal in [SIGINT, SIGTERM] {
        // The order matters: the flag is looked at before this signal sets it.
        flag::register_conditional_shutdown(signal, 130, Arc::clone(stop))?;
        flag::register(signal, Arc::clone(stop))?;
    }
    stop.store(false, Ordering::Relaxed);
    Ok(())
}
