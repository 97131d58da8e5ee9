use borsh::BorshDeserialize;
use bytes::Bytes;

use super::MAX_TX_BYTES;
use crate::block::Tag;

/// Longest bundle, tag included, in bytes: what CometBFT's mempool lets pass.
pub const MAX_BUNDLE_BYTES: usize = 1_048_576;
/// Most transactions of a bundle: more of the shortest ones do not fit.
const MAX_MEMBERS: usize = 8_192;

/// Transactions on their way between mempools: tag `0x20` and a borsh list of block items.
///
/// CometBFT pays one round trip per gossiped item, inside the routine that also carries votes, so
/// transactions travel in bundles. A bundle is never a block item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GossipBundle;

/// Why bytes are not a bundle.
#[derive(Debug, thiserror::Error)]
pub enum GossipError {
    /// Longer than [`MAX_BUNDLE_BYTES`], not tagged as a bundle, or of too many members.
    #[error("not a gossip bundle of at most {MAX_BUNDLE_BYTES} bytes and {MAX_MEMBERS} members")]
    Shape,
    /// Not canonical borsh.
    #[error("failed to decode gossip bundle")]
    Decode(#[from] borsh::io::Error),
}

impl GossipBundle {
    /// Packs transactions, in order, into as few bundles as hold them.
    #[must_use]
    pub fn pack(transactions: Vec<Bytes>) -> Vec<Bytes> {
        const HEAD_BYTES: usize = 5; // Tag and count.
        let mut bundles = Vec::new();
        let (mut members, mut length) = (Vec::new(), HEAD_BYTES);
        for tx in transactions
            .into_iter()
            .filter(|tx| tx.len() <= MAX_TX_BYTES)
        {
            let cost = tx.len().saturating_add(4);
            if length.saturating_add(cost) > MAX_BUNDLE_BYTES {
                bundles.push(encode(&members));
                (members, length) = (Vec::new(), HEAD_BYTES);
            }
            length = length.saturating_add(cost);
            members.push(tx);
        }
        if !members.is_empty() {
            bundles.push(encode(&members));
        }
        bundles
    }

    /// Takes a bundle apart; each member is copied out of it.
    ///
    /// # Errors
    /// [`GossipError`] if it is none.
    pub fn unpack(bundle: &[u8]) -> Result<Vec<Bytes>, GossipError> {
        match bundle.split_first() {
            Some((tag, members))
                if *tag == Tag::GossipBundle.byte() && bundle.len() <= MAX_BUNDLE_BYTES =>
            {
                let members = Vec::<Bytes>::try_from_slice(members)?;
                let fits = members.len() <= MAX_MEMBERS;
                fits.then_some(members).ok_or(GossipError::Shape)
            }
            _ => Err(GossipError::Shape),
        }
    }
}

fn encode(members: &[Bytes]) -> Bytes {
    let mut bundle = vec![Tag::GossipBundle.byte()];
    bundle.extend(borsh::to_vec(members).unwrap_or_default());
    bundle.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn packing_keeps_order_and_the_limit() {
        let txs: Vec<Bytes> = (0..40_u8).map(|fill| vec![fill; 100_000].into()).collect();
        let bundles = GossipBundle::pack(txs.clone());
        assert!(bundles.len() > 1);
        assert!(
            bundles
                .iter()
                .all(|bundle| bundle.len() <= MAX_BUNDLE_BYTES)
        );
        let unpacked = bundles
            .iter()
            .flat_map(|bundle| GossipBundle::unpack(bundle).unwrap());
        assert_eq!(unpacked.collect::<Vec<_>>(), txs);
        assert!(GossipBundle::pack(vec![]).is_empty());
    }

    #[test]
    fn encoding_is_frozen() {
        let bundle =
            &GossipBundle::pack(vec![Bytes::from_static(b"a"), Bytes::from_static(b"bc")])[0];
        insta::assert_snapshot!(hex::encode(bundle));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let tagged = [&[0x20], &bytes[..]].concat();
            if let Ok(members) = GossipBundle::unpack(&tagged) {
                prop_assert_eq!(encode(&members), tagged);
            }
            prop_assert!(GossipBundle::unpack(&bytes).is_err() || bytes[0] == 0x20);
        }
    }
}
