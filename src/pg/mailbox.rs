//! Requests from one background worker to another, in shared memory: one at a time.
//!
//! Requests are numbered. The sender writes one and then its number; the receiver takes it by the
//! number, and answers it by the number. So each side may end at any point: a request that nobody has
//! taken is withdrawn by the sender's successor or served by the receiver's, and one that was taken is
//! answered by the receiver at its end.

use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::transaction::now;

/// Longest request, and longest text of a reply, in bytes.
pub const REQUEST_LIMIT: usize = 64 * 1024;
/// Longest name of a table, qualified and quoted, in bytes; a longer one is cut.
const TABLE_LIMIT: usize = 320;

/// What the receiver answers. The numbers from [`Answer::CUSTOM`] on are the users' own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer(pub u32);

impl Answer {
    /// The receiver ended: code of the table that it worked on ignored its cancellations.
    pub const GIVEN_UP: Answer = Answer(1);
    /// The receiver ended for another reason.
    pub const LOST: Answer = Answer(2);
    pub const CUSTOM: u32 = 16;
}

/// All zeros is the state without any request.
#[derive(Default)]
#[repr(C)]
pub struct Mailbox {
    /// The numbers of the last request, of the last one taken or withdrawn, and of the last one answered.
    sent: AtomicU64,
    taken: AtomicU64,
    answered: AtomicU64,
    answer: AtomicU32,
    /// When the last one was taken, in microseconds since 2000-01-01.
    taken_at: AtomicI64,
    request: Bytes<REQUEST_LIMIT>,
    /// What goes with the last answer.
    reply: Bytes<REQUEST_LIMIT>,
    /// The table that the receiver works on, or worked on last.
    table: Bytes<TABLE_LIMIT>,
}

/// A request that the receiver works on.
pub struct Current {
    pub request: Vec<u8>,
    pub table: String,
    pub elapsed: Duration,
}

impl Mailbox {
    /// Whether a request can be sent: the last one is answered.
    pub fn is_idle(&self) -> bool {
        self.answered.load(Ordering::Acquire) == self.sent.load(Ordering::Acquire)
    }

    /// Sends a request of at most [`REQUEST_LIMIT`] bytes, and gives its number. For the one sender,
    /// while [`Mailbox::is_idle`].
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

    /// Takes back a request that nobody has taken. For the one sender.
    pub fn withdraw(&self) {
        let sent = self.sent.load(Ordering::Acquire);
        if self.mark_taken(sent) {
            self.answered.store(sent, Ordering::Release);
        }
    }

    /// Takes the request that waits. For the one receiver.
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

    /// The request of this number is taken by the caller; false where another has done so.
    fn mark_taken(&self, sent: u64) -> bool {
        let taken = self.taken.load(Ordering::Acquire);
        taken != sent
            && self.taken.compare_exchange(taken, sent, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Answers the request that was taken, with a text of at most [`REQUEST_LIMIT`] bytes. For the one
    /// receiver.
    pub fn reply(&self, answer: Answer, text: &[u8]) {
        self.reply.store(text);
        self.answer.store(answer.0, Ordering::Relaxed);
        self.answered.store(self.taken.load(Ordering::Relaxed), Ordering::Release);
    }

    /// The receiver ends: a request that it has taken gets this answer.
    pub(super) fn abandon(&self, answer: Answer) {
        if self.is_taken() {
            self.reply(answer, b"");
        }
    }

    fn is_taken(&self) -> bool {
        self.answered.load(Ordering::Acquire) != self.taken.load(Ordering::Acquire)
    }

    /// The receiver works on this table from now on.
    pub fn note_table(&self, table: &str) {
        self.table.store(&table.as_bytes()[..table.floor_char_boundary(TABLE_LIMIT)]);
    }

    /// The table that the receiver worked on last.
    pub fn table(&self) -> String {
        String::from_utf8_lossy(&self.table.load()).into_owned()
    }

    /// What the receiver works on at this moment.
    pub fn current(&self) -> Option<Current> {
        let taken = self.taken.load(Ordering::Acquire);
        let elapsed = now() - self.taken_at.load(Ordering::Relaxed);
        let (request, table) = (self.request.load(), self.table());
        let elapsed = Duration::from_micros(elapsed.max(0).unsigned_abs());
        // All of it is of one request, where none has been taken or answered meanwhile.
        let is_same = self.is_taken() && self.taken.load(Ordering::Acquire) == taken;
        is_same.then_some(Current { request, table, elapsed })
    }
}

/// Bytes that other processes may read while they are written: what is read then is any mixture.
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
