//! What the chain knows of a rollup: the configuration that its owner registered.

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

use crate::{
    atomic::Attesters,
    primitive::{Address, EvmAddress, Hash, Height, RollupId},
    slot::SlotSecs,
};

/// Most bytes of a rollup's name.
pub const MAX_NAME_BYTES: usize = 32;
/// Greatest EVM chain id that wallets and EIP-155 signatures can carry (EIP-2294).
pub const MAX_EVM_CHAIN_ID: u64 = u64::MAX / 2 - 36;
/// Most gas that one rollup transaction may ask for, whatever the block's gas limit (EIP-7825).
pub const MAX_TX_GAS: u64 = 1 << 24;
/// Greatest block gas limit: beyond it no stock client keeps up with one block a second.
pub const MAX_GAS_LIMIT: u64 = 10_000_000_000;
/// Greatest share of the tip that a rollup's owner may ask for, in hundredths of a percent.
pub const MAX_TIP_SHARE_BPS: u16 = 5_000;
/// Most rollups that are active at a time: each costs a leaf per height.
pub const MAX_ACTIVE_ROLLUPS: u32 = 4_096;

/// A rollup as the sequencer knows it.
///
/// # Specification
/// `docs/spec/transactions.md`, section "Rollup configuration".
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollupConfig {
    /// `sha256("counterpoint/rollup/v1" ‖ name)`.
    pub rollup_id: RollupId,
    /// `[a-z][a-z0-9-]{0,31}`, unique for ever.
    pub name: String,
    /// EIP-155 chain id, unique for ever.
    pub evm_chain_id: u64,
    /// Digest of the rollup's [`ChainSpec`](crate::chain_spec::ChainSpec).
    pub chain_spec_hash: Hash,
    /// Timestamp of the rollup's genesis block, in seconds since 1970.
    pub genesis_time: u64,
    /// The first sequencer height whose block has a leaf for this rollup.
    pub first_height: Height,
    /// Length of a slot, which one rollup block covers.
    pub slot_secs: SlotSecs,
    /// Gas limit of every rollup block.
    pub gas_limit: u64,
    /// Most gas that one rollup transaction may ask for.
    pub max_tx_gas: u64,
    /// Least effective tip per gas, in wei; what pays less is skipped.
    pub min_tip_wei: u64,
    /// Whether legacy transactions without a chain id are executed.
    pub allow_unprotected: bool,
    /// Receives the fees of the rollup's own transactions.
    pub fee_recipient: EvmAddress,
    /// The sequencer account that may change this configuration.
    pub owner: Address,
    /// The owner's share of sequencer tips, in hundredths of a percent.
    pub tip_share_bps: u16,
    /// Most item bytes of this rollup in one sequencer block.
    pub max_bytes_per_block: u32,
    /// Most items of this rollup in one sequencer block.
    pub max_items_per_block: u32,
    /// Who executes legs of atomic bundles and signs for them.
    #[serde(default, skip_serializing_if = "Attesters::is_empty")]
    pub attesters: Attesters,
    /// Whether the rollup goes on.
    pub status: RollupStatus,
}

/// Whether a rollup goes on.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize,
)]
#[borsh(use_discriminant = true)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum RollupStatus {
    /// It has a leaf at every height from `first_height` on.
    Active = 0,
    /// It leaves at the first opening at or above this height.
    Exiting(Height) = 1,
}

/// Which field of a rollup's configuration is out of bounds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RollupConfigError {
    /// The name is empty, too long or has a character outside `[a-z0-9-]`.
    #[error("name must match [a-z][a-z0-9-]{{0,31}}")]
    Name,
    /// The identifier is not the digest of the name.
    #[error("rollup_id is not the digest of the name")]
    RollupId,
    /// The chain id is 0 or greater than EIP-2294 allows.
    #[error("evm_chain_id must lie in 1..={MAX_EVM_CHAIN_ID}")]
    EvmChainId,
    /// The gas limit is greater than [`MAX_GAS_LIMIT`].
    #[error("gas_limit must be at most {MAX_GAS_LIMIT}")]
    GasLimit,
    /// One transaction could ask for too little or too large a part of a block.
    #[error("max_tx_gas must lie in 21000..=min(gas_limit / 4, {MAX_TX_GAS})")]
    MaxTxGas,
    /// The owner's share is greater than [`MAX_TIP_SHARE_BPS`].
    #[error("tip_share_bps must be at most {MAX_TIP_SHARE_BPS}")]
    TipShare,
    /// The rollup could not have a single item in a block.
    #[error("max_bytes_per_block and max_items_per_block must not be 0")]
    NoRoom,
}

