//! What senders hold, read in groups and kept.
//!
//! An account counts as long as no newer head is known than when it was read, and before a newer one
//! becomes known, those that were used lately are read anew. The tracker finishes what a head's blocks
//! hold once that head is known, so whoever looks at the queue first and finds a valid account after
//! that never misses a nonce that has just been used.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use alloy_primitives::{Address, U256};
use tokio::{sync::Mutex as AsyncMutex, time::timeout};

use super::{INTAKE_TIMEOUT, Upstream, UpstreamError};

/// Most accounts that are asked for at once: two calls each, and geth answers a thousand.
const MAX_ASKED: usize = 256;
/// Most accounts that are kept, of one rollup: about ten megabytes.
const MAX_KEPT: usize = 65_536;
/// How long an account that nobody uses is read anew at every head.
const IN_USE: Duration = Duration::from_secs(30);
/// Most accounts that are read anew at a head: it costs the client a tenth of a second.
const MAX_RENEWED: usize = 1_024;
/// How long a failure counts: a client that hangs is not asked by one after the other.
const FAILURE_AGE: Duration = Duration::from_millis(200);

/// What intake must know of a sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    /// Its next nonce, as executed.
    pub(crate) nonce: u64,
    /// What it holds, in wei.
    pub(crate) balance: U256,
}

/// The accounts that were asked for last.
#[derive(Debug, Default)]
pub(super) struct Accounts {
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

/// An account, a head that it is not older than, and when somebody wanted to know it.
#[derive(Clone, Copy, Debug)]
struct Read {
    head: u64,
    account: Account,
    used: Instant,
}

impl Upstream {
    /// An account as it is after the newest head that is known, if it was read since.
    #[must_use]
    pub(crate) fn account(&self, address: Address) -> Option<Account> {
        let known = self.known_head();
        let mut kept = self.accounts.kept();
        let read = kept.accounts.get_mut(&address)?;
        read.used = Instant::now();
        (read.head >= known).then_some(read.account)
    }

    /// Reads those accounts that are not known.
    ///
    /// # Errors
    /// [`UpstreamError`] if the client does not say.
    pub(crate) async fn read_accounts(
        &self,
        addresses: &BTreeSet<Address>,
    ) -> Result<(), UpstreamError> {
        let want = || self.accounts.kept().want(addresses, self.known_head());
        while want()? {
            let _turn = self.accounts.asking.lock().await;
            if want()? {
                self.ask_accounts().await?;
            }
        }
        Ok(())
    }

    /// Asks for what is on the list.
    async fn ask_accounts(&self) -> Result<(), UpstreamError> {
        let (head, asked) = (self.known_head(), self.accounts.kept().take_wanted());
        let answer = self.accounts(&asked).await;
        let mut kept = self.accounts.kept();
        match answer {
            Ok(accounts) => {
                kept.failed = None;
                kept.make_room(asked.len(), head);
                kept.keep(&asked, accounts, head);
                Ok(())
            }
            Err(error) => {
                kept.wanted.clear();
                kept.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// Reads what is in use anew, `head` being the client's last block. What the client does not say
    /// in time is asked for by who needs it.
    pub(super) async fn renew_accounts(&self, head: u64) {
        let in_use = self.accounts.kept().in_use();
        let renew = async {
            for some in in_use.chunks(MAX_ASKED) {
                let accounts = self.accounts(some).await?;
                self.accounts.kept().keep(some, accounts, head);
            }
            Ok::<(), UpstreamError>(())
        };
        let _late = timeout(INTAKE_TIMEOUT, renew).await;
    }
}

impl Accounts {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// Puts those that are not known on the list of who asks next; gives whether there are any.
    fn want(&mut self, addresses: &BTreeSet<Address>, head: u64) -> Result<bool, UpstreamError> {
        let is_known = |address: &&Address| {
            let read = self.accounts.get(*address);
            read.is_some_and(|read| read.head >= head)
        };
        let unknown = addresses.iter().filter(|address| !is_known(address));
        let unknown: Vec<Address> = unknown.copied().collect();
        if unknown.is_empty() {
            return Ok(false);
        }
        if let Some((since, error)) = &self.failed
            && since.elapsed() < FAILURE_AGE
        {
            return Err(error.clone());
        }
        self.wanted.extend(unknown);
        Ok(true)
    }

    fn take_wanted(&mut self) -> Vec<Address> {
        let mut asked = std::mem::take(&mut self.wanted);
        if let Some(first_left) = asked.iter().nth(MAX_ASKED).copied() {
            self.wanted = asked.split_off(&first_left);
        }
        asked.into_iter().collect()
    }

    /// Those that were used lately, the last ones first.
    fn in_use(&self) -> Vec<Address> {
        let used = |(address, read): (&Address, &Read)| {
            let unused = read.used.elapsed();
            (unused < IN_USE).then_some((unused, *address))
        };
        let mut in_use: Vec<_> = self.accounts.iter().filter_map(used).collect();
        in_use.sort_unstable();
        in_use.truncate(MAX_RENEWED);
        in_use.into_iter().map(|(_, address)| address).collect()
    }

    /// What was executed is final: a client that lost blocks, and has them again soon, does not take
    /// an account back.
    fn keep(&mut self, addresses: &[Address], accounts: Vec<Account>, head: u64) {
        for (address, account) in addresses.iter().zip(accounts) {
            let used = Instant::now();
            let read = Read {
                head,
                account,
                used,
            };
            let kept = self.accounts.entry(*address).or_insert(read);
            if head < kept.head {
                continue; // It was read anew meanwhile.
            }
            kept.head = head;
            if account.nonce >= kept.account.nonce {
                kept.account = account;
            }
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
