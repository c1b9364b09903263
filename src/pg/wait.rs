//! Threads beside the server's own, and waiting for them.
//!
//! Such a thread never calls the server, and takes none of its signals: the handlers belong to the
//! process's first thread, and would run into pieces in another.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread::{Builder, JoinHandle};

use pgrx::pg_sys;

use super::error::Error;
use super::memory;

/// Starts a thread in which every signal is blocked, and in every thread that it starts. It may handle
/// secrets: what it frees is overwritten.
pub fn start_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, Error> {
    // A thread begins with the mask of the one that starts it.
    let _blocked = SignalsBlocked::new();
    let thread = Builder::new().name(name.to_owned()).spawn(|| {
        memory::overwrite_freed();
        work()
    });
    thread.map_err(no_thread)
}

fn no_thread(error: std::io::Error) -> Error {
    Error::NoThread { why: error.to_string() }
}

/// Every signal is blocked in this thread for as long as this lives.
struct SignalsBlocked {
    before: libc::sigset_t,
}

impl SignalsBlocked {
    fn new() -> SignalsBlocked {
        // SAFETY: both sets are made here and filled by the calls; on them, these cannot fail.
        unsafe {
            let mut all = std::mem::zeroed();
            let mut before = std::mem::zeroed();
            libc::sigfillset(&mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
            SignalsBlocked { before }
        }
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        // SAFETY: the mask that was there before.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, std::ptr::null_mut());
        }
    }
}

/// Does something slow in a thread of its own, and waits for what comes of it. Meanwhile the backend
/// answers what it is asked: cancelled, timed out or ended, it leaves at once, and `abandon` tells
/// the thread, which then has nobody to report to.
///
/// The thread's panic is an error here.
pub fn in_thread<T: Send + 'static>(
    name: &str,
    abandon: impl Fn(),
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    let (ours, theirs) = UnixStream::pair().map_err(no_thread)?;
    let (sender, receiver) = mpsc::sync_channel(1);
    let _abandon = OnDrop(abandon);
    start_thread(name, move || {
        // However the thread ends, its socket is closed then, which wakes the backend.
        let _awake = theirs;
        let sender = sender;
        // With nobody there to take it, the result is dropped.
        let _ = sender.send(work());
    })?;
    loop {
        match receiver.try_recv() {
            Ok(result) => return Ok(result),
            Err(mpsc::TryRecvError::Disconnected) => return Err(Error::Panicked),
            Err(mpsc::TryRecvError::Empty) => wait_for(&ours),
        }
    }
}

/// Sleeps until the socket has something to read or this process's latch is set, and then does what
/// the server asks of a process at such a point: it may end here, by an error or altogether.
fn wait_for(socket: &UnixStream) {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_SOCKET_READABLE | pg_sys::WL_EXIT_ON_PM_DEATH;
    // SAFETY: this process's own latch, and a socket that is open.
    unsafe {
        pg_sys::WaitLatchOrSocket(
            pg_sys::MyLatch,
            events as i32,
            socket.as_raw_fd(),
            -1,
            pg_sys::PG_WAIT_EXTENSION,
        );
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
    pg_sys::check_for_interrupts!();
}

struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
