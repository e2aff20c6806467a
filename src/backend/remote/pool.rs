//! Many requests at once, whose answers are taken as they come.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

use crate::error::Result;

/// Calls `work` for each of `items` numbers, at most `at_once` at the same time, and `take` with each result on this thread. What
/// `take` refuses ends it: requests under way are waited for, and no further one begins.
///
/// # Errors
/// Those of `take`.
pub(super) fn each<T: Send>(
    items: usize,
    at_once: usize,
    work: impl Fn(usize) -> T + Sync,
    mut take: impl FnMut(usize, T) -> Result<()>,
) -> Result<()> {
    let (next, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let (send, receive) = mpsc::channel();
        for _ in 0..at_once.clamp(1, items.max(1)) {
            let (send, next, over, work) = (send.clone(), &next, &over, &work);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let item = next.fetch_add(1, Ordering::Relaxed);
                    if item >= items || send.send((item, work(item))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(send);
        for (item, result) in receive {
            if let Err(error) = take(item, result) {
                over.store(true, Ordering::Relaxed);
                return Err(error);
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn each_item_is_worked_once_and_never_more_at_the_same_time() {
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let mut seen = [0; 50];
        let work = |item: usize| {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::sleep(std::time::Duration::from_millis(1));
            now.fetch_sub(1, Ordering::SeqCst);
            item * 2
        };
        each(50, 4, work, |item, result| {
            assert_eq!(result, item * 2);
            seen[item] += 1;
            Ok(())
        })
        .expect("taken");
        assert!(seen.iter().all(|n| *n == 1) && most.load(Ordering::SeqCst) <= 4);
        let stopped = each(1000, 4, work, |item, _| if item >= 10 { Err(Error::failed("enough")) } else { Ok(()) });
        assert!(stopped.is_err() && next_to_none(|| each(0, 4, work, |_, _| Ok(()))));
    }

    fn next_to_none(run: impl Fn() -> Result<()>) -> bool {
        run().is_ok()
    }
}
