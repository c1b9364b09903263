//! How many messages each municipality has had sent to Supabase Realtime in the current second, and what waits
//! for the next one: shared by all processes, or without preloading of this session alone.

use std::cell::RefCell;
use std::ffi::CStr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pgrx::pg_sys;

use super::Shared;
use crate::pg::shared::shared;

/// The most bytes of a municipality's id that a channel holds.
const LONGEST: usize = 48;
/// The most municipalities of one second. More are not limited.
const MUNICIPALITIES: usize = 1024;

/// Which event on which channel: what is counted apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An ordinary ticket, or a sensitive one, on the shared channel.
    Ordinary,
    Redacted,
    /// On the channel for sensitive tickets.
    Sensitive,
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Ordinary, Kind::Redacted, Kind::Sensitive];
}

/// Changes of each [`Kind`]: inserts, updates, deletes.
pub type Changes = [[u32; 3]; Kind::ALL.len()];

#[derive(Clone, Copy)]
#[repr(C)]
struct Place {
    /// The second of `sent`, or that in which the changes began to wait.
    second: i64,
    sent: u32,
    waiting: Changes,
    length: u8,
    id: [u8; LONGEST],
}

impl Place {
    const FREE: Place = Place {
        second: 0,
        sent: 0,
        waiting: [[0; 3]; Kind::ALL.len()],
        length: 0,
        id: [0; LONGEST],
    };

    fn id(&self) -> &[u8] {
        &self.id[..usize::from(self.length)]
    }

    /// Whether its second is over. Processes may be a second apart; a second further ahead is one of before the
    /// clock was set back.
    fn is_over(&self, second: i64) -> bool {
        self.second < second || self.second > second + 1
    }

    fn has_waiting(&self) -> bool {
        self.waiting.iter().flatten().any(|count| *count > 0)
    }
}

/// What waits for a municipality.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub municipality: Vec<u8>,
    pub changes: Changes,
}

/// All zeros is the state at the server's start. Seconds are numbered from anywhere.
#[repr(C)]
pub struct Rates {
    places: [Place; MUNICIPALITIES],
    /// So many places have ever been used, and in so many of them something waits.
    used: u32,
    waiting: u32,
}

impl Rates {
    const EMPTY: Rates = Rates { places: [Place::FREE; MUNICIPALITIES], used: 0, waiting: 0 };

    fn find(&mut self, municipality: &[u8], second: i64) -> Option<&mut Place> {
        let used = self.used as usize;
        let of = |place: &Place| place.id() == municipality;
        let is_free = |place: &Place| place.is_over(second) && !place.has_waiting();
        let index = match self.places[..used].iter().position(of) {
            Some(index) => index,
            None if municipality.len() > LONGEST => return None,
            None => {
                let free = self.places[..used].iter().position(is_free);
                let index = free.or_else(|| (used < MUNICIPALITIES).then_some(used))?;
                let place = &mut self.places[index];
                *place = Place { length: municipality.len() as u8, ..Place::FREE };
                place.id[..municipality.len()].copy_from_slice(municipality);
                self.used = self.used.max(index as u32 + 1);
                index
            }
        };
        let place = &mut self.places[index];
        if place.is_over(second) && !place.has_waiting() {
            (place.second, place.sent) = (second, 0);
        }
        Some(place)
    }

    /// Takes one message of a municipality; false if it has had `rate` in this second, or if changes of an earlier
    /// one wait, which a later event must not overtake.
    pub fn take(&mut self, municipality: &[u8], second: i64, rate: u32) -> bool {
        let Some(place) = self.find(municipality, second) else { return true };
        let is_admitted = place.sent < rate && !place.has_waiting();
        place.sent += u32::from(is_admitted);
        is_admitted
    }

    /// Adds changes that wait for the next second; false if there is no place for them.
    pub fn add(&mut self, municipality: &[u8], second: i64, changes: &Changes) -> bool {
        let Some(place) = self.find(municipality, second) else { return false };
        let waited = place.has_waiting();
        for (sum, more) in place.waiting.iter_mut().flatten().zip(changes.iter().flatten()) {
            *sum = sum.saturating_add(*more);
        }
        let begins = !waited && place.has_waiting();
        self.waiting += u32::from(begins);
        true
    }

    pub fn has_waiting(&self) -> bool {
        self.waiting > 0
    }

    /// What waits since an earlier second.
    pub fn due(&self, second: i64) -> Vec<Waiting> {
        let is_due = |place: &&Place| place.is_over(second) && place.has_waiting();
        let due = self.places[..self.used as usize].iter().filter(is_due);
        due.map(|it| Waiting { municipality: it.id().to_vec(), changes: it.waiting }).collect()
    }

    /// What was due has been reported. The reports are the first messages of this second.
    pub fn settle(&mut self, reported: &[Waiting], second: i64) {
        for Waiting { municipality, changes } in reported {
            let Some(place) = self.find(municipality, second) else { continue };
            let waited = place.has_waiting();
            for (waits, count) in place.waiting.iter_mut().flatten().zip(changes.iter().flatten()) {
                *waits = waits.saturating_sub(*count);
            }
            let reports = changes.iter().filter(|counts| counts.iter().any(|it| *it > 0));
            (place.second, place.sent) = (second, reports.count() as u32);
            let ends = waited && !place.has_waiting();
            self.waiting -= u32::from(ends);
        }
    }
}

/// The name of the lock.
const NAME: &CStr = c"pg_civic rates";

static LOCK: AtomicPtr<pg_sys::LWLock> = AtomicPtr::new(std::ptr::null_mut());

/// Requests the lock, when memory is requested.
pub(super) fn request() {
    // SAFETY: called from the hook for such requests; the name lives as long as the process.
    unsafe { pg_sys::RequestNamedLWLockTranche(NAME.as_ptr(), 1) };
}

