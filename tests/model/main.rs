//! Explicit-state models: every reachable state of a small instance is visited.
#![expect(clippy::unwrap_used, reason = "a broken expectation fails the test")]

mod atomic;
