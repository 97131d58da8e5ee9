//! What inclusion costs: EIP-1559 over the bytes of blocks, and flat fees for the rest.

use borsh::{BorshDeserialize, BorshSerialize};
use serde::{Deserialize, Serialize};

use crate::primitive::Amount;

/// How far the base fee moves from one block to the next at the most: by an eighth (EIP-1559).
const CHANGE_DENOMINATOR: u128 = 8;
/// A block counts at most as twice the target, whatever it holds.
const ELASTICITY: u64 = 2;

/// What fees are worked out from; a part of the state.
///
/// # Specification
/// `docs/spec/fees.md`.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FeeParams {
    /// Bytes of transactions in a block at which the base fee stays as it is.
    pub target_block_bytes: u64,
    /// The base fee never falls below this, in base units per byte.
    pub min_base_fee: u64,
    /// Base units for each action that has no fee of its own.
    pub action_fee: u64,
    /// Base units for a deposit.
    pub deposit_fee: u64,
    /// Base units for registering, changing or ending a rollup.
    pub registry_fee: u64,
    /// What a registration locks until the rollup's exit.
    pub registration_deposit: Amount,
    /// Base units that a rollup costs per height, paid in advance and burned.
    pub rent_per_height: u64,
    /// Base units for an atomic bundle.
    pub bundle_fee: u64,
    /// Base units for each leg of one.
    pub leg_fee: u64,
    /// Base units for each transaction of one; its seal stays in the state for ever. Burned.
    pub seal_fee: u64,
    /// Base units for each byte of a bundle and of its legs, which stay in the state until it ends.
    /// Burned.
    pub bundle_byte_fee: u64,
}

/// Which parameter is out of bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FeeParamsError {
    /// A target that no block meets, or that any block passes.
    #[error("target_block_bytes must lie in {}..={}", FeeParams::TARGET.0, FeeParams::TARGET.1)]
    Target,
    /// Blocks would be free, or nobody could pay.
    #[error("min_base_fee must lie in 1..={}", FeeParams::MAX_PRICE)]
    BaseFee,
    /// Nobody could pay.
    #[error(
        "flat fees and rent_per_height must be at most {}",
        FeeParams::MAX_FLAT
    )]
    Flat,
    /// Nobody could pay.
    #[error("registration_deposit must be at most {}", FeeParams::MAX_DEPOSIT)]
    Deposit,
}

impl Default for FeeParams {
    fn default() -> Self {
        Self {
            target_block_bytes: 2_000_000,
            min_base_fee: 8,
            action_fee: 1_000,
            deposit_fee: 10_000,
            registry_fee: 1_000_000,
            registration_deposit: Amount::new(10_000_000_000),
            rent_per_height: 100,
            bundle_fee: 100_000,
            leg_fee: 50_000,
            seal_fee: 50_000,
            bundle_byte_fee: 50,
        }
    }
}

impl FeeParams {
    /// Bounds of `target_block_bytes`.
    const TARGET: (u64, u64) = (1_024, 104_857_600);
    /// Most base units per byte.
    const MAX_PRICE: u64 = 1_000_000_000;
    /// Most base units of a flat fee: 1,000 whole tokens.
    const MAX_FLAT: u64 = 1_000_000_000_000;
    /// Most base units of a registration deposit: a million whole tokens.
    const MAX_DEPOSIT: Amount = Amount::new(1_000_000_000_000_000);

    /// Checks every bound.
    ///
    /// # Errors
    /// [`FeeParamsError`] names the first parameter that is out of bounds.
    pub fn check(&self) -> Result<(), FeeParamsError> {
        let refuse = |bad: bool, error: FeeParamsError| if bad { Err(error) } else { Ok(()) };
        let (least, most) = Self::TARGET;
        let target = (least..=most).contains(&self.target_block_bytes);
        refuse(!target, FeeParamsError::Target)?;
        let base_fee = (1..=Self::MAX_PRICE).contains(&self.min_base_fee);
        refuse(!base_fee, FeeParamsError::BaseFee)?;
        let flat = [
            self.action_fee,
            self.deposit_fee,
            self.registry_fee,
            self.rent_per_height,
            self.bundle_fee,
            self.leg_fee,
            self.seal_fee,
            self.bundle_byte_fee,
        ];
        let dear = flat.iter().any(|fee| *fee > Self::MAX_FLAT);
        refuse(dear, FeeParamsError::Flat)?;
        refuse(
            self.registration_deposit > Self::MAX_DEPOSIT,
            FeeParamsError::Deposit,
        )
    }

