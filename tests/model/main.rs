//! Explicit-state models: every reachable state of a small instance is visited.

mod atomic;
