//! One transfer: the request, what watches over it, and what its failure means.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::RETRY_AFTER;
use reqwest::{Client, Request, Response, Url, redirect, retry};
use rustls::ClientConfig;

use crate::address::Addresses;
use crate::error::{Error, Kind, shown};
use crate::limits::{Cancel, Limits};
use crate::{failure, tls};

/// How often a transfer looks at the clock and at its token.
const TICK: Duration = Duration::from_millis(20);
/// Bytes of an upload that are handed over at once.
const CHUNK: usize = 64 * 1024;
/// A longer Retry-After is cut to this.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// When a byte last came or went.
#[derive(Debug, Clone)]
pub(crate) struct Progress(Arc<Mutex<Instant>>);

impl Progress {
    fn new() -> Progress {
        Progress(Arc::new(Mutex::new(Instant::now())))
    }

    pub fn note(&self) {
        self.set(Instant::now());
    }

    /// A connection is made: what may be silent starts after the time that it may take.
    fn connecting(&self, limits: &Limits) {
        self.set(Instant::now() + limits.connect);
    }

    fn set(&self, when: Instant) {
        *self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = when;
    }

    fn silence(&self) -> Duration {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).elapsed()
    }
}

/// Runs a transfer to its end in the calling thread.
pub(crate) fn run<T>(
    limits: &Limits,
    cancel: &Cancel,
    work: impl AsyncFnOnce(&Progress) -> Result<T, Error>,
) -> Result<T, Error> {
    // A connection's tasks run while the transfer is waited for and never otherwise, so that no
    // thread outlives the call; getaddrinfo, which nothing can stop, is left to end by itself.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(1)
        .thread_name("pg_civic resolver")
        .build()
        .map_err(|error| Error::new(Kind::Unreachable, format!("no runtime: {error}")))?;
    let progress = Progress::new();
    let result = runtime.block_on(watched(limits, cancel, &progress, work(&progress)));
    runtime.shutdown_background();
    result
}

async fn watched<T>(
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
        if progress.silence() >= limits.read {
            let message = format!("nothing came or went for {:?}", limits.read);
            return Err(Error::new(Kind::TimedOut, message));
        }
        if let Ok(result) = tokio::time::timeout(TICK, &mut work).await {
            return result;
        }
    }
}

/// A client for one URL's host. It follows nothing, repeats nothing and asks no proxy. `tls` takes
/// the place of the system's roots.
pub(crate) fn client(
    url: &Url,
    tls: Option<&ClientConfig>,
    limits: &Limits,
    addresses: Addresses,
) -> Result<Client, Error> {
    let tls = tls.map_or_else(|| tls::config(url), |tls| Ok(tls.clone()))?;
    Client::builder()
        .tls_backend_preconfigured(tls)
        .dns_resolver(Resolver { addresses })
        .connect_timeout(limits.connect)
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .pool_max_idle_per_host(0)
        .no_proxy()
        .referer(false)
        .http1_only()
        .build()
        .map_err(|error| Error::new(Kind::Invalid, format!("no HTTP client: {error}")))
}

/// Sends a request and waits for the head of its answer.
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

/// The body of an answer, as long as it is no longer than the limit.
pub(crate) async fn body(
    mut response: Response,
    limit: u64,
    progress: &Progress,
) -> Result<Vec<u8>, Error> {
    let host = host(response.url());
    let too_large = || {
        Error::new(Kind::TooLarge, format!("{host} sends more than the {limit} bytes of the limit"))
    };
    if response.content_length().is_some_and(|promised| promised > limit) {
        return Err(too_large());
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| failure::of(&error, &host))? {
        progress.note();
        if body.len() as u64 + chunk.len() as u64 > limit {
            return Err(too_large());
        }
        // An allocation that fails otherwise ends the process, and with it the whole server.
        body.try_reserve(chunk.len()).map_err(|_| {
            Error::new(Kind::Busy, format!("memory does not hold what {host} sends"))
        })?;
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Host and port, for messages: a path and a query may hold what is nobody's business.
pub(crate) fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or("?");
    match url.port() {
        Some(port) => format!("{}:{port}", shown(host)),
        None => shown(host),
    }
}

/// What the server asks for in Retry-After, seconds or a date.
pub(crate) fn retry_after(response: &Response) -> Option<Duration> {
    let value = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match value.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = httpdate::parse_http_date(value).ok()?;
            date.duration_since(std::time::SystemTime::now()).unwrap_or_default()
        }
    };
    Some(wait.min(LONGEST_RETRY_AFTER))
}

/// The body of an upload, which tells of each piece that is taken from it.
pub(crate) struct Outgoing {
    rest: Bytes,
    progress: Progress,
}

impl Outgoing {
    pub fn new(body: Vec<u8>, progress: &Progress) -> Outgoing {
        Outgoing { rest: body.into(), progress: progress.clone() }
    }
}

impl http_body::Body for Outgoing {
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

/// Resolves names, and gives out only addresses that may be connected to: what was checked is what
/// is connected to, whatever the name resolves to a moment later.
pub(crate) struct Resolver {
    pub addresses: Addresses,
}

/// A name led to an address that may not be connected to.
#[derive(Debug)]
pub(crate) struct NotAllowed(Addresses);

impl std::fmt::Display for NotAllowed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self.0 {
            Addresses::Loopback => {
                "it is sent credentials without https, and does not resolve to loopback addresses"
            }
            _ => "it resolves to an address that is not of the public internet",
        })
    }
}

impl std::error::Error for NotAllowed {}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let addresses = self.addresses;
        Box::pin(async move {
            let found: Vec<SocketAddr> =
                tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            // One is enough: whoever mixes them in means them to be tried.
            if !found.iter().all(|found| addresses.allow(found.ip())) {
                return Err(NotAllowed(addresses).into());
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}
