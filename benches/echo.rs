//! What the server's core pays for an echo of 64 bytes: the floor under every request.
//!
//! The server is one core with one ring, as in production; the client is another process, so that
//! only the server's thread is counted. Each connection has one echo in flight. Run it with
//! `cargo bench --bench echo`; the machine should be quiet.

#![expect(clippy::disallowed_types, reason = "the client dials with std")]

use std::error::Error;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use ringkeeper::io::clock;
use ringkeeper::io::executor::spawn_core;
use ringkeeper::io::listener::{ListenOptions, bind, local_address};
use ringkeeper::io::ring::{Completion, Ring, RingConfig, Token, Wait};

const MESSAGE_BYTES: usize = 64;
const LISTENER: Token = Token(u64::MAX);
const RUN_TIME: Duration = Duration::from_secs(3);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, client, address, connections] = arguments.as_slice()
        && client == "client"
    {
        return dial(address.parse()?, connections.parse()?);
    }
    println!("connections  CPU µs/echo  echoes/s  echoes/turn");
    for connections in [1, 8, 64, 64, 64] {
        let listener = bind((Ipv4Addr::LOCALHOST, 0).into(), &ListenOptions::default())?;
        let address = local_address(&listener)?;
        let core = spawn_core("echo", None, move || async move { serve(listener, connections) })?;
        let mut client = Command::new(std::env::current_exe()?)
            .args(["client", &address.to_string(), &connections.to_string()])
            .stdin(Stdio::null())
            .spawn()?;
        let measured = core.join()?;
        client.wait()?;
        let micros = measured.cpu.as_secs_f64() * 1e6 / measured.echoes as f64;
        let rate = measured.echoes as f64 / measured.elapsed.as_secs_f64();
        let batch = measured.echoes as f64 / measured.turns as f64;
        println!("{connections:11}  {micros:11.2}  {rate:8.0}  {batch:11.1}");
    }
    Ok(())
}

struct Measured {
    cpu: Duration,
    elapsed: Duration,
    echoes: u64,
    turns: u64,
}

/// Echoes until all connections came and went; counts from when the last has come.
fn serve(listener: OwnedFd, connections: u64) -> Measured {
    let mut ring = Ring::new(RingConfig::default()).expect("the kernel allows io_uring");
    ring.listen(LISTENER, listener);
    let (mut accepted, mut gone) = (0, 0);
    let (mut echoes, mut turns) = (0, 0);
    let (mut start, mut cpu_start) = (clock::now(), cpu_time());
    let mut measured = None;
    let mut spare: Vec<Vec<u8>> = Vec::new();
    let mut commands = Vec::new();
    while gone < connections {
        ring.turn(Wait::Forever).expect("the ring goes on");
        turns += 1;
        while let Some(completion) = ring.next_completion() {
            match completion {
                Completion::Accepted { socket, .. } => commands.push(Do::Attach(socket)),
                Completion::Received { token, bytes } => {
                    let mut reply = spare.pop().unwrap_or_default();
                    reply.extend_from_slice(bytes);
                    commands.push(Do::Send(token, reply));
                }
                Completion::Sent { mut buffer, .. } => {
                    buffer.clear();
                    spare.push(buffer);
                }
                Completion::Closed { token, .. } => commands.push(Do::Close(token)),
                other => panic!("{other:?}"),
            }
        }
        for command in commands.drain(..) {
            match command {
                Do::Attach(socket) => {
                    ring.attach(Token(accepted), socket);
                    accepted += 1;
                    (start, cpu_start) = (clock::now(), cpu_time());
                    (echoes, turns) = (0, 0);
                }
                Do::Send(token, reply) => {
                    ring.send(token, reply);
                    echoes += 1;
                }
                Do::Close(token) => {
                    let (elapsed, cpu) = (clock::now() - start, cpu_time() - cpu_start);
                    measured.get_or_insert(Measured { cpu, elapsed, echoes, turns });
                    ring.close(token);
                    gone += 1;
                }
            }
        }
    }
    measured.expect("a connection was closed")
}

enum Do {
    Attach(OwnedFd),
    Send(Token, Vec<u8>),
    Close(Token),
}

/// What this thread has used of a processor, in user and kernel mode.
fn cpu_time() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").expect("Linux has schedstat");
    let nanos = text.split(' ').next().and_then(|field| field.parse().ok());
    Duration::from_nanos(nanos.expect("the first field is the time in nanoseconds"))
}

/// The client: keeps one message in flight on each connection.
fn dial(address: SocketAddr, connections: u64) -> Result<(), Box<dyn Error>> {
    let mut ring = Ring::new(RingConfig::default())?;
    for token in 0..connections {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        ring.attach(Token(token), stream.into());
    }
    // A reply may come before the completion of the send that it answers.
    let mut buffers: Vec<Option<Vec<u8>>> =
        vec![Some(vec![7; MESSAGE_BYTES]); connections as usize];
    let mut owed: Vec<usize> = vec![0; connections as usize];
    let mut ready: Vec<u64> = (0..connections).collect();
    let end = clock::now() + RUN_TIME;
    while clock::now() < end {
        for token in ready.drain(..) {
            if owed[token as usize] == 0
                && let Some(message) = buffers[token as usize].take()
            {
                owed[token as usize] = MESSAGE_BYTES;
                ring.send(Token(token), message);
            }
        }
        ring.turn(Wait::Forever)?;
        while let Some(completion) = ring.next_completion() {
            match completion {
                Completion::Received { token, bytes } => {
                    owed[token.0 as usize] -= bytes.len();
                    ready.push(token.0);
                }
                Completion::Sent { token, buffer } => {
                    buffers[token.0 as usize] = Some(buffer);
                    ready.push(token.0);
                }
                other => return Err(format!("{other:?}").into()),
            }
        }
    }
    Ok(())
}
