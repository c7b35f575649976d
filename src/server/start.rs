//! Start and end of the server.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::mpsc::{Receiver as Inbox, Sender as Outbox, channel};
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::check;
use crate::config::{Config, LogWriter, Purge};
use crate::io::clock;
use crate::io::executor::{Core, CoreError, processors, spawn_core};
use crate::io::ring::{Ring, RingConfig, Token};
use crate::io::wake::Waker;
use crate::log::append::Log;
use crate::log::recover::{Options, Recovered as RecoveredLog};
use crate::log::{LogError, WriterKind};
use crate::pipeline::auth::AuthConfig;
use crate::pipeline::session::Sessions;
use crate::pipeline::{Modes, Pipeline, Settings};
use crate::replica::Replica;
use crate::server::admission::Admission;
use crate::server::background::{self, Asking, SnapshotSettings};
use crate::server::client::{ClientConfig, ClientCore, Limits, Links};
use crate::server::client_port::ClientPort;
use crate::server::core::{CoreFault, Roles};
use crate::server::disk::Disk;
use crate::server::ensemble;
use crate::server::http::{self, HttpError};
use crate::server::mesh::link;
use crate::server::overload::{Bounds, Overload};
use crate::server::peers::listen::ListenError;
use crate::server::placement::{Plan, Role, plan};
use crate::server::questions::Questions;
use crate::server::recover::{Places, RecoverError, Recovered, into_log, recover};
use crate::server::recover_member::{self, RecoveredMember};
use crate::server::small_file::FileError;
use crate::server::snapshots::Snapshots;
use crate::server::word;
use crate::server::writer::{About, ClientEnd, PipelineCore};
use crate::time::Time;
use crate::tree::Tree;
use crate::tree::writer::TreeConfig;
use crate::zab::{self, Zab};
use crate::zxid::Zxid;

/// A standalone server's id within session ids, as Apache has it.
const STANDALONE_SERVER_ID: u8 = 1;

/// Why the server did not start, or stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error(transparent)]
    SmallFile(#[from] FileError),
    #[error("the ports for the other servers: {0}")]
    Peers(#[from] ListenError),
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error(transparent)]
    Recover(#[from] RecoverError),
    #[error("the log's volume cannot be probed: {0}")]
    Probe(LogError),
    #[error("cannot listen on {0}: {1}")]
    Listen(std::net::SocketAddr, std::io::Error),
    #[error(transparent)]
    Executor(#[from] CoreError),
    #[error("signals cannot be handled: {0}")]
    Signals(std::io::Error),
    #[error("no randomness: {0}")]
    Random(getrandom::Error),
    #[error(transparent)]
    Core(#[from] CoreFault),
}

/// What an executor's thread is given once all rings are there.
struct Assignment {
    roles: Roles,
    stop: Arc<AtomicBool>,
}

/// An executor that has its ring and waits for its roles.
struct Started {
    core: Core<Result<(), CoreFault>>,
    waker: Waker,
    assign: Outbox<Assignment>,
}

/// Serves until a signal says stop.
///
/// # Errors
/// The server could not start, or its disk or a ring failed.
pub fn run(config: Config) -> Result<(), ServerError> {
    let begun = clock::now();
    let config = Arc::new(config);
    let version = env!("CARGO_PKG_VERSION");
    match config.ensemble.distributed {
        true => tracing::info!(
            "ringkeeper {version} is server {} of {}",
            ensemble::my_id(&config),
            config.ensemble.servers.len()
        ),
        false => tracing::info!("ringkeeper {version} serves alone"),
    }
    config.notes.iter().for_each(|note| tracing::info!("{note}"));
    tracing::info!("data in {}, log in {}", config.data_dir.display(), log_dir(&config).display());

    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).map_err(ServerError::Signals)?;
    }
    // An executor whose own rings are refused ends the process with a backtrace; ours say why.
    drop(Ring::new(RingConfig::default()).map_err(CoreFault::Ring)?);
    let held = recover_from(&config)?;
    held.recovered.told.iter().for_each(|line| tracing::info!("{line}"));
    let writer = choose_writer(&config)?;

    let online = processors()?;
    let online: Vec<usize> = online.iter().map(|processor| processor.cpu).collect();
    let plan = plan(&online, config.cores);
    tracing::info!("{plan}");
    let (port, listeners) = ClientPort::open(&config, plan.client_count)
        .map_err(|error| ServerError::Listen(config.client_address, error))?;
    let http = http::bind(&config)?;
    let ended = Arc::new(AtomicBool::new(false));
    let started = start_executors(&plan, &ended)?;
    let serve = Serve { config: &config, plan: &plan, started: &started, port, begun };
    let (background, asking) = assemble(serve, held, writer, listeners, &stop)?;
    http::start(http, asking, Arc::clone(&config), auth(&config))?;
    let word = if config.ensemble.distributed { "listening" } else { "serving" };
    let took_ms = (clock::now() - begun).as_millis();
    let address = port.address();
    tracing::info!("{word} on {address}, {took_ms} ms after the start");
    wait_and_join(started, background, &stop, &ended)
}

/// Measures the log's writers on the volume of `dir`: a line that says the figures and the choice.
///
/// # Errors
/// The volume does not take the probe's file.
pub fn probe(dir: &Path) -> Result<(WriterKind, String), LogError> {
    let probe = crate::log::probe::measure(dir, &clock::now)?;
    Ok((probe.chosen, probe.to_string()))
}

fn log_dir(config: &Config) -> std::path::PathBuf {
    config.data_log_dir.join("version-2")
}

fn data_dir(config: &Config) -> std::path::PathBuf {
    config.data_dir.join("version-2")
}

fn random() -> Result<u64, ServerError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(ServerError::Random)?;
    Ok(u64::from_ne_bytes(bytes))
}

