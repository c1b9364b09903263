//! The settings of the storage service.
//!
//! Where the service is and what opens it are the server's: from its configuration file alone, so
//! that nobody sends the keys elsewhere. Limits and the table may differ by database.

use std::ffi::{CStr, CString};
use std::time::Duration;

use civic_http::Secret;
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};

use crate::pg::secret::SecretSetting;

type Text = GucSetting<Option<CString>>;

/// The project's URL, with the Storage API under `/storage/v1`.
static SUPABASE_URL: Text = Text::new(Some(c""));
/// The Storage API's own URL, where it stands by itself.
static STORAGE_URL: Text = Text::new(Some(c""));
/// Hosts that media may come from.
static MEDIA_HOSTS: Text = Text::new(Some(
    c"api.twilio.com, media.twiliocdn.com, mms.twiliocdn.com, s3-external-1.amazonaws.com",
));
/// The account whose media is fetched. It names the account and opens nothing.
static TWILIO_ACCOUNT_SID: Text = Text::new(Some(c""));
/// The table of attachments.
static MEDIA_TABLE: Text = Text::new(Some(c"public.media_attachments"));
/// Largest file that is fetched or uploaded by the server, in kilobytes.
static MEDIA_MAX_SIZE: GucSetting<i32> = GucSetting::<i32>::new(50 * 1024);
/// Largest image that may be uploaded, in kilobytes.
static IMAGE_MAX_SIZE: GucSetting<i32> = GucSetting::<i32>::new(10 * 1024);
/// Largest PDF that may be uploaded, in kilobytes.
static PDF_MAX_SIZE: GucSetting<i32> = GucSetting::<i32>::new(5 * 1024);
/// The longest that one exchange over HTTP may take, in milliseconds.
static HTTP_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(30_000);

// Always empty: pg::secret keeps the values.
static SERVICE_KEY_VARIABLE: Text = Text::new(Some(c""));
static JWT_SECRET_VARIABLE: Text = Text::new(Some(c""));
static TWILIO_AUTH_TOKEN_VARIABLE: Text = Text::new(Some(c""));

const SERVICE_KEY: SecretSetting<0> = SecretSetting;
const JWT_SECRET: SecretSetting<1> = SecretSetting;
const TWILIO_AUTH_TOKEN: SecretSetting<2> = SecretSetting;

/// The names of the secrets.
pub const SECRETS: [&str; 3] = ["civic.service_key", "civic.jwt_secret", "civic.twilio_auth_token"];

/// The Storage API's URL, without a slash at its end.
pub fn storage_url() -> Option<String> {
    let without_slash = |mut url: String| {
        url.truncate(url.trim_end_matches('/').len());
        url
    };
    match text(&STORAGE_URL) {
        Some(url) => Some(without_slash(url)),
        None => text(&SUPABASE_URL).map(|url| without_slash(url) + "/storage/v1"),
    }
}

/// The JWT of the role `service_role`, which passes every policy.
pub fn service_key() -> Option<Secret> {
    SERVICE_KEY.get().map(Secret::from)
}

/// The project's JWT secret: whoever has it makes any claims.
pub fn jwt_secret() -> Option<Secret> {
    JWT_SECRET.get().map(Secret::from)
}

pub fn twilio_account_sid() -> Option<String> {
    text(&TWILIO_ACCOUNT_SID)
}

pub fn twilio_auth_token() -> Option<Secret> {
    TWILIO_AUTH_TOKEN.get().map(Secret::from)
}

/// Hosts, some with a port, parted by commas. The first is Twilio's API.
pub fn media_hosts() -> String {
    text(&MEDIA_HOSTS).unwrap_or_default()
}

/// The table as a person writes it: perhaps with a schema, perhaps quoted.
pub fn media_table() -> String {
    text(&MEDIA_TABLE).unwrap_or_default()
}

/// In bytes.
pub fn media_max_size() -> u64 {
    bytes(&MEDIA_MAX_SIZE)
}

/// In bytes.
pub fn image_max_size() -> u64 {
    bytes(&IMAGE_MAX_SIZE)
}

