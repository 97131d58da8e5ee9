//! What is in a frame: values, and entries of the state, in RLP.
//!
//! # Specification
//! `docs/spec/conductor-snapshot.md`.

use std::io::Write;

use alloy_consensus::Header;
use alloy_primitives::{B256, Bytes};
use alloy_rlp::{Decodable, Encodable, RlpDecodable, RlpEncodable};

use super::format::{FormatError, Frame, Section, Writer};

/// Which rollup, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, RlpDecodable, RlpEncodable)]
pub(super) struct Head {
    pub(super) chain_spec_hash: B256,
    pub(super) header: Header,
}

/// A key of the state, and what stands under it.
#[derive(RlpDecodable, RlpEncodable)]
struct Entry {
    key: Bytes,
    value: Bytes,
}

impl Frame {
    /// The payload, which is one value.
    pub(super) fn value<T: Decodable>(&self) -> Result<T, FormatError> {
        alloy_rlp::decode_exact(&self.payload).map_err(|error| self.damaged(error))
    }

    /// Gives each entry of the payload away.
    pub(super) fn entries<E: From<FormatError>>(
        &self,
        mut take: impl FnMut((Vec<u8>, Vec<u8>)) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut rest = self.payload.as_slice();
        while !rest.is_empty() {
            let entry = Entry::decode(&mut rest).map_err(|error| self.damaged(error))?;
            take((entry.key.into(), entry.value.into()))?;
        }
        Ok(())
    }
}

impl<W: Write> Writer<W> {
    pub(super) fn value(
        &mut self,
        section: Section,
        value: &impl Encodable,
    ) -> Result<(), FormatError> {
        self.frame(section, &alloy_rlp::encode(value))
    }

    pub(super) fn entries(
        &mut self,
        section: Section,
        entries: Vec<(Vec<u8>, Vec<u8>)>,
    ) -> Result<(), FormatError> {
        let mut payload = Vec::new();
        for (key, value) in entries {
            let (key, value) = (key.into(), value.into());
            Entry { key, value }.encode(&mut payload);
        }
        self.frame(section, &payload)
    }
}