fn tree_config(config: &Config) -> Result<TreeConfig, ServerError> {
    Ok(TreeConfig { seed: random()?, extended_types: config.features.extended_types })
}

/// The high byte of the sessions' ids: Apache takes the low one of a longer server id.
fn server_id(config: &Config) -> u8 {
    match config.ensemble.my_id.filter(|_| config.ensemble.distributed) {
        Some(id) => id.to_le_bytes()[0],
        None => STANDALONE_SERVER_ID,
    }
}

/// What the disk held.
struct Held {
    recovered: Recovered,
    /// Of a member of an ensemble.
    member: Option<Membership>,
}

/// What the disk of a member of an ensemble held, beyond tree and log.
#[derive(Clone, Copy)]
struct Membership {
    state: zab::output::Recovered,
    /// The oldest version that can be read; not before what is committed for certain.
    version: Zxid,
    is_reset: bool,
}

impl Membership {
    fn into_log(self, log: RecoveredLog, writer: WriterKind) -> Result<Log, LogError> {
        recover_member::into_log(log, writer, &self.state, self.is_reset)
    }
}

fn recover_from(config: &Config) -> Result<Held, ServerError> {
    let places = Places {
        data: &data_dir(config),
        log: &log_dir(config),
        trust_empty: config.snapshot.trust_empty,
        check_digest: config.snapshot.digest,
        tree: tree_config(config)?,
    };
    let options = Options {
        identity: random()?,
        segment_bytes: config.log.segment_bytes,
        committed: Zxid::ZERO,
    };
    if !config.ensemble.distributed {
        return Ok(Held { recovered: recover(&places, options)?, member: None });
    }
    let homes = [&*config.data_dir, &*config.data_log_dir];
    let is_autocreate = config.db_autocreate == Some(true);
    let files = recover_member::Files { places, homes, is_autocreate };
    let member = recover_member::recover(&files, options)?;
    let RecoveredMember { recovered, zab: state, readable_from, is_reset } = member;
    let version = state.committed.max(readable_from);
    Ok(Held { recovered, member: Some(Membership { state, version, is_reset }) })
}

fn choose_writer(config: &Config) -> Result<WriterKind, ServerError> {
    let chosen = match config.log.writer {
        LogWriter::Direct => WriterKind::Direct,
        LogWriter::Mmap => WriterKind::Mmap,
        LogWriter::Auto => {
            let (chosen, line) = probe(&log_dir(config)).map_err(ServerError::Probe)?;
            tracing::info!("{line}");
            chosen
        }
    };
    tracing::info!("log writer: {chosen}");
    Ok(chosen)
}