    /// The base fee after a block that held `bytes` of transactions under `base_fee`.
    ///
    /// # Specification
    /// EIP-1559, with bytes in the place of gas and [`min_base_fee`](Self::min_base_fee) as floor.
    #[must_use]
    pub fn next_base_fee(&self, base_fee: u64, bytes: u64) -> u64 {
        let target = self.target_block_bytes.max(1);
        let used = bytes.min(target.saturating_mul(ELASTICITY));
        let step = |distance: u64| {
            let product = u128::from(base_fee).saturating_mul(u128::from(distance));
            let per_target = product.checked_div(u128::from(target)).unwrap_or_default();
            let step = per_target
                .checked_div(CHANGE_DENOMINATOR)
                .unwrap_or_default();
            u64::try_from(step).unwrap_or(u64::MAX)
        };
        let next = match used.checked_sub(target) {
            Some(0) => base_fee,
            Some(above) => base_fee.saturating_add(step(above).max(1)),
            None => base_fee.saturating_sub(step(target.saturating_sub(used))),
        };
        next.max(self.min_base_fee)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn params() -> FeeParams {
        FeeParams {
            target_block_bytes: 1_000_000,
            ..FeeParams::default()
        }
    }

    #[test]
    fn the_base_fee_moves_by_an_eighth_at_the_most() {
        let next = |base_fee, bytes| params().next_base_fee(base_fee, bytes);
        assert_eq!(next(8_000, 1_000_000), 8_000);
        assert_eq!(next(8_000, 2_000_000), 9_000);
        assert_eq!(next(8_000, u64::MAX), 9_000);
        assert_eq!(next(8_000, 1_500_000), 8_500);
        assert_eq!(next(8_000, 0), 7_000);
        assert_eq!(next(8, 1_000_001), 9, "it always leaves the floor");
        assert_eq!(next(9, 0), 8);
        assert_eq!(next(8, 0), 8, "the floor holds");
        assert_eq!(next(u64::MAX, 2_000_000), u64::MAX);
    }

    #[test]
    fn every_bound_is_checked() {
        let check = |change: fn(&mut FeeParams)| {
            let mut params = params();
            change(&mut params);
            params.check().err()
        };
        assert_eq!(check(|_| {}), None);
        assert_eq!(
            check(|p| p.target_block_bytes = 0),
            Some(FeeParamsError::Target)
        );
        assert_eq!(check(|p| p.min_base_fee = 0), Some(FeeParamsError::BaseFee));
        assert_eq!(
            check(|p| p.deposit_fee = u64::MAX),
            Some(FeeParamsError::Flat)
        );
        assert_eq!(
            check(|p| p.rent_per_height = u64::MAX),
            Some(FeeParamsError::Flat)
        );
        let dear = |p: &mut FeeParams| p.registration_deposit = Amount::new(u128::MAX);
        assert_eq!(check(dear), Some(FeeParamsError::Deposit));
    }

    proptest! {
        #[test]
        fn the_base_fee_follows_demand(base_fee in 8_u64..=u64::MAX / 2, bytes in 0_u64..3_000_000) {
            let next = params().next_base_fee(base_fee, bytes);
            prop_assert_eq!(next > base_fee, bytes > 1_000_000);
            prop_assert!(next >= 8);
            prop_assert!(next <= base_fee + base_fee / 8 + 1 && next >= base_fee - base_fee / 8);
        }
    }
}
