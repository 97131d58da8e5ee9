mod authority;

use std::{path::PathBuf, time::Duration};

use authority::AuthorityCommand;

use bytes::Bytes;
use clap::{Args, Subcommand};
use counterpoint_core::{
    action::{Action, Deposit, ExitRollup, RegisterRollup, SubmitData, Transfer, UpdateRollup},
    atomic::AttesterKeys,
    key::{PublicKey, SecretKey},
    primitive::{Address, Amount, EvmAddress, Hash, Height, Nonce, RollupId},
    registry::RollupConfig,
    slot::SlotSecs,
    transaction::{SignedTransaction, TransactionBody},
};
use counterpoint_proto::sequencer::get_transaction_response::{Included, Status};
use counterpoint_service::{files::read_key, sequencer::Client};
use eyre::{WrapErr, bail, eyre};
use serde_json::json;

use super::{NodeArgs, Output, show};

/// How many heights a transaction stays valid.
const VALID_HEIGHTS: u64 = 300;
/// How long to wait for a block.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  counterpoint tx transfer cpt1… 1000000000 --node http://127.0.0.1:9090 --key me.key"
)]
pub(crate) struct TxArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Key file of the account that signs and pays; the development network's own unless given.
    #[arg(long, value_name = "FILE", global = true)]
    key: Option<PathBuf>,
    /// Base units per byte on top of the base fee.
    #[arg(long, value_name = "UNITS", default_value_t = 0, global = true)]
    tip: u64,
    /// How to show the result.
    #[arg(long, value_enum, default_value_t, global = true)]
    output: Output,
    #[command(subcommand)]
    action: TxCommand,
}

#[derive(Debug, Subcommand)]
enum TxCommand {
    /// Move value between sequencer accounts.
    #[command(after_help = "Example:\n  counterpoint tx transfer cpt1… 1000000000")]
    Transfer {
        /// Who receives.
        to: Address,
        /// How much, in base units (9 decimals).
        amount: Amount,
    },
    /// Order items for a rollup.
    #[command(after_help = "Example:\n  counterpoint tx submit alpha 0x02f8…")]
    Submit {
        /// The rollup's name.
        rollup: String,
        /// The items, in hexadecimal.
        #[arg(required = true)]
        items: Vec<String>,
    },
    /// Register a rollup that the signer will own.
    #[command(
        after_help = "Example:\n  counterpoint tx register-rollup omega --genesis omega.json"
    )]
    RegisterRollup {
        /// Its name: [a-z][a-z0-9-]{0,31}.
        name: String,
        /// Its genesis file, as written by `genesis rollup`.
        #[arg(long, value_name = "FILE")]
        genesis: PathBuf,
        /// Length of a slot in seconds.
        #[arg(long, default_value_t = 1)]
        slot_secs: u8,
        /// Receives the fees of its transactions.
        #[arg(long, default_value = "0xfefefefefefefefefefefefefefefefefefefefe")]
        fee_recipient: EvmAddress,
        #[command(flatten)]
        attesters: AttesterArgs,
    },
    /// Change a rollup that the signer owns; what is not given stays. Takes effect 601 heights later.
    #[command(after_help = "Example:\n  counterpoint tx update-rollup alpha --min-tip-wei 5")]
    UpdateRollup(Box<UpdateArgs>),
    /// End a rollup that the signer owns, 601 heights later. This cannot be called off.
    #[command(after_help = "Example:\n  counterpoint tx exit-rollup alpha")]
    ExitRollup {
        /// Its name.
        name: String,
    },
    #[command(flatten)]
    Authority(AuthorityCommand),
    /// Lock value here and mint it on a rollup. One way: nothing brings it back yet.
    #[command(after_help = "Example:\n  counterpoint tx deposit alpha 0x… 1000000000")]
    Deposit {
        /// The rollup's name.
        rollup: String,
        /// Who is credited there.
        to: EvmAddress,
        /// How much, in base units, each of which is one gwei there.
        amount: u128,
    },
}

