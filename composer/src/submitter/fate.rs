//! What becomes of a batch that no node shows in a block. Nobody is believed: the state's proof of the
//! account's nonce says whether a version can still come, and verified lists say whether one came.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use alloy_consensus::TxEnvelope;
use alloy_primitives::Address;
use counterpoint_core::{
    block::{RollupItem, VerifiedList},
    light::{TrustedState, VerifiedHeader, decode_signed_header},
    primitive::{EvmAddress, Hash, Height, RollupId},
    state::{AtomicRollup, Key},
};
use counterpoint_service::sequencer::{
    Client, FollowError, Follower, VerifyError, proven_record, verify_list,
};
use eyre::eyre;

use super::Failure;
use crate::queue::Item;

/// How long a search waits for one height.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the state that a height left says of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// A version may still get into a block.
    Open,
    /// No version is in a block, or ever will be: all expired while the nonce was unused.
    Unused,
    /// A transaction with its nonce is in a block: a version, up to this height, or another one.
    Used(Height),
}

impl Fate {
    /// The fate of a batch with this nonce that expires after `valid_until`, if the account's next
    /// nonce was `account` after `height`.
    #[must_use]
    pub(super) fn of(nonce: u64, valid_until: Height, account: u64, height: Height) -> Self {
        if account > nonce {
            Self::Used(height.min(valid_until))
        } else if height >= valid_until {
            Self::Unused
        } else {
            Self::Open
        }
    }
}

/// Where each item of a batch is, or that it is not there.
pub(super) type Places = Vec<(u64, Option<u32>)>;

/// A batch in a block.
pub(super) struct Found {
    pub(super) header: VerifiedHeader,
    pub(super) trusted: TrustedState,
    pub(super) places: Places,
}

/// Looks for a batch in the verified lists of every height from what is `trusted`, below which it
/// cannot be, up to `until`. Lists are complete, so what is in none of them was not ordered.
///
/// One rollup's lists tell: a batch is in a block with all its items, or with none.
pub(super) async fn search(
    client: &Client,
    items: &BTreeMap<RollupId, Vec<Item>>,
    first: Height,
    trusted: &TrustedState,
    until: Height,
) -> Result<Option<Found>, Failure> {
    let Some((rollup, sought)) = items.iter().next() else {
        return Ok(None);
    };
    let mut height = trusted.height();
    if trusted.header().is_some() && height >= first && height <= until {
        let (list, header) = trusted_list(client, rollup, trusted).await?;
        if has_run(sought, list.items())
            && let Some(places) = all_places(client, items, &header, trusted).await?
        {
            let trusted = trusted.clone();
            return Ok(Some(Found {
                header,
                trusted,
                places,
            }));
        }
    }
    height = Height::new(height.get().saturating_add(1)).max(first);
    let mut follower = Follower::new(client.clone(), *rollup, trusted.clone(), height);
    while height <= until {
        let next = tokio::time::timeout(PATIENCE, follower.next()).await;
        let list = match next {
            Ok(Ok(block)) => block.list,
            Ok(Err(FollowError::Left { .. })) => return Ok(None),
            Ok(Err(FollowError::Fork(fork))) => return Err(Failure::Fatal(fork.into())),
            Ok(Err(error)) => return Err(Failure::Passing(error.into())),
            Err(_) => {
                return Err(Failure::Passing(eyre!(
                    "the nonce of a batch is used, and no node serves the rollup's list of height \
                     {height}, which would show whether the batch is in it: add a node to sequencers \
                     that has the heights {height} to {until}"
                )));
            }
        };
        let header = list.header();
        if has_run(sought, list.items())
            && let Some(places) = all_places(client, items, header, trusted).await?
        {
            let (header, trusted) = (header.clone(), follower.trusted().clone());
            return Ok(Some(Found {
                header,
                trusted,
                places,
            }));
        }
        height = Height::new(height.get().saturating_add(1));
    }
    Ok(None)
}

/// Where all items are in the block of a header; nothing if one is not.
async fn all_places(
    client: &Client,
    items: &BTreeMap<RollupId, Vec<Item>>,
    header: &VerifiedHeader,
    trusted: &TrustedState,
) -> Result<Option<Places>, Failure> {
    let mut places = Vec::new();
    for (rollup, items) in items {
        let list = list(client, rollup, header, trusted).await?;
        places.extend(find_run(items, list.items()));
    }
    let all = places.iter().all(|(_, index)| index.is_some());
    Ok(all.then_some(places))
}

/// A rollup's list of a height, verified. That a node has none proves nothing: it may be a block
/// behind, or lie.
pub(super) async fn list(
    client: &Client,
    rollup: &RollupId,
    header: &VerifiedHeader,
    trusted: &TrustedState,
) -> Result<VerifiedList, Failure> {
    let height = header.height();
    let (node, block) = client.rollup_block(height, rollup).await?;
    match verify_list(rollup, header, &block) {
        Ok(list) => Ok(list),
        Err(error) => {
            let signed = &block.signed_header;
            let convicted = client.convict(node, trusted, height, error, signed, &block);
            Err(convicted.await.into())
        }
    }
}

