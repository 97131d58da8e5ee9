//! Types and codecs of Counterpoint, without IO: what is ordered, how it is committed and how a
//! part of it is proven.
//!
//! ```text
//! primitive ─▶ action ─▶ transaction ─▶ block ─▶ light
//!                registry, slot, chain_spec, cursor, atomic ┘   header signatures
//! ```
//! Everything hashed or signed is canonical borsh, decoded strictly; every digest but Merkle leaves
//! and nodes, transaction hashes and addresses starts with an ASCII tag. The normative text is
//! `docs/spec/`.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::disallowed_types,
        clippy::disallowed_methods
    )
)]

pub mod action;
pub mod atomic;
pub mod authority;
pub mod block;
pub mod chain_spec;
pub mod cursor;
pub mod fees;
pub mod genesis;
pub mod key;
pub mod light;
pub mod primitive;
pub mod registry;
pub mod slot;
pub mod state;
pub mod transaction;
pub mod vote_extension;
