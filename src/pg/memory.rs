//! The library's allocator: memory that a thread with secrets frees is overwritten first, and memory
//! that is not to be had ends the session and not the cluster.
//!
//! A service key goes out in a header, and HTTP, TLS and their buffers copy it where no type of ours
//! can overwrite it. They all run in threads of their own, see [`super::wait::start_thread`]: what
//! such a thread frees holds nothing afterwards. Elsewhere this is the system's allocator.
//!
//! Rust aborts the process where an allocation fails, and the server then restarts the cluster. So a
//! process of the server ends here by the server's own FATAL error (53200), which no other session
//! notices. What can go on without the memory asks for it within [`may_fail`].

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ffi::{c_char, c_int};
use std::hint::black_box;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use pgrx::{PgLogLevel, PgSqlErrorCode, pg_sys};

use super::error::Error;

unsafe extern "C-unwind" {
    // The parts of ereport() (utils/elog.h), called without pgrx's own, which allocate.
    fn errstart(level: c_int, domain: *const c_char) -> bool;
    fn errcode(code: c_int) -> c_int;
    fn errmsg_internal(format: *const c_char, ...) -> c_int;
    fn errdetail_internal(format: *const c_char, ...) -> c_int;
    fn errfinish(file: *const c_char, line: c_int, function: *const c_char);
}

/// Whether any thread of this process overwrites. Where none does, as in most backends, this is all
/// that freeing costs more.
static ANY_OVERWRITES: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// Without a destructor, so that it can be read as long as the thread frees anything.
    static OVERWRITES: Cell<bool> = const { Cell::new(false) };
    /// Whether this thread can go on where an allocation fails.
    static MAY_FAIL: Cell<bool> = const { Cell::new(false) };
}

/// Runs what handles a failed allocation itself, such as `try_reserve`.
pub fn may_fail<R>(allocate: impl FnOnce() -> R) -> R {
    let before = MAY_FAIL.replace(true);
    let result = allocate();
    MAY_FAIL.set(before);
    result
}

/// Makes sure that so much memory is to be had at this moment, before something is begun that cannot
/// handle its absence.
///
/// Errors: 53200.
pub fn check_available(bytes: usize) -> Result<(), Error> {
    // SAFETY: the block is freed at once, and nothing else is done with it. free() takes NULL.
    let is_available = unsafe {
        let block = black_box(libc::malloc(bytes.max(1)));
        libc::free(block);
        !block.is_null()
    };
    if is_available { Ok(()) } else { Err(Error::OutOfMemory { bytes }) }
}

/// What is done where an allocation fails, once the library is in a server.
static ON_FAILURE: OnceLock<fn(usize)> = OnceLock::new();

/// From now on an allocation that fails ends the session.
pub fn end_session_on_failure() {
    // Set again where the library is loaded again: it is the same.
    let _ = ON_FAILURE.set(end_session);
}

#[cold]
#[inline(never)]
fn out_of_memory(bytes: usize) {
    if let Some(on_failure) = ON_FAILURE.get().filter(|_| !MAY_FAIL.get()) {
        on_failure(bytes);
    }
}

/// Ends this process of the server where it can be ended in good order. Else the allocation fails, and
/// with it the process.
fn end_session(bytes: usize) {
    // SAFETY: the process's own thread, in a child of the postmaster. FATAL does not return and does
    // not unwind: it rolls the transaction back and exits. The texts end in NUL, and %zu takes a usize.
    unsafe {
        let is_main_thread = libc::syscall(libc::SYS_gettid) == libc::c_long::from(libc::getpid());
        if !is_main_thread || !pg_sys::IsUnderPostmaster {
            return;
        }
        if errstart(PgLogLevel::FATAL as c_int, std::ptr::null()) {
            errcode(PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY as c_int);
            errmsg_internal(c"out of memory".as_ptr());
            errdetail_internal(c"Failed on request of size %zu in pg_civic.".as_ptr(), bytes);
            errfinish(c"memory.rs".as_ptr(), 0, c"out_of_memory".as_ptr());
        }
    }
}

/// The block, if there is one. Where there is none this may not return.
fn checked(block: *mut u8, bytes: usize) -> *mut u8 {
    if block.is_null() {
        out_of_memory(bytes);
    }
    block
}

/// From now on, this thread overwrites what it frees.
pub fn overwrite_freed() {
    OVERWRITES.set(true);
    ANY_OVERWRITES.store(true, Ordering::Relaxed);
}

fn overwrites() -> bool {
    ANY_OVERWRITES.load(Ordering::Relaxed) && OVERWRITES.get()
}

struct Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

// SAFETY: each call goes to the system's allocator with the arguments that it was given. What is
// overwritten is a block of the given size that nobody uses any more.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        checked(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        checked(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise: a block of this size, used for the last time here.
        unsafe {
            if overwrites() {
                libc::explicit_bzero(block.cast(), layout.size());
            }
            System.dealloc(block, layout);
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise. Where the block is to be overwritten, it must not be moved by
        // the system, which would leave the old place as it was.
        unsafe {
            if !overwrites() {
                return checked(System.realloc(block, layout, size), size);
            }
            let moved = System.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            let moved = checked(moved, size);
            if !moved.is_null() {
                std::ptr::copy_nonoverlapping(block, moved, layout.size().min(size));
                self.dealloc(block, layout);
            }
            moved
        }
    }
}
