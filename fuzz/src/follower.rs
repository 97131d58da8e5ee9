//! What a node that lies can tell a follower of a rollup.

use counterpoint_core::{light::TrustedState, primitive::Height, registry::RollupConfig};
use counterpoint_proto::sequencer::RollupBlock;
use counterpoint_service::sequencer::Verifier;
use prost::Message;

use crate::{encode, samples};

fn verifier() -> Verifier {
    let trusted = TrustedState::from_genesis(&samples::genesis_file()).expect("it is valid");
    Verifier::new(samples::alpha(), trusted, Height::new(2))
}

fn message() -> RollupBlock {
    let (proof, data_hash) = samples::leaf_proof();
    let (items, _) = samples::list();
    let config = RollupConfig::example("alpha");
    RollupBlock {
        signed_header: samples::signed_header(&data_hash).into(),
        borsh_leaf_proof: encode(&proof).into(),
        borsh_list: encode(&items).into(),
        borsh_config: encode(&config).into(),
        ..RollupBlock::default()
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let block = verifier().accept(&message());
    block.expect("the seed is a block that is believed");
    vec![message().encode_to_vec()]
}

/// Whatever is believed is the list that was signed for.
pub(crate) fn run(data: &[u8]) {
    if let Ok(message) = RollupBlock::decode(data)
        && let Ok(block) = verifier().accept(&message)
    {
        assert_eq!(block.list.items(), samples::list().0);
        assert_eq!(block.config, RollupConfig::example("alpha"));
    }
}
