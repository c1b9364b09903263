//! Responses of a fake server, including faulty ones.

use std::io::{self, Write};
use std::time::Duration;

use serde_json::Value;

use crate::sync::Stop;

/// A response. By default it is sent whole and at once, with its length.
#[derive(Debug, Clone)]
pub struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    after: Duration,
    manner: Manner,
}

#[derive(Debug, Clone)]
enum Manner {
    Whole,
    /// The Content-Length is the whole body's; this many bytes are sent, and the connection is closed.
    Cut(usize),
    /// This many bytes at a time, each time after this delay.
    Drip(usize, Duration),
    /// The body again and again, chunked, without end.
    Endless,
    /// Headers without end.
    HeaderBomb,
    /// The body's bytes only, and the connection is closed.
    Raw,
    /// Nothing, and the connection stays open.
    BlackHole,
    /// Nothing, and the connection is closed.
    HangUp,
}

/// How the client recognises the end of the body.
enum Framing {
    Length,
    Chunked,
}

impl Answer {
    pub fn new(status: u16) -> Answer {
        Answer {
            status,
            headers: vec![],
            body: vec![],
            after: Duration::ZERO,
            manner: Manner::Whole,
        }
    }

    pub fn json(status: u16, body: &Value) -> Answer {
        Answer::new(status).header("content-type", "application/json").body(body.to_string())
    }

    /// A file of a content type.
    pub fn file(content_type: &str, body: impl Into<Vec<u8>>) -> Answer {
        Answer::new(200).header("content-type", content_type).body(body)
    }

    pub fn redirect(location: &str) -> Answer {
        Answer::new(307).header("location", location)
    }

    pub fn black_hole() -> Answer {
        Answer { manner: Manner::BlackHole, ..Answer::new(200) }
    }

    pub fn hang_up() -> Answer {
        Answer { manner: Manner::HangUp, ..Answer::new(200) }
    }

    pub fn header_bomb() -> Answer {
        Answer { manner: Manner::HeaderBomb, ..Answer::new(200) }
    }

    /// Bytes that need not be HTTP.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Answer {
        Answer { manner: Manner::Raw, ..Answer::new(200).body(bytes) }
    }

    /// Adds a header. A `content-length` replaces the true one.
    pub fn header(mut self, name: &str, value: &str) -> Answer {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Answer {
        self.body = body.into();
        self
    }

    /// Delays the response.
    pub fn after(mut self, delay: Duration) -> Answer {
        self.after = delay;
        self
    }

    /// Delays it further.
    pub(crate) fn later(mut self, latency: Duration) -> Answer {
        self.after += latency;
        self
    }

    pub fn cut_after(mut self, bytes: usize) -> Answer {
        self.manner = Manner::Cut(bytes);
        self
    }

    pub fn dripping(mut self, bytes: usize, every: Duration) -> Answer {
        self.manner = Manner::Drip(bytes, every);
        self
    }

    pub fn endless(mut self) -> Answer {
        self.manner = Manner::Endless;
        self
    }

    /// Sends the response. True if the connection can be used again.
    pub(crate) fn send(
        &self,
        stream: &mut impl Write,
        is_head_request: bool,
        stop: &Stop,
    ) -> io::Result<bool> {
        if !stop.sleep(self.after) {
            return Ok(false);
        }
        match self.manner {
            Manner::Whole => {
                stream.write_all(self.head(Framing::Length).as_bytes())?;
                if !is_head_request {
                    stream.write_all(&self.body)?;
                }
            }
            Manner::Cut(bytes) => {
                stream.write_all(self.head(Framing::Length).as_bytes())?;
                stream.write_all(&self.body[..bytes.min(self.body.len())])?;
            }
            Manner::Drip(bytes, every) => {
                stream.write_all(self.head(Framing::Length).as_bytes())?;
                for drop in self.body.chunks(bytes.max(1)) {
                    stream.flush()?;
                    if !stop.sleep(every) {
                        return Ok(false);
                    }
                    stream.write_all(drop)?;
                }
            }
            Manner::Endless => {
                stream.write_all(self.head(Framing::Chunked).as_bytes())?;
                while !stop.is_set() {
                    write!(stream, "{:x}\r\n", self.body.len())?;
                    stream.write_all(&self.body)?;
                    stream.write_all(b"\r\n")?;
                }
            }
            Manner::HeaderBomb => {
                stream.write_all(b"HTTP/1.1 200 OK\r\n")?;
                // In few writes: a client must not take long to receive what it is to refuse.
                let headers: String = (0..1000)
                    .map(|number| format!("x-bomb-{number}: {number:0>1000}\r\n"))
                    .collect();
                while !stop.is_set() {
                    stream.write_all(headers.as_bytes())?;
                }
            }
            Manner::Raw => stream.write_all(&self.body)?,
            Manner::BlackHole => stop.wait(),
            Manner::HangUp => {}
        }
        stream.flush()?;
        Ok(matches!(self.manner, Manner::Whole | Manner::Drip(..)))
    }

    fn head(&self, framing: Framing) -> String {
        let mut head = format!("HTTP/1.1 {} Fake\r\n", self.status);
        let mut is_framed = false;
        for (name, value) in &self.headers {
            is_framed |= name.eq_ignore_ascii_case("content-length");
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        match framing {
            Framing::Chunked => head.push_str("transfer-encoding: chunked\r\n"),
            Framing::Length if is_framed => {}
            Framing::Length => {
                head.push_str(&format!("content-length: {}\r\n", self.body.len()));
            }
        }
        head.push_str("\r\n");
        head
    }
}