/// A rollup's list in the block of the trusted header itself.
async fn trusted_list(
    client: &Client,
    rollup: &RollupId,
    trusted: &TrustedState,
) -> Result<(VerifiedList, VerifiedHeader), Failure> {
    let (node, block) = client.rollup_block(trusted.height(), rollup).await?;
    let verified = || -> Result<_, VerifyError> {
        let signed = decode_signed_header(&block.signed_header)?;
        let header = trusted.recognise(&signed)?;
        Ok((verify_list(rollup, &header, &block)?, header))
    };
    match verified() {
        Ok(verified) => Ok(verified),
        Err(error) => {
            let (height, signed) = (trusted.height(), &block.signed_header);
            let convicted = client.convict(node, trusted, height, error, signed, &block);
            Err(convicted.await.into())
        }
    }
}

/// Which of a batch's items the seal of an atomic bundle keeps out of every list, for ever: proven by
/// the state (`docs/spec/atomic.md`).
pub(super) async fn sealed(
    client: &Client,
    rollup: RollupId,
    items: &[Item],
    trusted: &TrustedState,
) -> Result<BTreeSet<u64>, Failure> {
    let (mut trusted, mut sealed) = (trusted.clone(), BTreeSet::new());
    let key = Key::AtomicRollup(rollup);
    let known = proven_record::<AtomicRollup>(client, &mut trusted, &key).await?;
    if known.record.is_none_or(|known| known.seals == 0) {
        return Ok(sealed);
    }
    for item in items {
        let key = seal_key(rollup, &item.tx, item.sender);
        let seal = proven_record::<Hash>(client, &mut trusted, &key).await?;
        if seal.record.is_some() {
            sealed.insert(item.seq);
        }
    }
    Ok(sealed)
}

/// Where the state has the seal of a transaction.
pub(super) fn seal_key(rollup: RollupId, tx: &TxEnvelope, sender: Address) -> Key<'static> {
    let (hash, sender) = (Hash::new(tx.tx_hash().0), sender.into_array());
    Key::Seal(rollup, hash, EvmAddress::new(sender))
}

/// Whether all of them are.
pub(super) fn has_run(items: &[Item], list: &[RollupItem]) -> bool {
    find_run(items, list)
        .iter()
        .all(|(_, index)| index.is_some())
}

/// Where a batch's items of one rollup stand in its list: next to each other and in order, or not
/// at all.
pub(super) fn find_run(items: &[Item], list: &[RollupItem]) -> Places {
    let equal = |item: &Item, entry: &RollupItem| matches!(entry, RollupItem::Transaction(raw) if *raw == item.raw);
    let start = list.windows(items.len().max(1)).position(|window| {
        items
            .iter()
            .zip(window)
            .all(|(item, entry)| equal(item, entry))
    });
    let place = |(offset, item): (usize, &Item)| {
        let index = start.and_then(|start| u32::try_from(start + offset).ok());
        (item.seq, index)
    };
    items.iter().enumerate().map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::testing::item;

    fn fate(account: u64, height: u64) -> Fate {
        Fate::of(7, Height::new(100), account, Height::new(height))
    }

    #[test]
    fn only_a_nonce_that_is_unused_after_the_last_height_sets_items_free() {
        assert_eq!(fate(7, 99), Fate::Open);
        assert_eq!(fate(7, 100), Fate::Unused);
        assert_eq!(fate(3, 100), Fate::Unused);
        assert_eq!(fate(8, 50), Fate::Used(Height::new(50)));
        assert_eq!(fate(8, 500), Fate::Used(Height::new(100)));
    }

    #[test]
    fn a_batch_is_in_a_list_in_order_and_in_one_piece() {
        let rollup = RollupId::from_name("alpha");
        let items: Vec<Item> = (0..3).map(|seq| item(seq, rollup)).collect();
        let entry = |at: usize| RollupItem::Transaction(items[at].raw.clone());
        let runs = |list: &[usize]| {
            let list: Vec<RollupItem> = list.iter().map(|at| entry(*at)).collect();
            has_run(&items[..2], &list)
        };
        assert!(runs(&[0, 1]));
        assert!(runs(&[2, 0, 0, 1]));
        assert!(!runs(&[1, 0]));
        assert!(!runs(&[0, 2, 1]));
        assert!(!runs(&[0]));
        assert!(!runs(&[]));
        let found = find_run(&items[..2], &[entry(2), entry(0), entry(1)]);
        assert_eq!(found, [(0, Some(1)), (1, Some(2))]);
    }
}
