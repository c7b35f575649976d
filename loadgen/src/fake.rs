//! A server that keeps nothing: it answers every request at once, or after a known time.
//!
//! `loadgen echo` measures the generator's own cost with it, and the tests hold the generator's
//! figures against what it says of itself. Its faults: a reply is held back for a fixed time; all
//! work stands still for a while; all connections are cut.

use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use crate::clock::{Clock, MILLISECOND, Nanos, nanos};
use crate::histogram::Latencies;
use crate::wire::{self, Frame, STAT_BYTES};

const LISTENER: u64 = u64::MAX;
const WAIT_MAX: Nanos = 10 * MILLISECOND;

/// How it behaves.
#[derive(Clone, Debug, Default)]
pub struct Behaviour {
    /// Bytes of every node's value.
    pub value_bytes: usize,
    /// Each reply is held back so long.
    pub delay: Duration,
    /// From the first read or write of a node: when all work stands still, and for how long.
    pub stall: Option<(Duration, Duration)>,
    /// From the same moment: when all connections are cut.
    pub cut: Option<Duration>,
    /// Whether sessions are forgotten when connections are cut.
    pub forgets: bool,
}

/// What it has seen of itself.
pub struct Seen {
    /// Requests for nodes' values, answered.
    pub answered: u64,
    /// From having read such a request to having written its reply.
    pub held: Latencies,
}

/// A running one; it ends with [`Fake::stop`].
pub struct Fake {
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<Seen>>,
}

impl Fake {
    pub fn start(behaviour: Behaviour) -> io::Result<Fake> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || Server::new(listener, behaviour)?.run(&stopped));
        Ok(Fake { address, stop, thread })
    }

    pub fn stop(self) -> io::Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the fake server reports its errors as values")
    }
}

struct Link {
    stream: TcpStream,
    inbox: Vec<u8>,
    greeted: bool,
    closing: bool,
    outbox: Vec<u8>,
    /// Replies that are held back: until when, since when, and whether of a node's value.
    held: VecDeque<(Nanos, Nanos, bool, Vec<u8>)>,
}

struct Server {
    behaviour: Behaviour,
    clock: Clock,
    listener: TcpListener,
    epoll: std::os::fd::OwnedFd,
    links: HashMap<u64, Link>,
    next_link: u64,
    next_session: i64,
    /// Of the first request for a node's value.
    began: Option<Nanos>,
    seen: Seen,
    reply: Vec<u8>,
}

