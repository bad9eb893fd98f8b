//! Caps on what a case may take: memory through the allocator, processor time, and fences behind buffers.
#![allow(dead_code)]

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
    let cap = NOW.load(Relaxed).saturating_add(bytes);
    let before = CAP.swap(cap.min(CAP.load(Relaxed)), Relaxed);
    let result = work();
    CAP.store(before, Relaxed);
    result
}

/// Nanoseconds of processor time that this process has used: other processes of the machine do not count.
fn processor_time() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a local of the right type.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    assert_eq!(status, 0);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Runs a case, which may take this many milliseconds of processor time.
pub fn in_time<T>(milliseconds: u64, work: impl FnOnce() -> T) -> T {
    let start = processor_time();
    let result = work();
    let taken = (processor_time() - start) / 1_000_000;
    assert!(taken <= milliseconds, "{taken} ms taken, {milliseconds} ms allowed");
    result
}

/// Memory with an inaccessible page behind it: whoever reads or writes past the end is stopped, in any language.
pub struct Fence {
    start: *mut u8,
    length: usize,
}

impl Fence {
    /// Room for buffers of up to `most` bytes.
    pub fn new(most: usize) -> Self {
        const PAGE: usize = 1 << 16;
        let length = most.div_ceil(PAGE) * PAGE;
        // SAFETY: a new private mapping, of which the last page is made inaccessible.
        unsafe {
            let (access, kind) =
                (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            let start = libc::mmap(std::ptr::null_mut(), length + PAGE, access, kind, -1, 0);
            assert!(start != libc::MAP_FAILED, "no memory");
            assert_eq!(libc::mprotect(start.byte_add(length), PAGE, libc::PROT_NONE), 0);
            Self { start: start.cast(), length }
        }
    }

    /// A buffer of `length` bytes that ends at the fence, `spare` bytes before it, full of bytes that mean nothing.
    pub fn room(&mut self, length: usize, spare: usize) -> &mut [u8] {
        assert!(length + spare <= self.length);
        // SAFETY: inside the mapping, which is borrowed for as long as the slice lives.
        let room =
            unsafe { std::slice::from_raw_parts_mut(self.start.add(self.length - length - spare), length) };
        room.fill(0xA5);
        room
    }

    /// A copy of `bytes` that ends at the fence.
    pub fn copy(&mut self, bytes: &[u8]) -> &mut [u8] {
        let room = self.room(bytes.len(), 0);
        room.copy_from_slice(bytes);
        room
    }
}
