//! Fetches WhatsApp media.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue,
    LOCATION,
};
use reqwest::{Method, Request, Response, Url};
use zeroize::Zeroizing;

use crate::error::{Error, Kind, shown};
use crate::hosts::{Hosts, Target};
use crate::limits::{Cancel, Limits};
use crate::secret::{self, Secret};
use crate::transfer::{self, Progress};

/// Redirects that are followed. Twilio needs one.
const REDIRECTS: usize = 5;

/// Twilio, and the hosts that it redirects to.
#[derive(Debug, Clone)]
pub struct MediaSource {
    hosts: Hosts,
    content_types: Vec<String>,
    account_sid: String,
    auth_token: Secret,
    limits: Limits,
    /// Replaces the configuration with the system's root certificates.
    tls: Option<rustls::ClientConfig>,
}

/// A file that was fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Media {
    /// In lower case and without parameters, if it was fetched from a [`MediaSource`].
    pub content_type: String,
    pub body: Vec<u8>,
}

/// A media type without its parameters, which are not significant (RFC 9110, section 8.3.1).
pub fn essence(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

impl MediaSource {
    /// `content_types` are those that are accepted, such as `image/jpeg`. [`Kind::Invalid`] if the
    /// account's SID cannot be part of a header.
    pub fn new(
        hosts: Hosts,
        content_types: &[&str],
        account_sid: &str,
        auth_token: Secret,
        limits: Limits,
    ) -> Result<MediaSource, Error> {
        if account_sid.contains(':') || account_sid.contains(char::is_control) {
            return Err(Error::new(Kind::Invalid, "the account's SID cannot be part of a header"));
        }
        Ok(MediaSource {
            hosts,
            content_types: content_types.iter().map(|kind| kind.to_ascii_lowercase()).collect(),
            account_sid: account_sid.to_owned(),
            auth_token,
            limits,
            tls: None,
        })
    }

    #[cfg(test)]
    pub(crate) fn trusting(mut self, tls: rustls::ClientConfig) -> MediaSource {
        self.tls = Some(tls);
        self
    }

    /// Checks a URL without sending anything: [`Kind::Refused`] if it may not be requested. What its
    /// name resolves to is checked only when it is fetched.
    pub fn check(&self, url: &str) -> Result<(), Error> {
        self.target(url).map(drop)
    }

    /// Fetches a file. The credentials are sent only if `url` names the first host of [`Hosts`], and
    /// never after a redirect.
    pub fn fetch(&self, url: &str, cancel: &Cancel) -> Result<Media, Error> {
        let target = self.target(url)?;
        transfer::run(&self.limits, cancel, async |progress| self.follow(target, progress).await)
    }

    fn target(&self, url: &str) -> Result<Target, Error> {
        let url = Url::parse(url)
            .map_err(|error| Error::new(Kind::Refused, format!("invalid URL: {error}")))?;
        self.hosts.target(url)
    }

    async fn follow(&self, mut target: Target, progress: &Progress) -> Result<Media, Error> {
        let mut credentials = if target.is_api { Some(self.credentials()?) } else { None };
        for _ in 0..=REDIRECTS {
            let response = self.request(&target, credentials.take(), progress).await?;
            if !response.status().is_redirection() {
                return self.receive(response, progress).await;
            }
            target = self.hosts.target(next(&response)?)?;
        }
        let message =
            format!("more than {REDIRECTS} redirects, the last to {}", transfer::host(&target.url));
        Err(Error::new(Kind::Refused, message))
    }

    fn credentials(&self) -> Result<HeaderValue, Error> {
        let (account, token) = (self.account_sid.as_str(), self.auth_token.expose());
        // Allocated at its full size: growing would leave a copy behind.
        let mut pair = Zeroizing::new(Vec::with_capacity(account.len() + 1 + token.len()));
        for part in [account, ":", token] {
            pair.extend_from_slice(part.as_bytes());
        }
        let encoded = Zeroizing::new(BASE64_STANDARD.encode(pair.as_slice()));
        secret::header(&["Basic ", &encoded])
            .map_err(|_| Error::new(Kind::Invalid, "the credentials cannot be part of a header"))
    }

    async fn request(
        &self,
        target: &Target,
        credentials: Option<HeaderValue>,
        progress: &Progress,
    ) -> Result<Response, Error> {
        let client =
            transfer::client(&target.url, self.tls.as_ref(), &self.limits, target.addresses)?;
        let mut request = Request::new(Method::GET, target.url.clone());
        let headers = request.headers_mut();
        // A small compressed body can expand to gigabytes, so compression is neither requested nor accepted.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(credentials) = credentials {
            headers.insert(AUTHORIZATION, credentials);
        }
        transfer::send(&client, request, &self.limits, progress).await
    }

    async fn receive(&self, response: Response, progress: &Progress) -> Result<Media, Error> {
        let host = transfer::host(response.url());
        let status = response.status().as_u16();
        if status != 200 {
            let error = Error::new(verdict(status), format!("{host} answers {status}"));
            return Err(error.with_retry_after(transfer::retry_after(&response)));
        }
        let refuse = |message| Err(Error::new(Kind::UnsupportedType, message));
        if let Some(encoding) = text(response.headers(), CONTENT_ENCODING)
            && !encoding.eq_ignore_ascii_case("identity")
        {
            return refuse(format!("{host} sends the encoding \"{}\"", shown(&encoding)));
        }
        let Some(content_type) = text(response.headers(), CONTENT_TYPE) else {
            return refuse(format!("{host} sends no content type"));
        };
        let essence = essence(&content_type).to_ascii_lowercase();
        if !self.content_types.contains(&essence) {
            return refuse(format!("{host} sends the content type \"{}\"", shown(&essence)));
        }
        let body = transfer::body(response, self.limits.max_size, progress).await?;
        Ok(Media { content_type: essence, body })
    }
}

/// The target of a redirect.
fn next(response: &Response) -> Result<Url, Error> {
    let host = transfer::host(response.url());
    let location = text(response.headers(), LOCATION).ok_or_else(|| {
        Error::new(Kind::Malformed, format!("{host} redirects without a location"))
    })?;
    response
        .url()
        .join(&location)
        .map_err(|_| Error::new(Kind::Refused, format!("{host} redirects to an invalid URL")))
}

/// A header's value. Bytes that are not UTF-8 are replaced, so it then equals no expected value.
fn text(headers: &HeaderMap, name: reqwest::header::HeaderName) -> Option<String> {
    Some(String::from_utf8_lossy(headers.get(name)?.as_bytes()).into_owned())
}

fn verdict(status: u16) -> Kind {
    match status {
        401 | 403 | 407 => Kind::MediaUnauthorized,
        404 => Kind::MediaNotFound,
        408 => Kind::TimedOut,
        413 => Kind::TooLarge,
        415 => Kind::UnsupportedType,
        425 | 429 => Kind::Busy,
        500..=599 => Kind::ServerError,
        100..=399 => Kind::Malformed,
        _ => Kind::Rejected,
    }
}
