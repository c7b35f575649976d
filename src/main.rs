//! The command line: flags to a command, its outcome to an exit code.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use ringkeeper::cli;

// A znode is a handful of small allocations, made on one core and freed on another. mimalloc's size
// classes are tight and its frees from another thread take no lock.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A ZooKeeper server on io_uring, a thread per core.
#[derive(Parser)]
#[command(name = "ringkeeper", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  all went well, or the server was told to stop
  1  the server stopped on a fault of its own
  2  the command line has no meaning
  3  the configuration cannot be honoured
  4  the host lacks what a server needs
  5  the data is damaged, or the server refuses to start on it
  6  the disk failed or is full
  7  tune: some settings of the host could not be changed, or not be put back

Environment:
  SERVER_JVMFLAGS, JVMFLAGS  -Dzookeeper.KEY=VALUE flags, as for Apache's zkServer.sh
  RINGKEEPER_LOG             what is traced to standard error: info, debug, ringkeeper=trace, ...";

#[derive(Subcommand)]
enum Command {
    /// Serve until told to stop by SIGTERM or SIGINT.
    Server(Configuration),
    /// Look at the transaction log.
    #[command(subcommand)]
    Log(Files),
    /// Look at snapshots.
    #[command(subcommand)]
    Snapshot(Files),
    /// Take over the data of an Apache ZooKeeper server into an empty data directory.
    Import {
        #[command(flatten)]
        dirs: Migration,
        /// Take a snapshot that no log reaches for all there is: a backup.
        #[arg(long)]
        snapshot_alone: bool,
    },
    /// Write the data as a snapshot that an Apache ZooKeeper server starts from.
    Export(Migration),
    /// Say whether this host can run a configuration, and what to change.
    Check(Configuration),
    /// Judge the settings of this host, change them, and put them back.
    Tune(Tuning),
}

/// What is done with the host's settings.
#[derive(Args)]
#[command(after_help = TUNE_HELP)]
struct Tuning {
    #[command(flatten)]
    task: TuningTask,
    /// Of these knobs only, as `disk` or `disk.scheduler`; some are turned only when named.
    #[arg(long, value_name = "ID,...", value_delimiter = ',')]
    only: Vec<String>,
    /// Say what would be done, and do nothing.
    #[arg(long, conflicts_with_all = ["check", "explain"])]
    dry_run: bool,
    /// With --apply: let the changes outlive a boot, in /etc/sysctl.d and /etc/tmpfiles.d.
    #[arg(long, conflicts_with_all = ["check", "revert", "explain"])]
    persist: bool,
    /// With --revert: put back what somebody has changed since, too.
    #[arg(long, conflicts_with_all = ["check", "apply", "explain"])]
    force: bool,
    /// One JSON object instead of a table.
    #[arg(long, conflicts_with = "explain")]
    json: bool,
    /// Where what was changed is written down.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/ringkeeper/tuning")]
    state: PathBuf,
    /// Where the host's files are.
    #[arg(long, hide = true, default_value = "/")]
    root: PathBuf,
    #[command(flatten)]
    configuration: Configuration,
}

/// Exactly one of these.
#[derive(Args)]
#[group(required = true, multiple = false)]
struct TuningTask {
    /// Look at every knob and say what matters most here; change nothing.
    #[arg(long)]
    check: bool,
    /// Change what --check calls `change`, and what --only names.
    #[arg(long)]
    apply: bool,
    /// Put back exactly what was there before.
    #[arg(long)]
    revert: bool,
    /// Print all that is known of the knobs, as Markdown.
    #[arg(long)]
    explain: bool,
}

const TUNE_HELP: &str = "\
Exit codes:
  0  all is well, or was done; --check: the server starts, whatever else it advises
  2  the command line has no meaning, or --only names no knob
  4  --check: the server would not start here; or another tune is at work
  5  the file that says what to put back is damaged
  6  that file cannot be read or written; nothing is changed then
  7  some settings could not be changed, or were changed by somebody since: the table says which";

impl From<Tuning> for cli::tune::TuneArgs {
    fn from(it: Tuning) -> cli::tune::TuneArgs {
        let task = match it.task {
            TuningTask { apply: true, .. } => cli::tune::Task::Apply,
            TuningTask { revert: true, .. } => cli::tune::Task::Revert,
            TuningTask { explain: true, .. } => cli::tune::Task::Explain,
            TuningTask { .. } => cli::tune::Task::Check,
        };
        cli::tune::TuneArgs {
            task,
            only: it.only,
            persist: it.persist,
            dry_run: it.dry_run,
            force: it.force,
            json: it.json,
            state: it.state,
            root: it.root,
            config: it.configuration.into(),
        }
    }
}

/// What is done with files.
#[derive(Subcommand)]
enum Files {
    /// Print all that they hold.
    Dump { path: PathBuf },
    /// Check all that they hold: exit code 5 and the place, where something is damaged.
    Verify { path: PathBuf },
}

