//! What a node that lies can tell a follower of a rollup.

use std::sync::LazyLock;

use counterpoint_core::{light::TrustedState, primitive::Height, registry::RollupConfig};
use counterpoint_proto::sequencer::RollupBlock;
use counterpoint_service::sequencer::{Client, Follower};
use prost::Message;
use tokio::runtime::{Builder, Runtime};

use crate::{encode, samples};

/// A client that nobody asks needs a runtime all the same.
static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_current_thread().build().expect("a runtime"));

static CLIENT: LazyLock<Client> = LazyLock::new(|| {
    let _entered = RUNTIME.enter();
    Client::new(&["http://127.0.0.1:1".into()]).expect("a URL")
});

fn follower() -> Follower {
    let trusted = TrustedState::from_genesis(&samples::genesis_file()).expect("it is valid");
    Follower::new(CLIENT.clone(), samples::alpha(), trusted, Height::new(2))
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
    let block = follower().accept(&message());
    block.expect("the seed is a block that is believed");
    vec![message().encode_to_vec()]
}

/// Whatever is believed is the list that was signed for.
pub(crate) fn run(data: &[u8]) {
    if let Ok(message) = RollupBlock::decode(data)
        && let Ok(block) = follower().accept(&message)
    {
        assert_eq!(block.list.items(), samples::list().0);
        assert_eq!(block.config, RollupConfig::example("alpha"));
    }
}
