//! Cores: a thread with a glommio executor each, and the machine's processors to pin them to.
//!
//! A core's one task runs its loop and waits in its own ring. It does not await glommio, whose
//! reactor parks with a `membarrier`, an interrupt to every processor that runs this process.

use std::any::Any;
use std::io;
use std::sync::mpsc;

use glommio::{CpuSet, ExecutorJoinHandle, GlommioError, LocalExecutorBuilder, Placement};
use thiserror::Error;

/// What glommio registers for its own DMA buffers. A core's ring has buffers of its own; the
/// default would lock 10 MiB for each core.
const GLOMMIO_BUFFER_BYTES: usize = 64 << 10;

/// Why there is no core.
#[derive(Debug, Error)]
pub enum CoreError {
    #[error("no executor for core {name}: {error}")]
    NotStarted { name: String, error: String },
    #[error("the machine's processors cannot be read: {0}")]
    Topology(String),
}

/// A running core. Whoever starts it joins it.
#[must_use = "a core is joined"]
pub struct Core<T: Send + 'static> {
    name: String,
    handle: ExecutorJoinHandle<T>,
}

impl<T: Send + 'static> Core<T> {
    /// Waits until the core's task is done. A panic of the task goes on here.
    ///
    /// # Errors
    ///
    /// The executor failed.
    pub fn join(self) -> Result<T, CoreError> {
        let Core { name, handle } = self;
        handle.join().map_err(|error| match error {
            GlommioError::BuilderError(glommio::BuilderErrorKind::ThreadPanic(panic)) => {
                let panic: Box<dyn Any + Send> = panic;
                std::panic::resume_unwind(panic)
            }
            error => CoreError::NotStarted { name, error: error.to_string() },
        })
    }
}

/// Starts a thread with an executor and runs `task` there, on processor `cpu` alone if one is
/// given. Returns when the executor runs.
///
/// # Errors
///
/// The kernel refuses an executor (io_uring, locked memory, descriptors), or there is no such
/// processor.
pub fn spawn_core<G, F, T>(name: &str, cpu: Option<usize>, task: G) -> Result<Core<T>, CoreError>
where
    G: FnOnce() -> F + Send + 'static,
    F: Future<Output = T> + 'static,
    T: Send + 'static,
{
    let placement = cpu.map_or(Placement::Unbound, Placement::Fixed);
    let not_started = |error: GlommioError<()>| CoreError::NotStarted {
        name: name.to_string(),
        error: error.to_string(),
    };
    let (started, starts) = mpsc::sync_channel(1);
    let handle = LocalExecutorBuilder::new(placement)
        .name(name)
        .io_memory(GLOMMIO_BUFFER_BYTES)
        .spawn(move || {
            // The starter waits for this; if it is gone, so is the process.
            started.send(()).ok();
            task()
        })
        .map_err(not_started)?;
    let core = Core { name: name.to_string(), handle };
    match starts.recv() {
        Ok(()) => Ok(core),
        // The sender was dropped unused: there was no executor to use it.
        Err(mpsc::RecvError) => Err(core.join().err().expect("a task that never began returned")),
    }
}

/// A processor as Linux numbers it. Two with the same `core` and `package` are siblings: they
/// share one core's arithmetic and first caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Processor {
    pub numa_node: usize,
    pub package: usize,
    pub core: usize,
    pub cpu: usize,
}

impl Processor {
    /// True when both are threads of one core.
    pub fn is_sibling(&self, other: &Processor) -> bool {
        self.cpu != other.cpu && self.package == other.package && self.core == other.core
    }
}

/// The processors that are online and that this process may run on, near ones side by side.
///
/// # Errors
///
/// `/sys/devices/system` cannot be read, as in some sandboxes: run unpinned there.
pub fn processors() -> Result<Vec<Processor>, CoreError> {
    let online = CpuSet::online().map_err(|error| CoreError::Topology(error.to_string()))?;
    let allowed = rustix::thread::sched_getaffinity(None)
        .map_err(|errno| CoreError::Topology(io::Error::from(errno).to_string()))?;
    let mut processors: Vec<Processor> = online
        .iter()
        .filter(|location| {
            location.cpu < rustix::thread::CpuSet::MAX_CPU && allowed.is_set(location.cpu)
        })
        .map(|location| Processor {
            numa_node: location.numa_node,
            package: location.package,
            core: location.core,
            cpu: location.cpu,
        })
        .collect();
    processors.sort_unstable();
    Ok(processors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_runs_its_task_where_it_was_put() {
        let cpu = processors().unwrap().last().unwrap().cpu;
        let core = spawn_core("test", Some(cpu), move || async {
            (std::thread::current().name().map(str::to_string), rustix::thread::sched_getcpu())
        });
        let (name, ran_on) = core.unwrap().join().unwrap();
        assert!(name.unwrap().starts_with("test"));
        assert_eq!(ran_on, cpu);
    }

    #[test]
    fn a_core_that_cannot_start_is_an_error() {
        let Err(error) = spawn_core("test", Some(100_000), || async {}) else {
            panic!("there are not so many processors");
        };
        assert!(error.to_string().contains("core test"), "{error}");
    }

    #[test]
    fn a_panic_reaches_whoever_joins() {
        let core = spawn_core("test", None, || async { panic!("of the task") }).unwrap();
        let join = std::panic::AssertUnwindSafe(|| core.join());
        let panic = std::panic::catch_unwind(join).unwrap_err();
        assert_eq!(panic.downcast_ref(), Some(&"of the task"));
    }

    #[test]
    fn processors_are_distinct_and_ours() {
        let processors = processors().unwrap();
        assert!(!processors.is_empty());
        assert!(processors.windows(2).all(|pair| pair[0].cpu != pair[1].cpu));
        assert!(processors.iter().all(|processor| !processor.is_sibling(processor)));
    }
}
