//! gRPC services of Counterpoint: messages, clients and servers, generated from `proto/`.
//!
//! `tests/codegen.rs` is the generator; `UPDATE_GENERATED=1 cargo test -p counterpoint-proto`
//! rewrites `src/generated/`, and without it the test fails when the two differ.

/// `counterpoint.sequencer.v1`: the API of a sequencer node.
pub mod sequencer {
    #![allow(
        missing_docs,
        clippy::all,
        clippy::pedantic,
        unreachable_pub,
        unused_qualifications
    )]
    include!("generated/counterpoint.sequencer.v1.rs");
}

/// `counterpoint.conductor.v1`: receipts, before the execution client has them.
pub mod conductor {
    #![allow(
        missing_docs,
        clippy::all,
        clippy::pedantic,
        unreachable_pub,
        unused_qualifications
    )]
    include!("generated/counterpoint.conductor.v1.rs");
}

/// All messages and services as a serialised `FileDescriptorSet`, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("generated/descriptors.bin");
