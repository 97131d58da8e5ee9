use borsh::{BorshDeserialize, BorshSerialize};

use crate::{
    atomic::{AttesterKeys, AttesterSet, Attesters},
    primitive::{Address, Amount, EvmAddress, Hash, RollupId},
    registry::RollupConfig,
};

/// Changes what the owner of a rollup may change; every field replaces the one of
/// [`RollupConfig`], and takes effect after a notice that lets every signed batch be included first.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct UpdateRollup {
    /// Which rollup; the signer must own it.
    pub rollup_id: RollupId,
    /// Digest of the rollup's chain specification.
    pub chain_spec_hash: Hash,
    /// Most gas that one rollup transaction may ask for.
    pub max_tx_gas: u64,
    /// Least effective tip per gas, in wei.
    pub min_tip_wei: u64,
    /// Whether legacy transactions without a chain id are executed.
    pub allow_unprotected: bool,
    /// Receives the fees of the rollup's own transactions.
    pub fee_recipient: EvmAddress,
    /// Who owns the rollup from then on.
    pub owner: Address,
    /// The owner's share of sequencer tips, in hundredths of a percent.
    pub tip_share_bps: u16,
    /// Most item bytes of this rollup in one sequencer block.
    pub max_bytes_per_block: u32,
    /// Most items of this rollup in one sequencer block.
    pub max_items_per_block: u32,
    /// Who executes legs of atomic bundles and signs for them.
    pub attesters: Option<AttesterKeys>,
    /// Base units of rent paid in advance with this update; burned at once.
    pub rent: Amount,
}

impl UpdateRollup {
    /// The update that changes nothing of `config` and pays no rent: where an owner starts from.
    #[must_use]
    pub fn of(config: &RollupConfig) -> Self {
        Self {
            rollup_id: config.rollup_id,
            chain_spec_hash: config.chain_spec_hash,
            max_tx_gas: config.max_tx_gas,
            min_tip_wei: config.min_tip_wei,
            allow_unprotected: config.allow_unprotected,
            fee_recipient: config.fee_recipient,
            owner: config.owner,
            tip_share_bps: config.tip_share_bps,
            max_bytes_per_block: config.max_bytes_per_block,
            max_items_per_block: config.max_items_per_block,
            attesters: config.attesters.0.as_ref().map(|set| set.members.clone()),
            rent: Amount::ZERO,
        }
    }

    /// What `config` becomes, its bounds not yet checked. Other attesters than those of `config` are
    /// the set of `epoch`.
    #[must_use]
    pub fn apply_to(self, config: RollupConfig, epoch: u64) -> RollupConfig {
        let before = config.attesters.0.as_ref().map(|set| &set.members);
        let attesters = if self.attesters.as_ref() == before {
            config.attesters
        } else {
            Attesters(self.attesters.map(|members| AttesterSet { epoch, members }))
        };
        RollupConfig {
            chain_spec_hash: self.chain_spec_hash,
            max_tx_gas: self.max_tx_gas,
            min_tip_wei: self.min_tip_wei,
            allow_unprotected: self.allow_unprotected,
            fee_recipient: self.fee_recipient,
            owner: self.owner,
            tip_share_bps: self.tip_share_bps,
            max_bytes_per_block: self.max_bytes_per_block,
            max_items_per_block: self.max_items_per_block,
            attesters,
            ..config
        }
    }
}
