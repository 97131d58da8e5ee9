//! From a signed transaction to a checked one: may it be in the next block?

use counterpoint_core::{
    primitive::{Amount, Height},
    transaction::{SignedTransaction, TransactionHead},
};

use crate::{
    consensus::max_tx_bytes,
    execute::{self, ExecuteError, TxContext},
    fees::{Fee, Prices},
    rejection::{Mismatch, Rejection},
    room::{MAX_RECOVERIES, Share, parts, recoveries},
    state::{Account, Key, ReadRecords, StateDelta, StateRead},
    validators::{self, ValidatorSet},
};

/// How many heights ahead `valid_until` may lie.
pub const MAX_VALID_HEIGHTS: u64 = 600;

/// A transaction that a mempool may keep: it can be included now, or once its nonce has come.
#[derive(Clone, Debug)]
pub struct CheckedTx {
    tx: SignedTransaction,
    cost: Amount,
}

impl CheckedTx {
    /// The transaction.
    #[must_use]
    pub fn tx(&self) -> &SignedTransaction {
        &self.tx
    }

    /// What it takes from its signer: the fee at the base fee of now, and what its actions move.
    #[must_use]
    pub fn cost(&self) -> Amount {
        self.cost
    }
}

/// Checks a transaction for the mempool: everything that inclusion at the next height asks for,
/// except that its nonce may still lie ahead. If it is the account's next one, the actions are
/// tried too, so that a sender does not pay for what is bound to fail.
///
/// # Errors
/// [`ExecuteError::Rejected`] says what the sender did wrong.
pub fn check_tx<S: StateRead>(
    state: &S,
    tx: SignedTransaction,
    next: Height,
) -> Result<CheckedTx, ExecuteError> {
    let body = tx.body();
    let account = check_head(state, &body.head(), tx.as_bytes().len(), next)?;
    let (expected, actual) = (account.nonce, body.nonce);
    let prices = Prices::read(state)?;
    check_fee(&tx, &account, &prices)?;
    let cost = prices.cost(&tx).ok_or(Rejection::Overflow)?;
    check_shares(state, &tx)?;
    let (count, limit) = (recoveries(&tx), MAX_RECOVERIES);
    if count > limit {
        return Err(Rejection::Recoveries { count, limit }.into());
    }
    if actual == expected {
        try_out(state, &tx, next, &prices)?;
    }
    Ok(CheckedTx { tx, cost })
}

/// Checks what can be told of a block item of `length` bytes by its head alone, which costs next to
/// nothing. Gives the signer's account.
///
/// # Errors
/// [`ExecuteError::Rejected`] is the verdict that [`check_tx`] would come to.
pub fn check_head<S: StateRead>(
    state: &S,
    head: &TransactionHead,
    length: usize,
    next: Height,
) -> Result<Account, ExecuteError> {
    check_chain(&head.chain_id, &state.chain()?.chain_id)?;
    check_age(head.valid_until, next)?;
    let (length, limit) = (length as u64, max_tx_bytes(state)?);
    if length > limit {
        return Err(Rejection::TooLong { length, limit }.into());
    }
    let account = state.account(head.signer.address())?;
    let account = account.ok_or(Rejection::NoAccount)?;
    let (expected, actual) = (account.nonce, head.nonce);
    if actual < expected {
        return Err(Rejection::Nonce(Mismatch { expected, actual }).into());
    }
    // Only a part of the fee; the rest depends on the actions.
    let tip = Amount::new(u128::from(head.tip_per_byte).saturating_mul(length.into()));
    check_payable(tip, head.max_fee, account.balance)?;
    Ok(account)
}

/// Whether an otherwise empty block could hold the data.
fn check_shares<S: StateRead>(state: &S, tx: &SignedTransaction) -> Result<(), ExecuteError> {
    for (id, part) in parts(tx) {
        let record = state.rollup(id)?;
        let fits = record.is_none_or(|record| Share::of(&record.config).without(part).is_some());
        fits.then_some(()).ok_or(Rejection::Share(id))?;
    }
    Ok(())
}

/// Executes a transaction as a block would, and forgets what it did.
fn try_out<S: StateRead>(
    state: &S,
    tx: &SignedTransaction,
    height: Height,
    prices: &Prices,
) -> Result<(), ExecuteError> {
    let mut delta = StateDelta::new(state);
    charge(tx, height, Existed::Yes, prices, &mut delta)?;
    let validators = if validators::are_changed_by(tx) {
        state.validators()?
    } else {
        ValidatorSet::new()
    };
    let ctx = TxContext {
        signer: tx.signer(),
        height,
        previous_time: state.last_header()?.time,
        prices,
        validators: &validators,
    };
    execute::actions(&ctx, &tx.body().actions, &mut delta).map(|_| ())
}

fn check_chain(actual: &str, expected: &str) -> Result<(), Rejection> {
    if actual == expected {
        return Ok(());
    }
    let (expected, actual) = (expected.to_owned(), actual.to_owned());
    Err(Rejection::ChainId(Mismatch { expected, actual }))
}

fn check_age(valid_until: Height, height: Height) -> Result<(), Rejection> {
    if valid_until < height {
        return Err(Rejection::Expired {
            valid_until,
            height,
        });
    }
    let limit = Height::new(height.get().saturating_add(MAX_VALID_HEIGHTS));
    if valid_until > limit {
        return Err(Rejection::TooFarAhead { valid_until, limit });
    }
    Ok(())
}

fn check_payable(expected: Amount, max_fee: Amount, balance: Amount) -> Result<(), Rejection> {
    let short = |actual: Amount| Mismatch { expected, actual };
    if max_fee < expected {
        Err(Rejection::MaxFee(short(max_fee)))
    } else if balance < expected {
        Err(Rejection::Fee(short(balance)))
    } else {
        Ok(())
    }
}

/// The fee of `tx`, which `account` can pay.
fn check_fee(tx: &SignedTransaction, account: &Account, prices: &Prices) -> Result<Fee, Rejection> {
    let fee = prices.fee(tx).ok_or(Rejection::Overflow)?;
    let total = fee.total().ok_or(Rejection::Overflow)?;
    check_payable(total, tx.body().max_fee, account.balance)?;
    Ok(fee)
}

/// Whether the signer had an account before the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Existed {
    Yes,
    No,
}

/// Takes nonce and fee, which stay taken whatever becomes of the actions.
pub(crate) fn charge<S: StateRead>(
    tx: &SignedTransaction,
    height: Height,
    existed: Existed,
    prices: &Prices,
    delta: &mut StateDelta<'_, S>,
) -> Result<Fee, ExecuteError> {
    check_chain(&tx.body().chain_id, &delta.chain()?.chain_id)?;
    check_age(tx.body().valid_until, height)?;
    if existed == Existed::No {
        return Err(Rejection::NoAccount.into());
    }
    let account = delta.account(tx.signer())?.unwrap_or_default();
    let (expected, actual) = (account.nonce, tx.body().nonce);
    if actual != expected {
        return Err(Rejection::Nonce(Mismatch { expected, actual }).into());
    }
    let fee = check_fee(tx, &account, prices)?;
    let rest = fee
        .total()
        .and_then(|total| account.balance.checked_sub(total));
    let paid = Account {
        nonce: account.nonce.next().ok_or(Rejection::Overflow)?,
        balance: rest.ok_or(Rejection::Overflow)?,
    };
    delta.put(&Key::Account(tx.signer()), &paid)?;
    Ok(fee)
}
