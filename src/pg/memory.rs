//! The library's allocator: memory that a thread with secrets frees is overwritten first.
//!
//! A service key goes out in a header, and HTTP, TLS and their buffers copy it where no type of ours
//! can overwrite it. They all run in threads of their own, see [`super::wait::start_thread`]: what
//! such a thread frees holds nothing afterwards. Elsewhere this is the system's allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether any thread of this process overwrites. Where none does, as in most backends, this is all
/// that freeing costs more.
static ANY_OVERWRITES: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// Without a destructor, so that it can be read as long as the thread frees anything.
    static OVERWRITES: Cell<bool> = const { Cell::new(false) };
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
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
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
                return System.realloc(block, layout, size);
            }
            let moved = System.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !moved.is_null() {
                std::ptr::copy_nonoverlapping(block, moved, layout.size().min(size));
                self.dealloc(block, layout);
            }
            moved
        }
    }
}
