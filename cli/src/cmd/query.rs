use std::path::PathBuf;

use bytes::Bytes;
use clap::{Args, Subcommand};
use counterpoint_core::{
    block::{LeafProof, RollupItem},
    fees::FeeParams,
    light::LightError,
    primitive::{Address, Hash, Height, RollupId},
    state::{Account, Approval, AuthorityRecord, Chain, ConsensusRecord, Key, Upgrade, Validator},
};
use counterpoint_proto::sequencer::{
    GetChainResponse, GetFeesResponse, get_chain_response::Proposal, get_fees_response::Forecast,
    get_transaction_response::Status,
};
use counterpoint_service::{
    files::read_trust,
    sequencer::{VerifyError, verify_record},
};
use serde_json::{Value, json};

use super::{NodeArgs, Output, show};

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  counterpoint query info --node http://127.0.0.1:9090 --output json"
)]
pub(crate) struct QueryArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// How to show the result.
    #[arg(long, value_enum, default_value_t, global = true)]
    output: Output,
    #[command(subcommand)]
    what: QueryCommand,
}

#[derive(Debug, Subcommand)]
enum QueryCommand {
    /// The chain and how far it is.
    #[command(after_help = "Example:\n  counterpoint query info --output json")]
    Info,
    /// An account's nonce and balance.
    #[command(after_help = "Example:\n  counterpoint query account cpt1…")]
    Account {
        /// Its address.
        address: Address,
    },
    /// A record of the state with its proof, verified down to a header that the validators signed.
    #[command(
        after_help = "Example:\n  counterpoint query prove cpt1… --trust .devnet/sequencer-genesis.json"
    )]
    Prove {
        /// The account's address.
        address: Address,
        /// CometBFT's genesis file, which trust starts from.
        #[arg(long, value_name = "FILE")]
        trust: PathBuf,
    },
    /// What inclusion costs, and will cost.
    #[command(after_help = "Example:\n  counterpoint query fees --output json")]
    Fees,
    /// Validators, authority, planned upgrades, and where all value is.
    #[command(after_help = "Example:\n  counterpoint query chain --output json")]
    Chain,
    /// A rollup's registration.
    #[command(after_help = "Example:\n  counterpoint query rollup alpha")]
    Rollup {
        /// Its name.
        name: String,
    },
    /// All rollups.
    #[command(after_help = "Example:\n  counterpoint query rollups")]
    Rollups,
    /// Where a transaction is.
    #[command(after_help = "Example:\n  counterpoint query tx 5f…")]
    Tx {
        /// Its hash.
        hash: Hash,
    },
    /// A rollup's list at a height.
    #[command(after_help = "Example:\n  counterpoint query block alpha 42")]
    Block {
        /// The rollup's name.
        rollup: String,
        /// The sequencer's height.
        height: u64,
    },
}

pub(crate) async fn run(args: QueryArgs) -> eyre::Result<()> {
    let client = args.node.client()?;
    let result = match args.what {
        QueryCommand::Info => {
            let info = client.info().await?;
            json!({
                "chain_id": info.chain_id,
                "height": info.height,
                "app_hash": hex::encode(&info.app_hash),
                "lowest_height": info.lowest_height,
                "base_fee": info.base_fee,
                "version": info.version,
            })
        }
        QueryCommand::Account { address } => {
            let account = client.account(&address).await?;
            json!({
                "address": address,
                "exists": account.exists,
                "nonce": account.nonce,
                "pending_nonce": account.pending_nonce,
                "balance": account.balance,
                "height": account.height,
            })
        }
        QueryCommand::Prove { address, trust } => {
            let mut trusted = read_trust(&trust)?;
            let key = Key::Account(address);
            let answer = client.state_proof(&key).await?;
            let above = Height::new(answer.height.saturating_add(1));
            let (account, height) = loop {
                match verify_record::<Account>(&mut trusted, &key, &answer) {
                    Err(VerifyError::Header(LightError::Distant { .. })) => {
                        client.bridge(&mut trusted, above).await?;
                    }
                    proven => break proven?,
                }
            };
            json!({
                "address": address,
                "exists": account.is_some(),
                "nonce": account.unwrap_or_default().nonce,
                "balance": account.unwrap_or_default().balance,
                "height": height,
                "verified": true,
            })
        }
        QueryCommand::Fees => fees(&client.fees().await?)?,
        QueryCommand::Chain => chain(&client.chain().await?)?,
        QueryCommand::Rollup { name } => json!(client.rollup(&name).await?),
        QueryCommand::Rollups => json!(client.rollups(None, 0).await?),
        QueryCommand::Tx { hash } => match client.transaction(&hash).await? {
            Status::Unknown(_) => json!({ "tx_hash": hash, "status": "unknown" }),
            Status::Pending(_) => json!({ "tx_hash": hash, "status": "pending" }),
            Status::Included(included) => json!({
                "tx_hash": hash,
                "status": "included",
                "height": included.height,
                "index": included.index,
                "code": included.code,
                "log": included.log,
            }),
        },
        QueryCommand::Block { rollup, height } => {
            let id = RollupId::from_name(&rollup);
            let (_, block) = client.rollup_block(Height::new(height), &id).await?;
            let proof: LeafProof = borsh::from_slice(&block.borsh_leaf_proof)?;
            let items: Vec<RollupItem> = borsh::from_slice(&block.borsh_list)?;
            let env = proof.leaf.env;
            json!({
                "rollup": rollup,
                "height": height,
                "number": env.number,
                "slot": env.slot.get(),
                "opens": env.opens,
                "closes": env.closes,
                "list_root": proof.leaf.list_root,
                "items": items.iter().map(item).collect::<Vec<_>>(),
            })
        }
    };
    show(&result, args.output)
}

