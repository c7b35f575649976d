//! What servers pay for a request, side by side: echoes of the sizes of a get and its reply on our
//! ring (the floor) and on tokio (the yardstick), our server's get, and Apache's where it is there.
//!
//! ```text
//! cargo bench --bench echo                    APACHE_CLASSPATH='/usr/share/java/*' by default
//! ```
//! Each server is a process; the client, the same for all, is another, and keeps one request in
//! flight on each connection. What is compared is the processor time of all the server's threads,
//! user and kernel. Rounds are interleaved, since neighbours come and go; the median is told. Every
//! server runs one loop, but for Apache's. Whoever does not answer within [`ANSWER_TIME_MAX`] ends
//! the bench by name.

#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "clients dial with std, and the yardstick is a server on std and tokio"
)]

use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mimalloc::MiMalloc;
use ringkeeper::io::clock;
use ringkeeper::io::executor::spawn_core;
use ringkeeper::io::listener::{ListenOptions, bind, local_address};
use ringkeeper::io::ring::{Completion, Ring, RingConfig, Token, Wait};
use ringkeeper::wire::acl::EncodedAcl;
use ringkeeper::wire::jute::Write as _;
use ringkeeper::wire::opcode::OpCode;
use ringkeeper::wire::response::{begin_frame, finish_frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const PATH: &str = "/echo/of-a-get";
const DATA: [u8; 100] = [7; 100];
/// A get of [`PATH`]: length, header, path, watch.
const REQUEST_BYTES: usize = 4 + 8 + 4 + PATH.len() + 1;
/// Its reply: length, header, data, stat.
const REPLY_BYTES: usize = 4 + 16 + 4 + DATA.len() + 68;

const CONNECTIONS: [u64; 2] = [1, 48];
const ROUNDS: usize = 3;
const WARM_TIME: Duration = Duration::from_millis(500);
const RUN_TIME: Duration = Duration::from_secs(2);
/// How long any answer may take. A server that is starting is asked again and again: Apache's takes
/// connections before it serves, and some that come too early never hear from it.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);
const PROBE_TIME_MAX: Duration = Duration::from_millis(500);
const START_TIME_MAX: Duration = Duration::from_secs(30);
const LISTENER: Token = Token(u64::MAX);

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = arguments[1..].iter().map(String::as_str).collect();
    match words.as_slice() {
        ["client", address, connections, kind] => {
            dial(address.parse()?, connections.parse()?, *kind == "get")
        }
        ["serve", "ring"] => serve_on_ring(),
        ["serve", "tokio"] => serve_on_tokio(),
        _ => compare(),
    }
}

// ── The comparison ──

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ring,
    Tokio,
    Ringkeeper,
    Apache,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Ring => "echo on our ring",
            Kind::Tokio => "echo on tokio",
            Kind::Ringkeeper => "Ringkeeper's get",
            Kind::Apache => "Apache's get",
        }
    }

    fn is_zookeeper(self) -> bool {
        matches!(self, Kind::Ringkeeper | Kind::Apache)
    }
}

fn compare() -> Result<()> {
    let mut kinds = vec![Kind::Ring, Kind::Tokio, Kind::Ringkeeper];
    match Path::new("/usr/share/java/zookeeper.jar").exists() {
        true => kinds.push(Kind::Apache),
        false => println!("Apache's server is left out: libzookeeper-java is not installed"),
    }
    println!("server CPU in µs a request; {REQUEST_BYTES} bytes there, {REPLY_BYTES} back");
    println!("connections  server             median     all rounds       to tokio  requests/s");
    for connections in CONNECTIONS {
        let mut measured: Vec<Vec<Measured>> = kinds.iter().map(|_| Vec::new()).collect();
        for _ in 0..ROUNDS {
            for (kind, measured) in kinds.iter().zip(&mut measured) {
                let round = round(*kind, connections);
                measured.push(round.map_err(|error| format!("{}: {error}", kind.name()))?);
            }
        }
        for of_kind in &mut measured {
            of_kind.sort_by(|a, b| a.micros.total_cmp(&b.micros));
        }
        let tokio = measured[1][ROUNDS / 2].micros;
        for (kind, measured) in kinds.iter().zip(&measured) {
            let Measured { micros, rate } = measured[ROUNDS / 2];
            let all: Vec<String> = measured.iter().map(|it| format!("{:.2}", it.micros)).collect();
            let (name, all, ratio) = (kind.name(), all.join(" "), micros / tokio);
            println!(
                "{connections:11}  {name:17} {micros:7.2}  {all:>17}  {ratio:7.2}  {rate:10.0}"
            );
        }
    }
    Ok(())
}

