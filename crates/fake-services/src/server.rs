//! The server: a thread per connection, and a function from request to response.

use std::io::{self, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::answer::Answer;
use crate::request::Request;
use crate::sync::{Stop, lock};

/// Returns the response to a request.
pub type Handler = dyn Fn(&Request) -> Answer + Send + Sync;

/// An HTTP server on 127.0.0.1, at a port that was free.
#[derive(Debug)]
pub struct FakeServer {
    address: SocketAddr,
    scheme: &'static str,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    seen: Mutex<Seen>,
    changed: Condvar,
    stop: Stop,
    /// Open connections, which are closed with the server.
    open: Mutex<Vec<TcpStream>>,
}

#[derive(Debug, Default)]
struct Seen {
    requests: Vec<Request>,
    connections: usize,
    at_once: usize,
    most_at_once: usize,
}

/// How the server handles a connection.
#[derive(Clone)]
struct Service {
    handler: Arc<Handler>,
    tls: Option<Arc<rustls::ServerConfig>>,
    reads_bodies: bool,
}

impl FakeServer {
    /// A server that reads each request to its end and sends the response that the function returns.
    pub fn start(handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> FakeServer {
        FakeServer::listen(0, handler)
    }

    /// The same at a port; 0 means any free one.
    pub fn listen(
        port: u16,
        handler: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> FakeServer {
        let service = Service { handler: Arc::new(handler), tls: None, reads_bodies: true };
        FakeServer::serve(port, service)
    }

    /// A server that responds after the head of a request, and never reads a body.
    pub fn impatient(handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> FakeServer {
        FakeServer::serve(0, Service { handler: Arc::new(handler), tls: None, reads_bodies: false })
    }

    /// A server with TLS and a certificate, see [`crate::certificate`].
    pub fn tls(
        config: Arc<rustls::ServerConfig>,
        handler: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> FakeServer {
        let tls = Some(config);
        FakeServer::serve(0, Service { handler: Arc::new(handler), tls, reads_bodies: true })
    }

    fn serve(port: u16, service: Service) -> FakeServer {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("a port on loopback");
        let address = listener.local_addr().expect("it is bound");
        let scheme = if service.tls.is_some() { "https" } else { "http" };
        let shared = Arc::new(Shared::default());
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    if shared.stop.is_set() {
                        return;
                    }
                    shared.seen().connections += 1;
                    shared.changed.notify_all();
                    if let Ok(copy) = stream.try_clone() {
                        lock(&shared.open).push(copy);
                    }
                    let (shared, service) = (Arc::clone(&shared), service.clone());
                    std::thread::spawn(move || shared.connection(stream, &service));
                }
            }
        });
        FakeServer { address, scheme, shared, listener: Some(thread) }
    }

    /// Address and port, such as `127.0.0.1:41234`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The URL of a path of this server; the path begins with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    /// The requests so far, in order.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.seen().requests.clone()
    }

    pub fn count(&self) -> usize {
        self.shared.seen().requests.len()
    }

    /// Forgets the requests so far.
    pub fn clear(&self) {
        self.shared.seen().requests.clear();
    }

    /// How many connections have been made, with or without a request.
    pub fn connections(&self) -> usize {
        self.shared.seen().connections
    }

    /// The most requests that were being handled at the same time.
    pub fn most_at_once(&self) -> usize {
        self.shared.seen().most_at_once
    }

    /// Waits until this many requests have arrived. Panics if they do not.
    #[track_caller]
    pub fn wait_for(&self, count: usize) {
        self.wait_until(|seen| seen.requests.len() >= count);
    }

    /// Waits until this many connections have been made. Panics if they are not.
    #[track_caller]
    pub fn wait_for_connections(&self, count: usize) {
        self.wait_until(|seen| seen.connections >= count);
    }

    #[track_caller]
    fn wait_until(&self, is_so: impl Fn(&Seen) -> bool) {
        let timeout = Duration::from_secs(60);
        let (seen, result) = self
            .shared
            .changed
            .wait_timeout_while(self.shared.seen(), timeout, |seen| !is_so(seen))
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        assert!(!result.timed_out(), "timed out; requests: {}", seen.requests.len());
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.shared.stop.set();
        for stream in lock(&self.shared.open).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        // Wakes the thread that accepts connections.
        let _ = TcpStream::connect(self.address);
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }

    /// Serves a connection until the client closes it, which is not an error.
    fn connection(&self, stream: TcpStream, service: &Service) {
        let _ = stream.set_nodelay(true);
        let copy = stream.try_clone();
        let _ = match &service.tls {
            None => self.converse(stream, service),
            Some(config) => rustls::ServerConnection::new(Arc::clone(config))
                .map_err(io::Error::other)
                .and_then(|tls| self.converse(rustls::StreamOwned::new(tls, stream), service)),
        };
        if let Ok(stream) = copy {
            let _ = stream.shutdown(Shutdown::Both);
            let peer = stream.peer_addr().ok();
            lock(&self.open).retain(|open| peer.is_none() || open.peer_addr().ok() != peer);
        }
    }

    fn converse(&self, stream: impl Read + Write, service: &Service) -> io::Result<()> {
        let mut stream = BufReader::new(stream);
        while let Some(mut request) = Request::head(&mut stream)? {
            if service.reads_bodies {
                request.read_body(&mut stream)?;
            }
            let is_head_request = request.method == "HEAD";
            {
                let mut seen = self.seen();
                seen.requests.push(request.clone());
                seen.at_once += 1;
                seen.most_at_once = seen.most_at_once.max(seen.at_once);
                self.changed.notify_all();
            }
            let answer = (service.handler)(&request);
            let sent = answer.send(stream.get_mut(), is_head_request, &self.stop);
            self.seen().at_once -= 1;
            if !sent? || !service.reads_bodies {
                break;
            }
        }
        Ok(())
    }
}

/// A handler that returns these responses in turn, and the last one again and again.
pub fn sequence(
    answers: impl IntoIterator<Item = Answer>,
) -> impl Fn(&Request) -> Answer + Send + Sync + 'static {
    let answers = Mutex::new(answers.into_iter().collect::<std::collections::VecDeque<_>>());
    move |_| {
        let mut answers = lock(&answers);
        match answers.len() {
            0 => Answer::new(500),
            1 => answers[0].clone(),
            _ => answers.pop_front().expect("it has several"),
        }
    }
}
