//! An allocator that ends the process when a case takes more memory than it may.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

pub struct Guard;

static NOW: AtomicUsize = AtomicUsize::new(0);
static CAP: AtomicUsize = AtomicUsize::new(usize::MAX);

fn take(size: usize) {
    let now = NOW.fetch_add(size, Relaxed) + size;
    let cap = CAP.load(Relaxed);
    if now > cap {
        CAP.store(usize::MAX, Relaxed);
        panic!("{now} bytes allocated, {cap} allowed");
    }
}

// SAFETY: every call goes to the system's allocator unchanged; the counters do not touch the memory.
unsafe impl GlobalAlloc for Guard {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        System.alloc(layout)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        System.dealloc(pointer, layout)
    }
}

#[global_allocator]
static ALLOCATOR: Guard = Guard;

/// Runs `work`, which may allocate `bytes` bytes at once.
pub fn within<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    CAP.store(NOW.load(Relaxed).saturating_add(bytes), Relaxed);
    let result = work();
    CAP.store(usize::MAX, Relaxed);
    result
}
