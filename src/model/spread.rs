//! Work of a few tens of microseconds for several threads, many times a token.
//!
//! A pool's thread that finds nothing to do goes to sleep after some microseconds, and waking it takes longer than a small
//! matrix product does. So here threads that wait look for work a little longer.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a thread looks for work without finding any before it may sleep.
const PATIENCE: Duration = Duration::from_micros(500);
/// How long it does so at all, work found or not: with several callers there may always be some.
const LONGEST: Duration = Duration::from_millis(100);

thread_local! {
    /// Pieces of work on this thread's stack.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// A piece of work on this thread's stack, counted while it lives.
struct Inside;

impl Inside {
    fn enter() -> Self {
        DEPTH.set(DEPTH.get() + 1);
        Self
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
    }
}

/// What is left of a [`spread`].
struct Left {
    next: AtomicUsize,
    items: AtomicUsize,
    /// Somebody's work panicked: the rest is not begun.
    panicked: AtomicBool,
}

/// An item in work; counts as done when it is dropped, by a panic too.
struct Item<'l>(&'l Left);

impl Drop for Item<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.panicked.store(true, Ordering::Relaxed);
        }
        self.0.items.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Calls `work` with every item, on as many of the pool's threads as have time. Items are taken in order.
pub(crate) fn spread<T: Send>(items: impl IntoIterator<Item = T>, work: impl Fn(T) + Sync) {
    let items: Vec<_> = items.into_iter().map(|item| Mutex::new(Some(item))).collect();
    let left = Left {
        next: AtomicUsize::new(0),
        items: AtomicUsize::new(items.len()),
        panicked: AtomicBool::new(false),
    };
    let take = || {
        let _inside = Inside::enter();
        while !left.panicked.load(Ordering::Relaxed) {
            let Some(item) = items.get(left.next.fetch_add(1, Ordering::Relaxed)) else { return };
            let _item = Item(&left);
            if let Some(item) = item.lock().unwrap_or_else(PoisonError::into_inner).take() {
                work(item);
            }
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
        let _inside = Inside::enter();
        take();
        work_while(|| left.items.load(Ordering::Relaxed) > 0 && !left.panicked.load(Ordering::Relaxed));
    });
}

/// Calls `body`, whose work is [`spread`], with the pool's other threads on the watch for it. Nobody waits for those that
/// watch, and one that has other work under way does not begin to.
pub(crate) fn watched<R: Send>(body: impl FnOnce() -> R + Send) -> R {
    /// Set when it is dropped.
    struct Done(Arc<AtomicBool>);
    impl Drop for Done {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    rayon::scope(|_| {
        let done = Done(Arc::default());
        if rayon::current_num_threads() > 1 {
            let (leader, seen) = (rayon::current_thread_index(), Arc::clone(&done.0));
            rayon::spawn_broadcast(move |context| {
                if Some(context.index()) != leader && DEPTH.get() == 0 {
                    let _inside = Inside::enter();
                    work_while(|| !seen.load(Ordering::Relaxed));
                }
            });
        }
        let _inside = Inside::enter();
        body()
    })
}

/// Does whatever work of the pool there is while `condition` holds, unless there is none for long. Both limits matter
/// where several callers share the pool: what one waits for may be further down on this thread's stack.
fn work_while(condition: impl Fn() -> bool) {
    let start = Instant::now();
    let mut found = start;
    while condition() && found.elapsed() < PATIENCE && start.elapsed() < LONGEST {
        if rayon::yield_now() == Some(rayon::Yield::Executed) {
            found = Instant::now();
        } else {
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
    fn nothing_is_begun_after_a_panic() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let begun = AtomicUsize::new(0);
        let work = |item| {
            begun.fetch_add(1, Ordering::Relaxed);
            assert!(item != 2);
        };
        let run = || pool.install(|| spread(0..9, work));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err());
        assert_eq!(begun.into_inner(), 3);
    }

    #[test]
    fn nobody_waits_for_another_callers_work() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let (begun, over) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            // One caller keeps one of the threads until the other has had its many short turns.
            let long = scope.spawn(|| {
                pool.install(|| {
                    watched(|| {
                        begun.store(true, Ordering::Relaxed);
                        let start = Instant::now();
                        while !over.load(Ordering::Relaxed) && start.elapsed() < Duration::from_secs(60) {
                            std::thread::yield_now();
                        }
                        over.load(Ordering::Relaxed)
                    })
                })
            });
            while !begun.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            for _ in 0..50 {
                pool.install(|| watched(|| spread(0..4, |_| {})));
            }
            over.store(true, Ordering::Relaxed);
            assert!(long.join().unwrap(), "short turns waited for the long one");
        });
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
