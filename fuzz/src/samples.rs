//! What seeds are made of: golden vectors, a small chain, a header that its validator has signed.

use bytes::Bytes;
use counterpoint_core::{
    action::{Action, SubmitData, Transfer},
    authority::Authority,
    block::{
        LeafProof, Preamble, RollupEnv, RollupItem, RollupLeaf, data_leaf, data_root, merkle::Tree,
    },
    genesis::{GenesisAccount, SequencerGenesis},
    key::SecretKey,
    light::encode_signed_header,
    primitive::{Address, Amount, Hash, Height, Nonce, RollupId},
    registry::RollupConfig,
    slot::HeaderTime,
    transaction::{SignedTransaction, TransactionBody},
};
use counterpoint_machine::{
    Block, BlockContext, ChainStart, MemState, finalize, init_chain, prepare, process,
};
use ed25519_consensus::SigningKey;
use tendermint::{
    AppHash, PublicKey, Signature, Time,
    block::{self, Commit, CommitSig, Header, Round, header, parts, signed_header::SignedHeader},
    validator, vote,
};

/// Where the samples' chain starts.
const SECONDS: u64 = 1_800_000_000;
/// Its name.
pub(crate) const CHAIN_ID: &str = "fuzz";
/// Accounts with money.
pub(crate) const ACCOUNTS: u8 = 3;

/// The bytes of a golden vector in hexadecimal.
pub(crate) fn golden(snapshot: &str) -> Vec<u8> {
    let text = snapshot.lines().last().unwrap_or_default();
    hex::decode(text.trim().trim_matches('"')).expect("a golden vector is hexadecimal")
}

pub(crate) fn alpha() -> RollupId {
    RollupId::from_name("alpha")
}

pub(crate) fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

fn context(height: u64) -> BlockContext {
    BlockContext {
        height: Height::new(height),
        time: HeaderTime {
            seconds: SECONDS + height - 1,
            nanos: 0,
        },
        proposer: Address::new([9; 20]),
        misbehaved: Vec::new(),
    }
}

/// What the next block of the samples' chain is about.
pub(crate) fn next() -> BlockContext {
    context(2)
}

/// The state of a chain with a block, a rollup and accounts.
pub(crate) fn state() -> MemState {
    let account = |seed| GenesisAccount {
        address: key(seed).public_key().address(),
        balance: Amount::new(1_000_000_000_000),
    };
    let genesis = SequencerGenesis {
        accounts: (1..=ACCOUNTS).map(account).collect(),
        rollups: vec![RollupConfig {
            max_bytes_per_block: 500,
            max_items_per_block: 5,
            ..RollupConfig::example("alpha")
        }],
        // So that what only the authority may ask for is executed too.
        authority: Authority::new(1, vec![key(1).public_key().address()]).ok(),
        fees: None,
    };
    let first = context(1);
    let start = ChainStart::example(CHAIN_ID, first.time, &[10, 10, 10, 10]);
    let changes = init_chain(&genesis, &start);
    let mut state = MemState::default();
    state.apply(changes.expect("the genesis is valid"));
    let items = prepare(&state, &first, &[], Vec::new(), 10_000).expect("memory works");
    let block = Block::decode(&items, |_| None).expect("our own block decodes");
    let execution = process(&state, &first, &block).expect("our own block is valid");
    let outcome = finalize(execution, Hash::digest(&[b"first"])).expect("memory works");
    state.apply(outcome.changes);
    state
}

pub(crate) fn sign(
    seed: u8,
    nonce: u64,
    tip_per_byte: u64,
    actions: Vec<Action>,
) -> Option<SignedTransaction> {
    let body = TransactionBody {
        chain_id: CHAIN_ID.into(),
        signer: key(seed).public_key(),
        nonce: Nonce::new(nonce),
        tip_per_byte,
        max_fee: Amount::new(1_000_000_000),
        valid_until: Height::new(10),
        actions,
    };
    SignedTransaction::sign(body, &key(seed)).ok()
}

pub(crate) fn actions() -> Vec<Action> {
    let to = key(2).public_key().address();
    let amount = Amount::new(5);
    let items = vec![Bytes::from_static(b"first"), Bytes::from_static(b"second")];
    let data = SubmitData::new(alpha(), items).expect("within bounds");
    vec![
        Action::Transfer(Transfer { to, amount }),
        Action::SubmitData(data),
    ]
}

