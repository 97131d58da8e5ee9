use borsh::{BorshDeserialize, BorshSerialize};

use crate::primitive::{Address, Amount};

/// Moves value from the signer to another account, which need not exist yet.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Transfer {
    /// Who receives.
    pub to: Address,
    /// How much.
    pub amount: Amount,
}