/// Finds the lock, when the memory is made.
pub(super) fn find_lock() {
    // SAFETY: it was requested under this name.
    let lock = unsafe { &raw mut (*pg_sys::GetNamedLWLockTranche(NAME.as_ptr())).lock };
    LOCK.store(lock, Ordering::Relaxed);
}

thread_local! {
    static OWN: RefCell<Option<Box<Rates>>> = const { RefCell::new(None) };
}

/// Whether the counts are those of all processes.
pub fn are_shared() -> bool {
    shared().is_some()
}

/// Does something with the counts, while no other process does. It must be short and raise no error.
pub fn with<R>(action: impl FnOnce(&mut Rates) -> R) -> R {
    match shared() {
        Some(shared) => locked(shared, action),
        None => {
            OWN.with_borrow_mut(|own| action(own.get_or_insert_with(|| Box::new(Rates::EMPTY))))
        }
    }
}

fn locked<R>(shared: &'static Shared, action: impl FnOnce(&mut Rates) -> R) -> R {
    let lock = LOCK.load(Ordering::Relaxed);
    // SAFETY: the lock lives as long as the server. It holds interrupts off until it is released, and the end of
    // a transaction or process releases it. Only its holder has a reference to the counts.
    unsafe {
        pg_sys::LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
        let result = action(&mut *shared.rates.get());
        pg_sys::LWLockRelease(lock);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(kind: Kind, operation: usize, count: u32) -> Changes {
        let mut changes = Changes::default();
        changes[kind as usize][operation] = count;
        changes
    }

    #[test]
    fn a_municipality_has_its_rate_in_each_second_whatever_others_do() {
        let mut rates = Box::new(Rates::EMPTY);
        let mut taken = |id: &[u8], second| (0..10).filter(|_| rates.take(id, second, 3)).count();
        assert_eq!((taken(b"a", 1), taken(b"b", 1), taken(b"a", 1)), (3, 3, 0));
        assert_eq!((taken(b"a", 2), taken(b"b", 5)), (3, 3));
    }

    #[test]
    fn what_waits_is_taken_once_in_a_later_second_and_counts_there() {
        let mut rates = Box::new(Rates::EMPTY);
        assert!(rates.take(b"a", 1, 1) && !rates.take(b"a", 1, 1));
        assert!(rates.add(b"a", 1, &changes(Kind::Ordinary, 0, 2)));
        assert!(rates.add(b"a", 1, &changes(Kind::Sensitive, 1, 1)));
        assert!(rates.has_waiting() && rates.due(1).is_empty());
        // It comes first, so that nothing overtakes it.
        assert!(!rates.take(b"a", 2, 5));
        let due = rates.due(2);
        let mut expected = changes(Kind::Ordinary, 0, 2);
        expected[Kind::Sensitive as usize][1] = 1;
        assert_eq!(due, [Waiting { municipality: b"a".to_vec(), changes: expected }]);
        assert!(rates.has_waiting(), "until it is reported");
        rates.settle(&due, 2);
        assert!(!rates.has_waiting() && rates.due(3).is_empty());
        let left = (0..10).filter(|_| rates.take(b"a", 2, 5)).count();
        assert_eq!(left, 3, "two of the five were the reports");
    }

    #[test]
    fn what_is_added_during_a_report_waits_for_the_next_one() {
        let mut rates = Box::new(Rates::EMPTY);
        assert!(rates.add(b"a", 1, &changes(Kind::Ordinary, 0, 2)));
        let due = rates.due(2);
        assert!(rates.add(b"a", 2, &changes(Kind::Ordinary, 0, 3)));
        rates.settle(&due, 2);
        assert!(rates.has_waiting() && rates.due(2).is_empty());
        let due = rates.due(3);
        assert_eq!(due[0].changes, changes(Kind::Ordinary, 0, 3));
        rates.settle(&due, 3);
        rates.settle(&due, 3);
        assert!(!rates.has_waiting(), "twice is once");
    }

    #[test]
    fn a_clock_that_is_set_back_mutes_nobody() {
        let mut rates = Box::new(Rates::EMPTY);
        assert!(rates.take(b"a", 300_000, 1) && !rates.take(b"a", 300_000, 1));
        assert!(rates.take(b"b", 300_000, 1));
        assert!(rates.add(b"a", 300_000, &changes(Kind::Ordinary, 0, 2)));
        assert!(rates.take(b"b", 7, 1));
        let due = rates.due(7);
        assert_eq!(due.len(), 1);
        rates.settle(&due, 7);
        assert!(!rates.take(b"a", 7, 1), "the report was its message");
        assert!(rates.take(b"a", 8, 1));
        assert!(!rates.take(b"a", 7, 1), "of a process that is a second behind");
    }

    #[test]
    fn places_are_used_again_when_their_second_is_over_and_nothing_waits() {
        let mut rates = Box::new(Rates::EMPTY);
        for number in 0..MUNICIPALITIES {
            assert!(rates.take(number.to_string().as_bytes(), 1, 1));
        }
        assert!(rates.add(b"0", 1, &changes(Kind::Ordinary, 2, 1)));
        assert!(rates.take(b"more", 1, 0), "without a place it is not limited");
        assert!(!rates.add(b"more", 1, &changes(Kind::Ordinary, 2, 1)));
        assert!(rates.add(b"more", 2, &changes(Kind::Ordinary, 2, 1)));
        let due = rates.due(3);
        assert_eq!(
            due.iter().map(|it| &*it.municipality).collect::<Vec<_>>(),
            [&b"0"[..], b"more"]
        );
        assert!(!rates.add(&[b'x'; LONGEST + 1], 9, &changes(Kind::Ordinary, 0, 1)));
    }
}
