//! What the hot paths ask of the allocator: nothing for a read once buffers have their sizes, and
//! little for a transaction.
//!
//! The rows are those of `benches/workloads`: the client's core with its ring and real sockets, the
//! pipeline, the log without a disk, all in one thread, whose allocations are counted while a row
//! is measured. A failure says where the allocations were made. What the rows leave out, the loop
//! around them and the log's file, is in the whole server, which is counted too.

#![expect(clippy::disallowed_types, reason = "clients of a test dial with std")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ringkeeper::cli;
use rustix::process::{Signal, getpid, kill_process};

#[path = "../benches/workloads/mod.rs"]
mod workloads;

use workloads::{Meter, Row, rows};

/// Runs of a row before its allocations are counted.
const WARM_RUNS: u32 = 200;

/// Runs in which they are counted.
const COUNTED_RUNS: u32 = 100;

/// What transactions may allocate, of which two each are the bound. A set takes one entry of the
/// table; its record takes the place of a dead one, and what lives for a turn comes back. A create
/// or delete takes two records and two entries, and changes its directory, whose older versions
/// readers keep: the leaf, an inner node where there is one, and what the parent's record has of
/// them.
const TXNS: &[(&str, f64)] = &[
    ("serve/set, alone", 1.1),
    ("serve/set, 16 connections", 1.1),
    ("serve/set, 16 in flight", 1.1),
    ("serve/create, 16 connections", 7.1),
    ("serve/delete, 16 connections", 8.2),
];

struct Counting;

/// Whether what all threads allocate counts, but for those of clients; and how much it was.
static IS_SERVING: AtomicBool = AtomicBool::new(false);
static SERVED: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static IS_CLIENT: Cell<bool> = const { Cell::new(false) };
    /// Whether this thread's allocations count.
    static IS_COUNTING: Cell<bool> = const { Cell::new(false) };
    static COUNT: Cell<u64> = const { Cell::new(0) };
    /// Whether it is noted where each is made, which is slow.
    static IS_TRACING: Cell<bool> = const { Cell::new(false) };
    static PLACES: RefCell<BTreeMap<String, u64>> = const { RefCell::new(BTreeMap::new()) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[expect(unsafe_code, reason = "an allocator's functions are unsafe")]
// SAFETY: every request goes to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    // SAFETY: what the caller promises is promised to the system's allocator.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    // SAFETY: what the caller promises is promised to the system's allocator.
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    // SAFETY: what the caller promises is promised to the system's allocator.
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }

    // SAFETY: what the caller promises is promised to the system's allocator.
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn note() {
    if IS_SERVING.load(Ordering::Relaxed) && !IS_CLIENT.get() {
        SERVED.fetch_add(1, Ordering::Relaxed);
    }
    if !IS_COUNTING.get() {
        return;
    }
    COUNT.set(COUNT.get() + 1);
    if IS_TRACING.get() {
        // What is done here allocates itself.
        IS_COUNTING.set(false);
        let place = place(&Backtrace::force_capture().to_string());
        PLACES.with_borrow_mut(|places| *places.entry(place).or_default() += 1);
        IS_COUNTING.set(true);
    }
}

/// Our own functions on the way to an allocation, the innermost first.
fn place(backtrace: &str) -> String {
    let names = backtrace.lines().filter_map(|line| line.split_once(": "));
    let ours = names.map(|(_, name)| name.trim()).filter(|name| name.contains("ringkeeper::"));
    ours.take(6).collect::<Vec<_>>().join("\n      ")
}

/// Counts what is allocated.
struct Allocations;

impl Meter for Allocations {
    fn measure(&mut self, work: &mut dyn FnMut()) {
        IS_COUNTING.set(true);
        work();
        IS_COUNTING.set(false);
    }
}

struct Unmeasured;

impl Meter for Unmeasured {
    fn measure(&mut self, work: &mut dyn FnMut()) {
        work();
    }
}

/// What one request, transaction or event of a row allocates, and where if it is more than `max`.
fn measure(row: &Row, max: f64) -> (f64, String) {
    let mut run = (row.make)();
    (0..WARM_RUNS).for_each(|_| run(&mut Unmeasured));
    COUNT.set(0);
    (0..COUNTED_RUNS).for_each(|_| run(&mut Allocations));
    let each = COUNT.get() as f64 / f64::from(COUNTED_RUNS * row.count);
    if each <= max {
        return (each, String::new());
    }
    IS_TRACING.set(true);
    run(&mut Allocations);
    IS_TRACING.set(false);
    let mut places: Vec<_> = PLACES.take().into_iter().collect();
    places.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let line = |(place, count): &(String, u64)| format!("\n  {count:5} in {place}");
    (each, places.iter().map(line).collect())
}

/// The rows whose names begin so; there is one at least.
fn named(prefixes: &[&str]) -> Vec<Row> {
    let is_named = |row: &Row| prefixes.iter().any(|prefix| row.name.starts_with(prefix));
    let rows: Vec<Row> = rows().into_iter().filter(is_named).collect();
    assert!(rows.len() >= prefixes.len());
    rows
}

fn check(prefixes: &[&str], max: f64) {
    let mut failed = String::new();
    for row in named(prefixes) {
        let (each, places) = measure(&row, max);
        println!("{}: {each:.2} allocations a {}", row.name, row.per);
        if each > max {
            failed += &format!("\n{}: {each:.2} a {}, in one run:{places}", row.name, row.per);
        }
    }
    assert!(failed.is_empty(), "more than {max} allocations:{failed}");
}