/// A rollup's list and its leaf.
pub(crate) fn list() -> (Vec<RollupItem>, RollupLeaf) {
    let items = [&b"one"[..], b"two", b"three"]
        .map(|item| RollupItem::Transaction(Bytes::from_static(item)))
        .to_vec();
    let env = RollupEnv {
        config_hash: RollupConfig::example("alpha").hash(),
        ..golden_env()
    };
    let leaf = RollupLeaf::new(alpha(), env, items.iter().map(RollupItem::leaf).collect());
    (items, leaf)
}

fn golden_env() -> RollupEnv {
    let bytes = golden(include_str!(
        "../../core/src/block/snapshots/counterpoint_core__block__tests__env.snap"
    ));
    borsh::from_slice(&bytes).expect("the golden environment decodes")
}

/// Proves [`list`] in a block with another item, whose data hash goes with it.
pub(crate) fn leaf_proof() -> (LeafProof, Hash) {
    let (_, leaf) = list();
    let other = RollupLeaf {
        rollup_id: RollupId::from_name("beta"),
        ..leaf.clone()
    };
    let mut leaves = vec![leaf.clone(), other];
    leaves.sort_by_key(|leaf| leaf.rollup_id);
    let place = leaves.iter().position(|other| *other == leaf);
    let place = u32::try_from(place.expect("it is there")).expect("it is short");
    let preamble = Preamble::new(&leaves);
    let items = [preamble.encode(), Bytes::from_static(b"other")];
    let rollups = Tree::new(leaves.iter().map(RollupLeaf::leaf).collect());
    let digests = items.iter().map(|item| data_leaf(&Hash::digest(&[item])));
    let proof = LeafProof {
        leaf,
        leaf_path: rollups.path(place).expect("it is there"),
        preamble,
        preamble_path: Tree::new(digests.collect()).path(0).expect("it is there"),
    };
    (proof, data_root(&items))
}

fn validator() -> SigningKey {
    SigningKey::from([1; 32])
}

pub(crate) fn validators() -> validator::Set {
    let public = PublicKey::from_raw_ed25519(&validator().verification_key().to_bytes());
    let info = validator::Info::new(public.expect("an ed25519 key"), 10_u32.into());
    validator::Set::without_proposer(vec![info])
}

/// CometBFT's genesis file of the chain whose only validator signs [`signed_header`].
pub(crate) fn genesis_file() -> Vec<u8> {
    let genesis = serde_json::json!({
        "genesis_time": "2027-01-15T08:00:00Z",
        "chain_id": CHAIN_ID,
        "initial_height": "2",
        "validators": validators().validators(),
    });
    genesis.to_string().into_bytes()
}

/// The first header of a chain, with these data, signed.
pub(crate) fn signed_header(data_hash: &Hash) -> Vec<u8> {
    let set = validators();
    let address = set.validators()[0].address;
    let time = Time::from_unix_timestamp(1_800_000_000, 0).expect("a time");
    let header = Header {
        version: header::Version { block: 11, app: 1 },
        chain_id: CHAIN_ID.parse().expect("a chain id"),
        height: 2_u32.into(),
        time,
        last_block_id: None,
        last_commit_hash: None,
        data_hash: Some(tendermint::Hash::Sha256(*data_hash.as_bytes())),
        validators_hash: set.hash(),
        next_validators_hash: set.hash(),
        consensus_hash: tendermint::Hash::Sha256([3; 32]),
        app_hash: AppHash::try_from(vec![4; 32]).expect("a hash"),
        last_results_hash: None,
        evidence_hash: None,
        proposer_address: address,
    };
    let block_id = block::Id {
        hash: header.hash(),
        part_set_header: parts::Header::new(1, header.hash()).expect("a part"),
    };
    let vote = vote::Vote {
        vote_type: vote::Type::Precommit,
        height: header.height,
        round: Round::default(),
        block_id: Some(block_id),
        timestamp: Some(time),
        validator_address: address,
        validator_index: 0_u32.try_into().expect("an index"),
        signature: None,
        extension: vec![],
        extension_signature: None,
    };
    let message = vote.into_signable_vec(header.chain_id.clone());
    let signature = CommitSig::BlockIdFlagCommit {
        validator_address: address,
        timestamp: time,
        signature: Signature::new(validator().sign(&message).to_bytes()).expect("a signature"),
    };
    let commit = Commit {
        height: header.height,
        round: Round::default(),
        block_id,
        signatures: vec![signature],
    };
    encode_signed_header(SignedHeader::new(header, commit).expect("a header and its commit"))
}
