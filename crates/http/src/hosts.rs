//! The hosts that media may be fetched from.

use std::net::IpAddr;

use reqwest::Url;

use crate::address::Addresses;
use crate::error::{Error, Kind, shown};

/// The hosts of the setting, in its order.
///
/// An item is a host, such as `api.twilio.com`, or a host and a port, such as `media.test:8080`.
///
/// - A host alone is reached by https on port 443, at addresses of the public internet.
/// - A host with a port is reached at this port, at any address, by https or by http: the operator
///   means this server.
/// - The first item is the API's host. Only this host is sent the credentials: by https, or by http to
///   a loopback address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hosts(Vec<Host>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Host {
    /// As in a parsed URL: lower case, IDN in ASCII, an IPv6 address in brackets.
    name: String,
    port: Option<u16>,
}

/// A URL that may be requested.
#[derive(Debug)]
pub(crate) struct Target {
    pub url: Url,
    /// The addresses that its name may resolve to.
    pub addresses: Addresses,
    /// Whether it is the API's host.
    pub is_api: bool,
}

impl Hosts {
    /// Parses items separated by commas. [`Kind::Invalid`] for an item that is not a host, and for an
    /// empty list.
    pub fn parse(list: &str) -> Result<Hosts, Error> {
        let items = list.split(',').map(str::trim).filter(|item| !item.is_empty());
        let hosts = items.map(Host::parse).collect::<Result<Vec<_>, _>>()?;
        if hosts.is_empty() {
            return Err(Error::new(Kind::Invalid, "the list of media hosts is empty"));
        }
        Ok(Hosts(hosts))
    }

    /// Checks a URL against the list. [`Kind::Refused`], naming the host, if it may not be requested.
    pub(crate) fn target(&self, url: Url) -> Result<Target, Error> {
        let refuse = |why: String| Err(Error::new(Kind::Refused, why));
        let Some(name) = url.host_str() else {
            return refuse(format!("a {}: URL has no host", shown(url.scheme())));
        };
        let name = name.to_owned();
        if !matches!(url.scheme(), "https" | "http") {
            return refuse(format!(
                "{name} cannot be reached by {}, only by https",
                shown(url.scheme())
            ));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return refuse(format!("the URL contains a user name or a password for {name}"));
        }
        let port = url.port_or_known_default();
        let named = |host: &Host| host.name == name && host.port.is_some() && host.port == port;
        let is_api = |host: &Host| self.0.first() == Some(host);
        if let Some(host) = self.0.iter().find(|host| named(host)) {
            // The API's host is sent credentials, and plain http would show them to the network.
            let is_shown = is_api(host) && url.scheme() == "http";
            let addresses = if is_shown { Addresses::Loopback } else { Addresses::Any };
            if literal(&name).is_some_and(|address| !addresses.allow(address)) {
                return refuse(format!("{name} is sent credentials without https"));
            }
            return Ok(Target { url, addresses, is_api: is_api(host) });
        }
        let Some(host) = self.0.iter().find(|host| host.name == name && host.port.is_none()) else {
            return refuse(format!("{name}, port {}, is not a media host", port.unwrap_or(0)));
        };
        if url.scheme() != "https" {
            return refuse(format!("{name} cannot be reached without https"));
        }
        if port != Some(443) {
            return refuse(format!("{name} is a media host on port 443 only"));
        }
        if literal(&name).is_some_and(|address| !Addresses::Public.allow(address)) {
            return refuse(format!("{name} is not an address of the public internet"));
        }
        Ok(Target { url, addresses: Addresses::Public, is_api: is_api(host) })
    }
}

