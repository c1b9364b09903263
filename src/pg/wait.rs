//! Threads beside the server's main thread, and waiting for them.
//!
//! These threads never call the server and take no signals: the signal handlers belong to the
//! process's main thread and are not safe in another.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread::{Builder, JoinHandle};

use pgrx::pg_sys;

use super::error::Error;
use super::memory;

/// Starts a thread with every signal blocked, also in the threads that it starts. It may handle
/// secrets: memory that it frees is overwritten.
pub fn start_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, Error> {
    // A thread inherits the signal mask of the thread that starts it.
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

/// Blocks every signal in this thread while it lives.
struct SignalsBlocked {
    before: libc::sigset_t,
}

impl SignalsBlocked {
    fn new() -> SignalsBlocked {
        // SAFETY: both sets are local and filled by the calls, which cannot fail on them.
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
        // SAFETY: restores the previous mask.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, std::ptr::null_mut());
        }
    }
}

/// Runs slow work in its own thread and waits for the result. Meanwhile the backend stays
/// interruptible: if it is cancelled, timed out or terminated, it leaves at once and calls
/// `abandon` to notify the thread, whose result is then dropped.
///
/// Errors: a panic of the thread is an error here.
pub fn in_thread<T: Send + 'static>(
    name: &str,
    abandon: impl Fn(),
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    let (ours, theirs) = UnixStream::pair().map_err(no_thread)?;
    let (sender, receiver) = mpsc::sync_channel(1);
    let _abandon = OnDrop(abandon);
    start_thread(name, move || {
        // The socket closes when the thread ends for any reason, which wakes the backend.
        let _awake = theirs;
        let sender = sender;
        // If the receiver is gone, the result is dropped.
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

/// Sleeps until the socket is readable or this process's latch is set, then processes interrupts.
/// That may raise an error or end the process.
fn wait_for(socket: &UnixStream) {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_SOCKET_READABLE | pg_sys::WL_EXIT_ON_PM_DEATH;
    // SAFETY: this process's own latch and an open socket.
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
