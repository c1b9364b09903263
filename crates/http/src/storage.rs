//! The Storage API, as the server's side speaks to it.

mod moving;

use std::time::Duration;

use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use reqwest::{Client, Method, Request, Response, Url};
use serde_json::{Value, json};

use crate::address::Addresses;
use crate::error::{Error, Kind, shown};
use crate::limits::{Cancel, Limits};
use crate::media::Media;
use crate::path;
use crate::secret::{self, Secret};
use crate::transfer::{self, Outgoing, Progress};

pub use self::moving::{Entry, LIST_PAGE, Place};

/// Bytes of an answer of the API: it tells of one object.
const ANSWER: u64 = 64 * 1024;

/// The Storage API of one project. It is where the operator says, so any address and plain http
/// are taken; redirects are not followed, as the key would go with them.
#[derive(Debug, Clone)]
pub struct StorageApi {
    base: Url,
    service_key: Secret,
    limits: Limits,
    /// Takes the place of the system's roots.
    tls: Option<rustls::ClientConfig>,
}

/// What the API says of a file that it has taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uploaded {
    /// The id of its row in `storage.objects`. Old versions of the API do not tell it.
    pub id: Option<String>,
}

/// What the API knows of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    pub content_type: Option<String>,
    pub size: u64,
}

impl StorageApi {
    /// `base_url` is the API's, such as `https://project.supabase.co/storage/v1`; a slash at its end
    /// does not matter. [`Kind::Invalid`] where it is no http or https URL, or carries a user's name,
    /// a query or a fragment, or where the key cannot stand in a header.
    pub fn new(base_url: &str, service_key: Secret, limits: Limits) -> Result<StorageApi, Error> {
        let invalid = |why: &str| Error::new(Kind::Invalid, format!("the Storage API's URL {why}"));
        let base = Url::parse(base_url.trim().trim_end_matches('/'))
            .map_err(|error| invalid(&format!("is not a URL: {error}")))?;
        if !matches!(base.scheme(), "https" | "http") || base.host_str().is_none() {
            return Err(invalid("is not one of https or http"));
        }
        if !base.username().is_empty() || base.password().is_some() {
            return Err(invalid("carries a user's name or password"));
        }
        if base.query().is_some() || base.fragment().is_some() {
            return Err(invalid("has a query or a fragment"));
        }
        let api = StorageApi { base, service_key, limits, tls: None };
        api.bearer()?;
        Ok(api)
    }

    #[cfg(test)]
    pub(crate) fn trusting(mut self, tls: rustls::ClientConfig) -> StorageApi {
        self.tls = Some(tls);
        self
    }

    /// Uploads a file that must not be there yet. [`Kind::Duplicate`] where it is, which after a try
    /// whose answer was lost may mean that it got through: ask [`StorageApi::stat`].
    pub fn upload(
        &self,
        bucket: &str,
        path: &str,
        content_type: &str,
        body: Vec<u8>,
        cancel: &Cancel,
    ) -> Result<Uploaded, Error> {
        if body.len() as u64 > self.limits.max_size {
            let message = format!(
                "a file of {} bytes is over the limit of {} bytes",
                body.len(),
                self.limits.max_size
            );
            return Err(Error::new(Kind::TooLarge, message));
        }
        let object = path::object(bucket, path)?;
        let content_type = HeaderValue::from_str(content_type)
            .map_err(|_| Error::new(Kind::Invalid, "the content type cannot stand in a header"))?;
        let mut request = self.request(Method::POST, &format!("object/{object}"))?;
        request.headers_mut().insert(CONTENT_TYPE, content_type);
        request.headers_mut().insert("x-upsert", HeaderValue::from_static("false"));
        let answer = self.exchange(request, Some(body), cancel)?;
        // Somebody else's page with status 200 must not pass for a stored file.
        if answer["Key"].as_str() != Some(&format!("{bucket}/{path}")) {
            return Err(self.malformed("does not name the file that was uploaded"));
        }
        Ok(Uploaded { id: answer["Id"].as_str().map(str::to_owned) })
    }

