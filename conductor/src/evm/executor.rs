//! Builds one block, item by item, as sequencer heights arrive.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use alloy_consensus::{
    Block, BlockBody, EMPTY_OMMER_ROOT_HASH, Header, Receipt, ReceiptEnvelope, ReceiptWithBloom,
    Transaction, TxEnvelope, TxReceipt, TxType,
    proofs::{calculate_receipt_root, calculate_transaction_root, calculate_withdrawals_root},
    transaction::Recovered,
};
use alloy_eips::{
    eip1559::{BaseFeeParams, calc_next_block_base_fee},
    eip2718::Encodable2718,
    eip2935::HISTORY_STORAGE_ADDRESS,
    eip4788::{BEACON_ROOTS_ADDRESS, SYSTEM_ADDRESS},
    eip4895::{Withdrawal, Withdrawals},
    eip7685::EMPTY_REQUESTS_HASH,
};
use alloy_evm::{Evm, EvmEnv, EvmFactory, FromRecoveredTx, eth::EthEvmFactory};
use alloy_primitives::{Address, B256, Bloom, Bytes, Log, U256};
use revm::{
    DatabaseCommit,
    context::{
        BlockEnv, CfgEnv, TxEnv,
        result::{EVMError, ExecutionResult, HaltReason},
    },
    context_interface::block::BlobExcessGasAndPrice,
    database::{State, states::bundle_state::BundleRetention},
    database_interface::DatabaseCommitExt,
    inspector::NoOpInspector,
    primitives::hardfork::SpecId,
};

use super::{Parent, StateError, StateSource, StateUpdate, source::StateReader};
use crate::{
    chain_spec::Specification,
    derive::{MAX_BLOCK_TX_BYTES, Rules, SkipReason, screen},
    parallel, receipts,
};

/// Items whose senders are recovered together. What a block has no room for is done again.
const LOOK_AHEAD: usize = 256;
/// Those that one thread takes at a time.
const SCREENED_AT_ONCE: usize = 16;

/// An item that passed the rules that do not need the state, or why it did not.
type Screened = Result<Recovered<TxEnvelope>, SkipReason>;

/// A rollup block with its transactions.
pub type RollupBlock = Block<TxEnvelope>;

/// What a block starts from, beside its parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockInputs {
    /// Its number.
    pub number: u64,
    /// Its timestamp: the slot.
    pub timestamp: u64,
    /// Its randomness (EIP-4399).
    pub prev_randao: B256,
    /// What its contracts read through EIP-4788.
    pub beacon_root: B256,
    /// Receives its fees.
    pub fee_recipient: Address,
    /// Its gas limit.
    pub gas_limit: u64,
    /// Deposits from the sequencer.
    pub withdrawals: Vec<Withdrawal>,
}

/// What became of an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is in the block.
    Included(Box<receipts::Receipt>),
    /// It never will be in any.
    Skipped(SkipReason),
    /// It is valid, and there is no room: the block ends before it.
    EndOfBlock,
}

/// A fault while executing: the block is given up and tried again, nothing is skipped.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError {
    /// The state cannot be had.
    #[error(transparent)]
    State(#[from] StateError),
    /// The EVM failed, or the store under it, for a reason that is no transaction's fault.
    #[error("evm failed: {0}")]
    Evm(String),
}

/// A finished block and what it changes.
#[derive(Clone, Debug)]
pub struct BuiltBlock {
    /// Its hash.
    pub hash: B256,
    /// Header and body.
    pub block: RollupBlock,
    /// State, to be committed with it.
    pub update: StateUpdate,
}

type Machine = <EthEvmFactory as EvmFactory>::Evm<State<StateReader>, NoOpInspector>;

/// One block under construction.
pub struct BlockBuilder {
    evm: Machine,
    rules: Rules,
    inputs: BlockInputs,
    parent_hash: B256,
    base_fee: u64,
    gas_used: u64,
    tx_bytes: usize,
    transactions: Vec<TxEnvelope>,
    receipts: Vec<ReceiptEnvelope>,
    logs: u64,
    /// Whether the last transaction ran out of gas.
    out_of_gas: bool,
    /// Items that are to come.
    screened: VecDeque<(bytes::Bytes, Screened)>,
}

impl std::fmt::Debug for BlockBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockBuilder")
            .field("inputs", &self.inputs)
            .field("transactions", &self.transactions.len())
            .finish_non_exhaustive()
    }
}

