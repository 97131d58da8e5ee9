//! What only the process that serves the page knows.

use std::fmt::Debug;

use counterpoint_core::primitive::Hash;
use futures::future::BoxFuture;
use serde::Serialize;
use serde_json::Value;

/// The process that serves the page, as far as it knows more than the chain's nodes.
pub trait Host: Debug + Send + Sync {
    /// Its name, as people call it.
    fn name(&self) -> &'static str;

    /// How far the parts around it are.
    fn parts(&self) -> BoxFuture<'_, Vec<Part>>;

    /// Where the transaction of this hash stands, on each rollup that knows it.
    fn standings(&self, hash: Hash) -> BoxFuture<'_, Vec<Standing>>;
}

/// How far one part of the network is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// What it does, in a word: `rollup` for what executes one.
    pub kind: &'static str,
    /// The last block that it has, if it has one.
    pub head: Option<u64>,
    /// The time of that block, in seconds since 1970.
    pub time: Option<u64>,
    /// The sequencer's height up to which it has executed everything.
    pub height: Option<u64>,
    /// What is wrong with it.
    pub trouble: Option<String>,
}

/// Where a rollup's transaction stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Standing {
    /// The rollup.
    pub rollup: String,
    /// What `counterpoint_getTransactionStatus` says.
    pub status: Value,
    /// When it was acknowledged, in seconds since 1970, if that is remembered.
    pub acknowledged: Option<u64>,
    /// The sequencer's height whose list has it, if that is known.
    pub height: Option<u64>,
    /// Its place in that list.
    pub index: Option<u32>,
    /// The timestamp of its rollup block, in seconds since 1970.
    pub block_time: Option<u64>,
    /// The last block of the rollup.
    pub head: Option<u64>,
}
