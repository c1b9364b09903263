//! Every `civic.*` setting, with its accessor.

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString};
use std::rc::Rc;
use std::time::Duration;

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};

use crate::pg;
use crate::pg::guc::{self, Hook};

pub mod media;
pub mod service;
mod transport;

pub use transport::EventTransport;

/// Setting that holds the claims of the request, as PostgREST and the Storage API set it.
static CLAIMS_SETTING: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"request.jwt.claims"));
/// Path of the tenant's id in the claims, keys separated by dots.
static TENANT_CLAIM: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"app_metadata.tenant_id"));
/// Path of the user's role in the claims, keys separated by dots.
static ROLE_CLAIM: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"app_metadata.role"));
/// Roles that may upload GBV evidence.
static SENSITIVE_UPLOADERS: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"manager, saps_liaison, admin"));
/// Roles that may read GBV evidence and receive events of sensitive tickets.
static SENSITIVE_READERS: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"saps_liaison, admin"));
/// What the shared channel receives of a sensitive ticket.
static SENSITIVE_EVENTS: GucSetting<SensitiveEvents> =
    GucSetting::<SensitiveEvents>::new(SensitiveEvents::Redacted);
/// How events travel.
static EVENT_TRANSPORT: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"auto"));
/// How long a transaction waits for locks to send to Supabase Realtime, in milliseconds.
static REALTIME_LOCK_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(200);
/// How many changes of a municipality a transaction lists before it counts them; 0 for all.
static BULK_AFTER: GucSetting<i32> = GucSetting::<i32>::new(1000);
/// How many messages a municipality is sent through Supabase Realtime in a second; 0 for all.
static REALTIME_RATE: GucSetting<i32> = GucSetting::<i32>::new(0);
/// Roles that may join their municipality's channel, and read the dashboard's events.
static EVENT_LISTENERS: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"manager, admin, ward_councillor, saps_liaison"));
/// Roles that read all rows of their municipality in protected tables.
static STAFF_READERS: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(
    c"manager, admin, saps_liaison, ward_councillor, executive_mayor",
));
/// Roles that change rows of protected tables.
static STAFF_WRITERS: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"manager, admin, saps_liaison"));
/// Roles that set guarded columns of protected tables.
static COLUMN_WRITERS: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"admin"));
/// Roles that delete rows of protected tables.
static DELETERS: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
/// Columns that name the owners of a ticket.
static TICKET_OWNER_COLUMNS: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"user_id, created_by"));

/// The database whose events the relay takes.
static DATABASE: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"postgres"));
/// Whether the relay takes events.
static RELAY: GucSetting<bool> = GucSetting::<bool>::new(true);
/// Size of the relay's queue, in kilobytes.
static RELAY_QUEUE_SIZE: GucSetting<i32> = GucSetting::<i32>::new(8 * 1024);

/// Which channel receives what of a sensitive ticket (`civic.sensitive_events`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
pub enum SensitiveEvents {
    /// The shared channel receives that there was a change, the sensitive one the whole event.
    #[name = c"redacted"]
    Redacted,
    /// Only the sensitive channel receives the event.
    #[name = c"restricted"]
    Restricted,
    /// The shared channel receives the whole event.
    #[name = c"full"]
    Full,
}

/// The settings that decide identity, rights and receivers, parsed.
#[derive(Debug, Default)]
pub struct Access {
    pub claims_setting: CString,
    pub tenant_claim: Vec<String>,
    pub role_claim: Vec<String>,
    pub sensitive_uploaders: Vec<String>,
    pub sensitive_readers: Vec<String>,
    pub event_listeners: Vec<String>,
    pub staff_readers: Vec<String>,
    pub staff_writers: Vec<String>,
    pub column_writers: Vec<String>,
    pub deleters: Vec<String>,
    pub event_transport: EventTransport,
    /// At most [`OWNER_COLUMNS`].
    pub ticket_owner_columns: Vec<String>,
}

/// The most columns that `civic.ticket_owner_columns` names.
pub const OWNER_COLUMNS: usize = 4;

thread_local! {
    /// Incremented by each assignment to a setting of [`Access`]: SET, RESET, reload, rollback.
    static GENERATION: Cell<u64> = const { Cell::new(1) };
    static ACCESS: RefCell<(u64, Option<Rc<Access>>)> = const { RefCell::new((0, None)) };
}

/// The hook of a setting of [`Access`].
struct OfAccess;

