//! The library's allocator. It overwrites memory that a thread with secrets frees, and a failed
//! allocation ends the session, not the cluster.
//!
//! A service key is sent in a header. HTTP, TLS and their buffers copy it to places that our types
//! cannot overwrite. That code runs only in separate threads, see [`super::wait::start_thread`];
//! everything that these threads free is overwritten. Elsewhere this is the system's allocator.
//!
//! Rust aborts the process if an allocation fails, and the server then restarts the cluster. So the
//! process ends here with the server's own FATAL error (53200), which does not affect other
//! sessions. Code that can continue without the memory allocates within [`may_fail`].

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ffi::{c_char, c_int};
use std::hint::black_box;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use pgrx::{PgLogLevel, PgSqlErrorCode, pg_sys};

use super::error::Error;

unsafe extern "C-unwind" {
    // The parts of ereport() (utils/elog.h), called directly because pgrx's wrappers allocate.
    fn errstart(level: c_int, domain: *const c_char) -> bool;
    fn errcode(code: c_int) -> c_int;
    fn errmsg_internal(format: *const c_char, ...) -> c_int;
    fn errdetail_internal(format: *const c_char, ...) -> c_int;
    fn errfinish(file: *const c_char, line: c_int, function: *const c_char);
}

/// Whether any thread of this process overwrites. In most backends none does, and this check is the
/// only extra cost of freeing.
static ANY_OVERWRITES: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// Has no destructor, so that it stays readable as long as the thread frees memory.
    static OVERWRITES: Cell<bool> = const { Cell::new(false) };
    /// Whether this thread can continue after a failed allocation.
    static MAY_FAIL: Cell<bool> = const { Cell::new(false) };
}

/// Runs code that handles a failed allocation itself, such as `try_reserve`.
pub fn may_fail<R>(allocate: impl FnOnce() -> R) -> R {
    let before = MAY_FAIL.replace(true);
    let result = allocate();
    MAY_FAIL.set(before);
    result
}

/// Checks that this much memory is available now, before an operation that cannot handle its
/// absence.
///
/// Errors: 53200.
pub fn check_available(bytes: usize) -> Result<(), Error> {
    // SAFETY: the block is freed at once and not used otherwise. free() accepts NULL.
    let is_available = unsafe {
        let block = black_box(libc::malloc(bytes.max(1)));
        libc::free(block);
        !block.is_null()
    };
    if is_available { Ok(()) } else { Err(Error::OutOfMemory { bytes }) }
}

/// Called when an allocation fails, once the library is loaded in a server.
static ON_FAILURE: OnceLock<fn(usize)> = OnceLock::new();

/// Makes a failed allocation end the session.
pub fn end_session_on_failure() {
    // Already set if the library is loaded again; the value is the same.
    let _ = ON_FAILURE.set(end_session);
}

#[cold]
#[inline(never)]
fn out_of_memory(bytes: usize) {
    if let Some(on_failure) = ON_FAILURE.get().filter(|_| !MAY_FAIL.get()) {
        on_failure(bytes);
    }
}

/// Ends this server process with a FATAL error where that is possible. Otherwise it returns, the
/// allocation fails, and the process aborts.
fn end_session(bytes: usize) {
    // SAFETY: the process's main thread, in a child of the postmaster. FATAL does not return and
    // does not unwind: it rolls the transaction back and exits. The texts end in NUL, and %zu takes
    // a usize.
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

/// The block, if there is one. If it is null, this may not return.
fn checked(block: *mut u8, bytes: usize) -> *mut u8 {
    if block.is_null() {
        out_of_memory(bytes);
    }
    block
}

/// Makes this thread overwrite what it frees from now on.
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

// SAFETY: each call passes its arguments to the system's allocator. Only a block that is no longer
// used is overwritten, for its given size.
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
        // SAFETY: the caller's promise. If the block must be overwritten, the system must not move
        // it, because that would leave the old copy.
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
