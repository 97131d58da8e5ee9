//! Verified sequencer blocks in, Engine API payloads out: drives one rollup's execution client.