/// From received bytes to sent ones, on the core that owns the connection.
#[test]
fn a_read_allocates_nothing() {
    check(&["serve/get", "serve/exists", "serve/list", "tree/get", "codec/decode get"], 0.0);
}

/// From received bytes to sent ones, with the log's batch in between.
#[test]
fn a_transaction_allocates_little() {
    for (row, max) in TXNS {
        check(&[row], *max);
    }
}

/// An allocation is seen, with the place where it is made.
#[test]
fn what_is_allocated_is_counted() {
    COUNT.set(0);
    IS_TRACING.set(true);
    let mut kept = Vec::new();
    Allocations.measure(&mut || {
        kept = ringkeeper::wire::jute::Reader::new(&[0; 4]).strings().expect("none")
    });
    Allocations.measure(&mut || drop(std::hint::black_box(Box::new(7))));
    IS_TRACING.set(false);
    assert!(kept.is_empty());
    assert_eq!(COUNT.get(), 1);
    assert_eq!(PLACES.take().len(), 1);
}

// ── The whole server, in a process of its own, since all its threads are counted ──

const IN_CHILD: &str = "RINGKEEPER_ALLOCATIONS_CHILD";
const REQUESTS: u64 = 2000;

/// Beside requests, what a server does now and then allocates: sessions that were heard of go to
/// the pipeline ten times a second, deadlines are looked through.
const PER_GET_MAX: f64 = 0.02;
const PER_SET_MAX: f64 = 1.2;

#[test]
fn the_whole_server_allocates_as_little() {
    if std::env::var_os(IN_CHILD).is_some() {
        return serve_and_count();
    }
    let child = Command::new(std::env::current_exe().expect("it runs"))
        .args(["--exact", "the_whole_server_allocates_as_little", "--nocapture"])
        .env(IN_CHILD, "1")
        .output()
        .expect("it can be run again");
    let said = String::from_utf8_lossy(&child.stdout);
    println!("{said}");
    assert!(child.status.success(), "{said}{}", String::from_utf8_lossy(&child.stderr));
}

fn serve_and_count() {
    IS_CLIENT.set(true);
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let port = {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        listener.local_addr().expect("it is bound").port()
    };
    let file = home.path().join("zoo.cfg");
    let lines = [
        format!("clientPort={port}\nclientPortAddress=127.0.0.1\ntickTime=2000"),
        format!("dataDir={}", home.path().join("data").display()),
        "admin.enableServer=false\nringkeeper.log.writer=direct\npreAllocSize=4096\n".to_owned(),
    ];
    fs::write(&file, lines.join("\n")).expect("it can be written");
    let args = cli::ConfigArgs { flags: Vec::new(), file: Some(file) };
    let config = cli::load(args).expect("it can be honoured");
    std::thread::scope(|scope| {
        let server = scope.spawn(|| ringkeeper::server::run(config));
        let gets_and_sets = std::panic::catch_unwind(|| ask(port));
        kill_process(getpid(), Signal::TERM).expect("the server takes it");
        server.join().expect("no panic").expect("it served");
        let (gets, sets) = gets_and_sets.expect("the requests succeed");
        println!("the whole server: {gets:.3} allocations a get, {sets:.2} a set");
        assert!(gets <= PER_GET_MAX, "{gets} allocations a get");
        assert!(sets <= PER_SET_MAX, "{sets} allocations a set");
    });
}

/// What a get and a set allocate, asked one after another.
fn ask(port: u16) -> (f64, f64) {
    let mut socket = dial(port);
    let mut frame = workloads::frames::connect();
    exchange(&mut socket, &frame);
    frame.clear();
    workloads::frames::create(&mut frame, 1, "/a");
    exchange(&mut socket, &frame);
    let mut each = |put: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = Vec::new();
        put(&mut frame);
        (0..REQUESTS / 5).for_each(|_| exchange(&mut socket, &frame));
        SERVED.store(0, Ordering::Relaxed);
        IS_SERVING.store(true, Ordering::Relaxed);
        (0..REQUESTS).for_each(|_| exchange(&mut socket, &frame));
        IS_SERVING.store(false, Ordering::Relaxed);
        SERVED.load(Ordering::Relaxed) as f64 / REQUESTS as f64
    };
    let gets = each(&|out| workloads::frames::get(out, 2, "/a", false));
    let sets = each(&|out| workloads::frames::set(out, 3, "/a"));
    (gets, sets)
}

fn dial(port: u16) -> TcpStream {
    for _ in 0..1000 {
        if let Ok(socket) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
            socket.set_nodelay(true).expect("a socket can");
            return socket;
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
    panic!("the server does not listen");
}

/// Sends a frame and reads the one that answers it.
fn exchange(socket: &mut TcpStream, frame: &[u8]) {
    let mut buffer = [0; 4096];
    socket.write_all(frame).expect("it is connected");
    let mut length = 0;
    while length < 4 || length < 4 + u32::from_be_bytes([0, 0, buffer[2], buffer[3]]) as usize {
        let read = socket.read(&mut buffer[length..]).expect("it is connected");
        assert!(read > 0, "the server has closed the connection");
        length += read;
    }
}
