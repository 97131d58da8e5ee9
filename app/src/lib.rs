//! The sequencer's ABCI application: services, mempool, store, gRPC.