impl Server {
    fn new(listener: TcpListener, behaviour: Behaviour) -> io::Result<Server> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
        Ok(Server {
            behaviour,
            clock: Clock::start(),
            listener,
            epoll,
            links: HashMap::new(),
            next_link: 0,
            next_session: 1,
            began: None,
            seen: Seen { answered: 0, held: Latencies::fine() },
            reply: Vec::new(),
        })
    }

    fn run(mut self, stop: &AtomicBool) -> io::Result<Seen> {
        let mut ready = Vec::with_capacity(256);
        let mut buffer = vec![0; 256 << 10];
        while !stop.load(Ordering::Relaxed) {
            let wait = self.next_wait();
            let wait = Timespec { tv_sec: 0, tv_nsec: wait as i64 };
            ready.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut ready), Some(&wait)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            self.misbehave();
            for event in &ready {
                let link = event.data.u64();
                if link == LISTENER {
                    self.accept()?;
                } else if self.serve(link, &mut buffer).is_err() {
                    self.links.remove(&link);
                }
            }
            self.release();
        }
        Ok(self.seen)
    }

    fn next_wait(&self) -> Nanos {
        if self.behaviour.delay.is_zero() {
            return WAIT_MAX;
        }
        let due = self.links.values().filter_map(|link| Some(link.held.front()?.0)).min();
        due.map_or(WAIT_MAX, |due| due.saturating_sub(self.clock.now()).min(WAIT_MAX))
    }

    /// Stands still, or cuts all connections, when it is time for that.
    fn misbehave(&mut self) {
        let Some(began) = self.began else { return };
        let age = self.clock.now() - began;
        if let Some((_, stall)) = self.behaviour.stall.take_if(|(at, _)| age >= nanos(*at)) {
            thread::sleep(stall);
        }
        if self.behaviour.cut.take_if(|at| age >= nanos(*at)).is_some() {
            self.links.clear();
            if self.behaviour.forgets {
                self.next_session += 1 << 32;
            }
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let id = self.next_link;
            self.next_link += 1;
            epoll::add(&self.epoll, &stream, EventData::new_u64(id), EventFlags::IN)?;
            self.links.insert(
                id,
                Link {
                    stream,
                    inbox: Vec::new(),
                    greeted: false,
                    closing: false,
                    outbox: Vec::new(),
                    held: VecDeque::new(),
                },
            );
        }
    }

    fn serve(&mut self, id: u64, buffer: &mut [u8]) -> io::Result<()> {
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        let count = match link.stream.read(buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        let now = self.clock.now();
        let inbox = std::mem::take(&mut link.inbox);
        let joined;
        let mut bytes = if inbox.is_empty() {
            &buffer[..count]
        } else {
            joined = [&inbox[..], &buffer[..count]].concat();
            &joined[..]
        };
        while let Ok(payload) = wire::next_frame(bytes)? {
            bytes = &bytes[4 + payload.len()..];
            self.answer(id, payload, now)?;
        }
        let link = self.links.get_mut(&id).expect("answers remove no connection");
        link.inbox = bytes.to_vec();
        flush(link)
    }

    fn answer(&mut self, id: u64, payload: &[u8], now: Nanos) -> io::Result<()> {
        let link = self.links.get_mut(&id).expect("the connection is being served");
        self.reply.clear();
        if !std::mem::replace(&mut link.greeted, true) {
            let asked = wire::long_at(payload, 16).unwrap_or(0);
            let known = asked != 0 && asked >> 32 == self.next_session >> 32;
            let session = if asked == 0 { self.next_session } else { asked };
            self.next_session += i64::from(asked == 0);
            let timeout = if asked == 0 || known { 30_000 } else { 0 };
            let frame = Frame::raw(&mut self.reply).int(0).int(timeout).long(session);
            frame.bytes(&[7; 16]).bool(false).finish();
            link.outbox.extend_from_slice(&self.reply);
            return Ok(());
        }
        let (Some(xid), Some(opcode)) = (wire::int_at(payload, 0), wire::int_at(payload, 4)) else {
            return Err(wire::bad("a request without its header"));
        };
        let of_value = matches!(opcode, wire::GET_DATA | wire::SET_DATA);
        if of_value {
            self.began.get_or_insert(now);
            self.seen.answered += 1;
        }
        write_reply(&mut self.reply, xid, opcode, self.behaviour.value_bytes, payload);
        link.closing |= opcode == wire::CLOSE_SESSION;
        if self.behaviour.delay.is_zero() {
            link.outbox.extend_from_slice(&self.reply);
        } else {
            let until = now + nanos(self.behaviour.delay);
            link.held.push_back((until, now, of_value, self.reply.clone()));
        }
        Ok(())
    }

    /// Sends the replies that were held back long enough.
    fn release(&mut self) {
        if self.behaviour.delay.is_zero() {
            return;
        }
        let (now, clock, seen) = (self.clock.now(), self.clock, &mut self.seen);
        self.links.retain(|_, link| {
            let mut sent = Vec::new();
            while let Some((_, since, of_value, reply)) =
                link.held.pop_front_if(|(until, ..)| *until <= now)
            {
                link.outbox.extend_from_slice(&reply);
                sent.extend(of_value.then_some(since));
            }
            let open = flush(link).is_ok();
            let now = clock.now();
            sent.into_iter().for_each(|since| seen.held.record(now - since));
            open
        });
    }
}

fn flush(link: &mut Link) -> io::Result<()> {
    while !link.outbox.is_empty() {
        match link.stream.write(&link.outbox) {
            Ok(count) if count == link.outbox.len() => link.outbox.clear(),
            Ok(count) => drop(link.outbox.drain(..count)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::yield_now(),
            Err(error) => return Err(error),
        }
    }
    if link.closing && link.held.is_empty() {
        return Err(ErrorKind::ConnectionAborted.into());
    }
    Ok(())
}

fn write_reply(out: &mut Vec<u8>, xid: i32, opcode: i32, value_bytes: usize, payload: &[u8]) {
    const STAT: [u8; STAT_BYTES] = [0; STAT_BYTES];
    const VALUE: [u8; 4096] = [7; 4096];
    let frame = Frame::raw(out).int(xid).long(1).int(0);
    match opcode {
        wire::GET_DATA => {
            frame.bytes(&VALUE[..value_bytes.min(VALUE.len())]).raw_bytes(&STAT).finish();
        }
        wire::SET_DATA | wire::EXISTS => frame.raw_bytes(&STAT).finish(),
        wire::CREATE | wire::SYNC => {
            let path = wire::buffer_at(payload, 8).unwrap_or_default();
            frame.bytes(path).finish();
        }
        wire::ADD_WATCH | wire::GET_CHILDREN => frame.int(0).finish(),
        _ => frame.finish(),
    }
}
