//! Name resolution that returns only allowed addresses.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::address::Addresses;

/// Resolves names and returns only addresses that may be connected to. The client connects to the
/// addresses that were checked, even if the name resolves to others a moment later.
pub(crate) struct Resolver {
    pub addresses: Addresses,
    /// See [`crate::Limits::lookups`].
    pub lookups: usize,
}

/// How often a transfer checks whether another one's look-up has ended.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// Look-ups that are under way in this process.
static LOOKUPS: AtomicUsize = AtomicUsize::new(0);

/// One look-up. It is over when the system's resolver has returned, however long ago its transfer ended.
struct Lookup;

impl Lookup {
    async fn begin(limit: usize) -> Lookup {
        let begun = |number: usize| (number < limit.max(1)).then_some(number + 1);
        while LOOKUPS.fetch_update(Ordering::AcqRel, Ordering::Acquire, begun).is_err() {
            tokio::time::sleep(CHECK_INTERVAL).await;
        }
        Lookup
    }

    fn of(self, name: &str) -> std::io::Result<Vec<SocketAddr>> {
        Ok((name, 0).to_socket_addrs()?.collect())
    }
}

impl Drop for Lookup {
    fn drop(&mut self) {
        LOOKUPS.fetch_sub(1, Ordering::AcqRel);
    }
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
        let (addresses, lookups) = (self.addresses, self.lookups);
        Box::pin(async move {
            let lookup = Lookup::begin(lookups).await;
            let found = tokio::task::spawn_blocking(move || lookup.of(name.as_str())).await??;
            // One forbidden address is enough: an attacker who mixes it in wants it to be tried.
            if !found.iter().all(|found| addresses.allow(found.ip())) {
                return Err(NotAllowed(addresses).into());
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Else names that hang would fill the process with threads: nothing can stop a look-up.
    #[test]
    fn a_look_up_waits_for_another_one_to_end() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let limit = 100;
            let mut held = vec![];
            while held.len() < limit {
                held.push(Lookup::begin(limit).await);
            }
            let mut next = std::pin::pin!(Lookup::begin(limit));
            let waited = tokio::time::timeout(10 * CHECK_INTERVAL, &mut next).await;
            assert!(waited.is_err(), "as many as may be are under way");
            drop(held);
            next.await;
        });
    }
}
