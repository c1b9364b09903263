//! Name resolution that returns only allowed addresses.

use std::net::SocketAddr;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::address::Addresses;

/// Resolves names and returns only addresses that may be connected to. The client connects to the
/// addresses that were checked, even if the name resolves to others a moment later.
pub(crate) struct Resolver {
    pub addresses: Addresses,
}

/// A name resolves to an address that may not be connected to.
#[derive(Debug)]
pub(crate) struct NotAllowed(Addresses);

impl std::fmt::Display for NotAllowed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self.0 {
            Addresses::Loopback => {
                "is sent credentials without https and does not resolve to loopback addresses"
            }
            _ => "resolves to an address that is not of the public internet",
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
            // One forbidden address is enough: an attacker who mixes it in wants it to be tried.
            if !found.iter().all(|found| addresses.allow(found.ip())) {
                return Err(NotAllowed(addresses).into());
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}
