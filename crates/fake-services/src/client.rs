//! A minimal HTTP client, in the role of a browser or an application server.

use std::io::{self, BufReader, Write};
use std::net::TcpStream;

use crate::request::Request;

/// One connection to a fake server, kept open.
pub struct Client {
    host: String,
    stream: BufReader<TcpStream>,
}

impl Client {
    /// Connects to the server of an http URL.
    pub fn connect(url: &str) -> io::Result<Client> {
        let (host, _) = parts(url)?;
        let stream = TcpStream::connect(host)?;
        stream.set_nodelay(true)?;
        Ok(Client { host: host.to_owned(), stream: BufReader::new(stream) })
    }

    /// Requests a URL of this server. Returns the status and the body.
    pub fn ask(
        &mut self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<(u16, Vec<u8>)> {
        let mut request = format!("{method} {} HTTP/1.1\r\nhost: {}\r\n", parts(url)?.1, self.host);
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
        let bytes = [request.as_bytes(), body].concat();
        self.stream.get_mut().write_all(&bytes)?;
        // A response's head is parsed like a request's, with the status in the place of the target.
        let answer = Request::head(&mut self.stream)?;
        let mut answer = answer.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        answer.read_body(&mut self.stream)?;
        let status = answer.target.parse().map_err(io::Error::other)?;
        Ok((status, answer.body))
    }

    /// Fetches a URL on a new connection.
    pub fn get(url: &str) -> io::Result<(u16, Vec<u8>)> {
        Client::connect(url)?.ask("GET", url, &[], b"")
    }
}

/// Host with port, and the rest of the URL.
fn parts(url: &str) -> io::Result<(&str, &str)> {
    let rest =
        url.strip_prefix("http://").and_then(|rest| rest.find('/').map(|at| rest.split_at(at)));
    rest.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not an http URL with a path"))
}
