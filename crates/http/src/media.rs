//! Where WhatsApp media comes from.

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

/// Redirects that are followed: Twilio's takes one.
const REDIRECTS: usize = 5;

/// Twilio, and the hosts that it sends on to.
#[derive(Debug, Clone)]
pub struct MediaSource {
    hosts: Hosts,
    content_types: Vec<String>,
    account_sid: String,
    auth_token: Secret,
    limits: Limits,
    /// Takes the place of the system's roots.
    tls: Option<rustls::ClientConfig>,
}

/// A file that was fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Media {
    /// One of the list's, in lower case and without parameters.
    pub content_type: String,
    pub body: Vec<u8>,
}

impl MediaSource {
    /// `content_types` are those that are believed, such as `image/jpeg`. [`Kind::Invalid`] where
    /// the credentials cannot stand in a header.
    pub fn new(
        hosts: Hosts,
        content_types: &[&str],
        account_sid: &str,
        auth_token: Secret,
        limits: Limits,
    ) -> Result<MediaSource, Error> {
        if account_sid.contains(':') || account_sid.contains(char::is_control) {
            return Err(Error::new(Kind::Invalid, "the account's SID cannot stand in a header"));
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

    /// Whether a URL may be asked at all, before anything is. What its name resolves to shows only
    /// when it is. [`Kind::Refused`] where not.
    pub fn check(&self, url: &str) -> Result<(), Error> {
        self.target(url).map(drop)
    }

    /// Fetches a file. The credentials go to the first host of [`Hosts`] where it is the one that
    /// `url` names, and never to one that a redirect names.
    pub fn fetch(&self, url: &str, cancel: &Cancel) -> Result<Media, Error> {
        let target = self.target(url)?;
        transfer::run(&self.limits, cancel, async |progress| self.follow(target, progress).await)
    }

    fn target(&self, url: &str) -> Result<Target, Error> {
        let url = Url::parse(url)
            .map_err(|error| Error::new(Kind::Refused, format!("not a URL: {error}")))?;
        self.hosts.target(url)
    }

    async fn follow(&self, mut target: Target, progress: &Progress) -> Result<Media, Error> {
        let mut credentials = if target.is_api { Some(self.credentials()?) } else { None };
        for _ in 0..=REDIRECTS {
            let response = self.ask(&target, credentials.take(), progress).await?;
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
        // Neither grows, which would leave a copy behind.
        let mut pair = Zeroizing::new(Vec::with_capacity(account.len() + 1 + token.len()));
        for part in [account, ":", token] {
            pair.extend_from_slice(part.as_bytes());
        }
        let encoded = Zeroizing::new(BASE64_STANDARD.encode(pair.as_slice()));
        secret::header(&["Basic ", &encoded])
            .map_err(|_| Error::new(Kind::Invalid, "the credentials cannot stand in a header"))
    }

    async fn ask(
        &self,
        target: &Target,
        credentials: Option<HeaderValue>,
        progress: &Progress,
    ) -> Result<Response, Error> {
        let client =
            transfer::client(&target.url, self.tls.as_ref(), &self.limits, target.addresses)?;
        let mut request = Request::new(Method::GET, target.url.clone());
        let headers = request.headers_mut();
        // A compressed body could be a thousand times its size: none is asked for, none taken.
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
            let encoding = shown(&encoding);
            return refuse(format!(
                "{host} sends the encoding \"{encoding}\", which nobody asked for"
            ));
        }
        let Some(content_type) = text(response.headers(), CONTENT_TYPE) else {
            return refuse(format!("{host} does not say the content type"));
        };
        let essence =
            content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if !self.content_types.contains(&essence) {
            return refuse(format!("{host} sends the content type \"{}\"", shown(&essence)));
        }
        let body = transfer::body(response, self.limits.max_size, progress).await?;
        Ok(Media { content_type: essence, body })
    }
}

/// Where a redirect leads.
fn next(response: &Response) -> Result<Url, Error> {
    let host = transfer::host(response.url());
    let location = text(response.headers(), LOCATION)
        .ok_or_else(|| Error::new(Kind::Malformed, format!("{host} redirects to nowhere")))?;
    response
        .url()
        .join(&location)
        .map_err(|_| Error::new(Kind::Refused, format!("{host} redirects to what is no URL")))
}

/// A header's value; what is not UTF-8 is shown as such and equals nothing.
fn text(headers: &HeaderMap, name: reqwest::header::HeaderName) -> Option<String> {
    Some(String::from_utf8_lossy(headers.get(name)?.as_bytes()).into_owned())
}

fn verdict(status: u16) -> Kind {
    match status {
        401 | 403 | 407 => Kind::Unauthorized,
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