/// The address, if the URL names one instead of a host name. The resolver never sees it, so it is
/// checked here.
fn literal(name: &str) -> Option<IpAddr> {
    name.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

impl Host {
    fn parse(item: &str) -> Result<Host, Error> {
        let refuse = || {
            let message = format!("\"{}\" is not a host or a host and a port", shown(item));
            Err(Error::new(Kind::Invalid, message))
        };
        if item.contains(['/', '\\', '@', '?', '#', '*']) || item.contains(char::is_whitespace) {
            return refuse();
        }
        // Parsed as part of a URL, so that it is normalised like the URLs that are compared with it.
        let Ok(url) = Url::parse(&format!("https://{item}/")) else { return refuse() };
        let Some(name) = url.host_str().map(str::to_owned) else { return refuse() };
        let after_name = item.rsplit(']').next().unwrap_or_default();
        let port = match after_name.rsplit_once(':').map(|(_, port)| port.parse::<u16>()) {
            None => None,
            Some(Ok(port)) if port != 0 => Some(port),
            Some(_) => return refuse(),
        };
        Ok(Host { name, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWILIO: &str = "api.twilio.com, media.twiliocdn.com, 127.0.0.1:8080, [::1]:8081,";

    fn target(url: &str) -> Result<Target, Error> {
        Hosts::parse(TWILIO).unwrap().target(Url::parse(url).unwrap())
    }

    #[test]
    fn a_listed_host_is_reached_by_https() {
        let target = target("https://API.twilio.com/2010-04-01/x").unwrap();
        assert!(target.is_api && target.addresses == Addresses::Public);
        assert!(
            !Hosts::parse(TWILIO)
                .unwrap()
                .target(Url::parse("https://media.twiliocdn.com/x").unwrap())
                .unwrap()
                .is_api
        );
    }

    #[test]
    fn a_host_listed_with_its_port_may_have_any_address() {
        for url in ["http://127.0.0.1:8080/x", "https://127.0.0.1:8080/x", "http://[::1]:8081/"] {
            assert_eq!(target(url).unwrap().addresses, Addresses::Any, "{url}");
        }
        let api = |url| Hosts::parse("proxy:8080").unwrap().target(Url::parse(url).unwrap());
        assert_eq!(api("https://proxy:8080/").unwrap().addresses, Addresses::Any);
        assert_eq!(api("http://proxy:8080/").unwrap().addresses, Addresses::Loopback);
    }

    #[test]
    fn any_other_url_is_refused() {
        for url in [
            "http://api.twilio.com/x",
            "http://api.twilio.com:443/x",
            "https://api.twilio.com:8443/x",
            "https://api.twilio.com./x",
            "https://api.twilio.com.evil.example/x",
            "https://evil.example/api.twilio.com",
            "https://api.twilio.com@evil.example/",
            "https://user:password@api.twilio.com/x",
            "https://user@api.twilio.com/x",
            "https://:password@api.twilio.com/x",
            "http://user@127.0.0.1:8080/x",
            "http://127.0.0.1/x",
            "http://127.0.0.1:8081/x",
            "http://localhost:8080/x",
            "https://169.254.169.254/latest/meta-data",
            "ftp://api.twilio.com/x",
            "file:///etc/passwd",
            "data:image/png,x",
        ] {
            assert_eq!(target(url).unwrap_err().kind(), Kind::Refused, "{url}");
        }
    }

    #[test]
    fn another_way_to_write_an_address_is_the_same_address() {
        for url in ["http://2130706433:8080/", "http://0x7f.1:8080/", "http://127.1:8080/"] {
            assert!(target(url).is_ok(), "{url}");
        }
        let hosts = Hosts::parse("127.0.0.1").unwrap();
        for url in ["https://2130706433/", "https://0x7f000001/", "https://127.0.0.1/"] {
            let error = hosts.target(Url::parse(url).unwrap()).unwrap_err();
            assert_eq!(error.kind(), Kind::Refused, "{url}");
        }
    }

    #[test]
    fn an_invalid_list_is_refused() {
        for list in [
            "",
            " , ",
            "https://api.twilio.com",
            "*.twilio.com",
            "a b",
            "a:b",
            "a:0",
            "a:99999",
            "a:",
            "user@a",
            "a/b",
            "[::1",
        ] {
            assert_eq!(Hosts::parse(list).unwrap_err().kind(), Kind::Invalid, "{list:?}");
        }
    }

    #[test]
    fn an_error_names_the_host_and_not_the_query() {
        let error = target("https://evil.example/x?token=hunter2").unwrap_err();
        assert!(error.message().contains("evil.example"), "{error}");
        assert!(!error.message().contains("hunter2"), "{error}");
    }
}