#[derive(Debug, Args)]
struct UpdateArgs {
    /// Its name.
    name: String,
    /// Most gas of one rollup transaction.
    #[arg(long, value_name = "GAS")]
    max_tx_gas: Option<u64>,
    /// Least effective tip per gas.
    #[arg(long, value_name = "WEI")]
    min_tip_wei: Option<u64>,
    /// Whether legacy transactions without a chain id are executed.
    #[arg(long, value_name = "BOOL")]
    allow_unprotected: Option<bool>,
    /// Receives the fees of its transactions.
    #[arg(long, value_name = "ADDRESS")]
    fee_recipient: Option<EvmAddress>,
    /// Who owns it from then on.
    #[arg(long, value_name = "ADDRESS")]
    owner: Option<Address>,
    /// The owner's share of sequencer tips, in hundredths of a percent.
    #[arg(long, value_name = "BPS")]
    tip_share_bps: Option<u16>,
    /// Most item bytes in one sequencer block.
    #[arg(long, value_name = "BYTES")]
    max_bytes_per_block: Option<u32>,
    /// Most items in one sequencer block.
    #[arg(long, value_name = "ITEMS")]
    max_items_per_block: Option<u32>,
    /// Base units of rent to pay in advance, at once.
    #[arg(long, value_name = "UNITS", default_value = "0")]
    rent: Amount,
    #[command(flatten)]
    attesters: AttesterArgs,
    /// Name no attesters any more: the rollup takes no legs of atomic bundles from then on.
    #[arg(long, conflicts_with = "attester")]
    no_attesters: bool,
}

/// Who executes legs of atomic bundles and signs for them.
#[derive(Debug, Args)]
struct AttesterArgs {
    /// Public key of an attester, 64 hexadecimal digits; given once for each, they replace all before.
    #[arg(long, value_name = "KEY")]
    attester: Vec<PublicKey>,
    /// How many of them must agree; more than half unless given.
    #[arg(long, value_name = "NUMBER", requires = "attester")]
    attester_threshold: Option<u8>,
}

impl AttesterArgs {
    /// The keys and how many must agree, if any is given.
    fn keys(self) -> eyre::Result<Option<AttesterKeys>> {
        let mut keys = self.attester;
        if keys.is_empty() {
            return Ok(None);
        }
        keys.sort();
        let majority = u8::try_from(keys.len() / 2 + 1)?;
        let threshold = self.attester_threshold.unwrap_or(majority);
        Ok(Some(AttesterKeys::new(keys, threshold)?))
    }
}

impl UpdateArgs {
    fn action(self, config: &RollupConfig) -> eyre::Result<UpdateRollup> {
        let attesters = match self.attesters.keys()? {
            None if !self.no_attesters => UpdateRollup::of(config).attesters,
            named => named,
        };
        Ok(UpdateRollup {
            rollup_id: config.rollup_id,
            chain_spec_hash: config.chain_spec_hash,
            max_tx_gas: self.max_tx_gas.unwrap_or(config.max_tx_gas),
            min_tip_wei: self.min_tip_wei.unwrap_or(config.min_tip_wei),
            allow_unprotected: self.allow_unprotected.unwrap_or(config.allow_unprotected),
            fee_recipient: self.fee_recipient.unwrap_or(config.fee_recipient),
            owner: self.owner.unwrap_or(config.owner),
            tip_share_bps: self.tip_share_bps.unwrap_or(config.tip_share_bps),
            max_bytes_per_block: self
                .max_bytes_per_block
                .unwrap_or(config.max_bytes_per_block),
            max_items_per_block: self
                .max_items_per_block
                .unwrap_or(config.max_items_per_block),
            attesters,
            rent: self.rent,
        })
    }
}

pub(crate) async fn run(args: TxArgs) -> eyre::Result<()> {
    let client = args.node.client()?;
    let file = match args.key {
        Some(file) => file,
        None => args.node.info()?.faucet_key,
    };
    let key = read_key(&file)?;
    let actions = actions(args.action, &client).await?;
    let (hash, included) = send(&client, &key, args.tip, actions).await?;
    let result = json!({
        "tx_hash": hash,
        "height": included.height,
        "code": included.code,
        "log": included.log,
    });
    show(&result, args.output)?;
    succeeded(&included)
}

/// Sends what an account does, and waits until it is done.
pub(super) async fn include(
    client: &Client,
    key: &SecretKey,
    tip: u64,
    actions: Vec<Action>,
) -> eyre::Result<Included> {
    let (_, included) = send(client, key, tip, actions).await?;
    succeeded(&included)?;
    Ok(included)
}

