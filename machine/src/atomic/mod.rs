//! Atomic bundles: sealed, queued, given a slot, and released into it or not.
//!
//! ```text
//! end of P       expire ─▶ schedule: bundles whose rollups all open at P + 1
//! P + 1 opens    lists with the environments that attesters executed in
//!   system items   abort, release, outcome, fault: `items`, one function for proposer and validator
//!   settle         what was not released has used an attempt
//!   transactions   submit, reveal, cancel (`execute`)
//!   lists close    sealed transactions are dropped from every lane but L0 (`seals`)
//! ```
//! A release is legal at P + 1 only: later it would run before transactions that are final.
//!
//! # Specification
//! `docs/spec/atomic.md`.

mod aggregate;
mod items;
mod life;
mod rules;
mod schedule;
mod seals;
mod view;

pub use aggregate::Absent;
pub(crate) use aggregate::aggregate;
pub use items::ItemRefusal;
pub(crate) use items::{ItemError, Slot};
pub(crate) use life::{cancel, enqueue, note_end, queue};
pub(crate) use rules::fits;
pub(crate) use schedule::close;
pub(crate) use seals::{drop_sealed, seal};
pub use view::{
    ScheduledBundle, ScheduledLeg, has_vote, is_bound, is_early, is_wanted, scheduled, undecided,
};