fn fees(fees: &GetFeesResponse) -> eyre::Result<Value> {
    let params: FeeParams = borsh::from_slice(&fees.borsh_params)?;
    let forecast = |forecast: &Forecast| {
        json!({
            "blocks": forecast.blocks,
            "lowest": forecast.lowest,
            "highest": forecast.highest,
        })
    };
    Ok(json!({
        "height": fees.height,
        "base_fee": fees.base_fee,
        "forecasts": fees.forecasts.iter().map(forecast).collect::<Vec<_>>(),
        "params": params,
    }))
}

fn chain(answer: &GetChainResponse) -> eyre::Result<Value> {
    let chain: Chain = borsh::from_slice(&answer.borsh_chain)?;
    let consensus: ConsensusRecord = borsh::from_slice(&answer.borsh_consensus)?;
    let validator = |encoded: &Bytes| {
        let validator: Validator = borsh::from_slice(encoded)?;
        Ok(json!({
            "address": validator.public_key.address(),
            "public_key": validator.public_key.to_string(),
            "power": validator.power,
            "payout": validator.payout,
        }))
    };
    let proposal = |proposal: &Proposal| {
        let approval: Approval = borsh::from_slice(&proposal.borsh_approval)?;
        Ok(json!({
            "proposal": hex::encode(&proposal.proposal),
            "members": approval.members,
            "valid_until": approval.valid_until,
        }))
    };
    let authority: Option<AuthorityRecord> = optional(&answer.borsh_authority)?;
    let upgrade: Option<Upgrade> = optional(&answer.borsh_upgrade)?;
    let upgrade = upgrade.map(|Upgrade { plan }| {
        json!({
            "height": plan.height(),
            "name": plan.name(),
            "app_version": plan.app_version(),
        })
    });
    let validators = answer.borsh_validators.iter().map(validator);
    let proposals = answer.proposals.iter().map(proposal);
    Ok(json!({
        "height": answer.height,
        "chain_id": chain.chain_id,
        "app_version": chain.app_version,
        "supply": chain.supply,
        "burned": chain.burned,
        "locked": chain.locked,
        "rollups": chain.rollups,
        "validators": validators.collect::<eyre::Result<Vec<_>>>()?,
        "authority": authority.map(|record| record.authority),
        "proposals": proposals.collect::<eyre::Result<Vec<_>>>()?,
        "upgrade": upgrade,
        "max_block_bytes": consensus.max_block_bytes,
        "vote_extensions_height": consensus.vote_extensions_height,
    }))
}

fn optional<T: borsh::BorshDeserialize>(encoded: &[u8]) -> eyre::Result<Option<T>> {
    let present = (!encoded.is_empty()).then_some(encoded);
    Ok(present.map(borsh::from_slice).transpose()?)
}

fn item(item: &RollupItem) -> Value {
    match item {
        RollupItem::Transaction(raw) => json!({ "transaction": format!("0x{}", hex::encode(raw)) }),
        RollupItem::Deposit {
            index,
            address,
            amount_gwei,
        } => {
            json!({ "deposit": { "index": index, "address": address, "amount_gwei": amount_gwei } })
        }
        RollupItem::Leg { bundle_id, raw } => {
            json!({ "leg": { "bundle_id": bundle_id, "raw": format!("0x{}", hex::encode(raw)) } })
        }
    }
}
