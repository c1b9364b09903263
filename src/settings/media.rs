//! The settings of the worker that fetches media.

use std::time::Duration;

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};

/// Number of concurrent transfers.
static MEDIA_CONCURRENCY: GucSetting<i32> = GucSetting::<i32>::new(4);
/// The same of one municipality; 0 for half of it.
static MEDIA_TENANT_CONCURRENCY: GucSetting<i32> = GucSetting::<i32>::new(0);
/// Attempts of a job before it fails.
static MEDIA_ATTEMPTS: GucSetting<i32> = GucSetting::<i32>::new(10);
/// How long a finished job is kept, in minutes; -1 forever.
static MEDIA_RETENTION: GucSetting<i32> = GucSetting::<i32>::new(7 * 24 * 60);

pub fn media_concurrency() -> usize {
    MEDIA_CONCURRENCY.get().unsigned_abs() as usize
}

/// Number of concurrent transfers of one municipality, at least 1.
pub fn media_tenant_concurrency() -> usize {
    match MEDIA_TENANT_CONCURRENCY.get().unsigned_abs() as usize {
        0 => (media_concurrency() / 2).max(1),
        number => number,
    }
}

pub fn media_attempts() -> u32 {
    MEDIA_ATTEMPTS.get().unsigned_abs()
}

/// How long a finished job is kept; `None` forever.
pub fn media_retention() -> Option<Duration> {
    let minutes = u64::try_from(MEDIA_RETENTION.get()).ok()?;
    Some(Duration::from_secs(60 * minutes))
}

/// The worker belongs to the server, so only the configuration file sets them.
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
        c"Each file is held in memory during its transfer. With 0 jobs wait, and workers that end stay away from the database.",
        &MEDIA_CONCURRENCY,
        0,
        64,
        GucFlags::default(),
    );
    number(
        c"civic.media_tenant_concurrency",
        c"How many files of one municipality the media worker transfers at once.",
        c"0 is half of civic.media_concurrency, so that no municipality keeps the others waiting.",
        &MEDIA_TENANT_CONCURRENCY,
        0,
        64,
        GucFlags::default(),
    );
    number(
        c"civic.media_attempts",
        c"How many attempts a media job has before it fails.",
        c"The second attempt follows after a second. Each later delay is three times as long, up to an hour.",
        &MEDIA_ATTEMPTS,
        1,
        1000,
        GucFlags::default(),
    );
    number(
        c"civic.media_retention",
        c"How long a finished media job is kept.",
        c"0 removes it at once, -1 keeps it forever.",
        &MEDIA_RETENTION,
        -1,
        i32::MAX,
        GucFlags::UNIT_MIN,
    );
}
