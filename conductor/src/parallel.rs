//! Spreads work over the processor's cores.

use std::{
    num::NonZero,
    panic::resume_unwind,
    sync::{LazyLock, Mutex, PoisonError},
    thread,
};

static CORES: LazyLock<usize> =
    LazyLock::new(|| thread::available_parallelism().map_or(1, NonZero::get));

/// Does `work` on every part, in any order; the results come in the order of the parts.
///
/// Threads are started for each call, which costs about as much as hashing a hundred trie nodes:
/// it pays for parts that take longer.
pub(crate) fn map<T: Send, R: Send>(parts: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let workers = parts.len().min(*CORES);
    if workers <= 1 {
        return parts.into_iter().map(work).collect();
    }
    let queue = Mutex::new(parts.into_iter().enumerate());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let drain = || {
        let mut done = Vec::new();
        while let Some((at, part)) = next() {
            done.push((at, work(part)));
        }
        done
    };
    let mut done = thread::scope(|scope| {
        let others: Vec<_> = (1..workers).map(|_| scope.spawn(drain)).collect();
        let mut done = drain();
        for other in others {
            done.extend(other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        done
    });
    done.sort_unstable_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn results_keep_the_order_of_their_parts() {
        for length in [0, 1, 2, 1_000] {
            let doubled: Vec<_> = (0..length).map(|part| 2 * part).collect();
            assert_eq!(super::map((0..length).collect(), |part| 2 * part), doubled);
        }
    }
}
