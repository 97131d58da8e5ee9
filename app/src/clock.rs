//! What the times of blocks say about the local clock.
//!
//! The time of a block is the median of its validators' clocks when they voted for the block before,
//! so it lies a little in the past. One from the future shows a slow clock for certain. A fast clock
//! looks like blocks that come late, so only a row of blocks shows it.

use std::{
    collections::VecDeque,
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

use counterpoint_core::slot::HeaderTime;

/// `consensus.block_time_tolerance` of CometBFT: a node whose clock is this far behind what more than
/// two thirds have voted for panics, and panics again after every start.
const TOLERANCE_SECS: u64 = 60;
/// How far behind the clock may be: NTP keeps to milliseconds, and there is time to act.
const MAX_BEHIND_MS: i64 = 10_000;
/// How far ahead the clock may be, what a block takes to come here included.
const MAX_AHEAD_MS: i64 = 30_000;
/// A late block or a few are ordinary; so many in a row are not.
const BLOCKS: usize = 8;

/// How far the times of the last blocks lie ahead of the local clock, in milliseconds.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    leads: VecDeque<i64>,
}

/// A local clock that is wrong, by so many milliseconds at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WrongClock {
    Behind(i64),
    Ahead(i64),
}

impl Clock {
    /// Takes note of a new block's time, looked at when the local clock showed `now`.
    pub(crate) fn note(&mut self, header: HeaderTime, now: SystemTime) {
        self.leads.truncate(BLOCKS - 1);
        self.leads.push_front(millis(header) - local_millis(now));
    }

    /// Forgets what blocks of the past say: they are late because the node catches up.
    pub(crate) fn forget(&mut self) {
        self.leads.clear();
    }

    /// How far the clock is behind at least, in milliseconds; less than zero if it is ahead or right.
    pub(crate) fn behind_ms(&self) -> Option<i64> {
        // A block that took longer to come here says less.
        self.leads.iter().max().copied()
    }

    /// Whether the clock is wrong.
    pub(crate) fn wrong(&self) -> Option<WrongClock> {
        let behind = self.behind_ms()?;
        if behind > MAX_BEHIND_MS {
            return Some(WrongClock::Behind(behind));
        }
        let ahead = self.leads.len() == BLOCKS && behind < -MAX_AHEAD_MS;
        ahead.then_some(WrongClock::Ahead(-behind))
    }
}

impl fmt::Display for WrongClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Behind(by) => write!(
                f,
                "the clock is {} s behind the validators': set it (NTP) before it is {TOLERANCE_SECS} s \
                 behind, when CometBFT panics at every start",
                by / 1_000
            ),
            Self::Ahead(by) => write!(
                f,
                "the last {BLOCKS} blocks are {} s old: the clock is ahead of the validators', so set it \
                 (NTP), or this node lags",
                by / 1_000
            ),
        }
    }
}

fn millis(time: HeaderTime) -> i64 {
    let seconds = i64::try_from(time.seconds).unwrap_or(i64::MAX);
    seconds
        .saturating_mul(1_000)
        .saturating_add(i64::from(time.nanos / 1_000_000))
}

fn local_millis(now: SystemTime) -> i64 {
    // A clock before 1970 is as far behind as can be.
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const EPOCH: u64 = 1_800_000_000;

    /// A node that saw blocks come `delays` milliseconds after their time, by a clock that is `off`.
    fn seen(delays: &[i64], off: i64) -> Option<WrongClock> {
        let mut clock = Clock::default();
        for (delay, seconds) in delays.iter().zip(EPOCH..) {
            let header = HeaderTime { seconds, nanos: 0 };
            let now = i64::try_from(seconds * 1_000).unwrap() + delay + off;
            let now = UNIX_EPOCH + Duration::from_millis(now.try_into().unwrap());
            clock.note(header, now);
        }
        clock.wrong()
    }

    #[test]
    fn a_slow_clock_shows_at_once_and_well_before_cometbft_panics() {
        assert_eq!(seen(&[], 0), None);
        assert_eq!(seen(&[500], -10_500), None);
        assert_eq!(seen(&[500], -10_501), Some(WrongClock::Behind(10_001)));
        // Whatever came late beside it.
        let late = [500, 9_000, 500_000];
        assert_eq!(seen(&late, -12_000), Some(WrongClock::Behind(11_500)));
        let before_1970 = UNIX_EPOCH - Duration::from_secs(5);
        let mut clock = Clock::default();
        clock.note(
            HeaderTime {
                seconds: EPOCH,
                nanos: 0,
            },
            before_1970,
        );
        assert!(matches!(clock.wrong(), Some(WrongClock::Behind(_))));
    }

    #[test]
    fn a_fast_clock_shows_by_a_row_of_late_blocks() {
        let row = [500; BLOCKS];
        assert_eq!(seen(&row, 29_500), None);
        assert_eq!(seen(&row, 29_501), Some(WrongClock::Ahead(30_001)));
        assert_eq!(seen(&row[1..], 29_501), None, "too few");
        // The first block after a halt carries the time of the last vote before it.
        let mut halted = row;
        halted[7] = 86_400_000;
        assert_eq!(seen(&halted, 0), None);
        let mut all_late = [600_000; BLOCKS];
        assert_eq!(seen(&all_late, 0), Some(WrongClock::Ahead(600_000)));
        all_late[0] = 1_000;
        assert_eq!(seen(&all_late, 0), None, "one was in time");
    }

    #[test]
    fn only_the_last_blocks_count() {
        let mut delays = vec![500; BLOCKS];
        delays.extend([40_000; BLOCKS - 1]);
        assert_eq!(seen(&delays, 0), None);
        delays.push(40_000);
        assert_eq!(seen(&delays, 0), Some(WrongClock::Ahead(40_000)));
    }

    #[test]
    fn what_to_do_is_said() {
        let behind = WrongClock::Behind(12_345).to_string();
        assert!(
            behind.starts_with("the clock is 12 s behind the validators': set it (NTP)"),
            "{behind}"
        );
        let ahead = WrongClock::Ahead(45_000).to_string();
        assert!(
            ahead.starts_with("the last 8 blocks are 45 s old: the clock is ahead"),
            "{ahead}"
        );
        assert!(!behind.contains("  ") && !ahead.contains("  "));
    }
}
