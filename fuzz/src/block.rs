//! Any bytes as a block: decoded, judged, and remade if it is valid.

use std::sync::LazyLock;

use bytes::Bytes;
use counterpoint_core::block::Preamble;
use counterpoint_machine::{Block, MemState, prepare, process};

use crate::{encode, is_canonical, samples};

static STATE: LazyLock<MemState> = LazyLock::new(samples::state);

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let txs = vec![
        samples::sign(1, 0, 0, samples::actions()),
        samples::sign(2, 0, 7, samples::actions()),
    ];
    let candidates = txs.into_iter().flatten().collect();
    let items = prepare(&*STATE, &samples::next(), &[], candidates, 10_000).expect("memory works");
    vec![items[0].to_vec(), encode(&items)]
}

pub(crate) fn run(data: &[u8]) {
    if let Ok(preamble) = Preamble::decode(data) {
        assert_eq!(preamble.encode(), data);
    }
    let Some(items) = is_canonical::<Vec<Bytes>>(data) else {
        return;
    };
    let Ok(block) = Block::decode(&items, |_| None) else {
        return;
    };
    if process(&*STATE, &samples::next(), &block).is_ok() {
        let candidates = block.transactions().to_vec();
        let again = prepare(&*STATE, &samples::next(), &[], candidates, u64::MAX);
        assert_eq!(again.expect("memory works"), items);
    }
}
