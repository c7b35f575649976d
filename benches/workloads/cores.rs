//! The queue between two cores, on one of them: what a message costs where nobody sleeps. Latency
//! and wakes are `benches/queue.rs`.

use std::hint::black_box;
use std::sync::Arc;

use ringkeeper::pipeline::Outbox;
use ringkeeper::server::mesh::link;
use ringkeeper::server::message::{Emptied, ToClients};
use ringkeeper::tree::effects::Event;
use ringkeeper::zxid::Zxid;

use super::{Meter, Row, Run};

const COUNT: u32 = 256;

pub const ROWS: &[Row] =
    &[Row { name: "queue/send and receive", count: COUNT, per: "batch", make: pass }];

fn pass() -> Run {
    let (mut sender, mut receiver) = link(None);
    let events: Arc<Vec<Event>> = Arc::default();
    Box::new(move |meter: &mut dyn Meter| {
        meter.measure(&mut || {
            for n in 0..COUNT {
                let (through, outbox) = (Zxid::new(1, n), Outbox::default());
                let (events, emptied) = (events.clone(), Emptied::default());
                let published = ToClients::Published { through, outbox, events, emptied };
                assert!(sender.send(published).is_ok(), "there is room");
                sender.flush();
                black_box(receiver.receive()).expect("it was sent");
            }
        });
    })
}