impl Hook for OfAccess {
    fn assigned() {
        GENERATION.with(|generation| generation.set(generation.get() + 1));
    }
}

/// The hook of `civic.event_transport`, which accepts only a list of transports.
struct OfTransport;

impl Hook for OfTransport {
    fn accepts(value: &str) -> bool {
        EventTransport::parse(value).is_some()
    }

    fn assigned() {
        OfAccess::assigned();
    }
}

/// The hook of `civic.ticket_owner_columns`.
struct OfOwnerColumns;

impl Hook for OfOwnerColumns {
    fn accepts(value: &str) -> bool {
        items(value, ',').count() <= OWNER_COLUMNS
    }

    fn assigned() {
        OfAccess::assigned();
    }
}

/// A number that changes whenever a setting of [`Access`] may have changed.
pub fn generation() -> u64 {
    GENERATION.with(Cell::get)
}

pub fn access() -> Rc<Access> {
    ACCESS.with_borrow_mut(|(seen, access)| match access {
        Some(access) if *seen == generation() => Rc::clone(access),
        _ => {
            *seen = generation();
            Rc::clone(access.insert(Rc::new(Access::read())))
        }
    })
}

pub fn sensitive_events() -> SensitiveEvents {
    SENSITIVE_EVENTS.get()
}

pub fn realtime_lock_timeout() -> Duration {
    Duration::from_millis(REALTIME_LOCK_TIMEOUT.get().unsigned_abs().into())
}

pub fn bulk_after() -> usize {
    BULK_AFTER.get().unsigned_abs() as usize
}

/// How many messages a municipality is sent through Realtime in a second, if that is limited.
pub fn realtime_rate() -> Option<u32> {
    Some(REALTIME_RATE.get().unsigned_abs()).filter(|rate| *rate > 0)
}

pub fn relay() -> bool {
    RELAY.get()
}

pub fn database() -> String {
    DATABASE.get().unwrap_or_default().to_string_lossy().into_owned()
}

pub fn relay_queue_bytes() -> usize {
    RELAY_QUEUE_SIZE.get() as usize * 1024
}

impl Access {
    fn read() -> Access {
        Access {
            claims_setting: CLAIMS_SETTING.get().unwrap_or_default(),
            tenant_claim: list(&TENANT_CLAIM, '.'),
            role_claim: list(&ROLE_CLAIM, '.'),
            sensitive_uploaders: list(&SENSITIVE_UPLOADERS, ','),
            sensitive_readers: list(&SENSITIVE_READERS, ','),
            event_listeners: list(&EVENT_LISTENERS, ','),
            staff_readers: list(&STAFF_READERS, ','),
            staff_writers: list(&STAFF_WRITERS, ','),
            column_writers: list(&COLUMN_WRITERS, ','),
            deleters: list(&DELETERS, ','),
            event_transport: EVENT_TRANSPORT
                .get()
                .and_then(|value| EventTransport::parse(value.to_str().ok()?))
                .unwrap_or_default(),
            ticket_owner_columns: list(&TICKET_OWNER_COLUMNS, ','),
        }
    }
}

/// The non-empty items of a setting. A value that is not UTF-8 counts as empty: no role, no claim.
fn list(setting: &GucSetting<Option<CString>>, separator: char) -> Vec<String> {
    let value = setting.get().unwrap_or_default();
    items(value.to_str().unwrap_or_default(), separator).map(str::to_owned).collect()
}

fn items(value: &str, separator: char) -> impl Iterator<Item = &str> {
    value.split(separator).map(str::trim).filter(|item| !item.is_empty())
}

