//! JSON-RPC in, durable batches out: a wallet's way into the sequencer.