struct Measured {
    micros: f64,
    rate: f64,
}

/// Ends the server's process whatever happens.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; the directory goes away with it.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn round(kind: Kind, connections: u64) -> Result<Measured> {
    let home = tempfile::tempdir()?;
    let (server, address) = start(kind, home.path())?;
    let mut client = Command::new(std::env::current_exe()?)
        .args(["client", &address.to_string(), &connections.to_string()])
        .arg(if kind.is_zookeeper() { "get" } else { "echo" })
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(client.stdout.take().ok_or("it is piped")?).lines();
    // The client has warmed the server up.
    let begun = lines.next().ok_or("the client said on stderr why it failed")??;
    assert_eq!(begun, "begin");
    let (cpu, start) = (cpu_time(server.0.id())?, clock::now());
    let count = lines.next().ok_or("the client said on stderr why it failed")??;
    let count: f64 = count.parse()?;
    let (cpu, elapsed) = (cpu_time(server.0.id())? - cpu, clock::now() - start);
    client.wait()?;
    Ok(Measured { micros: cpu.as_secs_f64() * 1e6 / count, rate: count / elapsed.as_secs_f64() })
}

/// Starts a server; where it listens.
fn start(kind: Kind, home: &Path) -> Result<(Server, SocketAddr)> {
    let port = match kind.is_zookeeper() {
        true => TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port(),
        false => 0,
    };
    let mut command = match kind {
        Kind::Ring => echo_server("ring")?,
        Kind::Tokio => echo_server("tokio")?,
        Kind::Ringkeeper => {
            let file = home.join("zoo.cfg");
            let dir = home.join("data");
            let lines = format!(
                "clientPort={port}\nclientPortAddress=127.0.0.1\ndataDir={}\nmaxClientCnxns=0\n\
                 admin.enableServer=false\nringkeeper.log.writer=direct\n",
                dir.display()
            );
            fs::write(&file, lines)?;
            let mut command = Command::new(env!("CARGO_BIN_EXE_ringkeeper"));
            command.arg("server").arg(file).env("RINGKEEPER_LOG", "error");
            command
        }
        Kind::Apache => {
            let path = std::env::var("APACHE_CLASSPATH");
            let mut command = Command::new("java");
            command.args(["-Xmx1g", "-cp", path.as_deref().unwrap_or("/usr/share/java/*")]);
            command.arg("-Dzookeeper.admin.enableServer=false");
            command.arg("org.apache.zookeeper.server.ZooKeeperServerMain");
            command.arg(port.to_string()).arg(home).args(["2000", "0"]);
            command
        }
    };
    let piped = if kind.is_zookeeper() { Stdio::null() } else { Stdio::piped() };
    let mut server = Server(command.stdout(piped).stderr(Stdio::null()).spawn()?);
    let address = match server.0.stdout.take() {
        Some(said) => {
            let mut line = String::new();
            BufReader::new(said).read_line(&mut line)?;
            line.trim().parse()?
        }
        None => (Ipv4Addr::LOCALHOST, port).into(),
    };
    let end = clock::now() + START_TIME_MAX;
    while clock::now() < end {
        let is_serving = connect(address, PROBE_TIME_MAX)
            .is_ok_and(|mut socket| !kind.is_zookeeper() || greet(&mut socket).is_ok());
        if is_serving {
            return Ok((server, address));
        }
        if let Some(status) = server.0.try_wait()? {
            return Err(format!("the server ended as it started: {status}").into());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err(format!("the server has answered nobody for {START_TIME_MAX:?}").into())
}

/// A connection none of whose reads and writes waits for longer than `time`.
fn connect(address: SocketAddr, time: Duration) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, time)?;
    stream.set_read_timeout(Some(time))?;
    stream.set_write_timeout(Some(time))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn echo_server(kind: &str) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["serve", kind]);
    Ok(command)
}

