//! From a signed transaction to a checked one: may it be in the next block?

use counterpoint_core::{
    primitive::{Amount, Height},
    transaction::SignedTransaction,
};

use crate::{
    BlockContext,
    execute::{self, TxContext},
    fees::Fee,
    rejection::{Mismatch, Rejection},
    state::{Account, ReadRecords, StateDelta, StateRead, StoreError},
};

/// How many heights ahead `valid_until` may lie.
pub const MAX_VALID_HEIGHTS: u64 = 600;

/// A transaction that a mempool may keep: it can be included now, or once its nonce has come.
#[derive(Clone, Debug)]
pub struct CheckedTx {
    tx: SignedTransaction,
    fee: Amount,
}

impl CheckedTx {
    /// The transaction.
    #[must_use]
    pub fn tx(&self) -> &SignedTransaction {
        &self.tx
    }

    /// What it will pay.
    #[must_use]
    pub fn fee(&self) -> Amount {
        self.fee
    }

    /// Gives the transaction up.
    #[must_use]
    pub fn into_tx(self) -> SignedTransaction {
        self.tx
    }
}

/// How checking a transaction can end badly.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The sender's fault.
    #[error("transaction rejected")]
    Rejected(#[from] Rejection),
    /// A broken node.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Checks a transaction for the mempool: everything that inclusion at the next height asks for,
/// except that its nonce may still lie ahead. If it is the account's next one, the actions are
/// tried too, so that a sender does not pay for what is bound to fail.
///
/// # Errors
/// [`CheckError::Rejected`] says what the sender did wrong.
pub fn check_tx<S: StateRead>(
    state: &S,
    tx: SignedTransaction,
    next: Height,
) -> Result<CheckedTx, CheckError> {
    let chain = state.chain()?;
    check_body(&tx, &chain.chain_id, next)?;
    let account = state.account(tx.signer())?.ok_or(Rejection::NoAccount)?;
    let (expected, actual) = (account.nonce, tx.body().nonce);
    if actual < expected {
        return Err(Rejection::Nonce(Mismatch { expected, actual }).into());
    }
    let fee = check_fee(&tx, &account)?;
    let total = fee.total().ok_or(Rejection::Overflow)?;
    if actual == expected {
        try_actions(state, &tx, account, total, next)?;
    }
    Ok(CheckedTx { tx, fee: total })
}

fn try_actions<S: StateRead>(
    state: &S,
    tx: &SignedTransaction,
    account: Account,
    fee: Amount,
    height: Height,
) -> Result<(), CheckError> {
    let mut delta = StateDelta::new(state);
    let balance = account
        .balance
        .checked_sub(fee)
        .ok_or(Rejection::Overflow)?;
    delta.put(
        &crate::state::Key::Account(tx.signer()),
        &Account { balance, ..account },
    )?;
    let last = state.last_header()?;
    let ctx = TxContext {
        signer: tx.signer(),
        height,
        previous_time: last.time,
    };
    execute::actions(&ctx, &tx.body().actions, &mut delta)?
        .map(|_| ())
        .map_err(CheckError::from)
}

/// What makes a block invalid if the transaction is in it, the account's part left aside.
pub(crate) fn check_body(
    tx: &SignedTransaction,
    chain_id: &str,
    height: Height,
) -> Result<(), Rejection> {
    let body = tx.body();
    if body.chain_id != chain_id {
        let (expected, actual) = (chain_id.to_owned(), body.chain_id.clone());
        return Err(Rejection::ChainId(Mismatch { expected, actual }));
    }
    let valid_until = body.valid_until;
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

/// The fee of `tx`, which `account` can pay.
pub(crate) fn check_fee(tx: &SignedTransaction, account: &Account) -> Result<Fee, Rejection> {
    let fee = Fee::of(tx).ok_or(Rejection::Overflow)?;
    let total = fee.total().ok_or(Rejection::Overflow)?;
    let (max_fee, balance) = (tx.body().max_fee, account.balance);
    if max_fee < total {
        return Err(Rejection::MaxFee(Mismatch {
            expected: total,
            actual: max_fee,
        }));
    }
    if balance < total {
        return Err(Rejection::Fee(Mismatch {
            expected: total,
            actual: balance,
        }));
    }
    Ok(fee)
}

/// Takes nonce and fee, which stay taken whatever becomes of the actions.
pub(crate) fn charge<S: StateRead>(
    tx: &SignedTransaction,
    ctx: &BlockContext,
    existed: bool,
    delta: &mut StateDelta<'_, S>,
) -> Result<Result<(), Rejection>, StoreError> {
    let mut chain = delta.chain()?;
    let verdict = (|| {
        check_body(tx, &chain.chain_id, ctx.height)?;
        existed.then_some(()).ok_or(Rejection::NoAccount)
    })();
    if let Err(rejection) = verdict {
        return Ok(Err(rejection));
    }
    let account = delta.account(tx.signer())?.unwrap_or_default();
    let (fee, paid, chain_burned) = match settle(tx, &account, chain.burned) {
        Ok(settled) => settled,
        Err(rejection) => return Ok(Err(rejection)),
    };
    chain.burned = chain_burned;
    delta.put(&crate::state::Key::Account(tx.signer()), &paid)?;
    delta.put(&crate::state::Key::Chain, &chain)?;
    delta.credit(ctx.proposer, fee.tip)
}

fn settle(
    tx: &SignedTransaction,
    account: &Account,
    burned: Amount,
) -> Result<(Fee, Account, Amount), Rejection> {
    let (expected, actual) = (account.nonce, tx.body().nonce);
    if actual != expected {
        return Err(Rejection::Nonce(Mismatch { expected, actual }));
    }
    let fee = check_fee(tx, account)?;
    let rest = fee
        .total()
        .and_then(|total| account.balance.checked_sub(total));
    let paid = Account {
        nonce: account.nonce.next().ok_or(Rejection::Overflow)?,
        balance: rest.ok_or(Rejection::Overflow)?,
    };
    let burned = burned.checked_add(fee.burned).ok_or(Rejection::Overflow)?;
    Ok((fee, paid, burned))
}
