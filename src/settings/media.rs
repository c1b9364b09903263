//! The settings of the worker that fetches media.

use std::time::Duration;

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};

/// Transfers at once.
static MEDIA_CONCURRENCY: GucSetting<i32> = GucSetting::<i32>::new(4);
/// Tries of a job before it is given up.
static MEDIA_ATTEMPTS: GucSetting<i32> = GucSetting::<i32>::new(10);
/// How long a finished job is kept, in minutes; -1 for ever.
static MEDIA_RETENTION: GucSetting<i32> = GucSetting::<i32>::new(7 * 24 * 60);

pub fn media_concurrency() -> usize {
    MEDIA_CONCURRENCY.get().unsigned_abs() as usize
}

pub fn media_attempts() -> u32 {
    MEDIA_ATTEMPTS.get().unsigned_abs()
}

/// How long a finished job is kept; `None` for ever.
pub fn media_retention() -> Option<Duration> {
    let minutes = u64::try_from(MEDIA_RETENTION.get()).ok()?;
    Some(Duration::from_secs(60 * minutes))
}

/// The worker is the server's, and so are they.
pub(super) fn define() {
    let number = |name, short, long, setting, from, to, flags| {
        GucRegistry::define_int_guc(
            name,
            short,
            long,
            setting,
            from,
            to,
            GucContext::Sighup,
            flags,
        );
    };
    number(
        c"civic.media_concurrency",
        c"How many files the media worker transfers at once.",
        c"Each is held in memory while it is under way.",
        &MEDIA_CONCURRENCY,
        1,
        64,
        GucFlags::default(),
    );
    number(
        c"civic.media_attempts",
        c"How often a media job is tried before it has failed.",
        c"The second try is a second after the first, each later one three times as long, an hour at most.",
        &MEDIA_ATTEMPTS,
        1,
        1000,
        GucFlags::default(),
    );
    number(
        c"civic.media_retention",
        c"How long a finished media job is kept.",
        c"0 removes it at once, -1 keeps it for ever.",
        &MEDIA_RETENTION,
        -1,
        i32::MAX,
        GucFlags::UNIT_MIN,
    );
}