/// Starts every executor of the plan: each makes its ring, tells its waker and awaits its roles.
fn start_executors(plan: &Plan, ended: &Arc<AtomicBool>) -> Result<Vec<Started>, ServerError> {
    let mut started = Vec::with_capacity(plan.executors.len());
    for (index, executor) in plan.executors.iter().enumerate() {
        let (assign, assigned): (_, Inbox<Assignment>) = channel();
        let (tell, told) = channel();
        let ended = Ended(Arc::clone(ended), std::thread::current());
        let task = move || async move {
            let _ended = ended;
            let ring = Ring::new(RingConfig::default())?;
            let is_awaited = tell.send(ring.waker()).is_ok();
            match assigned.recv() {
                Ok(Assignment { roles, stop }) if is_awaited => {
                    crate::server::core::run(ring, roles, &stop)
                }
                // The start failed elsewhere.
                _ => Ok(()),
            }
        };
        let core = spawn_core(&format!("core-{index}"), executor.cpu, task)?;
        match told.recv() {
            Ok(waker) => started.push(Started { core, waker, assign }),
            // The ring could not be made: the core's outcome says why.
            Err(_) => {
                core.join()??;
                unreachable!("a core that told no waker has failed");
            }
        }
    }
    Ok(started)
}

/// Says that a core has ended, however it did.
struct Ended(Arc<AtomicBool>, std::thread::Thread);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
        self.1.unpark();
    }
}

/// What the roles are built for.
#[derive(Clone, Copy)]
struct Serve<'a> {
    config: &'a Arc<Config>,
    plan: &'a Plan,
    started: &'a [Started],
    port: ClientPort,
    begun: Time,
}

fn snapshot_settings(config: &Config) -> SnapshotSettings {
    let is_purged = config.snapshot.purge != Purge::Off;
    SnapshotSettings {
        dir: data_dir(config),
        retained_count: is_purged.then_some(config.snapshot.retain_count as usize),
    }
}

/// Builds the roles, links them, and hands each to its executor.
fn assemble(
    serve: Serve<'_>,
    held: Held,
    writer: WriterKind,
    listeners: Vec<OwnedFd>,
    stop: &Arc<AtomicBool>,
) -> Result<([Core<()>; 3], Asking), ServerError> {
    let Serve { config, plan, started, port, begun } = serve;
    let now = clock::now();
    let Held { mut recovered, member } = held;
    let tree = Arc::clone(recovered.writer.tree());
    let end = recovered.writer.last_zxid();
    let version = member.map_or(end, |member| member.version);
    if member.is_some() {
        ensemble::put_config(&mut recovered.writer, config, clock::wall());
    }
    let committed = member.map_or(end, |member| member.state.committed);
    let ensemble = member.map(|_| ensemble::ensemble(config, &recovered.writer, committed));
    let pipeline_at = executor_of(plan, Role::Pipeline);
    let pipeline_waker = &started[pipeline_at].waker;
    let (background, background_cores) =
        background::start(log_dir(config), snapshot_settings(config), pipeline_waker.clone())?;
    let asking = background.asking.clone();
    let (ends, client_cores) = client_cores(&serve, &tree, version)?;

    let mut sessions = Sessions::new(
        u32::try_from(config.tick_time_ms).unwrap_or(u32::MAX),
        server_id(config),
        clock::wall().0.cast_unsigned(),
    );
    recovered.sessions.revive(&mut sessions, now);
    let log = match &member {
        None => into_log(recovered.log, writer, end),
        Some(member) => member.into_log(recovered.log, writer),
    };
    let log = log.map_err(RecoverError::Log)?;
    let warn_after = Duration::from_millis(config.log.sync_warning_threshold_ms);
    let snapshots = Snapshots::new(
        recovered.snapshot,
        recovered.behind,
        config.snapshot.txn_count,
        config.snapshot.log_bytes_max.unwrap_or(u64::MAX),
        random()?,
    );
    let settings = settings(config);
    let tree_config = tree_config(config)?;
    let mut pipeline = Pipeline::new(recovered.writer, sessions, settings, plan.client_count, now);
    let (replica, member) = match member.zip(ensemble) {
        None => (Replica::alone(pipeline), None),
        Some((Membership { state, version, .. }, ensemble)) => {
            pipeline.set_committed(version);
            let dir = data_dir(config);
            let member = ensemble::open(config, &dir, &ensemble, tree_config, pipeline_waker, now)?;
            let zab = Zab::new(ensemble, state, random()?, now);
            (Replica::member(pipeline, zab), Some(member))
        }
    };
    let pipeline_core = PipelineCore::new(
        (replica, member),
        Disk::new(log, warn_after),
        ends,
        background,
        snapshots,
        Questions::default(),
        About { config: Arc::clone(config), port, startup: recovered.startup, started: begun },
    );

    hand_out(&serve, pipeline_core, client_cores, listeners, stop);
    Ok((background_cores, asking))
}