    /// What the API knows of a file, or None where there is none.
    pub fn stat(&self, bucket: &str, path: &str, cancel: &Cancel) -> Result<Option<Stat>, Error> {
        let object = path::object(bucket, path)?;
        let request = self.request(Method::GET, &format!("object/info/authenticated/{object}"))?;
        let answer = match self.exchange(request, None, cancel) {
            Err(error) if error.kind() == Kind::NotFound => return Ok(None),
            answer => answer?,
        };
        // The size has been a number and, in the metadata of old rows, a text.
        let size = answer["size"].as_u64().or_else(|| answer["size"].as_str()?.parse().ok());
        let size = size.ok_or_else(|| self.malformed("does not tell the file's size"))?;
        Ok(Some(Stat { content_type: answer["content_type"].as_str().map(str::to_owned), size }))
    }

    /// A file as it is stored, or None where there is none.
    pub fn download(
        &self,
        bucket: &str,
        path: &str,
        cancel: &Cancel,
    ) -> Result<Option<Media>, Error> {
        let object = path::object(bucket, path)?;
        let mut request = self.request(Method::GET, &format!("object/authenticated/{object}"))?;
        request.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let client = transfer::client(&self.base, self.tls.as_ref(), &self.limits, Addresses::Any)?;
        let received = transfer::run(&self.limits, cancel, async |progress| {
            let response = transfer::send(&client, request, &self.limits, progress).await?;
            if response.status().as_u16() != 200 {
                return Err(self.refusal(response, progress).await);
            }
            let content_type = response.headers().get(CONTENT_TYPE);
            let content_type = content_type.and_then(|value| value.to_str().ok());
            let content_type = content_type
                .ok_or_else(|| self.malformed("does not tell the file's content type"))?
                .to_owned();
            let body = transfer::body(response, self.limits.max_size, progress).await?;
            Ok(Media { content_type, body })
        });
        match received {
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            received => received.map(Some),
        }
    }

    /// Removes a file. False where there is none.
    pub fn remove(&self, bucket: &str, path: &str, cancel: &Cancel) -> Result<bool, Error> {
        let object = path::object(bucket, path)?;
        let request = self.request(Method::DELETE, &format!("object/{object}"))?;
        match self.exchange(request, None, cancel) {
            Err(error) if error.kind() == Kind::NotFound => Ok(false),
            // Somebody else's page with status 200 must not pass for a removed file.
            Ok(answer) if answer["message"].is_string() => Ok(true),
            Ok(_) => Err(self.malformed("does not say that the file was removed")),
            Err(error) => Err(error),
        }
    }

    /// A link to a file that works without a key until `expires_in`, whole seconds, has passed.
    /// [`Kind::NotFound`] where there is no such file.
    pub fn sign(
        &self,
        bucket: &str,
        path: &str,
        expires_in: Duration,
        cancel: &Cancel,
    ) -> Result<String, Error> {
        let object = path::object(bucket, path)?;
        let mut request = self.request(Method::POST, &format!("object/sign/{object}"))?;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let body = json!({"expiresIn": expires_in.as_secs()}).to_string().into_bytes();
        let answer = self.exchange(request, Some(body), cancel)?;
        // Only the token is taken: the API writes the path unencoded.
        let token = answer["signedURL"].as_str().and_then(|url| url.split_once("?token="));
        let is_token = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        match token {
            Some((_, token)) if !token.is_empty() && token.chars().all(is_token) => {
                Ok(format!("{}/object/sign/{object}?token={token}", self.base()))
            }
            _ => Err(self.malformed("does not hold a signed URL")),
        }
    }