/// From where to where data goes; the server of neither may run.
#[derive(Args)]
struct Migration {
    /// Apache's dataDir.
    #[arg(long)]
    java_data: PathBuf,
    /// Apache's dataLogDir, where it is another.
    #[arg(long)]
    java_log: Option<PathBuf>,
    /// This server's dataDir.
    #[arg(long)]
    data: PathBuf,
    /// This server's dataLogDir, where it is another.
    #[arg(long)]
    log: Option<PathBuf>,
}

impl From<Migration> for cli::migration::Dirs {
    fn from(it: Migration) -> cli::migration::Dirs {
        let (java_log, log) = (it.java_log, it.log);
        cli::migration::Dirs {
            java_log: java_log.unwrap_or_else(|| it.java_data.clone()),
            java_data: it.java_data,
            log: log.unwrap_or_else(|| it.data.clone()),
            data: it.data,
            snapshot_alone: false,
        }
    }
}

/// Where a configuration comes from.
#[derive(Args)]
struct Configuration {
    /// Set a system property, as for a JVM; zoo.cfg holds against it.
    #[arg(short = 'D', value_name = "zookeeper.KEY=VALUE")]
    flags: Vec<String>,
    /// The zoo.cfg; without one, a server on 127.0.0.1:2181 with its data in ./ringkeeper-data.
    #[arg(value_name = "zoo.cfg")]
    file: Option<PathBuf>,
}

impl From<Configuration> for cli::ConfigArgs {
    fn from(Configuration { flags, file }: Configuration) -> cli::ConfigArgs {
        cli::ConfigArgs { flags, file }
    }
}

fn main() -> ExitCode {
    let Cli { command } = Cli::parse();
    trace_to_stderr();
    let exit = match command {
        Command::Server(configuration) => cli::server(configuration.into()),
        Command::Check(configuration) => cli::check(configuration.into()),
        Command::Tune(tuning) => cli::tune::tune(tuning.into()),
        Command::Log(Files::Dump { path }) => cli::files::log_dump(&path),
        Command::Log(Files::Verify { path }) => cli::files::log_verify(&path),
        Command::Snapshot(Files::Dump { path }) => cli::files::snapshot_dump(&path),
        Command::Snapshot(Files::Verify { path }) => cli::files::snapshot_verify(&path),
        Command::Import { dirs, snapshot_alone } => {
            cli::migration::import(&cli::migration::Dirs { snapshot_alone, ..dirs.into() })
        }
        Command::Export(dirs) => cli::migration::export(&dirs.into()),
    };
    exit.into()
}

/// Traces at `info` unless `RINGKEEPER_LOG` says otherwise.
fn trace_to_stderr() {
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::level_filters::LevelFilter::INFO.into())
        .with_env_var("RINGKEEPER_LOG")
        .from_env_lossy();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// The arguments that commands share, on their own.
    #[derive(Parser)]
    struct Shared {
        #[command(flatten)]
        configuration: Configuration,
    }

    #[test]
    fn flags_are_written_as_for_a_jvm() {
        let words = ["check", "-Dzookeeper.a=b", "-Dc", "zoo.cfg", "-Dd=e=f"];
        let Configuration { flags, file } = Shared::try_parse_from(words).unwrap().configuration;
        assert_eq!(flags, ["zookeeper.a=b", "c", "d=e=f"]);
        assert_eq!(file, Some("zoo.cfg".into()));
        let two = Shared::try_parse_from(["check", "a", "b"]);
        assert_eq!(two.err().unwrap().exit_code(), cli::Exit::Usage as i32);
    }

    #[test]
    fn tuning_is_one_task_at_a_time() {
        let parsed = |words: &[&str]| -> Result<cli::tune::TuneArgs, i32> {
            let words = ["ringkeeper", "tune"].iter().chain(words);
            match Cli::try_parse_from(words).map_err(|error| error.exit_code())?.command {
                Command::Tune(tuning) => Ok(cli::tune::TuneArgs::from(tuning)),
                _ => panic!("another command"),
            }
        };
        let applied = parsed(&["--apply", "--only", "a.b,c", "--persist", "zoo.cfg"]).unwrap();
        assert_eq!(applied.task, cli::tune::Task::Apply);
        assert_eq!(applied.only, ["a.b", "c"]);
        assert_eq!(applied.config.file, Some("zoo.cfg".into()));
        assert!(applied.persist && !applied.force && !applied.dry_run);
        assert_eq!(parsed(&["--check"]).unwrap().task, cli::tune::Task::Check);
        assert_eq!(parsed(&["--revert", "--force"]).unwrap().task, cli::tune::Task::Revert);
        assert_eq!(parsed(&["--explain"]).unwrap().task, cli::tune::Task::Explain);
        for wrong in [
            &[][..],
            &["--check", "--apply"],
            &["--check", "--persist"],
            &["--check", "--dry-run"],
            &["--apply", "--force"],
        ] {
            assert_eq!(parsed(wrong).unwrap_err(), cli::Exit::Usage as i32, "{wrong:?}");
        }
    }
}
