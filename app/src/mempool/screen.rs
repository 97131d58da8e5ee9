//! What can be refused for next to nothing: by a look at what stands before the actions, and at the
//! account, before anything is hashed, decoded or verified.

use counterpoint_core::{primitive::Amount, primitive::Height, transaction::TransactionHead};
use counterpoint_machine::{MAX_VALID_HEIGHTS, Mismatch, Rejection, StoreError, query};

use super::{into_fault, next_height};
use crate::store::{StateSnapshot, Store};

/// The state that heads are judged by.
#[derive(Debug)]
pub(super) struct Screen {
    state: StateSnapshot,
    chain_id: String,
    next: Height,
}

impl Screen {
    /// Judges by the last committed state.
    pub(super) fn open(store: &Store) -> Result<Self, StoreError> {
        let state = store.state();
        let next = next_height(&state.tip().map_err(into_fault)?);
        Ok(Self {
            chain_id: query::chain_id(&state)?,
            state,
            next,
        })
    }

    /// Why no block may hold the item of `length` bytes that begins with `head`, if that shows. The
    /// verdict is the one that the machine would come to.
    pub(super) fn judge(
        &self,
        head: &TransactionHead,
        length: usize,
    ) -> Result<Option<Rejection>, StoreError> {
        if let Some(rejection) = self.judge_alone(head) {
            return Ok(Some(rejection));
        }
        let Some(account) = query::account(&self.state, head.signer.address())? else {
            return Ok(Some(Rejection::NoAccount));
        };
        if head.nonce < account.nonce {
            let (expected, actual) = (account.nonce, head.nonce);
            return Ok(Some(Rejection::Nonce(Mismatch { expected, actual })));
        }
        // The tip is only a part of the fee; the machine knows the rest.
        let tip = u128::from(head.tip_per_byte).saturating_mul(length as u128);
        let short = |actual: Amount| Mismatch {
            expected: Amount::new(tip),
            actual,
        };
        Ok(if head.max_fee.get() < tip {
            Some(Rejection::MaxFee(short(head.max_fee)))
        } else if account.balance.get() < tip {
            Some(Rejection::Fee(short(account.balance)))
        } else {
            None
        })
    }

    fn judge_alone(&self, head: &TransactionHead) -> Option<Rejection> {
        let (valid_until, height) = (head.valid_until, self.next);
        let limit = Height::new(height.get().saturating_add(MAX_VALID_HEIGHTS));
        if head.chain_id != self.chain_id {
            let (expected, actual) = (self.chain_id.clone(), head.chain_id.clone());
            Some(Rejection::ChainId(Mismatch { expected, actual }))
        } else if valid_until < height {
            Some(Rejection::Expired {
                valid_until,
                height,
            })
        } else if valid_until > limit {
            Some(Rejection::TooFarAhead { valid_until, limit })
        } else {
            None
        }
    }
}
