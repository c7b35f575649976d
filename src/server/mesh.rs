//! How cores talk: bounded single-producer queues, and a wake for a core that is parked.
//!
//! A message is a batch: one per loop turn and direction, whatever number of requests or replies
//! it carries. A full queue hands the message back, and the sender stops taking in work until
//! there is room: overload ends at the sockets, in order, never in memory without bound.

use rtrb::{Consumer, Producer, RingBuffer};

use crate::io::wake::Waker;

/// Batches that may wait in one direction. A batch is a loop turn's worth of work, so 64 of them
/// are many milliseconds; more would only be latency.
pub const QUEUE_BATCHES: usize = 64;

/// The sending end of one direction between two cores.
pub struct Sender<T> {
    queue: Producer<T>,
    /// The receiving core's waker, where it is another core.
    waker: Option<Waker>,
    sent: bool,
}

/// The receiving end of one direction between two cores.
pub struct Receiver<T> {
    queue: Consumer<T>,
}

/// One direction between two cores; `waker` wakes the receiving one where it is not the sender's
/// own.
pub fn link<T>(waker: Option<Waker>) -> (Sender<T>, Receiver<T>) {
    let (producer, consumer) = RingBuffer::new(QUEUE_BATCHES);
    (Sender { queue: producer, waker, sent: false }, Receiver { queue: consumer })
}

impl<T> Sender<T> {
    /// Whether the receiver is on the sender's own core.
    pub fn is_local(&self) -> bool {
        self.waker.is_none()
    }

    /// Whether a message would be taken.
    pub fn has_room(&self) -> bool {
        !self.queue.is_full()
    }

    /// Puts `message` in the queue, or gives it back when the queue is full.
    ///
    /// The receiver learns of it at the next [`Sender::flush`].
    pub fn send(&mut self, message: T) -> Result<(), T> {
        match self.queue.push(message) {
            Ok(()) => {
                self.sent = true;
                Ok(())
            }
            Err(rtrb::PushError::Full(message)) => Err(message),
        }
    }

    /// Wakes the receiving core, once for all that was sent since the last call.
    pub fn flush(&mut self) {
        if std::mem::take(&mut self.sent)
            && let Some(waker) = &self.waker
        {
            waker.wake();
        }
    }
}

impl<T> Receiver<T> {
    /// The oldest message, if there is one.
    pub fn receive(&mut self) -> Option<T> {
        self.queue.pop().ok()
    }

    /// Whether the sender is gone: nothing will come but what waits already.
    pub fn is_abandoned(&self) -> bool {
        self.queue.is_abandoned()
    }

    /// Whether no message waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_gives_the_message_back_and_keeps_order() {
        let (mut sender, mut receiver) = link(None);
        for batch in 0..QUEUE_BATCHES {
            assert_eq!(sender.send(batch), Ok(()));
        }
        assert!(!sender.has_room());
        assert_eq!(sender.send(999), Err(999));
        assert_eq!(receiver.receive(), Some(0));
        assert_eq!(sender.send(999), Ok(()));
        let rest: Vec<_> = std::iter::from_fn(|| receiver.receive()).collect();
        assert_eq!(rest.len(), QUEUE_BATCHES);
        assert_eq!((rest[0], rest[QUEUE_BATCHES - 1]), (1, 999));
    }
    /// What ThreadSanitizer looks at, too: batches are memory that crosses by the queue alone.
    #[test]
    fn batches_cross_threads_whole_and_in_order() {
        const COUNT: usize = 10_000;
        let batch_of = |number: usize| vec![number; number % 5];
        let (mut sender, mut receiver) = link(None);
        let mut received = Vec::with_capacity(COUNT);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0..COUNT {
                    let mut batch = batch_of(number);
                    while let Err(refused) = sender.send(batch) {
                        batch = refused;
                        std::thread::yield_now();
                    }
                }
            });
            while received.len() < COUNT {
                match receiver.receive() {
                    Some(batch) => received.push(batch),
                    None => std::thread::yield_now(),
                }
            }
        });
        assert!(received.into_iter().eq((0..COUNT).map(batch_of)));
        assert!(receiver.is_empty());
    }
}
