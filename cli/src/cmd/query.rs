use clap::{Args, Subcommand};
use counterpoint_core::{
    block::{LeafProof, RollupItem},
    primitive::{Address, Hash, Height, RollupId},
};
use counterpoint_proto::sequencer::get_transaction_response::Status;
use serde_json::{Value, json};

use super::{NodeArgs, Output, show};

#[derive(Debug, Args)]
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
            let block = client.rollup_block(Height::new(height), &id).await?;
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
