use std::sync::LazyLock;

use counterpoint_core::{
    block::{ItemProof, LeafProof, RollupItem, TransactionProof},
    light::VerifiedHeader,
    primitive::{Hash, Height},
    slot::HeaderTime,
    state::{Key, StateProof},
};

use crate::{encode, is_canonical, samples};

static HEADER: LazyLock<VerifiedHeader> = LazyLock::new(|| {
    let time = HeaderTime {
        seconds: 1,
        nanos: 0,
    };
    let (_, data_hash) = samples::leaf_proof();
    VerifiedHeader::unchecked(Height::new(2), Hash::ZERO, time, data_hash, Hash::ZERO)
});

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let (proof, _) = samples::leaf_proof();
    let (items, _) = samples::list();
    let tx = TransactionProof {
        path: proof.preamble_path.clone(),
    };
    let item = ItemProof {
        item: items[0].clone(),
        path: proof.leaf_path.clone(),
    };
    vec![encode(&proof), encode(&items), encode(&tx), encode(&item)]
}

/// The leaf of a proof that leads to the header is the one that is there.
pub(crate) fn run(data: &[u8]) {
    if let Ok(proof) = StateProof::decode(data) {
        assert_eq!(encode(&proof), data);
        let _ = proof.verify(&Key::Chain, &Hash::ZERO);
    }
    let (items, leaf) = samples::list();
    if let Some(proof) = is_canonical::<LeafProof>(data)
        && let Ok(verified) = proof.verify(&samples::alpha(), &HEADER)
    {
        assert_eq!(*verified.leaf(), leaf);
    }
    let verified = || {
        let (proof, _) = samples::leaf_proof();
        proof
            .verify(&samples::alpha(), &HEADER)
            .expect("it is true")
    };
    if let Some(list) = is_canonical::<Vec<RollupItem>>(data)
        && let Ok(list) = verified().verify_list(list)
    {
        assert_eq!(list.items(), items);
    }
    if let Some(proof) = is_canonical::<ItemProof>(data)
        && let Ok(item) = verified().verify_item(proof)
    {
        assert_eq!(*item.item(), items[item.index() as usize]);
    }
    if let Some(proof) = is_canonical::<TransactionProof>(data) {
        let _ = proof.verify(&Hash::digest(&[b"other"]), &HEADER);
    }
}
