use borsh::{BorshDeserialize, BorshSerialize};

use crate::{
    atomic::{AttesterKeys, AttesterSet, Attesters},
    primitive::{Address, EvmAddress, Hash, Height, RollupId},
    registry::{RollupConfig, RollupStatus},
    slot::SlotSecs,
};

/// Registers a rollup that the signer will own; the fields are those of [`RollupConfig`].
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct RegisterRollup {
    /// `[a-z][a-z0-9-]{0,31}`, never registered before.
    pub name: String,
    /// EIP-155 chain id, never registered before.
    pub evm_chain_id: u64,
    /// Digest of the rollup's chain specification.
    pub chain_spec_hash: Hash,
    /// Timestamp of the rollup's genesis block, in seconds since 1970.
    pub genesis_time: u64,
    /// The first height with a leaf for the rollup, at least two after the registration's.
    pub first_height: Height,
    /// Length of a slot.
    pub slot_secs: SlotSecs,
    /// Gas limit of every rollup block.
    pub gas_limit: u64,
    /// Most gas that one rollup transaction may ask for.
    pub max_tx_gas: u64,
    /// Least effective tip per gas, in wei.
    pub min_tip_wei: u64,
    /// Whether legacy transactions without a chain id are executed.
    pub allow_unprotected: bool,
    /// Receives the fees of the rollup's own transactions.
    pub fee_recipient: EvmAddress,
    /// The owner's share of sequencer tips, in hundredths of a percent.
    pub tip_share_bps: u16,
    /// Most item bytes of this rollup in one sequencer block.
    pub max_bytes_per_block: u32,
    /// Most items of this rollup in one sequencer block.
    pub max_items_per_block: u32,
    /// Who executes legs of atomic bundles and signs for them.
    pub attesters: Option<AttesterKeys>,
}

impl RegisterRollup {
    /// The configuration that the registry keeps for `owner`, its bounds not yet checked.
    #[must_use]
    pub fn into_config(self, owner: Address) -> RollupConfig {
        RollupConfig {
            rollup_id: RollupId::from_name(&self.name),
            name: self.name,
            evm_chain_id: self.evm_chain_id,
            chain_spec_hash: self.chain_spec_hash,
            genesis_time: self.genesis_time,
            first_height: self.first_height,
            slot_secs: self.slot_secs,
            gas_limit: self.gas_limit,
            max_tx_gas: self.max_tx_gas,
            min_tip_wei: self.min_tip_wei,
            allow_unprotected: self.allow_unprotected,
            fee_recipient: self.fee_recipient,
            owner,
            tip_share_bps: self.tip_share_bps,
            max_bytes_per_block: self.max_bytes_per_block,
            max_items_per_block: self.max_items_per_block,
            attesters: Attesters(
                self.attesters
                    .map(|members| AttesterSet { epoch: 1, members }),
            ),
            status: RollupStatus::Active,
        }
    }
}
