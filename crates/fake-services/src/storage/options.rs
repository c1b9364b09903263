//! What a fake Storage API is like.

use std::path::PathBuf;
use std::time::Duration;

use super::Object;

/// The form of an error response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Errors {
    /// HTTP 400, with the code in the body: the current API.
    #[default]
    InBody,
    /// The code as the HTTP status too: older versions, and the gateway.
    AsStatus,
}

/// What it can do with a file of one bucket and another bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Moves {
    /// Move and copy: the API of today.
    #[default]
    AcrossBuckets,
    /// Copy alone; what is to be moved fails.
    CopyOnly,
    /// Older ones overlook the other bucket, and answer with success.
    WithinBucket,
    /// There are no such routes.
    Missing,
}

/// Where a client reaches the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Entry {
    /// Through the gateway. It knows the key in the header `apikey`. Where that is not a JWT and there is
    /// no Authorization, it sends one of its own to the API; another Authorization it hands on.
    #[default]
    Gateway,
    /// At the API itself, which accepts nothing but a JWT in Authorization.
    Api,
}

/// Called with each stored file before the client receives the response. The real API writes the row of
/// `storage.objects` at this point.
pub type OnUpload = dyn Fn(&Object) + Send + Sync;

pub struct Options {
    /// 0 means any free one.
    pub port: u16,
    pub jwt_secret: String,
    /// The key that a client must send. By default a token of `service_role`, signed with the secret.
    pub service_key: Option<String>,
    pub entry: Entry,
    pub errors: Errors,
    pub moves: Moves,
    pub latency: Duration,
    /// Where files are kept when the server ends. `None` keeps them in memory only.
    pub directory: Option<PathBuf>,
    pub on_upload: Option<Box<OnUpload>>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            port: 0,
            jwt_secret: "a-jwt-secret-with-at-least-32-characters".to_owned(),
            service_key: None,
            entry: Entry::default(),
            errors: Errors::default(),
            moves: Moves::default(),
            latency: Duration::ZERO,
            directory: None,
            on_upload: None,
        }
    }
}