impl RollupConfig {
    /// Digest that the environment of every rollup block carries.
    #[must_use]
    pub fn hash(&self) -> Hash {
        Hash::tagged("counterpoint/rollup-config/v1", self)
    }

    /// A configuration within all bounds, for tests: a rollup of the sequencer's genesis.
    #[cfg(any(test, feature = "test-utils"))]
    #[must_use]
    pub fn example(name: &str) -> Self {
        Self {
            rollup_id: RollupId::from_name(name),
            name: name.into(),
            evm_chain_id: 1_001,
            chain_spec_hash: Hash::ZERO,
            genesis_time: 0,
            first_height: Height::new(2),
            slot_secs: SlotSecs::ONE,
            gas_limit: 30_000_000,
            max_tx_gas: 7_500_000,
            min_tip_wei: 1,
            allow_unprotected: false,
            fee_recipient: EvmAddress::new([1; 20]),
            owner: Address::new([2; 20]),
            tip_share_bps: 0,
            max_bytes_per_block: 1_000_000,
            max_items_per_block: 10_000,
            attesters: Attesters::default(),
            status: RollupStatus::Active,
        }
    }

    /// Checks every bound that does not depend on the chain's state.
    ///
    /// # Errors
    /// [`RollupConfigError`] names the first field that is out of bounds.
    pub fn check(&self) -> Result<(), RollupConfigError> {
        let refuse = |bad: bool, error: RollupConfigError| if bad { Err(error) } else { Ok(()) };
        let gas_cap = MAX_TX_GAS.min(self.gas_limit >> 2);
        refuse(!is_name(&self.name), RollupConfigError::Name)?;
        refuse(
            RollupId::from_name(&self.name) != self.rollup_id,
            RollupConfigError::RollupId,
        )?;
        refuse(
            !(1..=MAX_EVM_CHAIN_ID).contains(&self.evm_chain_id),
            RollupConfigError::EvmChainId,
        )?;
        refuse(self.gas_limit > MAX_GAS_LIMIT, RollupConfigError::GasLimit)?;
        refuse(
            !(21_000..=gas_cap).contains(&self.max_tx_gas),
            RollupConfigError::MaxTxGas,
        )?;
        refuse(
            self.tip_share_bps > MAX_TIP_SHARE_BPS,
            RollupConfigError::TipShare,
        )?;
        let no_room = self.max_bytes_per_block == 0 || self.max_items_per_block == 0;
        refuse(no_room, RollupConfigError::NoRoom)
    }
}

/// Whether `name` matches `[a-z][a-z0-9-]{0,31}`.
fn is_name(name: &str) -> bool {
    let follows = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let starts = name.starts_with(|c: char| c.is_ascii_lowercase());
    starts && name.len() <= MAX_NAME_BYTES && name.chars().all(follows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> RollupConfig {
        RollupConfig::example("alpha")
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut RollupConfig), expect: Result<(), RollupConfigError>) {
        let mut config = config();
        change(&mut config);
        assert_eq!(config.check(), expect);
    }

    #[test]
    fn every_bound_is_checked() {
        check(|_| {}, Ok(()));
        check(|c| c.name = "Alpha".into(), Err(RollupConfigError::Name));
        check(|c| c.name = String::new(), Err(RollupConfigError::Name));
        check(|c| c.name = "beta".into(), Err(RollupConfigError::RollupId));
        check(|c| c.evm_chain_id = 0, Err(RollupConfigError::EvmChainId));
        check(|c| c.max_tx_gas = 20_999, Err(RollupConfigError::MaxTxGas));
        check(
            |c| c.max_tx_gas = 7_500_001,
            Err(RollupConfigError::MaxTxGas),
        );
        check(|c| c.gas_limit = u64::MAX, Err(RollupConfigError::GasLimit));
        check(
            |c| c.tip_share_bps = 5_001,
            Err(RollupConfigError::TipShare),
        );
        check(
            |c| c.max_items_per_block = 0,
            Err(RollupConfigError::NoRoom),
        );
    }

    #[test]
    fn encoding_is_frozen() {
        insta::assert_snapshot!(hex::encode(borsh::to_vec(&config()).unwrap()));
        insta::assert_snapshot!(config().hash());
    }
}
