use counterpoint_core::{
    authority::Authority,
    fees::FeeParams,
    genesis::{GenesisAccount, SequencerGenesis},
    light::TrustedState,
    primitive::{Address, Amount},
    registry::RollupConfig,
    slot::HeaderTime,
};
use counterpoint_machine::{ChainStart, init_chain};

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let genesis = SequencerGenesis {
        accounts: vec![GenesisAccount {
            address: Address::new([7; 20]),
            balance: Amount::new(1_000),
        }],
        rollups: vec![RollupConfig::example("alpha")],
        authority: Authority::new(1, vec![Address::new([7; 20])]).ok(),
        fees: Some(FeeParams::default()),
    };
    let json = serde_json::to_vec(&genesis);
    let file = include_bytes!("../../genesis/sequencer.json");
    vec![json.expect("a genesis is JSON"), file.to_vec()]
}

pub(crate) fn run(data: &[u8]) {
    if let Ok(genesis) = SequencerGenesis::parse(data) {
        let json = serde_json::to_vec(&genesis).expect("a genesis is JSON");
        let again = SequencerGenesis::parse(&json).expect("what we write, we read");
        assert_eq!(again, genesis);
        let time = HeaderTime {
            seconds: 1_800_000_000,
            nanos: 0,
        };
        let _ = init_chain(&genesis, &ChainStart::example("fuzz", time, &[10]));
    }
    let _ = TrustedState::from_genesis(data);
}