/// In bytes.
pub fn pdf_max_size() -> u64 {
    bytes(&PDF_MAX_SIZE)
}

/// The longest that one exchange over HTTP may take.
pub fn http_timeout() -> Duration {
    Duration::from_millis(HTTP_TIMEOUT.get().unsigned_abs().into())
}

fn bytes(kilobytes: &GucSetting<i32>) -> u64 {
    u64::from(kilobytes.get().unsigned_abs()) * 1024
}

/// The value without white space around it; `None` where nothing is left, or it is not UTF-8.
fn text(setting: &Text) -> Option<String> {
    let value = setting.get()?;
    let value = value.to_str().ok()?.trim();
    (!value.is_empty()).then(|| value.to_owned())
}

pub(super) fn define() {
    define_texts();
    define_limits();
    SERVICE_KEY.define(
        c"civic.service_key",
        c"JWT of the role service_role, for the Storage API.",
        c"A secret: it opens every file. Set it in the configuration file.",
        &SERVICE_KEY_VARIABLE,
    );
    JWT_SECRET.define(
        c"civic.jwt_secret",
        c"The project's JWT secret, to sign links to files.",
        c"A secret: whoever has it is whoever he likes. Set it in the configuration file.",
        &JWT_SECRET_VARIABLE,
    );
    TWILIO_AUTH_TOKEN.define(
        c"civic.twilio_auth_token",
        c"Token of the Twilio account whose media is fetched.",
        c"A secret. Set it in the configuration file.",
        &TWILIO_AUTH_TOKEN_VARIABLE,
    );
}

fn define_texts() {
    let text = |name: &'static CStr, short, long, setting, context| {
        GucRegistry::define_string_guc(name, short, long, setting, context, GucFlags::default());
    };
    text(
        c"civic.supabase_url",
        c"The Supabase project's URL.",
        c"The Storage API is under it, at /storage/v1.",
        &SUPABASE_URL,
        GucContext::Sighup,
    );
    text(
        c"civic.storage_url",
        c"The Storage API's own URL, where it stands by itself.",
        c"It goes before civic.supabase_url.",
        &STORAGE_URL,
        GucContext::Sighup,
    );
    text(
        c"civic.twilio_account_sid",
        c"The Twilio account whose media is fetched.",
        c"It names the account; civic.twilio_auth_token opens it.",
        &TWILIO_ACCOUNT_SID,
        GucContext::Sighup,
    );
    text(
        c"civic.media_hosts",
        c"Hosts that media may be fetched from.",
        c"Parted by commas, Twilio's API first. One with a port may be at a private address, by http.",
        &MEDIA_HOSTS,
        GucContext::Sighup,
    );
    text(
        c"civic.media_table",
        c"The table that confirmed uploads are recorded in.",
        c"With its schema, quoted where SQL asks for it.",
        &MEDIA_TABLE,
        GucContext::Suset,
    );
}

fn define_limits() {
    let size = |name: &'static CStr, short, long, setting| {
        // Up to what fits a bytea.
        let (least, most) = (1, 1_000_000);
        let (context, unit) = (GucContext::Suset, GucFlags::UNIT_KB);
        GucRegistry::define_int_guc(name, short, long, setting, least, most, context, unit);
    };
    size(
        c"civic.media_max_size",
        c"Largest file that the server fetches or uploads.",
        c"The Storage API and its buckets have limits of their own.",
        &MEDIA_MAX_SIZE,
    );
    size(
        c"civic.image_max_size",
        c"Largest image that request_upload() lets a person upload.",
        c"The Storage API and its buckets have limits of their own.",
        &IMAGE_MAX_SIZE,
    );
    size(
        c"civic.pdf_max_size",
        c"Largest PDF that request_upload() lets a person upload.",
        c"The Storage API and its buckets have limits of their own.",
        &PDF_MAX_SIZE,
    );
    GucRegistry::define_int_guc(
        c"civic.http_timeout",
        c"The longest that one exchange over HTTP may take.",
        c"From the look-up of the name to the last byte.",
        &HTTP_TIMEOUT,
        100,
        3_600_000,
        GucContext::Suset,
        GucFlags::UNIT_MS,
    );
}
