//! What senders hold, read from the execution client in groups and kept until its next block.
//!
//! An account counts as long as no newer head is known than when it was read. The tracker makes a
//! head known before it finishes what that head's blocks hold, so whoever looks at the queue first and
//! finds a valid account after that never misses a nonce that has just been used.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use alloy_primitives::Address;
use tokio::sync::Mutex as AsyncMutex;

use crate::upstream::{Account, Upstream, UpstreamError};

/// Most accounts that are asked for at once: two calls each, and geth answers a thousand.
const MAX_ASKED: usize = 256;
/// Most accounts that are kept, of one rollup: about ten megabytes.
const MAX_KEPT: usize = 65_536;
/// How long a failure counts: a client that hangs is not asked by one after the other.
const FAILURE_AGE: Duration = Duration::from_millis(200);

/// The accounts of one rollup that were asked for last.
#[derive(Debug)]
pub(crate) struct Accounts {
    upstream: Upstream,
    kept: Mutex<Kept>,
    /// Held by who asks, for itself and for all that wait behind it.
    asking: AsyncMutex<()>,
}

#[derive(Debug, Default)]
struct Kept {
    accounts: HashMap<Address, Read>,
    wanted: BTreeSet<Address>,
    failed: Option<(Instant, UpstreamError)>,
}

/// An account, and the newest head that was known before it was read.
#[derive(Clone, Copy, Debug)]
struct Read {
    head: u64,
    account: Account,
}

impl Accounts {
    /// Nothing is known yet.
    #[must_use]
    pub(crate) fn new(upstream: Upstream) -> Self {
        let (kept, asking) = Default::default();
        Self {
            upstream,
            kept,
            asking,
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An account as it is after the newest head that is known, if it was read since.
    #[must_use]
    pub(crate) fn get(&self, address: Address) -> Option<Account> {
        let read = *self.kept().accounts.get(&address)?;
        (read.head >= self.upstream.known_head()).then_some(read.account)
    }

    /// Reads those that are not known.
    ///
    /// # Errors
    /// [`UpstreamError`] if the client does not say.
    pub(crate) async fn read(&self, addresses: &BTreeSet<Address>) -> Result<(), UpstreamError> {
        loop {
            if !self.want(addresses)? {
                return Ok(());
            }
            let _turn = self.asking.lock().await;
            if !self.want(addresses)? {
                return Ok(());
            }
            self.ask().await?;
        }
    }

    /// Puts those that are not known on the list of who asks next; gives whether there are any.
    fn want(&self, addresses: &BTreeSet<Address>) -> Result<bool, UpstreamError> {
        let head = self.upstream.known_head();
        let mut kept = self.kept();
        let is_known = |address: &&Address| {
            let read = kept.accounts.get(*address);
            read.is_some_and(|read| read.head >= head)
        };
        let unknown: Vec<Address> = addresses
            .iter()
            .filter(|address| !is_known(address))
            .copied()
            .collect();
        if unknown.is_empty() {
            return Ok(false);
        }
        if let Some((since, error)) = &kept.failed
            && since.elapsed() < FAILURE_AGE
        {
            return Err(error.clone());
        }
        kept.wanted.extend(unknown);
        Ok(true)
    }

    /// Asks for what is on the list.
    async fn ask(&self) -> Result<(), UpstreamError> {
        let asked: Vec<Address> = {
            let mut kept = self.kept();
            let mut asked = std::mem::take(&mut kept.wanted);
            if let Some(first_left) = asked.iter().nth(MAX_ASKED).copied() {
                kept.wanted = asked.split_off(&first_left);
            }
            asked.into_iter().collect()
        };
        let head = self.upstream.known_head();
        let answer = self.upstream.accounts(&asked).await;
        let mut kept = self.kept();
        match answer {
            Ok(accounts) => {
                kept.failed = None;
                kept.make_room(asked.len(), head);
                for (address, account) in asked.into_iter().zip(accounts) {
                    kept.keep(address, Read { head, account });
                }
                Ok(())
            }
            Err(error) => {
                kept.wanted.clear();
                kept.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }
}

impl Kept {
    /// What was executed is final: a client that lost blocks, and has them again soon, does not take
    /// an account back.
    fn keep(&mut self, address: Address, read: Read) {
        let kept = self.accounts.entry(address).or_insert(read);
        kept.head = read.head;
        if read.account.nonce >= kept.account.nonce {
            kept.account = read.account;
        }
    }

    fn make_room(&mut self, count: usize, head: u64) {
        if self.accounts.len() + count > MAX_KEPT {
            self.accounts.retain(|_, read| read.head >= head);
        }
        if self.accounts.len() + count > MAX_KEPT {
            self.accounts.clear();
        }
    }
}