/// How many clients may be connected.
fn connections_max(config: &Config) -> u32 {
    let open_files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let wanted = config.limits.connections_max;
    let most = check::connections_within(open_files, wanted);
    if most < wanted {
        tracing::warn!(
            "at most {most} clients may be connected, and not maxCnxns={wanted}: no more files may \
             be open (ulimit -n, LimitNOFILE=)"
        );
    }
    most
}

/// The client cores, and the pipeline's ends of the links with them.
fn client_cores(
    serve: &Serve<'_>,
    tree: &Arc<Tree>,
    version: Zxid,
) -> Result<(Vec<ClientEnd>, Vec<ClientCore>), ServerError> {
    let Serve { config, plan, started, .. } = *serve;
    let pipeline_at = executor_of(plan, Role::Pipeline);
    let pipeline_waker = &started[pipeline_at].waker;
    let admission = Arc::new(Admission::new(
        connections_max(config) as usize,
        config.limits.connections_per_address_max.unwrap_or(0) as usize,
        Overload::new(plan.client_count, bounds(config)),
    ));

    let mut ends = Vec::new();
    let mut client_cores = Vec::new();
    for number in 0..plan.client_count {
        let at = executor_of(plan, Role::Clients(number));
        let is_local = at == pipeline_at;
        let (to_pipeline, from_client) = link((!is_local).then(|| pipeline_waker.clone()));
        let (to_client, from_pipeline) = link((!is_local).then(|| started[at].waker.clone()));
        let shared = Arc::new(AtomicI64::new(version.raw()));
        ends.push(ClientEnd::new(from_client, to_client, Arc::clone(&shared)));
        let links = Links { to_pipeline, from_pipeline, version: shared };
        let core = client_core(config, number, tree, version, links, &admission)?;
        client_cores.push(core);
    }

    Ok((ends, client_cores))
}

/// Gives each executor its roles: from here on they serve.
fn hand_out(
    serve: &Serve<'_>,
    pipeline_core: PipelineCore,
    client_cores: Vec<ClientCore>,
    listeners: Vec<OwnedFd>,
    stop: &Arc<AtomicBool>,
) {
    let mut pipeline_core = Some(pipeline_core);
    let mut client_cores: Vec<_> = client_cores.into_iter().map(Some).collect();
    let mut listeners: Vec<Option<OwnedFd>> = listeners.into_iter().map(Some).collect();
    for (executor, started) in serve.plan.executors.iter().zip(serve.started) {
        let mut roles = Roles { pipeline: None, clients: None, listeners: Vec::new() };
        for role in &executor.roles {
            match *role {
                Role::Pipeline => roles.pipeline = pipeline_core.take(),
                Role::Clients(number) => {
                    roles.clients = client_cores[number].take();
                    let listener = listeners[number].take().expect("each role stands once");
                    roles.listeners.push((LISTENER, listener));
                }
            }
        }
        let assignment = Assignment { roles, stop: Arc::clone(stop) };
        started.assign.send(assignment).map_err(|_| ()).expect("the executor awaits its roles");
    }
}

/// Listeners are named apart from connections, whose generations do not reach that far.
const LISTENER: Token = Token(u64::MAX);

fn executor_of(plan: &Plan, role: Role) -> usize {
    let found = plan.executors.iter().position(|executor| executor.roles.contains(&role));
    found.expect("the plan places every role")
}

