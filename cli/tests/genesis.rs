//! The example genesis files are what the software reads.

use std::path::Path;

use counterpoint_conductor::{
    chain_spec::Specification,
    evm::{MemStore, code},
};
use counterpoint_contracts::predeploys;
use counterpoint_core::{fees::FeeParams, genesis::SequencerGenesis, primitive::Height};

fn file(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../genesis")
        .join(name)
}

#[test]
fn the_sequencer_genesis_starts_a_chain() {
    let genesis = SequencerGenesis::parse(&std::fs::read(file("sequencer.json")).unwrap()).unwrap();
    genesis.check_start(Height::new(1), 1_800_000_000).unwrap();
    assert_eq!(genesis.accounts.len(), 1);
    assert_eq!(genesis.authority.unwrap().threshold(), 1);
    assert_eq!(genesis.fees.unwrap(), FeeParams::default());
}

#[test]
fn the_rollup_genesis_carries_a_rollup() {
    let store = MemStore::default();
    let specification = Specification::load(&file("rollup.json"), &store).unwrap();
    assert_eq!(specification.chain_id(), 777);
    for (address, account) in predeploys() {
        assert_eq!(code(&store, &address).unwrap(), account.code.unwrap());
    }
}
