//! The relay's queue: many writers, one reader, no lock, in memory that processes share.
//!
//! A ring of 64-bit words. A frame is a header, the time of its reservation, and the bytes of one
//! transaction's events. A writer reserves a frame before its transaction commits, and settles it
//! afterwards as committed or cancelled. The reader takes frames in the order of their reservation
//! and stops at the first one that is not settled. A transaction that changes a row that another
//! has changed reserves after that one has committed. So this order is the order of commits
//! wherever two transactions depend on each other.
//!
//! Every free word is zero: the reader zeroes what it releases. So a header that is not written yet
//! can be recognised without a lock.

#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(test)]
mod tests;

const WORD: usize = size_of::<u64>();
/// Words of a frame before its bytes: header and time.
const OVERHEAD: u64 = 2;

/// States of a frame, in the low bits of its header; the length in bytes is in the bits above.
const RESERVED: u64 = 1;
const COMMITTED: u64 = 2;
const CANCELLED: u64 = 3;
const STATE: u64 = 0xff;

/// Start and end of the queue, as counts of words since its creation. All zeros is an empty queue.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Control {
    head: AtomicU64,
    tail: AtomicU64,
    highest: AtomicU64,
}

/// The queue over its memory.
#[derive(Debug, Clone, Copy)]
pub struct Queue<'a> {
    control: &'a Control,
    words: &'a [AtomicU64],
}

/// A frame that waits for the end of its transaction. Settle it; the reader stops at it until then.
#[must_use]
#[derive(Debug)]
pub struct Reservation {
    position: u64,
    length: u64,
}

/// What the reader finds at a position.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing, or a frame whose transaction has not ended.
    Nothing,
    /// A frame of an aborted transaction, or events, now in the reader's buffer. `after` is the
    /// position after it, `time` the time of its reservation.
    Cancelled {
        after: u64,
    },
    Events {
        after: u64,
        time: u64,
    },
}

impl<'a> Queue<'a> {
    /// The memory must be all zeros when the queue is created.
    pub fn new(control: &'a Control, words: &'a [AtomicU64]) -> Queue<'a> {
        Queue { control, words }
    }

    fn word(&self, position: u64) -> &AtomicU64 {
        &self.words[(position % self.words.len() as u64) as usize]
    }

    fn frame_words(length: u64) -> u64 {
        OVERHEAD + length.div_ceil(WORD as u64)
    }

    /// Size of the queue in bytes, headers included.
    pub fn size(&self) -> usize {
        self.words.len() * WORD
    }

    /// Longest transaction, in bytes, that fits into an empty queue.
    pub fn longest(&self) -> usize {
        self.words.len().saturating_sub(OVERHEAD as usize) * WORD
    }

    /// Reserves room for a transaction's events and writes them. `None` if there is no room.
    pub fn reserve(&self, events: &[u8], time: u64) -> Option<Reservation> {
        let length = events.len() as u64;
        let needed = Self::frame_words(length);
        let mut head = self.control.head.load(Ordering::Relaxed);
        loop {
            // Acquire: the reader's zeroing before it moved the tail is visible.
            let tail = self.control.tail.load(Ordering::Acquire);
            // A head older than the tail is stale; the exchange below then fails.
            let used = head.saturating_sub(tail);
            if used + needed > self.words.len() as u64 {
                let current = self.control.head.load(Ordering::Relaxed);
                if current == head {
                    return None;
                }
                head = current;
                continue;
            }
            let exchange = self.control.head.compare_exchange_weak(
                head,
                head + needed,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            match exchange {
                Ok(_) => {
                    self.control.highest.fetch_max(used + needed, Ordering::Relaxed);
                    break;
                }
                Err(current) => head = current,
            }
        }
        self.word(head + 1).store(time, Ordering::Relaxed);
        for (index, chunk) in events.chunks(WORD).enumerate() {
            let mut bytes = [0; WORD];
            bytes[..chunk.len()].copy_from_slice(chunk);
            let word = self.word(head + OVERHEAD + index as u64);
            word.store(u64::from_ne_bytes(bytes), Ordering::Relaxed);
        }
        self.word(head).store(length << 8 | RESERVED, Ordering::Release);
        Some(Reservation { position: head, length })
    }

    /// Commits a frame: its events may be read.
    pub fn commit(&self, reservation: Reservation) {
        self.settle(reservation, COMMITTED);
    }

    /// Cancels a frame: its events are never read.
    pub fn cancel(&self, reservation: Reservation) {
        self.settle(reservation, CANCELLED);
    }

    fn settle(&self, reservation: Reservation, state: u64) {
        // Release: a reader that sees the state also sees the events.
        let header = reservation.length << 8 | state;
        self.word(reservation.position).store(header, Ordering::Release);
    }

    /// Position of the reader.
    pub fn tail(&self) -> u64 {
        self.control.tail.load(Ordering::Acquire)
    }

    /// Position of the next reservation.
    pub fn head(&self) -> u64 {
        self.control.head.load(Ordering::Acquire)
    }

    /// Reads the frame at a position. Its events replace the contents of `events`. Only the one
    /// reader may call it.
    pub fn read(&self, place: u64, events: &mut Vec<u8>) -> Next {
        // In a full queue the position after the last frame is the first frame again.
        if place - self.control.tail.load(Ordering::Relaxed) == self.words.len() as u64 {
            return Next::Nothing;
        }
        let header = self.word(place).load(Ordering::Acquire);
        let length = header >> 8;
        let after = place + Self::frame_words(length);
        match header & STATE {
            COMMITTED => {
                events.clear();
                for position in place + OVERHEAD..after {
                    let word = self.word(position).load(Ordering::Relaxed);
                    events.extend_from_slice(&word.to_ne_bytes());
                }
                events.truncate(length as usize);
                Next::Events { after, time: self.word(place + 1).load(Ordering::Relaxed) }
            }
            CANCELLED => Next::Cancelled { after },
            _ => Next::Nothing,
        }
    }

    /// When the oldest frame was reserved, if there is one.
    pub fn oldest(&self) -> Option<u64> {
        let tail = self.tail();
        let is_written = self.word(tail).load(Ordering::Acquire) != 0;
        // The reader may be releasing it now: then its time is zero, or the tail moves.
        let time = self.word(tail + 1).load(Ordering::Acquire);
        (is_written && time != 0 && self.tail() == tail).then_some(time)
    }

    /// Releases everything before a position. Only the one reader may call it, after processing it.
    pub fn release(&self, place: u64) {
        let tail = self.control.tail.load(Ordering::Relaxed);
        for position in tail..place {
            self.word(position).store(0, Ordering::Relaxed);
        }
        self.control.tail.store(place, Ordering::Release);
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.head().saturating_sub(self.tail()) as usize * WORD
    }

    /// The most bytes that were ever in use.
    pub fn highest(&self) -> usize {
        self.control.highest.load(Ordering::Relaxed) as usize * WORD
    }
}
