use borsh::{BorshDeserialize, BorshSerialize};

use crate::authority::Authority;

/// Puts another authority in the place of the one that signs this.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct AuthorityChange {
    /// Who decides from then on.
    pub authority: Authority,
}
