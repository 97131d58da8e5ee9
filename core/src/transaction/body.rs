use borsh::{BorshDeserialize, BorshSerialize};

use super::TransactionHead;
use crate::{
    action::{
        Action, AuthorityChange, CancelBundle, ConsensusChange, Deposit, ExitRollup, FeeChange,
        RegisterRollup, RevealLegs, ScheduleUpgrade, SubmitBundle, SubmitData, Transfer,
        UpdateRollup, ValidatorUpdate,
    },
    block::merkle,
    key::PublicKey,
    primitive::{Amount, Hash, Height, Nonce, RollupId},
};

/// Most actions of one transaction.
pub const MAX_ACTIONS: usize = 256;
/// Longest chain id, in bytes: CometBFT's own limit.
pub const MAX_CHAIN_ID_BYTES: usize = 50;

/// What a signer asks for.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct TransactionBody {
    /// The chain that may execute this.
    pub chain_id: String,
    /// Who signs and pays.
    pub signer: PublicKey,
    /// Must be the account's own when the transaction's turn comes.
    pub nonce: Nonce,
    /// Base units per byte on top of the base fee.
    pub tip_per_byte: u64,
    /// The whole fee may not pass this.
    pub max_fee: Amount,
    /// The last height at which this may be included.
    pub valid_until: Height,
    /// Applied in order: all, or none.
    pub actions: Vec<Action>,
}

/// What is signed: the body, with the items of each [`SubmitData`] replaced by their Merkle root.
///
/// So a signature can be checked, and later a batch certified, without the bulk bytes.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize)]
pub struct SigningBody {
    chain_id: String,
    signer: PublicKey,
    nonce: Nonce,
    tip_per_byte: u64,
    max_fee: Amount,
    valid_until: Height,
    actions: Vec<SigningAction>,
}

/// An [`Action`] as it is signed, under the same discriminant.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize)]
#[borsh(use_discriminant = true)]
#[repr(u8)]
pub enum SigningAction {
    /// As in the body.
    Transfer(Transfer) = 0,
    /// The items by number, length and root.
    SubmitData {
        /// The rollup that executes the items.
        rollup_id: RollupId,
        /// How many items there are.
        items_len: u32,
        /// Bytes of all items together.
        bytes_len: u32,
        /// Merkle root over the items as a rollup's list carries them.
        data_root: Hash,
    } = 1,
    /// As in the body.
    RegisterRollup(RegisterRollup) = 2,
    /// As in the body.
    UpdateRollup(UpdateRollup) = 3,
    /// As in the body.
    ExitRollup(ExitRollup) = 4,
    /// As in the body.
    Deposit(Deposit) = 5,
    /// As in the body.
    ValidatorUpdate(ValidatorUpdate) = 6,
    /// As in the body.
    AuthorityChange(AuthorityChange) = 7,
    /// As in the body.
    FeeChange(FeeChange) = 8,
    /// As in the body.
    ScheduleUpgrade(ScheduleUpgrade) = 9,
    /// As in the body.
    ConsensusChange(ConsensusChange) = 10,
    /// As in the body.
    SubmitBundle(SubmitBundle) = 16,
    /// As in the body.
    RevealLegs(RevealLegs) = 17,
    /// As in the body.
    CancelBundle(CancelBundle) = 18,
}

impl TransactionBody {
    /// What stands before the actions.
    #[must_use]
    pub fn head(&self) -> TransactionHead {
        TransactionHead {
            chain_id: self.chain_id.clone(),
            signer: self.signer,
            nonce: self.nonce,
            tip_per_byte: self.tip_per_byte,
            max_fee: self.max_fee,
            valid_until: self.valid_until,
        }
    }

    /// The 32 bytes that are signed: `sha256("counterpoint/tx/v1" ‖ borsh(SigningBody))`.
    #[must_use]
    pub fn signing_hash(&self) -> Hash {
        Hash::tagged("counterpoint/tx/v1", &self.to_signing_body())
    }

    fn to_signing_body(&self) -> SigningBody {
        SigningBody {
            chain_id: self.chain_id.clone(),
            signer: self.signer,
            nonce: self.nonce,
            tip_per_byte: self.tip_per_byte,
            max_fee: self.max_fee,
            valid_until: self.valid_until,
            actions: self.actions.iter().map(SigningAction::from).collect(),
        }
    }
}

impl From<&Action> for SigningAction {
    fn from(action: &Action) -> Self {
        match action {
            Action::Transfer(transfer) => Self::Transfer(transfer.clone()),
            Action::SubmitData(data) => Self::submit_data(data),
            Action::RegisterRollup(register) => Self::RegisterRollup(register.clone()),
            Action::UpdateRollup(update) => Self::UpdateRollup(update.clone()),
            Action::ExitRollup(exit) => Self::ExitRollup(exit.clone()),
            Action::Deposit(deposit) => Self::Deposit(deposit.clone()),
            Action::ValidatorUpdate(update) => Self::ValidatorUpdate(update.clone()),
            Action::AuthorityChange(change) => Self::AuthorityChange(change.clone()),
            Action::FeeChange(change) => Self::FeeChange(change.clone()),
            Action::ScheduleUpgrade(upgrade) => Self::ScheduleUpgrade(upgrade.clone()),
            Action::ConsensusChange(change) => Self::ConsensusChange(change.clone()),
            Action::SubmitBundle(submit) => Self::SubmitBundle(submit.clone()),
            Action::RevealLegs(reveal) => Self::RevealLegs(reveal.clone()),
            Action::CancelBundle(cancel) => Self::CancelBundle(cancel.clone()),
        }
    }
}

impl SigningAction {
    fn submit_data(data: &SubmitData) -> Self {
        Self::SubmitData {
            rollup_id: data.rollup_id(),
            // Both counts fit: a transaction is shorter than 1 MiB.
            items_len: u32::try_from(data.items().len()).unwrap_or(u32::MAX),
            bytes_len: u32::try_from(data.bytes_len()).unwrap_or(u32::MAX),
            data_root: merkle::root(data.leaves().to_vec()),
        }
    }
}