/// What all threads of a process have used, in user and kernel mode.
fn cpu_time(process: u32) -> Result<Duration> {
    let mut nanos = 0;
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        // A thread may end while they are counted.
        let text = fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
        nanos += text.split(' ').next().and_then(|field| field.parse().ok()).unwrap_or(0);
    }
    Ok(Duration::from_nanos(nanos))
}

// ── The servers ──

/// Answers each request's worth of bytes with a reply's.
fn serve_on_ring() -> Result<()> {
    let listener = bind((Ipv4Addr::LOCALHOST, 0).into(), &ListenOptions::default())?;
    println!("{}", local_address(&listener)?);
    let core = spawn_core::<_, _, ()>("echo", None, move || async move {
        let mut ring = Ring::new(RingConfig::default()).expect("the kernel allows io_uring");
        ring.listen(LISTENER, listener);
        let mut connections: Vec<Connection> = Vec::new();
        loop {
            turn(&mut ring, &mut connections);
        }
    })?;
    core.join()?;
    Ok(())
}

#[derive(Default)]
struct Connection {
    owed: usize,
    /// The reply's buffer, while it is not being sent.
    out: Option<Vec<u8>>,
    accepted: Option<std::os::fd::OwnedFd>,
    is_closed: bool,
}

fn turn(ring: &mut Ring, connections: &mut Vec<Connection>) {
    ring.turn(Wait::Forever).expect("the ring goes on");
    let mut dirty: Vec<usize> = Vec::new();
    while let Some(completion) = ring.next_completion() {
        match completion {
            Completion::Accepted { socket, .. } => {
                let (accepted, out) = (Some(socket), Some(Vec::with_capacity(REPLY_BYTES)));
                connections.push(Connection { accepted, out, ..Connection::default() });
                dirty.push(connections.len() - 1);
            }
            Completion::Received { token, bytes } => {
                connections[token.0 as usize].owed += bytes.len();
                dirty.push(token.0 as usize);
            }
            Completion::Sent { token, mut buffer } => {
                buffer.clear();
                connections[token.0 as usize].out = Some(buffer);
                dirty.push(token.0 as usize);
            }
            Completion::Closed { token, .. } | Completion::SendFailed { token, .. } => {
                connections[token.0 as usize].is_closed = true;
                dirty.push(token.0 as usize);
            }
            other => panic!("{other:?}"),
        }
    }
    for index in dirty {
        let (token, it) = (Token(index as u64), &mut connections[index]);
        if let Some(socket) = it.accepted.take() {
            ring.attach(token, socket);
        }
        if std::mem::take(&mut it.is_closed) {
            ring.close(token);
        } else if it.owed >= REQUEST_BYTES
            && let Some(mut out) = it.out.take()
        {
            it.owed -= REQUEST_BYTES;
            out.resize(REPLY_BYTES, 7);
            ring.send_quick(token, out);
        }
    }
}

