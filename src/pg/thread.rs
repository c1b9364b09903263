//! Threads beside the one that PostgreSQL knows of. They never call the server.

use std::io;
use std::thread::{Builder, JoinHandle};

/// Starts a thread that takes none of the server's signals, nor do those that it starts: the server's
/// handlers belong to the process's first thread.
pub fn start<R: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> R + Send + 'static,
) -> io::Result<JoinHandle<R>> {
    // SAFETY: a set of signals is plain data, all of which sigfillset writes.
    let (mut all, mut before) = unsafe { std::mem::zeroed::<(libc::sigset_t, libc::sigset_t)>() };
    // SAFETY: pointers to sets that live throughout. A thread begins with its parent's mask, so it is
    // this thread's that changes, for as long as it takes to start the other.
    let blocked = unsafe {
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before)
    };
    if blocked != 0 {
        return Err(io::Error::from_raw_os_error(blocked));
    }
    let started = Builder::new().name(name.to_owned()).spawn(body);
    // SAFETY: as above; the mask is the one that was there before.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut()) };
    started
}
