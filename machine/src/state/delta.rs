use std::collections::BTreeMap;

use borsh::BorshSerialize;
use counterpoint_core::primitive::{Address, Amount};

use super::{Account, Changes, Entries, Key, ReadRecords, StateRead, StoreError};
use crate::{execute::ExecuteError, rejection::Rejection};

/// Changes on top of a state that stays as it is until they are committed. A delta can be the base
/// of another one: dropping that takes back what it wrote.
#[derive(Debug)]
pub(crate) struct StateDelta<'a, S> {
    base: &'a S,
    changes: Changes,
}

impl<'a, S: StateRead> StateDelta<'a, S> {
    pub(crate) fn new(base: &'a S) -> Self {
        Self {
            base,
            changes: Changes::new(),
        }
    }

    pub(crate) fn put<T: BorshSerialize>(
        &mut self,
        key: &Key<'_>,
        value: &T,
    ) -> Result<(), StoreError> {
        let value = borsh::to_vec(value)
            .map_err(|error| StoreError::corrupt(format!("value for {key:?}: {error}")))?;
        self.changes.insert(key.encode(), Some(value));
        Ok(())
    }

    pub(crate) fn delete(&mut self, key: &Key<'_>) {
        self.delete_encoded(key.encode());
    }

    pub(crate) fn delete_encoded(&mut self, key: Vec<u8>) {
        self.changes.insert(key, None);
    }

    pub(crate) fn into_changes(self) -> Changes {
        self.changes
    }

    /// Takes over what a delta on top of this one wrote.
    pub(crate) fn apply(&mut self, changes: Changes) {
        self.changes.extend(changes);
    }

    /// Adds to an account, which begins to exist if it did not.
    pub(crate) fn credit(&mut self, to: Address, amount: Amount) -> Result<(), ExecuteError> {
        let account = self.account(to)?.unwrap_or_default();
        let balance = account.balance.checked_add(amount);
        let balance = balance.ok_or(Rejection::Overflow)?;
        Ok(self.put(&Key::Account(to), &Account { balance, ..account })?)
    }

    /// Adds value to an account that was taken from accounts before, so that it cannot overflow.
    pub(crate) fn give(&mut self, to: Address, amount: Amount) -> Result<(), StoreError> {
        match self.credit(to, amount) {
            Ok(()) => Ok(()),
            Err(ExecuteError::Store(fault)) => Err(fault),
            Err(ExecuteError::Rejected(_)) => Err(miscounted()),
        }
    }

    /// Notes that value which was taken from accounts is gone.
    pub(crate) fn burn(&mut self, amount: Amount) -> Result<(), StoreError> {
        let mut chain = self.chain()?;
        chain.burned = chain.burned.checked_add(amount).ok_or_else(miscounted)?;
        self.put(&Key::Chain, &chain)
    }

    /// Destroys locked value.
    pub(crate) fn burn_locked(&mut self, amount: Amount) -> Result<(), StoreError> {
        let mut chain = self.chain()?;
        chain.locked = chain.locked.checked_sub(amount).ok_or_else(miscounted)?;
        self.put(&Key::Chain, &chain)?;
        self.burn(amount)
    }

    /// Notes that so many deposits wait no longer.
    pub(crate) fn release_deposits(&mut self, count: u64) -> Result<(), StoreError> {
        let mut chain = self.chain()?;
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let waiting = chain.waiting_deposits.checked_sub(count);
        chain.waiting_deposits = waiting.ok_or_else(miscounted)?;
        self.put(&Key::Chain, &chain)
    }

    /// Gives locked value back to an account.
    pub(crate) fn unlock(&mut self, to: Address, amount: Amount) -> Result<(), StoreError> {
        let mut chain = self.chain()?;
        chain.locked = chain.locked.checked_sub(amount).ok_or_else(miscounted)?;
        self.put(&Key::Chain, &chain)?;
        self.give(to, amount)
    }
}

/// Value came into being or was lost, which no transaction can do.
fn miscounted() -> StoreError {
    StoreError::corrupt(
        "balances, burned and locked value, or waiting deposits, do not add up".into(),
    )
}

impl<S: StateRead> StateRead for StateDelta<'_, S> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.changes.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.base.get(key),
        }
    }

    fn scan(&self, prefix: &[u8]) -> Result<Entries, StoreError> {
        let below = self.base.scan(prefix)?;
        let changed = self.changes.range(prefix.to_vec()..);
        let mut changed = changed
            .take_while(|(key, _)| key.starts_with(prefix))
            .peekable();
        if changed.peek().is_none() {
            return Ok(below);
        }
        let mut values: BTreeMap<Vec<u8>, Vec<u8>> = below.into_iter().collect();
        for (key, value) in changed {
            match value {
                Some(value) => values.insert(key.clone(), value.clone()),
                None => values.remove(key),
            };
        }
        Ok(values.into_iter().collect())
    }
}
