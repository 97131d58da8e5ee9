use alloy_eips::eip4788::{BEACON_ROOTS_ADDRESS, BEACON_ROOTS_CODE};
use alloy_primitives::{Address, B256, Bytes, Log, TxKind, U256, b256, keccak256};
use alloy_sol_types::{SolCall, SolEventInterface, SolValue};
use revm::{
    Context, InspectCommitEvm, Inspector, MainBuilder, MainContext, SystemCallCommitEvm,
    bytecode::Bytecode,
    context::{TxEnv, result::ExecutionResult},
    database::InMemoryDB,
    interpreter::{CallInputs, CallOutcome},
    primitives::hardfork::SpecId,
    state::AccountInfo,
};

use crate::{
    Caller, DEPLOYER, DEPLOYER_CODE,
    IAtomicMailbox::{
        IAtomicMailboxEvents, MessageReceived, MessageSent, SessionClosed, SessionOpened,
    },
    MAILBOX, MAILBOX_CODE, MAILBOX_INIT_CODE, Message, SALT, predeploys,
    scenarios::{self, Block, CHAIN_ID, Call, HERE, Session, THERE, message_hash},
};

const ALICE: Address = Address::repeat_byte(0xa1);
const BOB: Address = Address::repeat_byte(0xb0);
const PLENTY: u64 = 5_000_000;

/// A rollup: accounts, and the block that is being made.
struct Rollup {
    state: InMemoryDB,
    chain_id: u64,
    block: u64,
    /// Whom the mailbox has called.
    called: Vec<Address>,
}

impl Rollup {
    fn new() -> Self {
        let mut state = InMemoryDB::default();
        for (address, code) in [
            (BEACON_ROOTS_ADDRESS, &BEACON_ROOTS_CODE[..]),
            (DEPLOYER, &DEPLOYER_CODE),
        ] {
            let code = Bytecode::new_raw(Bytes::copy_from_slice(code));
            state.insert_account_info(address, AccountInfo::from_bytecode(code));
        }
        Self {
            state,
            chain_id: CHAIN_ID,
            block: 0,
            called: Vec::new(),
        }
    }

    fn begin(&mut self, beacon_root: B256) {
        self.block += 1;
        let context = Context::mainnet()
            .with_db(&mut self.state)
            .modify_cfg_chained(|cfg| cfg.set_spec_and_mainnet_gas_params(SpecId::CANCUN))
            .modify_block_chained(|block| {
                block.number = U256::from(self.block);
                block.timestamp = U256::from(1_000 + self.block);
            });
        let mut evm = context.build_mainnet();
        let stored = evm.system_call_commit(BEACON_ROOTS_ADDRESS, beacon_root.0.into());
        assert!(stored.unwrap().is_success());
    }

    fn execute(&mut self, call: &Call, gas: u64) -> ExecutionResult {
        let context = Context::mainnet()
            .with_db(&mut self.state)
            .modify_cfg_chained(|cfg| {
                cfg.set_spec_and_mainnet_gas_params(SpecId::CANCUN);
                cfg.chain_id = self.chain_id;
                cfg.disable_nonce_check = true;
            })
            .modify_block_chained(|block| {
                block.number = U256::from(self.block);
                block.timestamp = U256::from(1_000 + self.block);
            });
        let tx = TxEnv {
            caller: [ALICE, BOB][call.from],
            kind: TxKind::Call(call.to),
            data: call.input.clone(),
            gas_limit: gas,
            chain_id: Some(self.chain_id),
            ..TxEnv::default()
        };
        let mut evm = context.build_mainnet_with_inspector(Calls(&mut self.called));
        evm.inspect_tx_commit(tx).unwrap()
    }

