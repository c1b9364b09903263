//! How the two processes of media begin.

use crate::pg::worker::Shutdown;
use crate::pg::worker_slot::WorkerSlot;
use crate::settings::media::media_concurrency;
use crate::{pg, settings};

/// Begins one of them. Without transfers, or other work, it stays away from the database, so that the database can be
/// renamed.
pub fn begin(slot: &'static WorkerSlot, has_other_work: fn() -> bool) {
    let is_wanted = || media_concurrency() > 0 || has_other_work();
    pg::worker::begin(&settings::database(), slot, Shutdown::Interrupts, is_wanted);
    pg::transaction::commit_without_standbys();
    pg::worker::prefer_indexes();
}
