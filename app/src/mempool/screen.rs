//! What can be refused for next to nothing: by a look at what stands before the actions, and at the
//! account, before anything is hashed, decoded or verified.

use counterpoint_core::{primitive::Height, transaction::TransactionHead};
use counterpoint_machine::{ExecuteError, Rejection, StoreError, check_head};

use super::{into_fault, next_height};
use crate::store::{StateSnapshot, Store, Tip};

/// The state that heads are judged by.
#[derive(Debug)]
pub(super) struct Screen {
    state: StateSnapshot,
    next: Height,
    /// Whether there is a chain yet.
    pub(super) begun: bool,
}

impl Screen {
    /// Judges by the last committed state.
    pub(super) fn open(store: &Store) -> Result<Self, StoreError> {
        let state = store.state();
        let tip = state.tip().map_err(into_fault)?;
        let (next, begun) = (next_height(&tip), tip != Tip::default());
        Ok(Self { state, next, begun })
    }

    /// Why no block may hold the item of `length` bytes that begins with `head`, if that shows.
    pub(super) fn judge(
        &self,
        head: &TransactionHead,
        length: usize,
    ) -> Result<Option<Rejection>, StoreError> {
        match check_head(&self.state, head, length, self.next) {
            Ok(_) => Ok(None),
            Err(ExecuteError::Rejected(rejection)) => Ok(Some(rejection)),
            Err(ExecuteError::Store(fault)) => Err(fault),
        }
    }
}
