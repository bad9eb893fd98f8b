//! Work of a few tens of microseconds for several threads, many times a token.
//!
//! A pool's thread that finds nothing to do goes to sleep after some microseconds, and waking it takes longer than a small
//! matrix product does. So here threads that wait look for work a little longer.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Looks for work without finding any, after which a thread may sleep: about half a millisecond.
const PATIENCE: usize = 1000;

/// Calls `work` with every item, on as many of the pool's threads as have time. Items are taken in order.
pub(crate) fn spread<T: Send>(items: impl IntoIterator<Item = T>, work: impl Fn(T) + Sync) {
    let items: Vec<_> = items.into_iter().map(|item| Mutex::new(Some(item))).collect();
    let (next, left) = (AtomicUsize::new(0), AtomicUsize::new(items.len()));
    let take = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Some(item) = item.lock().unwrap_or_else(PoisonError::into_inner).take() {
                work(item);
            }
            left.fetch_sub(1, Ordering::Relaxed);
        }
    };
    let helpers = items.len().min(rayon::current_num_threads()).saturating_sub(1);
    if helpers == 0 {
        return take();
    }
    rayon::scope(|scope| {
        for _ in 0..helpers {
            scope.spawn(|_| take());
        }
        take();
        work_while(|| left.load(Ordering::Relaxed) > 0);
    });
}

/// Calls `body`, with the pool's other threads on the watch for its work.
pub(crate) fn watched<R: Send>(body: impl FnOnce() -> R + Send) -> R {
    let done = AtomicBool::new(false);
    rayon::scope(|scope| {
        let leader = rayon::current_thread_index();
        let done = &done;
        scope.spawn_broadcast(move |_, context| {
            if Some(context.index()) != leader {
                work_while(|| !done.load(Ordering::Relaxed));
            }
        });
        let result = body();
        done.store(true, Ordering::Relaxed);
        result
    })
}

/// Does whatever work of the pool there is while `condition` holds, unless there is none for long. That limit matters
/// where several callers share the pool: what one waits for may be further down on this thread's stack.
fn work_while(condition: impl Fn() -> bool) {
    let mut idle = 0;
    while idle < PATIENCE && condition() {
        if rayon::yield_now() == Some(rayon::Yield::Executed) {
            idle = 0;
        } else {
            idle += 1;
            std::thread::yield_now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_taken_once() {
        let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        for threads in [1, 2, 5] {
            for count in [0, 1, 2, 7, 100] {
                let seen: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
                pool(threads).install(|| {
                    // Nested, as matrices and their shares are.
                    watched(|| {
                        spread(seen.chunks(3), |seen| {
                            spread(seen, |seen| {
                                seen.fetch_add(1, Ordering::Relaxed);
                            });
                        });
                    });
                });
                assert!(seen.iter().all(|seen| seen.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn panics_come_through_and_leave_the_pool_in_order() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        let run = || pool.install(|| watched(|| spread(0..9, |item| assert!(item != 5))));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err());
        pool.install(|| spread(0..9, |_| {}));
    }

    #[test]
    fn callers_may_share_a_pool() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let sum = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        pool.install(|| {
                            watched(|| {
                                spread(0..6, |item| {
                                    sum.fetch_add(item, Ordering::Relaxed);
                                })
                            })
                        });
                    }
                });
            }
        });
        assert_eq!(sum.into_inner(), 4 * 200 * 15);
    }
}