fn succeeded(included: &Included) -> eyre::Result<()> {
    let (code, log) = (included.code, &included.log);
    eyre::ensure!(code == 0, "failed with code {code}: {log}");
    Ok(())
}

/// Signs, sends and waits for a block.
async fn send(
    client: &Client,
    key: &SecretKey,
    tip: u64,
    actions: Vec<Action>,
) -> eyre::Result<(Hash, Included)> {
    let tx = sign(client, key, tip, actions).await?;
    let submitted = client.submit(tx.as_bytes().clone()).await?;
    if submitted.code != 0 {
        bail!("refused with code {}: {}", submitted.code, submitted.log);
    }
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Status::Included(included) = client.transaction(&tx.hash()).await? {
            return Ok((tx.hash(), included));
        }
        if tokio::time::Instant::now() > deadline {
            bail!(
                "{} is in no block after {PATIENCE:?}; it may still come",
                tx.hash()
            );
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn actions(command: TxCommand, client: &Client) -> eyre::Result<Vec<Action>> {
    let action = match command {
        TxCommand::Authority(command) => return authority::actions(command),
        TxCommand::Transfer { to, amount } => Action::Transfer(Transfer { to, amount }),
        TxCommand::Submit { rollup, items } => {
            let decode = |item: &String| {
                let bytes = hex::decode(item.trim_start_matches("0x"));
                bytes
                    .map(Bytes::from)
                    .wrap_err_with(|| format!("{item} is not hexadecimal"))
            };
            let items = items.iter().map(decode).collect::<eyre::Result<_>>()?;
            Action::SubmitData(SubmitData::new(RollupId::from_name(&rollup), items)?)
        }
        TxCommand::Deposit { rollup, to, amount } => {
            Action::Deposit(Deposit::new(RollupId::from_name(&rollup), to, amount)?)
        }
        TxCommand::UpdateRollup(update) => {
            let config = client.rollup(&update.name).await?;
            Action::UpdateRollup(update.action(&config)?)
        }
        TxCommand::ExitRollup { name } => Action::ExitRollup(ExitRollup {
            rollup_id: RollupId::from_name(&name),
        }),
        TxCommand::RegisterRollup {
            name,
            genesis,
            slot_secs,
            fee_recipient,
            attesters,
        } => {
            let specification = super::genesis::specification(&genesis)?;
            let header = specification.genesis_header();
            let height = client.info().await?.height;
            Action::RegisterRollup(RegisterRollup {
                name,
                evm_chain_id: specification.chain_id(),
                chain_spec_hash: specification.chain_spec().hash(),
                genesis_time: header.timestamp,
                // Room for the transaction to wait a few blocks.
                first_height: Height::new(height + 10),
                slot_secs: SlotSecs::new(slot_secs)?,
                gas_limit: header.gas_limit,
                max_tx_gas: (header.gas_limit / 4).min(counterpoint_core::registry::MAX_TX_GAS),
                min_tip_wei: 1,
                allow_unprotected: false,
                fee_recipient,
                tip_share_bps: 0,
                max_bytes_per_block: 2 << 20,
                max_items_per_block: 20_000,
                attesters: attesters.keys()?,
            })
        }
    };
    Ok(vec![action])
}

/// Signs with the account's next nonce, allowing what it holds as a fee.
async fn sign(
    client: &Client,
    key: &SecretKey,
    tip_per_byte: u64,
    actions: Vec<Action>,
) -> eyre::Result<SignedTransaction> {
    let address = key.public_key().address();
    let (info, account) = (client.info().await?, client.account(&address).await?);
    if !account.exists {
        return Err(eyre!(
            "account {address} does not exist yet: send it something first"
        ));
    }
    let body = TransactionBody {
        chain_id: info.chain_id,
        signer: key.public_key(),
        nonce: Nonce::new(account.pending_nonce),
        tip_per_byte,
        max_fee: account.balance.parse()?,
        valid_until: Height::new(info.height + VALID_HEIGHTS),
        actions,
    };
    Ok(SignedTransaction::sign(body, key)?)
}
