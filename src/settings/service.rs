//! The settings of the storage service.
//!
//! URLs and credentials come only from the server's configuration file, so that no role can send the
//! keys elsewhere. Limits and the table may differ per database.

use std::ffi::{CStr, CString};
use std::time::Duration;

use civic_http::Secret;
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};

use crate::pg::secret::SecretSetting;

type Text = GucSetting<Option<CString>>;

/// The project's URL, with the Storage API under `/storage/v1`.
static SUPABASE_URL: Text = Text::new(Some(c""));
/// The Storage API's own URL, if it is not under the project's URL.
static STORAGE_URL: Text = Text::new(Some(c""));
/// Hosts that media may come from.
static MEDIA_HOSTS: Text = Text::new(Some(
    c"api.twilio.com, media.twiliocdn.com, mms.twiliocdn.com, s3-external-1.amazonaws.com",
));
/// The account whose media is fetched. It is an identifier, not a credential.
static TWILIO_ACCOUNT_SID: Text = Text::new(Some(c""));
/// The table of attachments.
static MEDIA_TABLE: Text = Text::new(Some(c"public.media_attachments"));
/// Largest file that is fetched or uploaded by the server, in kilobytes.
static MEDIA_MAX_SIZE: GucSetting<i32> = GucSetting::<i32>::new(50 * 1024);
/// Largest image that may be uploaded, in kilobytes.
static IMAGE_MAX_SIZE: GucSetting<i32> = GucSetting::<i32>::new(10 * 1024);
/// Largest PDF that may be uploaded, in kilobytes.
static PDF_MAX_SIZE: GucSetting<i32> = GucSetting::<i32>::new(5 * 1024);
/// Time limit of one HTTP exchange, in milliseconds.
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

/// The Storage API's URL, without a trailing slash.
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

/// The JWT of the role `service_role`, which bypasses every policy.
pub fn service_key() -> Option<Secret> {
    SERVICE_KEY.get().map(Secret::from)
}

/// The project's JWT secret. It can sign any claims.
pub fn jwt_secret() -> Option<Secret> {
    JWT_SECRET.get().map(Secret::from)
}

pub fn twilio_account_sid() -> Option<String> {
    text(&TWILIO_ACCOUNT_SID)
}

pub fn twilio_auth_token() -> Option<Secret> {
    TWILIO_AUTH_TOKEN.get().map(Secret::from)
}

/// Hosts, optionally with a port, separated by commas. The first is Twilio's API.
pub fn media_hosts() -> String {
    text(&MEDIA_HOSTS).unwrap_or_default()
}

/// The table as written in the setting; schema and quotes are not checked here.
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

/// Time limit of one HTTP exchange.
pub fn http_timeout() -> Duration {
    Duration::from_millis(HTTP_TIMEOUT.get().unsigned_abs().into())
}

fn bytes(kilobytes: &GucSetting<i32>) -> u64 {
    u64::from(kilobytes.get().unsigned_abs()) * 1024
}

/// The trimmed value; `None` if it is empty or not UTF-8.
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
        c"A secret: it gives access to every file. Set it in the configuration file.",
        &SERVICE_KEY_VARIABLE,
    );
    JWT_SECRET.define(
        c"civic.jwt_secret",
        c"The project's JWT secret, to sign links to files.",
        c"A secret: it can sign a token for any user. Set it in the configuration file.",
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
        c"The Storage API's own URL, if it is not under the project's URL.",
        c"Takes precedence over civic.supabase_url.",
        &STORAGE_URL,
        GucContext::Sighup,
    );
    text(
        c"civic.twilio_account_sid",
        c"The Twilio account whose media is fetched.",
        c"The account's identifier; civic.twilio_auth_token is its credential.",
        &TWILIO_ACCOUNT_SID,
        GucContext::Sighup,
    );
    text(
        c"civic.media_hosts",
        c"Hosts that media may be fetched from.",
        c"Separated by commas, Twilio's API first. A host with a port may have a private address and use http.",
        &MEDIA_HOSTS,
        GucContext::Sighup,
    );
    text(
        c"civic.media_table",
        c"The table that confirmed uploads are recorded in.",
        c"Schema-qualified, quoted where SQL requires it.",
        &MEDIA_TABLE,
        GucContext::Suset,
    );
}

fn define_limits() {
    let size = |name: &'static CStr, short, long, setting| {
        // Up to the size of a bytea.
        let (least, most) = (1, 1_000_000);
        let (context, unit) = (GucContext::Suset, GucFlags::UNIT_KB);
        GucRegistry::define_int_guc(name, short, long, setting, least, most, context, unit);
    };
    size(
        c"civic.media_max_size",
        c"Largest file that the server fetches or uploads.",
        c"The Storage API and its buckets have their own limits.",
        &MEDIA_MAX_SIZE,
    );
    size(
        c"civic.image_max_size",
        c"Largest image that request_upload() lets a user upload.",
        c"The Storage API and its buckets have their own limits.",
        &IMAGE_MAX_SIZE,
    );
    size(
        c"civic.pdf_max_size",
        c"Largest PDF that request_upload() lets a user upload.",
        c"The Storage API and its buckets have their own limits.",
        &PDF_MAX_SIZE,
    );
    GucRegistry::define_int_guc(
        c"civic.http_timeout",
        c"Time limit of one HTTP exchange.",
        c"From the name lookup to the last byte.",
        &HTTP_TIMEOUT,
        100,
        3_600_000,
        GucContext::Suset,
        GucFlags::UNIT_MS,
    );
}