fn serve_on_tokio() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        println!("{}", listener.local_addr()?);
        loop {
            let (mut socket, _) = listener.accept().await?;
            socket.set_nodelay(true)?;
            tokio::spawn(async move {
                let (mut buffer, reply) = ([0; 4096], [7; REPLY_BYTES]);
                let mut owed = 0;
                while let Ok(length @ 1..) = socket.read(&mut buffer).await {
                    owed += length;
                    while owed >= REQUEST_BYTES {
                        owed -= REQUEST_BYTES;
                        if socket.write_all(&reply).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    })
}

// ── The client ──

fn frame(put: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    let frame = begin_frame(&mut out);
    put(&mut out);
    finish_frame(&mut out, frame);
    out
}

fn get() -> Vec<u8> {
    frame(|out| {
        out.put_i32(2);
        out.put_i32(OpCode::GetData.raw());
        out.put_string(PATH);
        out.put_bool(false);
    })
}

/// Begins a session.
fn greet(socket: &mut TcpStream) -> Result<()> {
    let connect = frame(|out| {
        out.put_i32(0);
        out.put_i64(0);
        out.put_i32(30_000);
        out.put_i64(0);
        out.put_buffer(Some(&[0; 16]));
        out.put_bool(false);
    });
    ask(socket, &connect).map(|_| ())
}

/// Sends a frame; the frame that answers it, with its length.
fn ask(socket: &mut TcpStream, frame: &[u8]) -> Result<Vec<u8>> {
    socket.write_all(frame)?;
    let mut reply = vec![0; 4];
    socket.read_exact(&mut reply)?;
    let length = u32::from_be_bytes([reply[0], reply[1], reply[2], reply[3]]) as usize;
    reply.resize(4 + length, 0);
    socket.read_exact(&mut reply[4..])?;
    Ok(reply)
}

/// Makes the znode that is read, and checks that the sizes are as the echoes have them.
fn prepare(socket: &mut TcpStream) -> Result<()> {
    for path in ["/echo", PATH] {
        let create = frame(|out| {
            out.put_i32(1);
            out.put_i32(OpCode::Create.raw());
            out.put_string(path);
            out.put_buffer(Some(&DATA));
            out.extend_from_slice(EncodedAcl::OPEN.as_bytes());
            out.put_i32(0);
        });
        ask(socket, &create)?;
    }
    assert_eq!(get().len(), REQUEST_BYTES);
    assert_eq!(ask(socket, &get())?.len(), REPLY_BYTES);
    Ok(())
}

/// Keeps one request in flight on each connection: says when it begins to count, and how many.
fn dial(address: SocketAddr, connections: u64, is_get: bool) -> Result<()> {
    let mut ring = Ring::new(RingConfig::default())?;
    for token in 0..connections {
        let mut stream = connect(address, ANSWER_TIME_MAX)?;
        if is_get {
            greet(&mut stream)?;
        }
        if is_get && token == 0 {
            prepare(&mut stream)?;
        }
        ring.attach(Token(token), stream.into());
    }
    let message = if is_get { get() } else { vec![7; REQUEST_BYTES] };
    let mut sending = Sending::new(message, connections);
    sending.run(&mut ring, WARM_TIME)?;
    println!("begin");
    let count = sending.run(&mut ring, RUN_TIME)?;
    println!("{count}");
    Ok(())
}

/// What each connection of the client is at.
struct Sending {
    /// A reply may come before the completion of the send that it answers.
    buffers: Vec<Option<Vec<u8>>>,
    owed: Vec<usize>,
    ready: Vec<u64>,
}

impl Sending {
    fn new(message: Vec<u8>, connections: u64) -> Sending {
        Sending {
            buffers: vec![Some(message); connections as usize],
            owed: vec![0; connections as usize],
            ready: (0..connections).collect(),
        }
    }

    /// Goes on for `time`; how many replies have come.
    fn run(&mut self, ring: &mut Ring, time: Duration) -> Result<u64> {
        let end = clock::now() + time;
        let (mut count, mut heard) = (0, clock::now());
        while clock::now() < end {
            for token in self.ready.drain(..) {
                if self.owed[token as usize] == 0
                    && let Some(message) = self.buffers[token as usize].take()
                {
                    self.owed[token as usize] = REPLY_BYTES;
                    ring.send_quick(Token(token), message);
                }
            }
            ring.turn(Wait::AtMost(ANSWER_TIME_MAX))?;
            let before = count;
            while let Some(completion) = ring.next_completion() {
                match completion {
                    Completion::Received { token, bytes } => {
                        let owed = &mut self.owed[token.0 as usize];
                        *owed -= bytes.len();
                        count += u64::from(*owed == 0);
                        self.ready.push(token.0);
                    }
                    Completion::Sent { token, buffer } => {
                        self.buffers[token.0 as usize] = Some(buffer);
                        self.ready.push(token.0);
                    }
                    other => return Err(format!("{other:?}").into()),
                }
            }
            if count > before {
                heard = clock::now();
            } else if clock::now() - heard >= ANSWER_TIME_MAX {
                return Err(format!("no reply for {ANSWER_TIME_MAX:?}").into());
            }
        }
        Ok(count)
    }
}
