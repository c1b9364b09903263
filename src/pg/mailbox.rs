//! Requests from one background worker to another, in shared memory, one at a time.
//!
//! Requests are numbered. The sender writes the request and then its number; the receiver takes and
//! answers it by that number. Either side may end at any point. A request that was not taken is
//! withdrawn by the sender's successor or served by the receiver's. A request that was taken is
//! answered by the receiver when it ends.

use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::transaction::now;

/// Longest request, and longest text of a reply, in bytes.
pub const REQUEST_LIMIT: usize = 64 * 1024;
/// Longest qualified and quoted table name, in bytes; a longer one is cut.
const TABLE_LIMIT: usize = 320;

/// The receiver's answer. Numbers from [`Answer::CUSTOM`] on are defined by the callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer(pub u32);

impl Answer {
    /// The receiver ended because code of the table that it worked on ignored cancellation.
    pub const GIVEN_UP: Answer = Answer(1);
    /// The receiver ended for another reason.
    pub const LOST: Answer = Answer(2);
    pub const CUSTOM: u32 = 16;
}

/// All zeros means that there is no request.
#[derive(Default)]
#[repr(C)]
pub struct Mailbox {
    /// Numbers of the last request sent, of the last one taken or withdrawn, and of the last one
    /// answered.
    sent: AtomicU64,
    taken: AtomicU64,
    answered: AtomicU64,
    answer: AtomicU32,
    /// When the last request was taken, in microseconds since 2000-01-01.
    taken_at: AtomicI64,
    request: Bytes<REQUEST_LIMIT>,
    /// The text that goes with the last answer.
    reply: Bytes<REQUEST_LIMIT>,
    /// The table that the receiver works on or last worked on.
    table: Bytes<TABLE_LIMIT>,
}

/// A request that the receiver works on.
pub struct Current {
    pub request: Vec<u8>,
    pub table: String,
    pub elapsed: Duration,
}

impl Mailbox {
    /// Whether a request can be sent, because the last one is answered.
    pub fn is_idle(&self) -> bool {
        self.answered.load(Ordering::Acquire) == self.sent.load(Ordering::Acquire)
    }

    /// Sends a request of at most [`REQUEST_LIMIT`] bytes and returns its number. Only the one
    /// sender may call it, while [`Mailbox::is_idle`].
    pub fn send(&self, request: &[u8]) -> u64 {
        self.request.store(request);
        let number = self.sent.load(Ordering::Relaxed) + 1;
        self.sent.store(number, Ordering::Release);
        number
    }

    /// The answer to a request, once there is one.
    pub fn answer_to(&self, number: u64) -> Option<Answer> {
        let is_answered = self.answered.load(Ordering::Acquire) == number;
        is_answered.then(|| Answer(self.answer.load(Ordering::Relaxed)))
    }

    /// The text that goes with the answer that [`Mailbox::answer_to`] has given.
    pub fn reply_text(&self) -> Vec<u8> {
        self.reply.load()
    }

    /// Withdraws a request that was not taken. Only the one sender may call it.
    pub fn withdraw(&self) {
        let sent = self.sent.load(Ordering::Acquire);
        if self.mark_taken(sent) {
            self.answered.store(sent, Ordering::Release);
        }
    }

    /// Takes the waiting request. Only the one receiver may call it.
    pub fn take(&self) -> Option<Vec<u8>> {
        let sent = self.sent.load(Ordering::Acquire);
        if self.taken.load(Ordering::Acquire) == sent {
            return None;
        }
        let request = self.request.load();
        self.table.store(b"");
        self.taken_at.store(now(), Ordering::Relaxed);
        self.mark_taken(sent).then_some(request)
    }

    /// Marks the request of this number as taken; false if another process was first.
    fn mark_taken(&self, sent: u64) -> bool {
        let taken = self.taken.load(Ordering::Acquire);
        taken != sent
            && self.taken.compare_exchange(taken, sent, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Answers the taken request, with a text of at most [`REQUEST_LIMIT`] bytes. Only the one receiver may
    /// call it.
    pub fn reply(&self, answer: Answer, text: &[u8]) {
        self.reply.store(text);
        self.answer.store(answer.0, Ordering::Relaxed);
        self.answered.store(self.taken.load(Ordering::Relaxed), Ordering::Release);
    }

    /// Answers a taken request because the receiver ends.
    pub(super) fn abandon(&self, answer: Answer) {
        if self.is_taken() {
            self.reply(answer, b"");
        }
    }

    fn is_taken(&self) -> bool {
        self.answered.load(Ordering::Acquire) != self.taken.load(Ordering::Acquire)
    }

    /// Records the table that the receiver starts to work on.
    pub fn note_table(&self, table: &str) {
        self.table.store(&table.as_bytes()[..table.floor_char_boundary(TABLE_LIMIT)]);
    }

    /// The table that the receiver last worked on.
    pub fn table(&self) -> String {
        String::from_utf8_lossy(&self.table.load()).into_owned()
    }

    /// What the receiver works on at this moment.
    pub fn current(&self) -> Option<Current> {
        let taken = self.taken.load(Ordering::Acquire);
        let elapsed = now() - self.taken_at.load(Ordering::Relaxed);
        let (request, table) = (self.request.load(), self.table());
        let elapsed = Duration::from_micros(elapsed.max(0).unsigned_abs());
        // The fields belong to one request if no request was taken or answered meanwhile.
        let is_same = self.is_taken() && self.taken.load(Ordering::Acquire) == taken;
        is_same.then_some(Current { request, table, elapsed })
    }
}

/// Bytes that other processes may read during a write. A reader may then see any mixture.
#[repr(C)]
struct Bytes<const LIMIT: usize> {
    length: AtomicUsize,
    bytes: [AtomicU8; LIMIT],
}

impl<const LIMIT: usize> Default for Bytes<LIMIT> {
    fn default() -> Self {
        Bytes { length: AtomicUsize::new(0), bytes: [const { AtomicU8::new(0) }; LIMIT] }
    }
}

impl<const LIMIT: usize> Bytes<LIMIT> {
    /// Stores a text, up to the limit.
    fn store(&self, text: &[u8]) {
        for (place, byte) in self.bytes.iter().zip(text) {
            place.store(*byte, Ordering::Relaxed);
        }
        self.length.store(text.len().min(LIMIT), Ordering::Relaxed);
    }

    fn load(&self) -> Vec<u8> {
        let length = self.length.load(Ordering::Relaxed).min(LIMIT);
        self.bytes[..length].iter().map(|byte| byte.load(Ordering::Relaxed)).collect()
    }
}
