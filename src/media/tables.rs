//! The process that works on other people's tables for the media worker: it looks whether a ticket is
//! sensitive, and writes the row of a stored file.
//!
//! What those tables execute can take as long as it likes. It is given up with this process, which the
//! server starts again; the media worker, with its transfers, is another one and goes on.

use std::time::Duration;

use pgrx::bgworkers::BackgroundWorker;
use pgrx::prelude::*;

use super::queue::warn;
use super::request::{Request, Step};
use super::turn;
use crate::pg::mailbox::Answer;
use crate::pg::shared;
use crate::{pg, settings};

/// The name of the process.
pub const NAME: &str = "pg_civic media tables";

/// The ticket is not sensitive: the transfer can begin.
pub const READY: Answer = Answer(Answer::CUSTOM);
/// The ticket is sensitive, and so is the job by now: the transfer can begin.
pub const SENSITIVE: Answer = Answer(Answer::CUSTOM + 1);
/// The job is recorded, or is not this try's any more.
pub const SETTLED: Answer = Answer(Answer::CUSTOM + 2);
/// A session has locked the job's row: ask again later.
pub const LOCKED: Answer = Answer(Answer::CUSTOM + 3);

/// The worker wakes this process. It looks by itself only in case that is lost.
const IDLE: Duration = Duration::from_secs(60);

pub fn register() {
    pg::worker::register(NAME, "civic_media_tables_main");
}

/// The process's main function. The server starts it again a second after it ends.
#[allow(unsafe_code)]
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn civic_media_tables_main(_argument: pg_sys::Datum) {
    pg::worker::begin(&settings::database());
    let Some(shared) = shared::shared() else { return };
    shared.take_over_media_tables();
    pg::foreign::observe(|table| {
        if let Some(shared) = shared::shared() {
            shared.mailbox.note_table(table);
        }
    });
    loop {
        if BackgroundWorker::sighup_received() {
            pg::guc::reload_settings();
        }
        match shared.mailbox.take() {
            Some(request) => {
                shared.mailbox.reply(serve(&request));
                shared.media.wake();
            }
            None => pg::transaction::wait(IDLE),
        }
    }
}

fn serve(request: &[u8]) -> Answer {
    match Request::from_json(request) {
        Some(Request { id, tries, step: Step::Prepare }) => turn::prepare(id, tries),
        Some(Request { id, tries, step: Step::Record(report) }) => turn::record(id, tries, &report),
        None => {
            warn("the media worker has sent a request that cannot be read");
            Answer::LOST
        }
    }
}
