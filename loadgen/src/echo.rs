//! What an operation costs the generator, beside a bare TCP echo client.
//!
//! Both talk to the same server in this process, which answers at once: the bare client reads what
//! is there, counts whole replies by their length, and writes the same request again. What it
//! costs is the kernel's; what the generator costs beyond it is our own.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use crate::cli::RunFlags;
use crate::clock::{Clock, SECOND, nanos};
use crate::fake::{Behaviour, Fake};
use crate::plan::{Plan, Target, Workload};
use crate::process::OwnUse;
use crate::run::{Watching, run};
use crate::wire::{self, Frame};

/// What the generator may cost, of what the bare client does.
const RATIO_MAX: f64 = 1.3;

/// What the command takes.
#[derive(clap::Args, Debug)]
pub struct Flags {
    #[arg(long, short = 'c', default_value_t = 32)]
    pub connections: usize,
    /// Requests that each connection keeps under way.
    #[arg(long, short = 'i', default_value_t = 1)]
    pub in_flight: usize,
    #[arg(long, default_value_t = 100)]
    pub value_bytes: usize,
    /// Of each measurement.
    #[arg(long, short = 's', default_value_t = 2.0)]
    pub seconds: f64,
    /// Measurements of each; the median counts.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
}

/// Measures both in turn and tells the ratio; fails when it is above 1.3.
pub fn measure(flags: &Flags) -> Result<ExitCode, String> {
    if flags.connections == 0 || flags.in_flight == 0 || flags.rounds == 0 {
        return Err("--connections, --in-flight and --rounds start at 1".to_owned());
    }
    let (mut bare, mut own) = (Vec::new(), Vec::new());
    for _ in 0..flags.rounds {
        bare.push(measure_bare(flags).map_err(|error| format!("the echo client: {error}"))?);
        own.push(measure_own(flags)?);
    }
    let (bare, own) = (median(&mut bare), median(&mut own));
    let (bare_us, own_us) = (bare.0, own.0);
    println!("{} connections, {} in flight each", flags.connections, flags.in_flight);
    println!("bare TCP echo client  {bare_us:8.3} µs CPU per message   {:9.0}/s", bare.1);
    println!("loadgen               {own_us:8.3} µs CPU per operation {:9.0}/s", own.1);
    let ratio = own_us / bare_us;
    println!("ratio                 {ratio:8.3}   ({RATIO_MAX} at most)");
    Ok(if ratio <= RATIO_MAX { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The middle one by cost.
fn median(measured: &mut [(f64, f64)]) -> (f64, f64) {
    measured.sort_by(|left, right| left.0.total_cmp(&right.0));
    measured[measured.len() / 2]
}

fn start(flags: &Flags) -> io::Result<Fake> {
    Fake::start(Behaviour { value_bytes: flags.value_bytes, ..Behaviour::default() })
}

/// CPU microseconds per operation of the generator's thread, and operations a second.
fn measure_own(flags: &Flags) -> Result<(f64, f64), String> {
    let fake = start(flags).map_err(|error| error.to_string())?;
    let target = Target { name: "the echo".to_owned(), address: fake.address };
    let words = ["loadgen", "get", "--keys", "1000"];
    let plan = RunFlags::of(&words)?.plan(Workload::Get)?;
    let plan = Plan {
        servers: vec![target],
        connections: flags.connections,
        in_flight: flags.in_flight,
        warm_up: Duration::from_millis(200),
        end: crate::plan::End::After(Duration::from_secs_f64(flags.seconds)),
        ..plan
    };
    let outcome = run(&plan, Watching::default());
    fake.stop().map_err(|error| error.to_string())?;
    let summary = outcome?.summary;
    Ok((summary.loadgen_cpu_us, summary.operations_per_second))
}

/// The same of the bare client, on a thread of its own.
fn measure_bare(flags: &Flags) -> io::Result<(f64, f64)> {
    let fake = start(flags)?;
    let address = fake.address;
    let done = thread::scope(|scope| {
        let client = scope.spawn(|| {
            crate::limits::sharpen_timers();
            Bare::connect(address, flags)?.run(Duration::from_secs_f64(flags.seconds))
        });
        client.join().expect("the echo client reports its errors as values")
    });
    fake.stop()?;
    done
}

struct Bare {
    links: Vec<Link>,
    epoll: std::os::fd::OwnedFd,
    request: Vec<u8>,
    reply_bytes: usize,
}

struct Link {
    stream: TcpStream,
    /// Bytes of a reply whose rest has not come.
    partial: usize,
}

impl Bare {
    fn connect(server: SocketAddr, flags: &Flags) -> io::Result<Bare> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let mut hello = Vec::new();
        let frame = Frame::raw(&mut hello).int(0).long(0).int(30_000).long(0);
        frame.bytes(&[0; 16]).bool(false).finish();
        let mut links = Vec::new();
        for index in 0..flags.connections {
            let mut stream = TcpStream::connect(server)?;
            stream.set_nodelay(true)?;
            stream.write_all(&hello)?;
            let mut length = [0; 4];
            stream.read_exact(&mut length)?;
            let mut rest = vec![0; wire::int_at(&length, 0).unwrap_or(0) as usize];
            stream.read_exact(&mut rest)?;
            stream.set_nonblocking(true)?;
            epoll::add(&epoll, &stream, EventData::new_u64(index as u64), EventFlags::IN)?;
            links.push(Link { stream, partial: 0 });
        }
        let mut request = Vec::new();
        let frame = Frame::request(&mut request, 1, wire::GET_DATA);
        frame.bytes(b"/loadgen/k/00000000").bool(false).finish();
        // Header, value with its length, stat.
        let reply_bytes = 4 + 16 + 4 + flags.value_bytes + wire::STAT_BYTES;
        let mut bare = Bare { links, epoll, request, reply_bytes };
        let burst = bare.request.repeat(flags.in_flight);
        for link in &mut bare.links {
            link.stream.write_all(&burst)?;
        }
        Ok(bare)
    }

    fn run(mut self, time: Duration) -> io::Result<(f64, f64)> {
        let clock = Clock::start();
        let own = OwnUse::now();
        let (mut count, mut buffer) = (0u64, vec![0; 256 << 10]);
        let mut ready = Vec::with_capacity(512);
        let mut burst = Vec::new();
        while clock.now() < nanos(time) {
            ready.clear();
            let wait = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
            epoll::wait(&self.epoll, spare_capacity(&mut ready), Some(&wait))?;
            for event in &ready {
                let link = &mut self.links[event.data.u64() as usize];
                let bytes = match link.stream.read(&mut buffer) {
                    Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                    Ok(bytes) => bytes,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                    Err(error) => return Err(error),
                };
                let replies = (link.partial + bytes) / self.reply_bytes;
                link.partial = (link.partial + bytes) % self.reply_bytes;
                count += replies as u64;
                burst.clear();
                (0..replies).for_each(|_| burst.extend_from_slice(&self.request));
                link.stream.write_all(&burst)?;
            }
        }
        let elapsed = clock.now() as f64 / SECOND as f64;
        let used = OwnUse::now().since(own).running as f64 / 1e3;
        Ok((used / count.max(1) as f64, count as f64 / elapsed))
    }
}