    fn base(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    fn bearer(&self) -> Result<HeaderValue, Error> {
        self.header(&["Bearer ", self.service_key.expose().trim()])
    }

    fn header(&self, parts: &[&str]) -> Result<HeaderValue, Error> {
        secret::header(parts)
            .map_err(|_| Error::new(Kind::Invalid, "the service key cannot stand in a header"))
    }

    fn request(&self, method: Method, path: &str) -> Result<Request, Error> {
        let url = Url::parse(&format!("{}/{path}", self.base()))
            .map_err(|error| Error::new(Kind::Invalid, format!("no URL: {error}")))?;
        let mut request = Request::new(method, url);
        request.headers_mut().insert(AUTHORIZATION, self.bearer()?);
        // The gateway in front of the API asks for it.
        request.headers_mut().insert("apikey", self.header(&[self.service_key.expose().trim()])?);
        Ok(request)
    }

    fn malformed(&self, what: &str) -> Error {
        let host = transfer::host(&self.base);
        Error::new(Kind::Malformed, format!("the answer of the Storage API at {host} {what}"))
    }

    /// Sends a request and reads the JSON that answers it.
    fn exchange(
        &self,
        request: Request,
        body: Option<Vec<u8>>,
        cancel: &Cancel,
    ) -> Result<Value, Error> {
        let client = transfer::client(&self.base, self.tls.as_ref(), &self.limits, Addresses::Any)?;
        transfer::run(&self.limits, cancel, async |progress| {
            self.converse(&client, request, body, progress).await
        })
    }

    async fn converse(
        &self,
        client: &Client,
        mut request: Request,
        body: Option<Vec<u8>>,
        progress: &Progress,
    ) -> Result<Value, Error> {
        if let Some(body) = body {
            if body.is_empty() {
                // Left to itself the client says nothing of a body that it does not have.
                request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
            }
            *request.body_mut() = Some(reqwest::Body::wrap(Outgoing::new(body, progress)));
        }
        let response = transfer::send(client, request, &self.limits, progress).await?;
        if !response.status().is_success() {
            return Err(self.refusal(response, progress).await);
        }
        let body = transfer::body(response, ANSWER, progress).await.map_err(|error| {
            // Too large a page is not too large a file.
            if error.kind() == Kind::TooLarge { self.malformed("is too long") } else { error }
        })?;
        serde_json::from_slice(&body).map_err(|_| self.malformed("is not JSON"))
    }

    /// What an answer that is no success says.
    async fn refusal(&self, response: Response, progress: &Progress) -> Error {
        let status = response.status().as_u16();
        let retry_after = transfer::retry_after(&response);
        let body = transfer::body(response, ANSWER, progress).await.unwrap_or_default();
        let told = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let (code, kind) = verdict(status, &told);
        let host = transfer::host(&self.base);
        let words = match told["message"].as_str() {
            Some(words) => format!(": {}", shown(&self.service_key.scrub(words))),
            None => String::new(),
        };
        Error::new(kind, format!("the Storage API at {host} answers {code}{words}"))
            .with_retry_after(retry_after)
    }
}

/// The code that counts, and what it means. The API says 400 and the real code in the body; older
/// versions, and the gateway before it, say the code itself.
fn verdict(status: u16, told: &Value) -> (u16, Kind) {
    let in_body = &told["statusCode"];
    let in_body = in_body.as_u64().or_else(|| in_body.as_str()?.parse().ok());
    let code = match in_body.and_then(|code| u16::try_from(code).ok()) {
        Some(code @ 400..=599) if status == 400 => code,
        _ => status,
    };
    let is_key = matches!(told["code"].as_str(), Some("InvalidJWT" | "AccessDenied"))
        || told["error"].as_str() == Some("InvalidJWT");
    let kind = match code {
        400 if is_key => Kind::Unauthorized,
        401 | 403 => Kind::Unauthorized,
        404 => Kind::NotFound,
        408 => Kind::TimedOut,
        409 => Kind::Duplicate,
        413 => Kind::TooLarge,
        415 => Kind::UnsupportedType,
        423 | 425 | 429 => Kind::Busy,
        500..=599 => Kind::ServerError,
        100..=399 => Kind::Malformed,
        _ => Kind::Rejected,
    };
    (code, kind)
}