    fn run(&mut self, name: &str, block: &Block) -> Vec<Log> {
        self.begin(block.beacon_root);
        let mut logs = Vec::new();
        for (at, call) in block.calls.iter().enumerate() {
            let result = self.execute(call, PLENTY);
            let output = result.output().cloned().unwrap_or_default();
            let outcome = if result.is_success() {
                Ok(output)
            } else {
                Err(output)
            };
            assert_eq!(outcome, call.outcome, "{name}: call {at}: {result:?}");
            logs.extend(result.into_logs());
        }
        logs
    }

    /// A rollup on which both contracts are.
    fn deployed() -> Self {
        let mut rollup = Self::new();
        rollup.play("deployment");
        rollup
    }

    /// The first block of a scenario.
    fn play(&mut self, name: &str) -> Vec<Log> {
        let mut all = scenarios::all([ALICE, BOB]).into_iter();
        let scenario = all.find(|scenario| scenario.name == name).unwrap();
        self.run(name, &scenario.blocks[0])
    }
}

/// Notes whom the mailbox calls.
struct Calls<'a>(&'a mut Vec<Address>);

impl<CTX> Inspector<CTX> for Calls<'_> {
    fn call(&mut self, _: &mut CTX, inputs: &mut CallInputs) -> Option<CallOutcome> {
        if inputs.caller == MAILBOX {
            self.0.push(inputs.target_address);
        }
        None
    }
}

#[test]
fn every_call_ends_as_it_must() {
    let mut rollup = Rollup::new();
    for scenario in scenarios::all([ALICE, BOB]) {
        for block in &scenario.blocks {
            rollup.run(scenario.name, block);
        }
    }
    // Who calls nobody cannot be entered again.
    assert!(rollup.called.len() > 20, "{:?}", rollup.called);
    rollup
        .called
        .retain(|called| *called != BEACON_ROOTS_ADDRESS);
    assert_eq!(rollup.called, [] as [Address; 0]);
}

#[test]
fn addresses_are_those_of_create2() {
    let created = DEPLOYER.create2_from_code(SALT, MAILBOX_INIT_CODE);
    assert_eq!(MAILBOX, created);
    let readme = include_str!("../README.md");
    assert!(readme.contains(&MAILBOX.to_string()));
    let mut rollup = Rollup::deployed();
    let account = rollup.state.load_account(MAILBOX).unwrap();
    let code = account.info.code.as_ref().unwrap();
    assert_eq!(code.original_byte_slice(), MAILBOX_CODE);
    for (address, account) in predeploys() {
        let code = keccak256(account.code.unwrap());
        let created = rollup.state.load_account(address).unwrap();
        assert_eq!(created.info.code_hash, code, "{address}");
    }
}

fn session() -> Session {
    let callers = [(HERE, ALICE), (THERE, BOB)];
    Session {
        sequencer: "counterpoint-1",
        rollup: HERE,
        salt: B256::repeat_byte(0x55),
        callers: callers
            .map(|(rollup, caller)| Caller {
                rollupId: rollup,
                caller,
            })
            .into(),
        inbox: vec![message_hash(&message())],
    }
}

fn message() -> Message {
    Message {
        src: THERE,
        dst: HERE,
        index: 7,
        sender: BOB,
        receiver: ALICE,
        data: Bytes::from_static(b"hello"),
    }
}

/// As another implementation of the ABI computes them.
#[test]
fn digests_are_frozen() {
    let session = session();
    assert_eq!(
        message_hash(&message()),
        b256!("ad8b720bf2fe1dcdcc43ea5af58754a2ce731e8562600a76c7322b0333cb0f50")
    );
    assert_eq!(
        session.id(),
        b256!("343f7ef9b9d2346e1a2673e38692c14b9876eb0b2196466847c70eadf45915fc")
    );
    assert_eq!(
        session.ticket(),
        b256!("a249f8735866fdd1e4236724d949f4545ec951f63fe2ffe812c37eed99f1de56")
    );
    let inbox = Vec::new();
    assert_eq!(
        Session { inbox, ..session }.ticket(),
        b256!("21a8a3e6ea2ba218b9d73159697e3353dc4089c990f31b30aba4188dd16e715d")
    );
}

