//! The queue between two cores: how long a message takes to another core that looks, and to one
//! that sleeps, what a wake costs who wakes, and how many messages go through.
//!
//! On a machine with two busy cores these figures say more of the scheduler than of the queue.

#![expect(clippy::disallowed_methods, reason = "a benchmark looks at the clock")]

use std::hint::{black_box, spin_loop};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringkeeper::io::ring::{Ring, RingConfig, Wait};
use ringkeeper::server::mesh::{Receiver, Sender, link};

/// There and back between two cores that look all the time: twice the latency of a message.
fn latency(c: &mut Criterion) {
    c.bench_function("queue/there and back, nobody sleeps", |b| {
        b.iter_custom(|iterations| {
            let (mut there, mut at_other) = link(None);
            let (mut back, mut here) = link(None);
            std::thread::scope(|scope| {
                scope.spawn(move || {
                    for _ in 0..iterations {
                        let number: u64 = spin(&mut at_other);
                        assert!(back.send(number).is_ok());
                    }
                });
                let start = Instant::now();
                for number in 0..iterations {
                    assert!(there.send(number).is_ok());
                    assert_eq!(spin(&mut here), number);
                }
                start.elapsed()
            })
        });
    });
}

fn spin<T>(receiver: &mut Receiver<T>) -> T {
    loop {
        if let Some(message) = receiver.receive() {
            return message;
        }
        spin_loop();
    }
}

/// One direction as fast as it goes.
fn throughput(c: &mut Criterion) {
    let mut group = c.benchmark_group("queue");
    group.throughput(Throughput::Elements(1));
    group.bench_function("one way, nobody sleeps", |b| {
        b.iter_custom(|iterations| {
            let (mut sender, mut receiver) = link(None);
            std::thread::scope(|scope| {
                let start = Instant::now();
                scope.spawn(move || {
                    for number in 0..iterations {
                        while sender.send(number).is_err() {
                            spin_loop();
                        }
                    }
                });
                (0..iterations).for_each(|number| assert_eq!(spin(&mut receiver), number));
                start.elapsed()
            })
        });
    });
    group.finish();
}

/// Answers each message with the same one, asleep in its ring until it comes.
fn echo(mut ring: Ring, mut from: Receiver<u64>, mut to: Sender<u64>) {
    while !from.is_abandoned() || !from.is_empty() {
        ring.turn(Wait::AtMost(Duration::from_millis(100))).expect("the ring goes on");
        while ring.next_completion().is_some() {}
        while let Some(number) = from.receive() {
            assert!(to.send(number).is_ok());
        }
        to.flush();
    }
}

/// There and back between two cores that sleep in their rings: two wakes, and who wakes pays a
/// write of an eventfd each.
fn wakes(c: &mut Criterion) {
    c.bench_function("queue/there and back, both sleep", |b| {
        let mut ring = Ring::new(RingConfig::default()).expect("the kernel allows io_uring");
        let (back, mut here) = link(Some(ring.waker()));
        let (tell, told) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let ring = Ring::new(RingConfig::default()).expect("the kernel allows io_uring");
                let (there, at_other) = link(Some(ring.waker()));
                tell.send(there).map_err(|_| ()).expect("it is awaited");
                echo(ring, at_other, back);
            });
            let mut there = told.recv().expect("the other core has its ring");
            let mut number = 0;
            b.iter(|| {
                number += 1;
                assert!(there.send(number).is_ok());
                there.flush();
                loop {
                    ring.turn(Wait::Forever).expect("the ring goes on");
                    while ring.next_completion().is_some() {}
                    if let Some(answer) = here.receive() {
                        break assert_eq!(answer, number);
                    }
                }
            });
        });
    });
}

/// What telling costs the teller: a core that runs, and one that sleeps.
fn telling(c: &mut Criterion) {
    let mut group = c.benchmark_group("queue");
    group.bench_function("tell a core that runs", |b| {
        let ring = Ring::new(RingConfig::default()).expect("the kernel allows io_uring");
        let (mut sender, mut receiver) = link(Some(ring.waker()));
        b.iter(|| {
            assert!(sender.send(7).is_ok());
            sender.flush();
            black_box(receiver.receive())
        });
    });
    group.bench_function("tell a core that sleeps", |b| {
        let is_over = AtomicBool::new(false);
        let (tell, told) = mpsc::channel();
        std::thread::scope(|scope| {
            let is_over = &is_over;
            scope.spawn(move || {
                let mut ring = Ring::new(RingConfig::default()).expect("it was allowed");
                let (sender, mut receiver) = link::<u64>(Some(ring.waker()));
                tell.send(sender).expect("it is awaited");
                while !is_over.load(Ordering::Relaxed) {
                    let wait = Wait::AtMost(Duration::from_millis(100));
                    ring.turn(wait).expect("the ring goes on");
                    while ring.next_completion().is_some() {}
                    while receiver.receive().is_some() {}
                }
            });
            let mut sender = told.recv().expect("the other core has its ring");
            b.iter_custom(|iterations| {
                let mut spent = Duration::ZERO;
                for number in 0..iterations {
                    // Long enough for the other core to have parked again.
                    std::thread::sleep(Duration::from_micros(100));
                    let start = Instant::now();
                    assert!(sender.send(number).is_ok());
                    sender.flush();
                    spent += start.elapsed();
                }
                spent
            });
            is_over.store(true, Ordering::Relaxed);
        });
    });
    group.finish();
}

criterion_group!(benches, latency, throughput, wakes, telling);
criterion_main!(benches);
