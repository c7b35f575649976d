//! `ringkeeper tune`: what this host's settings do to a server, changed and put back.

use std::path::{Path, PathBuf};

use ringkeeper_tuning::change::{self, Step, Wish};
use ringkeeper_tuning::host::{Host, Served};
use ringkeeper_tuning::state::StateError;
use ringkeeper_tuning::system::Rooted;
use ringkeeper_tuning::{form, judge, report};

use crate::check;
use crate::cli::{ConfigArgs, Exit, complain, load, print, refuse_configuration};
use crate::config::Config;
use crate::server::placement;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Look, and change nothing.
    Check,
    /// Change, and write down first what was there.
    Apply,
    /// Put back.
    Revert,
    /// Say all that is known of the knobs.
    Explain,
}

/// The arguments of `ringkeeper tune`.
#[derive(Clone, Debug)]
pub struct TuneArgs {
    pub task: Task,
    /// The ids that are meant; empty for all.
    pub only: Vec<String>,
    pub persist: bool,
    pub dry_run: bool,
    pub force: bool,
    pub json: bool,
    /// Where what was changed is written down.
    pub state: PathBuf,
    /// Where the host's files are.
    pub root: PathBuf,
    pub config: ConfigArgs,
}

/// `ringkeeper tune`.
pub fn tune(args: TuneArgs) -> Exit {
    let wish = Wish { only: args.only.clone(), persist: args.persist, dry_run: args.dry_run };
    if let Some(unknown) = wish.unknown().first() {
        complain(&format!("no knob is called {unknown}; `ringkeeper tune --explain` has them all"));
        return Exit::Usage;
    }
    match args.task {
        Task::Explain => {
            print(&report::page(&args.only));
            Exit::Ok
        }
        Task::Check => look(args),
        Task::Apply | Task::Revert => turn(args, &wish),
    }
}

fn look(args: TuneArgs) -> Exit {
    let system = Rooted::new(&args.root);
    let host = match host(&system, args.config) {
        Ok(host) => host,
        Err(exit) => return exit,
    };
    let mut findings = judge::findings(&system, &host);
    if !args.only.is_empty() {
        let meant = |only: &String, knob| change::selects(only, knob);
        findings.retain(|finding| args.only.iter().any(|only| meant(only, finding.knob)));
    }
    print(&match args.json {
        true => report::findings_json(&findings),
        false => report::table(&findings),
    });
    if report::stops(&findings) { Exit::Host } else { Exit::Ok }
}

fn turn(args: TuneArgs, wish: &Wish) -> Exit {
    let mut system = Rooted::new(&args.root);
    let directory = match state_directory(&args) {
        Ok(directory) => directory,
        Err(exit) => return exit,
    };
    // A directory that is not there holds no state: nothing to revert, and nobody else at work.
    let lock = match system.lock(&directory) {
        Ok(None) => {
            complain("another `ringkeeper tune` is at work; try again when it is done");
            return Exit::Host;
        }
        lock => lock.ok(),
    };
    let outcome = if args.task == Task::Revert {
        change::revert(&mut system, &directory, args.force, args.dry_run)
    } else {
        match host(&system, args.config.clone()) {
            Ok(host) => change::apply(&mut system, &host, &directory, wish),
            Err(exit) => return exit,
        }
    };
    drop(lock);
    match outcome {
        Ok(steps) => said(&args, &steps),
        Err(error) => {
            complain(&error.to_string());
            match error {
                StateError::Io { .. } => Exit::Disk,
                StateError::Damaged { .. } => Exit::Data,
            }
        }
    }
}

/// The state directory below the root, made if it must be.
fn state_directory(args: &TuneArgs) -> Result<String, Exit> {
    let refuse = |what: &dyn std::fmt::Display| {
        complain(&format!("{}: {what}", args.state.display()));
        Exit::Disk
    };
    let path = std::path::absolute(&args.state).map_err(|error| refuse(&error))?;
    let Some(path) = path.to_str() else { return Err(refuse(&"its name is not text")) };
    let directory = path.trim_matches('/').to_owned();
    if args.task == Task::Apply && !args.dry_run {
        let made = std::fs::create_dir_all(args.root.join(&directory));
        made.map_err(|error| refuse(&error))?;
    }
    Ok(directory)
}

fn said(args: &TuneArgs, steps: &[Step]) -> Exit {
    if args.json {
        print(&report::steps_json(steps));
    } else if steps.is_empty() {
        print(match args.task {
            Task::Revert => "Nothing was changed, so there is nothing to put back.\n",
            _ => "Nothing is left to change.\n",
        });
    } else {
        print(&report::steps_table(steps));
    }
    if steps.iter().any(Step::is_trouble) { Exit::Partly } else { Exit::Ok }
}

/// The host, and what the configuration asks of it.
fn host(system: &Rooted, args: ConfigArgs) -> Result<Host, Exit> {
    let file = args.file.clone();
    let config = load(args).map_err(|error| refuse_configuration(&error))?;
    let absolute = |path: &Path| {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        path.display().to_string()
    };
    let program = std::env::current_exe().unwrap_or_else(|_| "/usr/bin/ringkeeper".into());
    let served = Served {
        config_file: file.as_deref().map(absolute),
        program: absolute(&program),
        data_directory: absolute(&config.data_dir),
        log_directory: absolute(&config.data_log_dir),
        connections_max: config.limits.connections_max.into(),
        backlog: config.client_listen_backlog.map_or(DEFAULT_BACKLOG, u64::from),
        descriptors: check::descriptors(&config),
        locked_bytes: check::locked_bytes(&config),
        segment_bytes: config.log.segment_bytes,
        hot_cpus: hot_cpus(&config),
        ring: check::ring(),
    };
    Ok(Host::look(system, served))
}

/// What the listener asks for where the configuration says nothing (`io/listener.rs`).
const DEFAULT_BACKLOG: u64 = 1024;

/// The CPUs that a server with this configuration binds its executors to.
fn hot_cpus(config: &Config) -> Vec<usize> {
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    let online = form::cpus(online.trim()).unwrap_or_default();
    let plan = placement::plan(&online, config.cores);
    let mut cpus: Vec<usize> = plan.executors.iter().filter_map(|it| it.cpu).collect();
    cpus.sort_unstable();
    cpus
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::listener::ListenOptions;

    #[test]
    fn the_backlog_is_the_listeners_own() {
        assert_eq!(DEFAULT_BACKLOG, u64::from(ListenOptions::default().backlog));
    }
}
