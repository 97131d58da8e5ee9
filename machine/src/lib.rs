//! The state machine of the sequencer: synchronous, pure, deterministic.
