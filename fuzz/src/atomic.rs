//! Bundles, what attesters say, system items, and raw transactions of legs.

use bytes::Bytes;
use counterpoint_core::{
    action::RevealLegs,
    atomic::{
        AtomicBundle, AttesterFault, AttesterMessage, Attesters, LegTransaction, SystemItem,
        keccak, sender, testing,
    },
    primitive::Hash,
};

use crate::{encode, is_canonical};

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let snapshot = include_str!(
        "../../core/src/atomic/snapshots/counterpoint_core__atomic__tests__encodings_are_frozen.snap"
    );
    let encoded = snapshot.lines().filter_map(|line| hex::decode(line).ok());
    let raw = testing::raw_transaction(1, 1_001, 0);
    let legs = RevealLegs::new(Hash::ZERO, vec![vec![raw.clone()]; 2]).expect("within bounds");
    let mut seeds: Vec<Vec<u8>> = encoded.filter(|bytes| !bytes.is_empty()).collect();
    seeds.extend([raw.to_vec(), encode(&legs)]);
    seeds
}

pub(crate) fn run(data: &[u8]) {
    if let Some(bundle) = is_canonical::<AtomicBundle>(data) {
        let auths = bundle.terms().legs.iter().flat_map(|leg| &leg.txs);
        for tx in auths {
            let _ = bundle.signer(&tx.tx_hash, &tx.auth);
        }
        let _ = bundle.session_id();
    }
    is_canonical::<RevealLegs>(data);
    is_canonical::<Attesters>(data);
    if let Some(fault) = is_canonical::<AttesterFault>(data) {
        let _ = (fault.contradicts_itself(), fault.verify("fuzz"));
    }
    if let Ok(Some(item)) = SystemItem::decode(data) {
        assert_eq!(item.encode(), Bytes::copy_from_slice(data));
    }
    if let Ok(message) = AttesterMessage::decode(data) {
        assert_eq!(message.encode(), Bytes::copy_from_slice(data));
    }
    if let Ok(tx) = LegTransaction::read(data) {
        assert_eq!(sender(data), Some(tx.sender), "a leg can be sealed");
        let _ = keccak(data);
    }
}
