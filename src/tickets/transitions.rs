//! The tickets that become sensitive in the current transaction, without PostgreSQL.
//!
//! The trigger records them. Their files are restricted by what takes them at the transaction's end. A
//! savepoint that is rolled back takes its records along.

use std::cell::RefCell;
use std::collections::HashSet;

use crate::pg::memory::may_fail;

/// A ticket whose files have to be restricted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Transition {
    pub tenant_id: String,
    pub ticket_id: String,
    /// Whether the ticket was there before, and not sensitive. False for a new one, which seldom has files.
    pub was_open: bool,
}

/// The transitions of one transaction.
#[derive(Debug, Default)]
pub struct Transitions {
    /// Each with the nest level of the subtransaction that made it.
    records: Vec<(i32, Transition)>,
    /// How many could not be recorded for want of memory.
    lost: usize,
}

impl Transitions {
    fn push(&mut self, level: i32, transition: Transition) {
        if self.records.last().is_some_and(|last| last.0 == level && last.1 == transition) {
            return;
        }
        match may_fail(|| self.records.try_reserve(1)) {
            Ok(()) => self.records.push((level, transition)),
            Err(_) => self.lost += 1,
        }
    }

    fn roll_back(&mut self, level: i32) {
        self.records.retain(|(own, _)| *own < level);
    }

    fn release(&mut self, level: i32) {
        for (own, _) in &mut self.records {
            *own = (*own).min(level - 1);
        }
    }

    /// Each ticket once, in order.
    pub fn tickets(&self) -> Vec<&Transition> {
        let mut seen = HashSet::new();
        let all = self.records.iter().map(|(_, transition)| transition);
        all.filter(|it| seen.insert((&it.tenant_id, &it.ticket_id))).collect()
    }

    pub fn was_open(&self) -> bool {
        self.records.iter().any(|(_, transition)| transition.was_open)
    }

    pub fn lost(&self) -> usize {
        self.lost
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && self.lost == 0
    }
}

thread_local! {
    static CURRENT: RefCell<Transitions> = RefCell::default();
}

/// Records a transition that a subtransaction of this level makes.
pub fn note(level: i32, transition: Transition) {
    CURRENT.with_borrow_mut(|current| current.push(level, transition));
}

/// The transitions so far; there are none afterwards.
pub fn take() -> Transitions {
    CURRENT.take()
}

pub fn forget() {
    CURRENT.take();
}

pub fn subtransaction_committed(level: i32) {
    CURRENT.with_borrow_mut(|current| current.release(level));
}

pub fn subtransaction_aborted(level: i32) {
    CURRENT.with_borrow_mut(|current| current.roll_back(level));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transition(ticket_id: &str) -> Transition {
        let (tenant_id, ticket_id) = ("t".to_owned(), ticket_id.to_owned());
        Transition { tenant_id, ticket_id, was_open: true }
    }

    fn ids(transitions: &Transitions) -> Vec<&str> {
        transitions.tickets().into_iter().map(|it| it.ticket_id.as_str()).collect()
    }

    #[test]
    fn a_savepoint_that_is_rolled_back_takes_its_transitions_along() {
        let mut transitions = Transitions::default();
        transitions.push(1, transition("a"));
        transitions.push(2, transition("b"));
        transitions.push(3, transition("c"));
        transitions.release(3);
        assert_eq!(ids(&transitions), ["a", "b", "c"]);
        transitions.roll_back(2);
        assert_eq!(ids(&transitions), ["a"]);
    }

    #[test]
    fn a_ticket_that_becomes_sensitive_twice_is_one_ticket() {
        let mut transitions = Transitions::default();
        for (level, id) in [(1, "a"), (2, "a"), (2, "b"), (1, "a")] {
            transitions.push(level, transition(id));
        }
        assert_eq!(ids(&transitions), ["a", "b"]);
    }
}
