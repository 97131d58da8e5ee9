use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU32, Ordering},
};

use alloy_consensus::TxEip1559;
use alloy_eips::{eip4788::BEACON_ROOTS_ADDRESS, eip4895::Withdrawal};
use alloy_genesis::Genesis;
use alloy_primitives::{TxKind, hex, utils::Unit};
use alloy_rlp::Decodable;
use alloy_trie::{HashBuilder, proof::ProofRetainer};
use bytes::Bytes as Raw;
use tempfile::TempDir;

use super::*;
use crate::{
    chain_spec::dev_genesis,
    derive::Rules,
    engine::MockClient,
    evm::{BlockBuilder, BlockInputs, BuiltBlock, ExecuteError, MemStore, Table},
    progress::stage_block,
    testing::{CHAIN_ID, GENESIS_TIME, sign, transfer, wallet},
};

/// What a client tells instead of the truth.
type Lie = fn(&'static str, &mut Value);

fn honest(_: &'static str, _: &mut Value) {}

/// A client with the state after block 0.
#[derive(Debug)]
struct Scripted {
    store: Arc<dyn Store>,
    specification: Specification,
    /// How often it refuses before it answers.
    refuses: AtomicU32,
    lie: Lie,
}

impl Rpc for Scripted {
    async fn ask(&self, calls: &[Call]) -> Result<Vec<Value>, EngineError> {
        let (order, less) = (Ordering::SeqCst, |left: u32| left.checked_sub(1));
        if self.refuses.fetch_update(order, order, less).is_ok() {
            return Err(EngineError::Rpc {
                method: calls[0].0,
                code: -32_000,
                message: "header not found".into(),
            });
        }
        let answer = |(method, params): &Call| {
            let mut answer = match *method {
                PROOF => self.proof(params),
                "eth_getCode" => self.code(params),
                "eth_getBlockByNumber" => self.block(params),
                BUILD => self.build(params),
                "eth_chainId" => json!("0x1"),
                other => panic!("{other} is not asked for"),
            };
            (self.lie)(method, &mut answer);
            answer
        };
        let answers: Vec<_> = calls.iter().map(answer).collect();
        match answers.contains(&json!("unknown")) {
            false => Ok(answers),
            true => Err(EngineError::Rpc {
                method: calls[0].0,
                code: UNKNOWN_METHOD,
                message: "the method does not exist".into(),
            }),
        }
    }
}

fn read<T: DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

/// The nodes of a trie that lead to a key.
fn prove(leaves: impl Iterator<Item = (B256, Vec<u8>)>, key: B256) -> Vec<Bytes> {
    let retainer = ProofRetainer::new(vec![Nibbles::unpack(key)]);
    let mut builder = HashBuilder::default().with_proof_retainer(retainer);
    for (key, value) in leaves.collect::<BTreeMap<_, _>>() {
        builder.add_leaf(Nibbles::unpack(key), &value);
    }
    builder.root();
    let nodes = builder.take_proof_nodes().into_nodes_sorted();
    nodes.into_iter().map(|(_, node)| node).collect()
}

impl Scripted {
    fn account(&self, address: &Address) -> Option<Account> {
        let account = self.store.get(Table::Accounts, address.as_slice()).unwrap();
        account.map(|account| Account::decode(&mut account.as_slice()).unwrap())
    }

    fn proof(&self, params: &Value) -> Value {
        let (address, slots): (Address, Vec<B256>) = (read(&params[0]), read(&params[1]));
        let accounts = self.store.scan(Table::Accounts, &[], usize::MAX).unwrap();
        let accounts = accounts.into_iter();
        let accounts = accounts.map(|(address, account)| (keccak256(address), account));
        let account_proof = prove(accounts, keccak256(address));
        let keys = self.store.keys(Table::Slots, address.as_slice()).unwrap();
        let stored = keys.into_iter().map(|key| {
            let value = self.store.get(Table::Slots, &key).unwrap().unwrap();
            (B256::from_slice(&key[20..]), U256::from_be_slice(&value))
        });
        let stored: BTreeMap<_, _> = stored.collect();
        let storage_proof = slots.iter().map(|slot| {
            let leaf = |(slot, value): (&B256, &U256)| (keccak256(slot), alloy_rlp::encode(value));
            json!({
                "key": slot,
                "value": stored.get(slot).copied().unwrap_or_default(),
                "proof": prove(stored.iter().map(leaf), keccak256(slot)),
            })
        });
        let storage_proof: Vec<_> = storage_proof.collect();
        let account = self.account(&address).unwrap_or(Account {
            nonce: 0,
            balance: U256::ZERO,
            storage_root: B256::ZERO,
            code_hash: B256::ZERO,
        });
        json!({
            "address": address,
            "balance": account.balance,
            "nonce": U64::from(account.nonce),
            "codeHash": account.code_hash,
            "storageHash": account.storage_root,
            "accountProof": account_proof,
            "storageProof": storage_proof,
        })
    }

    fn code(&self, params: &Value) -> Value {
        let account = self.account(&read(&params[0])).unwrap();
        let code = self.store.get(Table::Code, account.code_hash.as_slice());
        json!(Bytes::from(code.unwrap().unwrap()))
    }

    fn block(&self, params: &Value) -> Value {
        let header = self.specification.genesis_header();
        match params[0].as_str().unwrap() {
            "0x0" | "latest" => json!({
                "hash": header.hash_slow(),
                "timestamp": U64::from(header.timestamp),
            }),
            _ => Value::Null,
        }
    }

    fn build(&self, params: &Value) -> Value {
        let attributes: PayloadAttributes = read(&params[1]);
        let inputs = BlockInputs {
            number: 1,
            timestamp: attributes.timestamp,
            prev_randao: attributes.prev_randao,
            beacon_root: attributes.parent_beacon_block_root.unwrap(),
            fee_recipient: attributes.suggested_fee_recipient,
            gas_limit: self.specification.genesis_header().gas_limit,
            withdrawals: attributes.withdrawals.unwrap(),
        };
        let items = read::<Vec<Bytes>>(&params[2]).into_iter();
        let items: Vec<Raw> = items.map(Into::into).collect();
        let states = Arc::new(Arc::clone(&self.store));
        let extra = read(&params[3]);
        let built = run(states, &self.specification, inputs, &items, extra).unwrap();
        let payload = ExecutionPayloadV3::from_block_unchecked(built.hash, &built.block);
        json!({ "executionPayload": payload, "executionRequests": [] })
    }
}

/// Builds a block of what the rules let in of `items`.
fn run(
    states: Arc<dyn StateSource>,
    specification: &Specification,
    inputs: BlockInputs,
    items: &[Raw],
    extra: Bytes,
) -> Result<BuiltBlock, ExecuteError> {
    let rules = Rules {
        chain_id: CHAIN_ID,
        max_tx_gas: 1_000_000,
        min_tip_wei: 1,
        allow_unprotected: false,
    };
    let header = specification.genesis_header();
    let parent = (header, header.hash_slow());
    let mut builder = BlockBuilder::begin(states, specification, rules, parent, inputs)?;
    for (at, item) in items.iter().enumerate() {
        builder.execute(item, items[at + 1..].iter())?;
    }
    builder.finish(extra)
}

/// The contract of EIP-4788 has been used before.
fn genesis() -> Genesis {
    let alloc = (1..=3).map(|seed| {
        (
            wallet(seed).address(),
            U256::from(1_000) * Unit::ETHER.wei(),
        )
    });
    let mut genesis = dev_genesis(CHAIN_ID, 30_000_000, GENESIS_TIME, alloc).unwrap();
    let beacon = genesis.alloc.get_mut(&BEACON_ROOTS_ADDRESS).unwrap();
    let used = B256::from(U256::from((GENESIS_TIME + 1) % 8_191));
    let slots = [used, B256::with_last_byte(1)].map(|slot| (slot, B256::repeat_byte(3)));
    beacon.storage = Some(slots.into());
    genesis
}

/// A rollup at its genesis.
struct Setup {
    specification: Specification,
    /// The whole state.
    store: Arc<dyn Store>,
    thin: Arc<Thin<MockClient, Scripted>>,
    directory: TempDir,
}

impl Setup {
    fn new(refuses: u32, lie: Lie) -> Self {
        let [store, blocks] = [(); 2].map(|()| Arc::new(MemStore::default()) as Arc<dyn Store>);
        let specification = Specification::new(&genesis(), store.as_ref()).unwrap();
        let genesis = RollupBlock::uncle(specification.genesis_header().clone());
        let mut batch = Batch::new();
        stage_block(&mut batch, genesis.header.hash_slow(), &genesis);
        store.commit(batch.clone()).unwrap();
        blocks.commit(batch).unwrap();
        let rpc = Scripted {
            store: Arc::clone(&store),
            specification: specification.clone(),
            refuses: AtomicU32::new(refuses),
            lie,
        };
        let directory = tempfile::tempdir().unwrap();
        let driver = Driver::new(MockClient::new(), specification.clone());
        let thin = Thin::new(
            rpc,
            Arc::new(driver),
            blocks,
            directory.path().to_owned(),
            Readiness::of(&[CLIENT]),
            CancellationToken::new(),
        );
        Self {
            specification,
            store,
            thin: Arc::new(thin),
            directory,
        }
    }

    /// A block in which four of six items are: one calls the contract of EIP-4788, which reads
    /// slots, one creates a contract; one has a wrong nonce, one a poor sender.
    fn run(&self, states: Arc<dyn StateSource>) -> Result<BuiltBlock, ExecuteError> {
        let withdrawal = Withdrawal {
            index: 0,
            validator_index: 0,
            address: Address::repeat_byte(0x99),
            amount: 7,
        };
        let inputs = BlockInputs {
            number: 1,
            timestamp: GENESIS_TIME + 1,
            prev_randao: B256::repeat_byte(1),
            beacon_root: B256::repeat_byte(2),
            fee_recipient: Address::repeat_byte(0xfe),
            gas_limit: self.specification.genesis_header().gas_limit,
            withdrawals: vec![withdrawal],
        };
        let beacon = TxEip1559 {
            to: TxKind::Call(BEACON_ROOTS_ADDRESS),
            gas_limit: 100_000,
            value: U256::ZERO,
            input: B256::from(U256::from(GENESIS_TIME + 1)).into(),
            ..transfer(1)
        };
        let create = TxEip1559 {
            to: TxKind::Create,
            gas_limit: 200_000,
            value: U256::ZERO,
            input: hex!("602a600055600a6011600039600a6000f3602a60005260206000f3").into(),
            ..transfer(0)
        };
        let items = [
            sign(1, transfer(0)),
            sign(1, beacon),
            sign(2, create),
            sign(1, transfer(9)),
            sign(4, transfer(0)),
            sign(3, transfer(0)),
        ];
        let extra = Bytes::from_static(&[1; 21]);
        tokio::task::block_in_place(|| run(states, &self.specification, inputs, &items, extra))
    }

    fn embedded(&self) -> BuiltBlock {
        self.run(Arc::new(Arc::clone(&self.store))).unwrap()
    }

    fn thin(&self) -> Result<BuiltBlock, ExecuteError> {
        self.run(Arc::clone(&self.thin) as Arc<dyn StateSource>)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_is_the_one_of_embedded_mode_also_if_the_client_stumbles() {
    for refuses in [0, REFUSALS - 1] {
        let setup = Setup::new(refuses, honest);
        let (embedded, thin) = (setup.embedded(), setup.thin().unwrap());
        assert_eq!(embedded.block.body.transactions.len(), 4);
        assert_eq!(thin.hash, embedded.hash);
        assert_eq!(thin.block, embedded.block);
        assert!(thin.update.batch.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_proven_skips_nothing() {
    let lies: [Lie; 6] = [
        |method, answer| {
            if method == PROOF {
                answer["nonce"] = json!("0x5");
            }
        },
        |method, answer| {
            if method == PROOF {
                answer["balance"] = json!("0x0");
            }
        },
        |method, answer| {
            if method == PROOF {
                answer["codeHash"] = json!(B256::ZERO);
            }
        },
        |method, answer| {
            if method == PROOF && answer["storageProof"][0].is_object() {
                answer["storageProof"][0]["value"] = json!("0x77");
            }
        },
        |method, answer| {
            if method == "eth_getCode" {
                *answer = json!("0x00");
            }
        },
        |_, answer| *answer = json!([]),
    ];
    for (at, lie) in lies.into_iter().enumerate() {
        let error = Setup::new(0, lie).thin().unwrap_err().to_string();
        let expected = "the execution client gives no state after block 0";
        assert!(error.contains(expected), "lie {at}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_block_is_named_and_kept() {
    let lies: [(&str, Lie); 3] = [
        ("blockHash, gasLimit", |method, answer| {
            if method == BUILD {
                answer["executionPayload"]["gasLimit"] = json!("0x5");
                answer["executionPayload"]["blockHash"] = json!(B256::ZERO);
            }
        }),
        ("receiptsRoot", |method, answer| {
            if method == BUILD {
                answer["executionPayload"]["receiptsRoot"] = json!(B256::ZERO);
            }
        }),
        ("executionRequests", |method, answer| {
            if method == BUILD {
                answer["executionRequests"] = json!(["0x0001"]);
            }
        }),
    ];
    for (fields, lie) in lies {
        let setup = Setup::new(0, lie);
        let error = setup.thin().unwrap_err().to_string();
        let expected = format!("execution client builds block 1 with another {fields}");
        assert_eq!(error, expected);
        let report = setup.directory.path().join("evidence/built-1/report.txt");
        assert!(report.exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_cannot_build_is_refused_at_the_start() {
    let setup = Setup::new(0, honest);
    setup.thin.probe(&setup.specification).await.unwrap();
    let lies: [(&str, Lie); 4] = [
        (
            "the client does not know testing_buildBlockV1",
            |method, answer| {
                if method == BUILD {
                    *answer = json!("unknown");
                }
            },
        ),
        (
            "testing_ipc belongs to a client with genesis",
            |method, answer| {
                if method == "eth_getBlockByNumber" {
                    answer["hash"] = json!(B256::ZERO);
                }
            },
        ),
        ("start geth with --miner.gaslimit", |method, answer| {
            if method == BUILD {
                answer["executionPayload"]["gasLimit"] = json!("0x3938700");
            }
        }),
        ("another block than it was asked for", |method, answer| {
            if method == BUILD {
                answer["executionPayload"]["extraData"] = json!("0x");
            }
        }),
    ];
    for (refusal, lie) in lies {
        let setup = Setup::new(0, lie);
        let error = setup.thin.probe(&setup.specification).await.unwrap_err();
        assert!(error.to_string().contains(refusal), "{error}");
    }
}

#[test]
fn codes_that_are_kept_have_a_bound() {
    let codes = Codes::default();
    let long = Bytes::from(vec![1; MAX_CODE_BYTES]);
    codes.keep(B256::ZERO, long.clone());
    assert_eq!(codes.get(&B256::ZERO), Some(long));
    codes.keep(B256::with_last_byte(1), Bytes::from_static(&[1]));
    assert_eq!(codes.get(&B256::ZERO), None);
    assert!(codes.get(&B256::with_last_byte(1)).is_some());
}