fn client_core(
    config: &Config,
    number: usize,
    tree: &Arc<Tree>,
    version: Zxid,
    links: Links,
    admission: &Arc<Admission>,
) -> Result<ClientCore, ServerError> {
    let limits = Limits {
        frame_bytes_max: config.limits.jute_bytes_max as usize,
        in_flight_max: config.limits.connection_requests_max as usize,
        out_bytes_max: usize::try_from(config.limits.connection_outgoing_bytes_max)
            .unwrap_or(usize::MAX),
        send_timeout: Duration::from_secs(30),
        greeting_timeout: Duration::from_millis(config.limits.first_frame_deadline_ms),
        frame_timeout: Duration::from_millis(config.limits.partial_frame_deadline_ms),
        stall_interval: Duration::from_millis(config.limits.throttle_stall_ms),
        touch_interval: Duration::from_millis((config.tick_time_ms / 8).clamp(1, 100)),
        skip_acl: config.auth.skip_acl,
        enforced_schemes: config.auth.enforced_schemes.clone(),
    };
    let config = ClientConfig {
        limits,
        auth: auth(config),
        words: word::words(&config.four_letter_words),
        watch_seed: random()?,
    };
    let number = u16::try_from(number).expect("client cores are few");
    Ok(ClientCore::new(number, Arc::clone(tree), version, links, config, Arc::clone(admission)))
}

/// The bounds of all connections together. In an ensemble the requests of all others may come to
/// this server, so that its own clients have a part (`LeaderZooKeeperServer.java`).
fn bounds(config: &Config) -> Bounds {
    let limits = &config.limits;
    let voters = config.ensemble.servers.iter().filter(|it| it.is_voter()).count();
    let parts = if config.ensemble.distributed && voters > 2 { voters - 1 } else { 1 };
    Bounds {
        requests_max: limits.outstanding_requests_max as usize / parts,
        throttled_requests_max: limits.throttle_requests_max.map(|count| count as usize),
        large_threshold_bytes: limits.large_request_threshold_bytes.map(|bytes| bytes as usize),
        large_bytes_max: usize::try_from(limits.large_request_bytes_max).unwrap_or(usize::MAX),
    }
}

fn auth(config: &Config) -> AuthConfig {
    AuthConfig {
        super_digest: config.auth.super_digest.as_ref().map(|it| it.reveal().to_owned()),
        digest_enabled: config.auth.digest,
        digest_algorithm: config.auth.digest_algorithm,
    }
}

fn settings(config: &Config) -> Settings {
    let ms = |ms: u64| i32::try_from(ms).unwrap_or(i32::MAX);
    Settings {
        extended_types: config.features.extended_types,
        enforce_quota: config.features.enforce_quota,
        skip_acl: config.auth.skip_acl,
        digest: config.snapshot.digest,
        close_session_txn: config.features.close_session_txn,
        txn_bytes_max: config.limits.jute_bytes_max as usize
            + config.limits.jute_extra_bytes as usize,
        reconfig: config.features.reconfig,
        standalone_enabled: config.ensemble.standalone_enabled,
        session_timeout_ms_min: ms(config.session_timeout_ms_min),
        session_timeout_ms_max: ms(config.session_timeout_ms_max),
        auth: auth(config),
        container_check_interval_ms: config.features.container_check_interval_ms,
        containers_per_minute_max: config.features.containers_per_minute_max,
        container_never_used_ms_max: config.features.container_never_used_ms_max.unwrap_or(0),
        modes: Modes {
            local_sessions: config.local_sessions,
            local_sessions_upgrading: config.local_sessions_upgrading,
            read_only: config.read_only_mode,
            leader_serves: config.ensemble.leader_serves,
        },
    }
}

/// Waits for a signal or for a core to end, then lets every core finish and joins it.
fn wait_and_join(
    started: Vec<Started>,
    background: [Core<()>; 3],
    stop: &AtomicBool,
    ended: &AtomicBool,
) -> Result<(), ServerError> {
    // A signal sets its flag but does not unpark: look often enough for a prompt end.
    while !stop.load(Ordering::Relaxed) && !ended.load(Ordering::Acquire) {
        std::thread::park_timeout(Duration::from_millis(50));
    }
    let was_told = stop.swap(true, Ordering::Relaxed);
    if was_told {
        tracing::info!("told to stop: what was accepted is finished first");
    }
    let mut outcome = Ok(());
    for Started { core, waker, .. } in started {
        waker.wake();
        if let Err(fault) = core.join()?
            && outcome.is_ok()
        {
            outcome = Err(ServerError::Core(fault));
        }
    }
    if outcome.is_ok() {
        // A snapshot under way is given up with the process: its directory has no final name, and
        // the next start clears it away. So is an answer. Segments are prepared in no time.
        let [segments, snapshots, answers] = background;
        segments.join()?;
        drop((snapshots, answers));
        tracing::info!("stopped");
    }
    outcome
}