impl BlockBuilder {
    /// Opens a block on top of `parent` and makes the system calls it starts with.
    ///
    /// # Errors
    /// [`ExecuteError`] if the state cannot be had.
    pub fn begin(
        source: Arc<dyn StateSource>,
        specification: &Specification,
        rules: Rules,
        parent: (&Header, B256),
        inputs: BlockInputs,
    ) -> Result<Self, ExecuteError> {
        let (header, parent_hash) = parent;
        let base_fee = calc_next_block_base_fee(
            header.gas_used,
            header.gas_limit,
            header.base_fee_per_gas.unwrap_or_default(),
            BaseFeeParams::ethereum(),
        );
        let fork = specification.fork_at(inputs.timestamp);
        let mut cfg_env = CfgEnv::new_with_spec(fork.spec_id);
        cfg_env.chain_id = specification.chain_id();
        let block_env = BlockEnv {
            number: U256::from(inputs.number),
            beneficiary: inputs.fee_recipient,
            timestamp: U256::from(inputs.timestamp),
            gas_limit: inputs.gas_limit,
            basefee: base_fee,
            prevrandao: Some(inputs.prev_randao),
            // No blob is ever used, and genesis starts at 0, so the excess stays 0.
            blob_excess_gas_and_price: Some(BlobExcessGasAndPrice::new(
                0,
                fork.blob_update_fraction,
            )),
            ..BlockEnv::default()
        };
        let state = State::builder()
            .with_database(StateReader::new(source, Parent::new(header, parent_hash)))
            .with_bundle_update()
            .build();
        let env = EvmEnv::new(cfg_env, block_env);
        let mut builder = Self {
            evm: EthEvmFactory::default().create_evm(state, env),
            rules,
            parent_hash,
            base_fee,
            gas_used: 0,
            tx_bytes: 0,
            transactions: Vec::new(),
            receipts: Vec::new(),
            screened: VecDeque::new(),
            logs: 0,
            out_of_gas: false,
            inputs,
        };
        builder.system_call(BEACON_ROOTS_ADDRESS, builder.inputs.beacon_root)?;
        if fork.spec_id.is_enabled_in(SpecId::PRAGUE) {
            builder.system_call(HISTORY_STORAGE_ADDRESS, parent_hash)?;
        }
        Ok(builder)
    }

    fn system_call(&mut self, contract: Address, data: B256) -> Result<(), ExecuteError> {
        let called = self
            .evm
            .transact_system_call(SYSTEM_ADDRESS, contract, data.0.into());
        let mut changes = called.map_err(fault)?.state;
        // The call is free: only what the contract itself wrote is kept.
        changes.retain(|address, _| *address == contract);
        self.evm.db_mut().commit(changes);
        Ok(())
    }

    /// What a unit of gas costs at least, in wei.
    #[must_use]
    pub fn base_fee(&self) -> u64 {
        self.base_fee
    }

    /// Whether the last transaction that was included failed because it ran out of gas.
    #[must_use]
    pub fn out_of_gas(&self) -> bool {
        self.out_of_gas
    }

