//! One transfer: its client, its request, its limits and its cancellation.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use reqwest::header::RETRY_AFTER;
use reqwest::{Client, Request, Response, Url, redirect, retry};
use rustls::ClientConfig;

use crate::address::Addresses;
use crate::error::{Error, Kind, shown};
use crate::limits::{Cancel, Limits};
use crate::resolver::Resolver;
use crate::{failure, tls};

/// How often a transfer checks its limits and its [`Cancel`].
const CHECK_INTERVAL: Duration = Duration::from_millis(20);
/// Bytes of an upload that are handed to the client at once.
const CHUNK: usize = 64 * 1024;
/// A longer Retry-After is cut to this.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// When a byte was last received or sent.
#[derive(Debug, Clone)]
pub(crate) struct Progress(Arc<Mutex<Instant>>);

impl Progress {
    fn new() -> Progress {
        Progress(Arc::new(Mutex::new(Instant::now())))
    }

    pub fn note(&self) {
        self.set(Instant::now());
    }

    /// A connection is being made. [`Limits::read`] applies after the time that this may take.
    fn connecting(&self, limits: &Limits) {
        self.set(Instant::now() + limits.connect);
    }

    fn set(&self, when: Instant) {
        *self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = when;
    }

    fn idle_time(&self) -> Duration {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).elapsed()
    }
}

/// Runs a transfer to its end in the calling thread.
pub(crate) fn run<T>(
    limits: &Limits,
    cancel: &Cancel,
    work: impl AsyncFnOnce(&Progress) -> Result<T, Error>,
) -> Result<T, Error> {
    // The connection's tasks run only inside block_on, so they end with the call. Only getaddrinfo
    // blocks a second thread, and nothing can stop it: the call does not wait for it.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(1)
        .thread_name("pg_civic resolver")
        .build()
        .map_err(|error| {
            Error::new(Kind::Unreachable, format!("could not start a transfer: {error}"))
        })?;
    let progress = Progress::new();
    let result = runtime.block_on(limited(limits, cancel, &progress, work(&progress)));
    runtime.shutdown_background();
    result
}

/// Polls the transfer until it ends, is cancelled or exceeds a time limit.
async fn limited<T>(
    limits: &Limits,
    cancel: &Cancel,
    progress: &Progress,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let start = Instant::now();
    let mut work = std::pin::pin!(work);
    loop {
        if cancel.is_cancelled() {
            return Err(Error::new(Kind::Cancelled, "the transfer was cancelled"));
        }
        if start.elapsed() >= limits.total {
            let message = format!("the transfer took longer than {:?}", limits.total);
            return Err(Error::new(Kind::TimedOut, message));
        }
        if progress.idle_time() >= limits.read {
            let message = format!("no data was received or sent for {:?}", limits.read);
            return Err(Error::new(Kind::TimedOut, message));
        }
        if let Ok(result) = tokio::time::timeout(CHECK_INTERVAL, &mut work).await {
            return result;
        }
    }
}

/// A client for the host of one URL. It follows no redirect, retries nothing and uses no proxy. `tls`
/// replaces the configuration with the system's root certificates.
pub(crate) fn client(
    url: &Url,
    tls: Option<&ClientConfig>,
    limits: &Limits,
    addresses: Addresses,
) -> Result<Client, Error> {
    let tls = tls.map_or_else(|| tls::config(url), |tls| Ok(tls.clone()))?;
    Client::builder()
        .tls_backend_preconfigured(tls)
        .dns_resolver(Resolver { addresses, lookups: limits.lookups })
        .connect_timeout(limits.connect)
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .pool_max_idle_per_host(0)
        .no_proxy()
        .referer(false)
        .http1_only()
        .build()
        .map_err(|error| Error::new(Kind::Invalid, format!("could not set up HTTP: {error}")))
}

/// Sends a request and returns the response with its body unread.
pub(crate) async fn send(
    client: &Client,
    request: Request,
    limits: &Limits,
    progress: &Progress,
) -> Result<Response, Error> {
    let host = host(request.url());
    progress.connecting(limits);
    let response = client.execute(request).await.map_err(|error| failure::of(&error, &host))?;
    progress.note();
    Ok(response)
}

/// The body of a response, [`Kind::TooLarge`] if it is longer than the limit.
pub(crate) async fn body(
    mut response: Response,
    limit: u64,
    progress: &Progress,
) -> Result<Vec<u8>, Error> {
    let host = host(response.url());
    let too_large =
        || Error::new(Kind::TooLarge, format!("{host} sends more than the limit of {limit} bytes"));
    if response.content_length().is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| failure::of(&error, &host))? {
        progress.note();
        if body.len() as u64 + chunk.len() as u64 > limit {
            return Err(too_large());
        }
        // Any other allocation that fails ends the process, and then the server restarts.
        body.try_reserve(chunk.len()).map_err(|_| {
            Error::new(Kind::Busy, format!("not enough memory for the response of {host}"))
        })?;
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Host and port, for messages. Path and query may be confidential.
pub(crate) fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or("?");
    match url.port() {
        Some(port) => format!("{}:{port}", shown(host)),
        None => shown(host),
    }
}

/// The server's Retry-After, in seconds or as a date.
pub(crate) fn retry_after(response: &Response) -> Option<Duration> {
    let value = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match value.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = httpdate::parse_http_date(value).ok()?;
            date.duration_since(std::time::SystemTime::now()).unwrap_or_default()
        }
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

/// The body of an upload. It notes progress for each chunk that the connection takes.
pub(crate) struct UploadBody {
    rest: Bytes,
    progress: Progress,
}

impl UploadBody {
    pub fn new(body: Vec<u8>, progress: &Progress) -> UploadBody {
        UploadBody { rest: body.into(), progress: progress.clone() }
    }
}

impl Body for UploadBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        self.progress.note();
        let length = self.rest.len().min(CHUNK);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}
