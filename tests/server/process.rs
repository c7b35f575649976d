//! A server's process, its files, and what it says.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};
use tempfile::TempDir;

use crate::client::Client;

/// What takes longer than this does not happen any more. Debug builds on a busy machine included.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Asks again and again until there is an answer.
#[track_caller]
pub fn poll<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "{what}: not within {DEADLINE:?}");
        sleep(Duration::from_millis(5));
    }
}

/// A directory below the build's own, which is on a real file system.
pub fn directory() -> TempDir {
    tempfile::Builder::new().prefix("server-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// A server with a directory of its own.
pub struct Server {
    pub home: TempDir,
    settings: Vec<String>,
    process: Option<Child>,
    address: Option<SocketAddr>,
    starts: u32,
    /// How many files it may have open from its start on, where it is not the test's own limit.
    pub open_files: Option<u64>,
}

impl Server {
    /// A server that is not started, with lines of zoo.cfg on top of the usual ones.
    pub fn new(settings: &[&str]) -> Server {
        let home = directory();
        let mut lines = vec![
            "clientPort=0".to_owned(),
            "clientPortAddress=127.0.0.1".to_owned(),
            "tickTime=2000".to_owned(),
            "admin.enableServer=false".to_owned(),
            "4lw.commands.whitelist=*".to_owned(),
            "ringkeeper.log.writer=direct".to_owned(),
            "preAllocSize=4096".to_owned(),
            format!("dataDir={}", home.path().join("data").display()),
        ];
        lines.extend(settings.iter().map(|line| (*line).to_owned()));
        Server { home, settings: lines, process: None, address: None, starts: 0, open_files: None }
    }

    /// A server that serves.
    pub fn serving(settings: &[&str]) -> Server {
        let mut server = Server::new(settings);
        server.start();
        server
    }

    /// Another line of zoo.cfg, from the next start on.
    pub fn set(&mut self, line: &str) {
        self.settings.push(line.to_owned());
    }

    /// Where the log's segments are, unless `dataLogDir` says otherwise.
    pub fn version_dir(&self) -> PathBuf {
        self.home.path().join("data/version-2")
    }

    /// Starts the process without waiting for anything.
    pub fn launch(&mut self) {
        assert!(self.process.is_none(), "one process at a time");
        let config = self.home.path().join("zoo.cfg");
        fs::write(&config, self.settings.join("\n")).unwrap();
        self.starts += 1;
        self.address = None;
        let stderr = fs::File::create(self.stderr_path()).unwrap();
        let binary = env!("CARGO_BIN_EXE_ringkeeper");
        let mut command = match self.open_files {
            None => Command::new(binary),
            Some(count) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("ulimit -n {count}; exec \"$0\" \"$@\""), binary]);
                shell
            }
        };
        let process = command
            .arg("server")
            .arg(config)
            .env_remove("JVMFLAGS")
            .env_remove("SERVER_JVMFLAGS")
            .env("RINGKEEPER_LOG", "info")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .unwrap();
        self.process = Some(process);
    }

    /// Starts the process, and waits until it serves.
    #[track_caller]
    pub fn start(&mut self) {
        self.launch();
        let address = poll("the server serves", || {
            let exited = self.process.as_mut().unwrap().try_wait().unwrap();
            assert!(exited.is_none(), "{exited:?}: {}", self.stderr());
            let stderr = self.stderr();
            let (_, rest) = stderr.split_once("serving on ")?;
            rest.split_once(',')?.0.parse().ok()
        });
        self.address = Some(address);
    }

    /// Starts the process, which must refuse to serve: its exit code, and what it said.
    #[track_caller]
    pub fn start_refused(&mut self) -> (i32, String) {
        self.launch();
        let code = self.wait_for_exit();
        (code, self.stderr())
    }

    fn stderr_path(&self) -> PathBuf {
        self.home.path().join(format!("stderr-{}", self.starts))
    }

    /// What the process has said since its start.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.stderr_path()).unwrap()).into_owned()
    }

    pub fn address(&self) -> SocketAddr {
        self.address.expect("the server serves")
    }

    /// A connection of which nothing was sent.
    pub fn dial(&self) -> TcpStream {
        let socket = TcpStream::connect(self.address()).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket
    }

    /// A client with a new session.
    pub fn client(&self) -> Client {
        Client::connect(self.dial(), 30_000)
    }

    /// The answer to a four-letter word.
    pub fn word(&self, word: &str) -> String {
        let mut socket = self.dial();
        socket.write_all(word.as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer
    }

    /// A metric of `mntr`.
    #[track_caller]
    pub fn metric(&self, name: &str) -> u64 {
        let answer = self.word("mntr");
        let line = answer.lines().find_map(|line| line.strip_prefix(&format!("zk_{name}\t")));
        line.unwrap_or_else(|| panic!("no {name} in {answer}")).parse().unwrap()
    }

    /// Waits until a metric is at least so much.
    #[track_caller]
    pub fn wait_for_metric(&self, name: &str, least: u64) {
        poll(name, || (self.metric(name) >= least).then_some(()));
    }

    /// kill -9: no chance to tidy up.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("the server runs");
        process.kill().unwrap();
        process.wait().unwrap();
    }

    fn pid(&self) -> Pid {
        let id = self.process.as_ref().expect("the server runs").id();
        Pid::from_raw(id.cast_signed()).unwrap()
    }

    /// Sends a signal, and waits for nothing.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Lets the process that runs open files only while it has fewer than so many.
    pub fn limit_open_files(&self, count: u64) {
        let maximum = getrlimit(Resource::Nofile).maximum;
        let limit = Rlimit { current: Some(count), maximum };
        prlimit(Some(self.pid()), Resource::Nofile, limit).unwrap();
    }

    /// The process's exit code, once it has ended by itself.
    #[track_caller]
    pub fn wait_for_exit(&mut self) -> i32 {
        let mut process = self.process.take().expect("the server runs");
        let end = Instant::now() + DEADLINE;
        let status = loop {
            if let Some(status) = process.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > end {
                process.kill().unwrap();
                process.wait().unwrap();
                panic!("the process does not end: {}", self.stderr());
            }
            sleep(Duration::from_millis(5));
        };
        status.code().unwrap_or_else(|| panic!("{status}: {}", self.stderr()))
    }

    /// Whether the process is still there.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.try_wait().unwrap().is_none())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().ok();
            process.wait().ok();
        }
        if std::thread::panicking() && self.starts > 0 {
            eprintln!("the server said:\n{}", self.stderr());
        }
    }
}

/// The names in a directory that begin with `prefix`, in order, as paths.
pub fn files(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(prefix))
        .collect();
    paths.sort();
    paths
}