/// Defines every setting. They decide who may read what, so only a superuser can set them.
pub fn define() {
    let text = |name: &'static CStr, short, long, setting| {
        guc::define_text::<OfAccess>(name, short, long, setting);
    };
    text(
        c"civic.claims_setting",
        c"Setting that holds the verified claims of the request.",
        c"The claims are a JSON object; an empty or absent setting means a caller without rights.",
        &CLAIMS_SETTING,
    );
    text(
        c"civic.tenant_claim",
        c"Path of the municipality's id in the claims.",
        c"Keys separated by dots.",
        &TENANT_CLAIM,
    );
    text(
        c"civic.role_claim",
        c"Path of the user's role in the claims.",
        c"Keys separated by dots.",
        &ROLE_CLAIM,
    );
    text(
        c"civic.sensitive_uploaders",
        c"Roles that may upload evidence of gender-based violence.",
        c"Role names separated by commas, compared without regard to ASCII case.",
        &SENSITIVE_UPLOADERS,
    );
    text(
        c"civic.sensitive_readers",
        c"Roles that may read evidence of gender-based violence.",
        c"Role names separated by commas, compared without regard to ASCII case.",
        &SENSITIVE_READERS,
    );
    GucRegistry::define_enum_guc(
        c"civic.sensitive_events",
        c"What the shared channel receives of a sensitive ticket.",
        c"redacted: that there was a change. restricted: nothing. full: everything.",
        &SENSITIVE_EVENTS,
        GucContext::Suset,
        GucFlags::default(),
    );
    text(
        c"civic.event_listeners",
        c"Roles that may join their municipality's channel.",
        c"Role names separated by commas, compared without regard to ASCII case.",
        &EVENT_LISTENERS,
    );
    text(
        c"civic.staff_readers",
        c"Roles that read all rows of their municipality in protected tables.",
        c"Role names separated by commas, compared without regard to ASCII case.",
        &STAFF_READERS,
    );
    text(
        c"civic.staff_writers",
        c"Roles that add and change rows of their municipality in protected tables.",
        c"Role names separated by commas, compared without regard to ASCII case.",
        &STAFF_WRITERS,
    );
    text(
        c"civic.column_writers",
        c"Roles that set the guarded columns of protected tables.",
        c"Role names separated by commas, compared without regard to ASCII case.",
        &COLUMN_WRITERS,
    );
    text(
        c"civic.deleters",
        c"Roles that delete rows of their municipality in protected tables.",
        c"Role names separated by commas, compared without regard to ASCII case. Empty: nobody.",
        &DELETERS,
    );
    guc::define_text::<OfTransport>(
        c"civic.event_transport",
        c"How events travel.",
        c"auto: by NOTIFY, and to Supabase Realtime if it is installed. Otherwise none, or a list of notify, realtime.",
        &EVENT_TRANSPORT,
    );
    guc::define_text::<OfOwnerColumns>(
        c"civic.ticket_owner_columns",
        c"Columns of a ticket that hold the user ids of its owners.",
        c"At most four names of columns separated by commas. Each owner receives the events of their ordinary tickets through Supabase Realtime.",
        &TICKET_OWNER_COLUMNS,
    );
    GucRegistry::define_int_guc(
        c"civic.realtime_lock_timeout",
        c"How long a transaction waits for locks to send to Supabase Realtime.",
        c"The limit for all of its lock waits together. Events that are not stored within it are not sent to Realtime.",
        &REALTIME_LOCK_TIMEOUT,
        1,
        60_000,
        GucContext::Suset,
        GucFlags::UNIT_MS,
    );
    // A user who could set it to 0 could fill Realtime's rate limit, which all municipalities share.
    GucRegistry::define_int_guc(
        c"civic.bulk_after",
        c"How many changes of a municipality's tickets a transaction publishes one by one.",
        c"Further ones are counted, and one event reports their number when the transaction commits. 0: all are published one by one.",
        &BULK_AFTER,
        0,
        i32::MAX,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"civic.realtime_rate",
        c"How many messages a municipality is sent through Supabase Realtime in a second.",
        c"Changes beyond it are counted, and reported together in the next second. 0: no limit.",
        &REALTIME_RATE,
        0,
        100_000,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_bool_guc(
        c"civic.relay",
        c"Whether the relay takes events.",
        c"If it does not, they go out by ordinary NOTIFY.",
        &RELAY,
        GucContext::Suset,
        GucFlags::default(),
    );
    // A postmaster setting can only be defined while preloading. Without preloading nothing reads
    // these settings, but the configuration file may still contain them.
    let at_start = || if pg::is_preloading() { GucContext::Postmaster } else { GucContext::Sighup };
    GucRegistry::define_string_guc(
        c"civic.database",
        c"The database whose events the relay takes.",
        c"The relay is one process and serves one database.",
        &DATABASE,
        at_start(),
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"civic.relay_queue_size",
        c"Size of the relay's queue in shared memory.",
        c"Events that do not fit go out by ordinary NOTIFY.",
        &RELAY_QUEUE_SIZE,
        4,
        1024 * 1024,
        at_start(),
        GucFlags::UNIT_KB,
    );
    service::define();
    media::define();
    guc::reserve_prefix(c"civic");
}