    /// Executes one item, if the rules let it in. `next` are those that will follow.
    ///
    /// # Errors
    /// [`ExecuteError`] is a fault of ours, never the item's.
    pub fn execute<'a>(
        &mut self,
        raw: &bytes::Bytes,
        next: impl Iterator<Item = &'a bytes::Bytes>,
    ) -> Result<Outcome, ExecuteError> {
        let tx = match self.screened(raw, next) {
            Ok(tx) => tx,
            Err(reason) => return Ok(Outcome::Skipped(reason)),
        };
        let tx_env = TxEnv::from_recovered_tx(tx.inner(), tx.signer());
        let executed = match self.evm.transact_raw(tx_env) {
            Ok(executed) => executed,
            Err(EVMError::Transaction(invalid)) => {
                return Ok(Outcome::Skipped(SkipReason::of(&invalid)));
            }
            Err(other) => return Err(fault(other)),
        };
        let tx_bytes = self.tx_bytes.saturating_add(rlp_length(&tx));
        let gas_left = self.inputs.gas_limit.saturating_sub(self.gas_used);
        if tx.gas_limit() > gas_left || tx_bytes > MAX_BLOCK_TX_BYTES {
            return Ok(Outcome::EndOfBlock);
        }
        self.evm.db_mut().commit(executed.state);
        self.tx_bytes = tx_bytes;
        self.include(tx, executed.result)
    }

    /// What the rules that do not need the state say of an item. Recovering senders is most of the
    /// work of a block, and reading accounts much of the rest, so both are done for many items at
    /// once, on all cores.
    fn screened<'a>(
        &mut self,
        raw: &bytes::Bytes,
        next: impl Iterator<Item = &'a bytes::Bytes>,
    ) -> Screened {
        match self.screened.pop_front() {
            Some((expected, screened)) if expected == *raw => return screened,
            _ => self.screened.clear(),
        }
        let (rules, base_fee) = (self.rules, self.base_fee);
        let next: Vec<_> = next.take(LOOK_AHEAD).cloned().collect();
        let parts = next.chunks(SCREENED_AT_ONCE).collect();
        let reader = &mut self.evm.db_mut().database;
        let parts = parallel::map(parts, |part: &[bytes::Bytes]| {
            let screened = part.iter().map(|raw| screen(raw, &rules, base_fee));
            let screened: Vec<_> = screened.collect();
            let named = screened.iter().flatten();
            let named = named.flat_map(|tx| [Some(tx.signer()), tx.to()]);
            let accounts = reader.fetch(named.flatten());
            (screened, accounts)
        });
        let mut items = next.into_iter();
        for (screened, accounts) in parts {
            reader.keep(accounts);
            self.screened.extend(items.by_ref().zip(screened));
        }
        screen(raw, &rules, base_fee)
    }

    fn include(
        &mut self,
        tx: Recovered<TxEnvelope>,
        result: ExecutionResult,
    ) -> Result<Outcome, ExecuteError> {
        let gas_used = result.tx_gas_used();
        self.gas_used = self.gas_used.saturating_add(gas_used);
        self.out_of_gas = matches!(
            result,
            ExecutionResult::Halt {
                reason: HaltReason::OutOfGas(_),
                ..
            }
        );
        let (tx, from) = tx.into_parts();
        let receipt = Receipt {
            status: result.is_success().into(),
            cumulative_gas_used: self.gas_used,
            logs: if result.is_success() {
                result.into_logs()
            } else {
                Vec::new()
            },
        };
        let envelope = envelope(tx.tx_type(), receipt)?;
        let receipt = receipts::Receipt {
            hash: *tx.tx_hash(),
            index: self.transactions.len() as u64,
            from,
            to: tx.to(),
            // Clients name it even if the creation failed.
            contract: tx.is_create().then(|| from.create(tx.nonce())),
            gas_used,
            effective_gas_price: tx.effective_gas_price(Some(self.base_fee)),
            first_log: self.logs,
            envelope: envelope.clone(),
        };
        self.logs = self.logs.saturating_add(envelope.logs().len() as u64);
        self.receipts.push(envelope);
        self.transactions.push(tx);
        Ok(Outcome::Included(Box::new(receipt)))
    }

    /// Closes the block: withdrawals, roots, header.
    ///
    /// # Errors
    /// [`ExecuteError`] if the state cannot be had.
    pub fn finish(mut self, extra_data: Bytes) -> Result<BuiltBlock, ExecuteError> {
        // Summed up first: crediting an account twice in one call would keep the last credit only.
        let mut credits = BTreeMap::<Address, u128>::new();
        for withdrawal in &self.inputs.withdrawals {
            let wei = u128::from(withdrawal.amount).saturating_mul(1_000_000_000);
            let credit = credits.entry(withdrawal.address).or_default();
            *credit = credit.saturating_add(wei);
        }
        let state = self.evm.db_mut();
        state.increment_balances(credits).map_err(fault)?;
        state.merge_transitions(BundleRetention::PlainState);
        let bundle = state.take_bundle();
        let logs_bloom = self
            .receipts
            .iter()
            .fold(Bloom::ZERO, |all, receipt| all | receipt.bloom());
        let prague = self.evm.cfg_env().spec.is_enabled_in(SpecId::PRAGUE);
        let inputs = self.inputs;
        let header = Header {
            parent_hash: self.parent_hash,
            ommers_hash: EMPTY_OMMER_ROOT_HASH,
            beneficiary: inputs.fee_recipient,
            transactions_root: calculate_transaction_root(&self.transactions),
            receipts_root: calculate_receipt_root(&self.receipts),
            logs_bloom,
            difficulty: U256::ZERO,
            number: inputs.number,
            gas_limit: inputs.gas_limit,
            gas_used: self.gas_used,
            timestamp: inputs.timestamp,
            extra_data,
            mix_hash: inputs.prev_randao,
            base_fee_per_gas: Some(self.base_fee),
            withdrawals_root: Some(calculate_withdrawals_root(&inputs.withdrawals)),
            blob_gas_used: Some(0),
            excess_blob_gas: Some(0),
            parent_beacon_block_root: Some(inputs.beacon_root),
            requests_hash: prague.then_some(EMPTY_REQUESTS_HASH),
            ..Header::default()
        };
        let body = BlockBody {
            transactions: self.transactions,
            ommers: Vec::new(),
            withdrawals: Some(Withdrawals::new(inputs.withdrawals)),
        };
        let mut block = Block::new(header, body);
        let update = self.evm.db_mut().database.close(&bundle, &block)?;
        block.header.state_root = update.root;
        Ok(BuiltBlock {
            hash: block.header.hash_slow(),
            block,
            update,
        })
    }
}

/// The length of a transaction inside a block body: typed ones are wrapped in a string.
fn rlp_length(tx: &TxEnvelope) -> usize {
    tx.network_len()
}

fn envelope(tx_type: TxType, receipt: Receipt<Log>) -> Result<ReceiptEnvelope, ExecuteError> {
    let logs_bloom = receipt.bloom();
    let receipt = ReceiptWithBloom {
        receipt,
        logs_bloom,
    };
    Ok(match tx_type {
        TxType::Legacy => ReceiptEnvelope::Legacy(receipt),
        TxType::Eip2930 => ReceiptEnvelope::Eip2930(receipt),
        TxType::Eip1559 => ReceiptEnvelope::Eip1559(receipt),
        TxType::Eip7702 => ReceiptEnvelope::Eip7702(receipt),
        TxType::Eip4844 => return Err(ExecuteError::Evm("a blob transaction was let in".into())),
    })
}

fn fault(error: impl std::fmt::Display) -> ExecuteError {
    ExecuteError::Evm(error.to_string())
}
