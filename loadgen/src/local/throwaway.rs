//! Processes and folders that are gone when this process is, however it ends.
//!
//! They stand in one list. Who made an entry takes it away; a signal or a panic takes all away. For
//! a `kill -9` of this process, servers are started under `setpriv --pdeathsig` where there is one.
//! Only children of this process are ever signalled, and a child's pid is not given to another
//! before it is reaped, which happens here alone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// What shells say of a process that Ctrl-C has ended.
const EXIT_INTERRUPTED: i32 = 130;

struct Started {
    folder: PathBuf,
    processes: Vec<Child>,
}

static STARTED: Mutex<Vec<Started>> = Mutex::new(Vec::new());
static WATCHED: Once = Once::new();

/// One folder and the processes that work in it. Dropping it ends them and removes it.
pub struct Throwaway {
    pub folder: PathBuf,
}

fn started() -> MutexGuard<'static, Vec<Started>> {
    // A thread that panicked with the list in hand leaves it whole: entries are pushed or taken.
    STARTED.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Throwaway {
    /// A new folder in `parent`, which is made if need be.
    pub fn new(parent: &Path) -> io::Result<Throwaway> {
        WATCHED.call_once(watch);
        fs::create_dir_all(parent)?;
        let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let name = format!("loadgen-{}-{}", std::process::id(), since.as_nanos());
        let folder = parent.canonicalize()?.join(name);
        started().push(Started { folder: folder.clone(), processes: Vec::new() });
        fs::create_dir(&folder)?;
        Ok(Throwaway { folder })
    }

    /// Starts a process that ends with this one; gives its pid.
    pub fn start(&self, command: &mut Command) -> io::Result<u32> {
        let mut started = started();
        let own = started.iter_mut().find(|own| own.folder == self.folder);
        let own = own.ok_or_else(|| io::Error::other("everything was ended already"))?;
        let child = command.spawn()?;
        let pid = child.id();
        own.processes.push(child);
        Ok(pid)
    }

    /// How the first process that has ended by itself did so.
    pub fn ended(&self) -> Option<String> {
        let mut started = started();
        let own = started.iter_mut().find(|own| own.folder == self.folder)?;
        own.processes.iter_mut().find_map(|child| {
            let status = child.try_wait().ok()??;
            Some(format!("process {} has ended: {status}", child.id()))
        })
    }
}

impl Drop for Throwaway {
    fn drop(&mut self) {
        let mut started = started();
        if let Some(at) = started.iter().position(|own| own.folder == self.folder) {
            end(started.swap_remove(at));
        }
    }
}

/// Nothing of it is wanted any more, so nobody is asked to end politely.
fn end(mut of: Started) {
    for child in &mut of.processes {
        // Fails when it has ended by itself.
        let _ = child.kill();
    }
    for child in &mut of.processes {
        let _ = child.wait();
    }
    let _ = fs::remove_dir_all(&of.folder);
}

fn end_all() {
    for of in started().drain(..) {
        end(of);
    }
}

/// From here on signals and panics end what was started.
fn watch() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        before(panic);
        end_all();
    }));
    let signals = Signals::new([SIGINT, SIGTERM, SIGHUP]);
    let mut signals = signals.expect("these signals may be handled");
    thread::spawn(move || {
        if signals.forever().next().is_some() {
            end_all();
            std::process::exit(EXIT_INTERRUPTED);
        }
    });
}

/// `program` as a command that the kernel ends when this process is gone, where it can be.
pub fn mortal(program: &Path) -> Command {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let setpriv = std::env::split_paths(&paths).map(|path| path.join("setpriv"));
    match setpriv.into_iter().find(|path| path.is_file()) {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "KILL", "--"]).arg(program);
            command
        }
        None => Command::new(program),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;
    use std::time::{Duration, Instant};

    use super::*;

    fn is_running(pid: u32) -> bool {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    }

    #[test]
    fn a_dropped_one_leaves_neither_process_nor_folder() {
        let throwaway = Throwaway::new(&std::env::temp_dir()).unwrap();
        fs::write(throwaway.folder.join("data"), "x").unwrap();
        let mut sleep = mortal(Path::new("/bin/sleep"));
        let pid = throwaway.start(sleep.arg("600").stdout(Stdio::null())).unwrap();
        assert!(is_running(pid) && throwaway.ended().is_none());
        let folder = throwaway.folder.clone();
        drop(throwaway);
        assert!(!is_running(pid) && !folder.exists());
    }

    #[test]
    fn a_process_that_ends_by_itself_is_told() {
        let throwaway = Throwaway::new(&std::env::temp_dir()).unwrap();
        throwaway.start(&mut mortal(Path::new("/bin/false"))).unwrap();
        let start = Instant::now();
        let said = loop {
            if let Some(said) = throwaway.ended() {
                break said;
            }
            assert!(start.elapsed() < Duration::from_secs(10));
            thread::yield_now();
        };
        assert!(said.contains("exit status: 1"), "{said}");
    }
}
