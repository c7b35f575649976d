//! The bodies of the subcommands: from parsed arguments to an exit code.
//!
//! What a command answers goes to standard output, what goes wrong to standard error.

pub mod files;
pub mod migration;
pub mod tune;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::check::{self, Finding, Verdict};
use crate::config::Config;
use crate::config::error::ConfigError;
use crate::config::properties::Sources;
use crate::io::ring::RingError;
use crate::log::LogError;
use crate::server::ServerError;
use crate::server::core::CoreFault;
use crate::server::recover::RecoverError;

/// How a run ended; the number is the process's exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All went well, or the server was told to stop.
    Ok = 0,
    /// The server stopped on a fault of its own.
    Fault = 1,
    /// The command line has no meaning. clap exits with this number itself.
    Usage = 2,
    /// The configuration cannot be honoured.
    Configuration = 3,
    /// The host lacks what a server needs.
    Host = 4,
    /// The data is damaged, or the server refuses to start on it.
    Data = 5,
    /// The disk failed or is full.
    Disk = 6,
    /// Some settings of the host could not be changed, or not be put back.
    Partly = 7,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// The arguments of a command that reads a configuration.
#[derive(Clone, Debug, Default)]
pub struct ConfigArgs {
    /// The `-D` flags, without their `-D`.
    pub flags: Vec<String>,
    /// The zoo.cfg, if one is named.
    pub file: Option<PathBuf>,
}

/// Reads the configuration that `args` and the environment describe. An error is for
/// [`refuse_configuration`].
///
/// # Errors
/// As [`Config::load`].
pub fn load(args: ConfigArgs) -> Result<Config, ConfigError> {
    // A variable that is not Unicode has no flag that could be understood.
    let variable = |name| std::env::var(name).ok();
    let sources = Sources {
        flags: args.flags,
        jvm_flags: variable("JVMFLAGS"),
        server_jvm_flags: variable("SERVER_JVMFLAGS"),
        file: args.file,
    };
    Config::load(&sources)
}

/// Reports a configuration that cannot be honoured.
pub fn refuse_configuration(error: &ConfigError) -> Exit {
    complain(&error.to_string());
    Exit::Configuration
}

/// `ringkeeper server`: serves until told to stop.
pub fn server(args: ConfigArgs) -> Exit {
    let config = match load(args) {
        Ok(config) => config,
        Err(error) => return refuse_configuration(&error),
    };
    if let Some(count) = check::raise_open_files() {
        tracing::debug!("{count} files may be open");
    }
    match crate::server::run(config) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            complain(&error.to_string());
            exit_of(&error)
        }
    }
}

/// The exit code that tells what stopped a server.
fn exit_of(error: &ServerError) -> Exit {
    match error {
        ServerError::Recover(RecoverError::Log(error)) => exit_of_log(error),
        ServerError::Recover(_) => Exit::Data,
        ServerError::Probe(_) => Exit::Disk,
        ServerError::Core(CoreFault::Log(_)) => Exit::Disk,
        ServerError::Listen(..)
        | ServerError::Peers(_)
        | ServerError::Http(_)
        | ServerError::SmallFile(_)
        | ServerError::Executor(_)
        | ServerError::Random(_) => Exit::Host,
        // It is told to stop rather than contradict what is committed.
        ServerError::Core(CoreFault::Ensemble(_)) => Exit::Data,
        ServerError::Signals(_) | ServerError::Core(CoreFault::Ring(RingError::Failed(_))) => {
            Exit::Fault
        }
        ServerError::Core(CoreFault::Ring(_)) => Exit::Host,
    }
}

pub(super) fn exit_of_log(error: &LogError) -> Exit {
    match error {
        LogError::Io { .. } | LogError::Full { .. } | LogError::NoDescriptor { .. } => Exit::Disk,
        _ => Exit::Data,
    }
}

/// `ringkeeper check`: prints what the configuration means and whether this host can run it.
pub fn check(args: ConfigArgs) -> Exit {
    let config = match load(args) {
        Ok(config) => config,
        Err(error) => return refuse_configuration(&error),
    };
    let findings = check::host(&config, Some(&probe));
    let mut report = check::table(&findings);
    for note in &config.notes {
        report.extend(["note    ", note, "\n"]);
    }
    print(&report);
    match check::worst(&findings) {
        Verdict::Ok | Verdict::Change => Exit::Ok,
        Verdict::Stop => Exit::Host,
    }
}

/// How fast the log's volume is, by the probe that a start runs too.
fn probe(config: &Config) -> Finding {
    // The directory may be yet to be made: its volume is that of the nearest one above it.
    let dir = config.data_log_dir.ancestors().find(|dir| dir.is_dir());
    match crate::server::probe(dir.unwrap_or(std::path::Path::new("."))) {
        Ok((_, line)) => Finding::ok("disk", line),
        Err(error) => Finding::stop("disk", error.to_string(), "give the log a volume that works"),
    }
}

/// Writes an answer. A reader that has gone away, as `head` does, is no fault.
pub(super) fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush())
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        complain(&format!("standard output: {error}"));
    }
}

/// Says why a command ends, whatever the trace's filter lets through.
pub(super) fn complain(text: &str) {
    // There is nowhere left to report a standard error that is closed.
    writeln!(std::io::stderr().lock(), "ringkeeper: {text}").ok();
}
