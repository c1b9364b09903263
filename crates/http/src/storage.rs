//! A client of the Storage API, with the service key.

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
use crate::transfer::{self, Progress, UploadBody};

pub use self::moving::{Entry, LIST_PAGE, Place};

/// The longest JSON response that is read, in bytes. It describes one object.
const MAX_RESPONSE: u64 = 64 * 1024;

/// The Storage API of one project. The operator configures its URL, so any address and plain http are
/// allowed. Redirects are not followed, because the key would go with them.
#[derive(Debug, Clone)]
pub struct StorageApi {
    base: Url,
    service_key: Secret,
    limits: Limits,
    /// Replaces the configuration with the system's root certificates.
    tls: Option<rustls::ClientConfig>,
}

/// The API's response to an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uploaded {
    /// The id of the file's row in `storage.objects`. Old versions of the API do not return it.
    pub id: Option<String>,
}

/// Content type and size of a stored file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    pub content_type: Option<String>,
    pub size: u64,
}

impl StorageApi {
    /// `base_url` is the API's URL, such as `https://project.supabase.co/storage/v1`, with or without a
    /// slash at the end. [`Kind::Invalid`] if it is not an http or https URL, if it contains a user name,
    /// a query or a fragment, or if the key cannot be part of a header.
    pub fn new(base_url: &str, service_key: Secret, limits: Limits) -> Result<StorageApi, Error> {
        let invalid = |why: &str| Error::new(Kind::Invalid, format!("the Storage API's URL {why}"));
        let base = Url::parse(base_url.trim().trim_end_matches('/'))
            .map_err(|error| invalid(&format!("is invalid: {error}")))?;
        if !matches!(base.scheme(), "https" | "http") || base.host_str().is_none() {
            return Err(invalid("is not an https or http URL"));
        }
        if !base.username().is_empty() || base.password().is_some() {
            return Err(invalid("contains a user name or a password"));
        }
        if base.query().is_some() || base.fragment().is_some() {
            return Err(invalid("contains a query or a fragment"));
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

    /// Uploads a new file. [`Kind::Duplicate`] if an object of this name exists, possibly from an earlier
    /// attempt whose response was lost: see [`StorageApi::stat`].
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
                "the file of {} bytes exceeds the limit of {} bytes",
                body.len(),
                self.limits.max_size
            );
            return Err(Error::new(Kind::TooLarge, message));
        }
        let object = path::object(bucket, path)?;
        let content_type = HeaderValue::from_str(content_type).map_err(|_| {
            Error::new(Kind::Invalid, "the content type cannot be part of a header")
        })?;
        let mut request = self.request(Method::POST, &format!("object/{object}"))?;
        request.headers_mut().insert(CONTENT_TYPE, content_type);
        request.headers_mut().insert("x-upsert", HeaderValue::from_static("false"));
        let response = self.exchange(request, Some(body), cancel)?;
        // Another server's page with status 200 must not count as a stored file.
        if response["Key"].as_str() != Some(&format!("{bucket}/{path}")) {
            return Err(self.malformed("does not name the uploaded file"));
        }
        Ok(Uploaded { id: response["Id"].as_str().map(str::to_owned) })
    }

    /// Content type and size of a file, `None` if there is no such file.
    pub fn stat(&self, bucket: &str, path: &str, cancel: &Cancel) -> Result<Option<Stat>, Error> {
        let object = path::object(bucket, path)?;
        let request = self.request(Method::GET, &format!("object/info/authenticated/{object}"))?;
        let response = match self.exchange(request, None, cancel) {
            Err(error) if error.kind() == Kind::NotFound => return Ok(None),
            response => response?,
        };
        // The size is a number, or text in the metadata of old rows.
        let size = response["size"].as_u64().or_else(|| response["size"].as_str()?.parse().ok());
        let size = size.ok_or_else(|| self.malformed("does not contain the size of the file"))?;
        Ok(Some(Stat { content_type: response["content_type"].as_str().map(str::to_owned), size }))
    }

    /// A stored file, `None` if there is no such file.
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
                .ok_or_else(|| self.malformed("does not contain the content type of the file"))?
                .to_owned();
            let body = transfer::body(response, self.limits.max_size, progress).await?;
            Ok(Media { content_type, body })
        });
        match received {
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            received => received.map(Some),
        }
    }

    /// Removes a file. False if there is no such file.
    pub fn remove(&self, bucket: &str, path: &str, cancel: &Cancel) -> Result<bool, Error> {
        let object = path::object(bucket, path)?;
        let request = self.request(Method::DELETE, &format!("object/{object}"))?;
        match self.exchange(request, None, cancel) {
            Err(error) if error.kind() == Kind::NotFound => Ok(false),
            // Another server's page with status 200 must not count as a removed file.
            Ok(response) if response["message"].is_string() => Ok(true),
            Ok(_) => Err(self.malformed("does not confirm the removal")),
            Err(error) => Err(error),
        }
    }

    /// A link to a file that works without a key for `expires_in`, in whole seconds.
    /// [`Kind::NotFound`] if there is no such file.
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
        let response = self.exchange(request, Some(body), cancel)?;
        // Only the token is used, because the API returns the path unencoded.
        let token = response["signedURL"].as_str().and_then(|url| url.split_once("?token="));
        let is_token = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        match token {
            Some((_, token)) if !token.is_empty() && token.chars().all(is_token) => {
                Ok(format!("{}/object/sign/{object}?token={token}", self.base()))
            }
            _ => Err(self.malformed("does not contain a signed URL")),
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
            .map_err(|_| Error::new(Kind::Invalid, "the service key cannot be part of a header"))
    }

    fn request(&self, method: Method, path: &str) -> Result<Request, Error> {
        let url = Url::parse(&format!("{}/{path}", self.base()))
            .map_err(|error| Error::new(Kind::Invalid, format!("invalid URL: {error}")))?;
        let mut request = Request::new(method, url);
        // The gateway in front of the API requires it.
        request.headers_mut().insert("apikey", self.header(&[self.service_key.expose().trim()])?);
        // The gateway replaces a key that is not a JWT by one, in some set-ups only if there is no
        // Authorization; the API itself refuses such a key in any header.
        if self.service_key.is_jwt() {
            request.headers_mut().insert(AUTHORIZATION, self.bearer()?);
        }
        Ok(request)
    }

    fn malformed(&self, what: &str) -> Error {
        let host = transfer::host(&self.base);
        Error::new(Kind::Malformed, format!("the response of the Storage API at {host} {what}"))
    }

    /// Sends a request and returns the JSON of the response.
    fn exchange(
        &self,
        request: Request,
        body: Option<Vec<u8>>,
        cancel: &Cancel,
    ) -> Result<Value, Error> {
        let client = transfer::client(&self.base, self.tls.as_ref(), &self.limits, Addresses::Any)?;
        transfer::run(&self.limits, cancel, async |progress| {
            self.send(&client, request, body, progress).await
        })
    }

    async fn send(
        &self,
        client: &Client,
        mut request: Request,
        body: Option<Vec<u8>>,
        progress: &Progress,
    ) -> Result<Value, Error> {
        if let Some(body) = body {
            if body.is_empty() {
                // The client sends no Content-Length for an empty body by itself.
                request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
            }
            *request.body_mut() = Some(reqwest::Body::wrap(UploadBody::new(body, progress)));
        }
        let response = transfer::send(client, request, &self.limits, progress).await?;
        if !response.status().is_success() {
            return Err(self.refusal(response, progress).await);
        }
        let body = transfer::body(response, MAX_RESPONSE, progress).await.map_err(|error| {
            // A response that is too large does not mean that the file is.
            if error.kind() == Kind::TooLarge { self.malformed("is too long") } else { error }
        })?;
        serde_json::from_slice(&body).map_err(|_| self.malformed("is not JSON"))
    }

    /// The error that a response without success reports.
    async fn refusal(&self, response: Response, progress: &Progress) -> Error {
        let status = response.status().as_u16();
        let retry_after = transfer::retry_after(&response);
        let body = transfer::body(response, MAX_RESPONSE, progress).await.unwrap_or_default();
        let report = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let (code, kind) = verdict(status, &report);
        let host = transfer::host(&self.base);
        let message = match report["message"].as_str() {
            Some(message) => format!(": {}", shown(&self.service_key.scrub(message))),
            None => String::new(),
        };
        Error::new(kind, format!("the Storage API at {host} answers {code}{message}"))
            .with_retry_after(retry_after)
    }
}

/// The status code, and the kind of error it means. The API responds with 400 and the real code in the
/// body; older versions, and the gateway, use the HTTP status.
fn verdict(status: u16, report: &Value) -> (u16, Kind) {
    let in_body = &report["statusCode"];
    let in_body = in_body.as_u64().or_else(|| in_body.as_str()?.parse().ok());
    let code = match in_body.and_then(|code| u16::try_from(code).ok()) {
        Some(code @ 400..=599) if status == 400 => code,
        _ => status,
    };
    let is_key = matches!(report["code"].as_str(), Some("InvalidJWT" | "AccessDenied"))
        || report["error"].as_str() == Some("InvalidJWT");
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