/// What attesters read: the messages of a session, and the hashes that both sides agree on.
#[test]
fn logs_tell_what_a_session_did() {
    let mut rollup = Rollup::deployed();
    let logs = rollup.play("a whole session");
    let events = events(&logs);
    assert_eq!(events.len(), logs.len());
    let [
        IAtomicMailboxEvents::SessionOpened(SessionOpened {
            session,
            rollupId: HERE,
            caller: ALICE,
        }),
        IAtomicMailboxEvents::MessageSent(first),
        IAtomicMailboxEvents::MessageReceived(letter),
        IAtomicMailboxEvents::MessageReceived(_),
        IAtomicMailboxEvents::MessageSent(second),
        IAtomicMailboxEvents::SessionClosed(closed),
    ] = &events[..]
    else {
        panic!("{events:?}");
    };
    let message = Message {
        src: HERE,
        dst: THERE,
        index: 0,
        sender: ALICE,
        receiver: BOB,
        data: Bytes::from_static(b"first"),
    };
    let sent = MessageSent {
        session: *session,
        messageHash: message_hash(&message),
        message,
    };
    assert_eq!(first, &sent);
    assert_eq!(second.message.index, 1);
    assert_eq!(second.message.sender, BOB);
    assert_eq!(second.messageHash, message_hash(&second.message));
    assert_eq!(closed, &SessionClosed { session: *session });
    let received = MessageReceived {
        session: *session,
        messageHash: letter.messageHash,
    };
    assert_eq!(letter, &received);
}

fn events(logs: &[Log]) -> Vec<IAtomicMailboxEvents> {
    let logs = logs.iter().filter(|log| log.address == MAILBOX);
    logs.map(|log| IAtomicMailboxEvents::decode_log(log).unwrap().data)
        .collect()
}

/// The message is from the token to the token, whoever burns.
#[test]
fn a_burn_tells_the_token_on_the_other_rollup() {
    let mut rollup = Rollup::deployed();
    let events = events(&rollup.play("tokens are burnt and minted"));
    let token = scenarios::token([ALICE, BOB]);
    let message = Message {
        src: HERE,
        dst: THERE,
        index: 0,
        sender: token,
        receiver: token,
        data: (BOB, U256::from(300)).abi_encode_params().into(),
    };
    let IAtomicMailboxEvents::MessageSent(sent) = &events[1] else {
        panic!("{events:?}");
    };
    assert_eq!(sent.message, message);
    assert_eq!(sent.messageHash, message_hash(&message));
}

#[test]
fn the_supply_is_created_on_one_rollup_only() {
    let mut rollup = Rollup::new();
    rollup.chain_id = CHAIN_ID + 1;
    let mut deployment = scenarios::all([ALICE, BOB]).swap_remove(0).blocks.remove(0);
    let balance = deployment.calls.last_mut().unwrap();
    balance.outcome = Ok(U256::ZERO.abi_encode().into());
    rollup.run("another rollup", &deployment);
}

/// However little gas a call has, it does all that it should or nothing.
#[test]
fn no_amount_of_gas_changes_the_outcome() {
    let session = session();
    let open = Call {
        from: 0,
        to: MAILBOX,
        input: session.open().abi_encode().into(),
        outcome: Ok(session.id().into()),
    };
    let wrong = Call {
        input: Session {
            rollup: THERE,
            ..session.clone()
        }
        .open()
        .abi_encode()
        .into(),
        ..open.clone()
    };
    let mut rollup = Rollup::deployed();
    rollup.begin(session.ticket());
    let opened = (30_000..300_000).step_by(97).any(|gas| {
        let refused = rollup.execute(&wrong, gas);
        assert!(!refused.is_success(), "{gas}: {refused:?}");
        let result = rollup.execute(&open, gas);
        assert!(result.is_success() || result.logs().is_empty());
        result.is_success()
    });
    assert!(opened);
}
