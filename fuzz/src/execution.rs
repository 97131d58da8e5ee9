//! Any actions, signed by accounts that exist: what `prepare` builds, `process` accepts.

use std::{collections::BTreeMap, sync::LazyLock};

use counterpoint_core::{action::Action, primitive::Hash};
use counterpoint_machine::{Block, MemState, finalize, prepare, process};

use crate::{encode, is_canonical, samples};

static STATE: LazyLock<MemState> = LazyLock::new(samples::state);

/// Who signs, what tip, and what for.
type Script = Vec<(u8, u32, Vec<Action>)>;

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let script: Script = vec![
        (0, 0, samples::actions()),
        (1, 7, samples::actions()),
        (0, 1, samples::actions()),
    ];
    vec![encode(&script)]
}

pub(crate) fn run(data: &[u8]) {
    let Some(script) = is_canonical::<Script>(data) else {
        return;
    };
    let mut nonces: BTreeMap<u8, u64> = BTreeMap::new();
    let mut candidates = Vec::new();
    for (signer, tip, actions) in script {
        let signer = signer % samples::ACCOUNTS + 1;
        let nonce = nonces.entry(signer).or_default();
        if let Some(tx) = samples::sign(signer, *nonce, tip.into(), actions) {
            candidates.push(tx);
            *nonce += 1;
        }
    }
    let items = prepare(&*STATE, &samples::next(), &[], candidates, 5_000).expect("memory works");
    let block = Block::decode(&items, |_| None).expect("our own block decodes");
    let execution = process(&*STATE, &samples::next(), &block).expect("our own block is valid");
    let outcome = finalize(execution, Hash::digest(&[b"second"])).expect("memory works");
    assert_eq!(outcome.codes.len(), items.len());
}
