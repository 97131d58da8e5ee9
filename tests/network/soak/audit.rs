//! The ledger check, when all has healed: what was sent against the verified lists, the clients'
//! blocks, balances and nonces, and the composer's own word.

use std::collections::{BTreeMap, BTreeSet};

use alloy_network::Ethereum;
use alloy_primitives::{Address, B256, U256};
use alloy_provider::{DynProvider, Provider};
use serde_json::{Value, json};

use super::{
    ROLLUPS,
    book::{Book, Entry, Kind},
    watch::{Lists, Place, Watch},
};
use crate::support::{Network, wait_for};

/// Calls of a JSON-RPC batch.
const CALLS: usize = 100;

/// What became of everything; whatever does not add up has failed the test before.
#[derive(Debug, Default)]
pub(super) struct Audit {
    /// The height that all lists were read to.
    pub(super) height: u64,
    /// Blocks of each rollup.
    pub(super) blocks: Vec<u64>,
    /// Of what was acknowledged.
    pub(super) acknowledged: usize,
    /// Of that, what ran.
    pub(super) executed: usize,
    /// Of that, what did not, since a rival had used the nonce: whether its skip stands in a verified list.
    pub(super) skipped_in_list: usize,
    pub(super) skipped_before_list: usize,
    /// What was sent and never acknowledged, because its nonce was used: by a rival, or by itself
    /// where the answer was lost.
    pub(super) refused: usize,
    /// Rivals that ran, and that were skipped.
    pub(super) rivals: [usize; 2],
    /// Skips by what the composer gave as their reason.
    pub(super) reasons: BTreeMap<String, usize>,
}

/// What follows from a rollup's lists alone.
#[derive(Default)]
struct Derived {
    /// What runs, in this order.
    runs: Vec<B256>,
    /// What stands where its nonce is not its sender's next.
    skips: BTreeMap<B256, Place>,
    /// Each sender's next nonce.
    next: BTreeMap<Address, u64>,
}

pub(super) async fn run(network: &mut Network, watch: &Watch, book: &Book) -> Audit {
    let mut audit = Audit::default();
    all_run(network);
    for rollup in 0..ROLLUPS {
        let told = settled(network, rollup, book).await;
        let height = network.reach(0, 1).await;
        audit.height = height;
        let lists = watch.lists(rollup, height).await;
        let entries = book.entries();
        let of_rollup = entries.iter().filter(|(_, entry)| entry.rollup == rollup);
        let ours: BTreeMap<B256, &Entry> = of_rollup.map(|(hash, entry)| (*hash, entry)).collect();
        each_is_ordered_once(&ours, &lists);
        let derived = derive(&ours, &lists);
        each_nonce_is_used_once(&ours, &derived);
        let geth = network.geth(rollup);
        head_has_all(&geth, &derived).await;
        let blocks = the_chain_is_what_was_ordered(&geth, &derived, &ours).await;
        audit.blocks.push(blocks);
        audit.count(&ours, &lists, &derived, &told);
    }
    audit
}

/// What was killed was started again, and nothing has ended by itself.
fn all_run(network: &mut Network) {
    for process in network.devnet.status() {
        assert!(process.pid.is_some(), "{} has ended", process.name);
    }
}

/// What the composer says of all that it acknowledged, once that is final.
async fn settled(network: &Network, rollup: usize, book: &Book) -> BTreeMap<B256, Value> {
    let acknowledged = |(hash, entry): (&B256, &Entry)| {
        let is_asked = entry.rollup == rollup && entry.acknowledged.is_some();
        is_asked.then_some(*hash)
    };
    let mut open: Vec<B256> = book.entries().iter().filter_map(acknowledged).collect();
    let mut told = BTreeMap::new();
    while let Some(asked) = open.chunks(CALLS).next().map(<[B256]>::to_vec) {
        let what = format!(
            "what became of {} transactions, {} first",
            open.len(),
            asked[0]
        );
        wait_for(&what, || async {
            let statuses = statuses(network, rollup, &asked).await?;
            let is_final =
                |status: &Value| matches!(status["status"].as_str(), Some("executed" | "rejected"));
            statuses.values().all(is_final).then_some(statuses)
        })
        .await
        .into_iter()
        .for_each(|(hash, status)| drop(told.insert(hash, status)));
        open.drain(..asked.len());
    }
    told
}

async fn statuses(
    network: &Network,
    rollup: usize,
    hashes: &[B256],
) -> Option<BTreeMap<B256, Value>> {
    let call = |hash: &B256| {
        let method = "counterpoint_getTransactionStatus";
        json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": [hash] })
    };
    let calls: Vec<Value> = hashes.iter().map(call).collect();
    let url = &network.info.rollups[rollup].composer_rpc;
    let answer = reqwest::Client::new().post(url).json(&calls).send().await;
    let answers: Vec<Value> = answer.ok()?.json().await.ok()?;
    let results = answers
        .into_iter()
        .map(|mut answer| answer["result"].take());
    Some(hashes.iter().copied().zip(results).collect())
}

/// Nothing is in the lists that nobody sent, and nothing twice.
fn each_is_ordered_once(ours: &BTreeMap<B256, &Entry>, lists: &Lists) {
    let mut seen = BTreeSet::new();
    for (place, hash) in &lists.items {
        assert!(ours.contains_key(hash), "nobody sent {hash}, at {place:?}");
        assert!(
            seen.insert(hash),
            "{hash} was ordered twice, at {place:?} again"
        );
    }
}

/// Derives what runs from the lists: a transaction whose nonce is its sender's next.
fn derive(ours: &BTreeMap<B256, &Entry>, lists: &Lists) -> Derived {
    let mut derived = Derived::default();
    for (place, hash) in &lists.items {
        let entry = ours[hash];
        let next = derived.next.entry(entry.sender).or_default();
        if entry.nonce == *next {
            *next += 1;
            derived.runs.push(*hash);
        } else {
            derived.skips.insert(*hash, *place);
        }
    }
    derived
}

/// Of all transactions with a nonce one runs, and there is no gap.
fn each_nonce_is_used_once(ours: &BTreeMap<B256, &Entry>, derived: &Derived) {
    let mut used = BTreeMap::new();
    for hash in &derived.runs {
        let entry = ours[hash];
        let before = used.insert((entry.sender, entry.nonce), hash);
        assert_eq!(before, None, "a nonce was used twice");
    }
    for (hash, entry) in ours {
        let is_used = used.contains_key(&(entry.sender, entry.nonce));
        assert!(is_used, "{hash} is lost: {entry:?}");
    }
}

/// Receipts are told before blocks are there.
async fn head_has_all(geth: &DynProvider<Ethereum>, derived: &Derived) {
    for (sender, next) in &derived.next {
        wait_for(&format!("nonce {next} of {sender}"), || async {
            let nonce = geth.get_transaction_count(*sender).await.ok()?;
            (nonce >= *next).then_some(())
        })
        .await;
    }
}

/// The client's blocks hold what was derived, in that order; balances and nonces add up. Gives the
/// number of blocks.
async fn the_chain_is_what_was_ordered(
    geth: &DynProvider<Ethereum>,
    derived: &Derived,
    ours: &BTreeMap<B256, &Entry>,
) -> u64 {
    let head = geth.get_block_number().await.unwrap();
    let (mut expected, mut changes) = (derived.runs.iter(), BTreeMap::<Address, [U256; 2]>::new());
    for number in 1..=head {
        let receipts = geth.get_block_receipts(number.into()).await.unwrap();
        for receipt in receipts.unwrap_or_default() {
            let hash = receipt.transaction_hash;
            assert_eq!(expected.next(), Some(&hash), "in block {number}");
            assert!(receipt.status(), "{hash} has failed");
            let entry = ours[&hash];
            let fee = U256::from(receipt.gas_used) * U256::from(receipt.effective_gas_price);
            changes.entry(entry.sender).or_default()[0] += entry.value + fee;
            changes.entry(entry.to).or_default()[1] += entry.value;
        }
    }
    assert_eq!(expected.next(), None, "the head has all of it");
    for (address, [spent, got]) in changes {
        let before = geth.get_balance(address).block_id(0.into()).await.unwrap();
        let now = geth.get_balance(address).await.unwrap();
        assert_eq!(now, before + got - spent, "what {address} has");
        let nonce = geth.get_transaction_count(address).await.unwrap();
        let next = derived.next.get(&address).copied().unwrap_or_default();
        assert_eq!(nonce, next, "the nonce of {address}");
    }
    head
}

impl Audit {
    /// Counts what became of a rollup's transactions; the composer must have said the same.
    fn count(
        &mut self,
        ours: &BTreeMap<B256, &Entry>,
        lists: &Lists,
        derived: &Derived,
        told: &BTreeMap<B256, Value>,
    ) {
        let runs: BTreeSet<&B256> = derived.runs.iter().collect();
        let places = lists.items.iter().map(|(place, hash)| (*hash, *place));
        let places: BTreeMap<B256, Place> = places.collect();
        for (hash, entry) in ours {
            match entry.kind {
                Kind::Own => {}
                Kind::Funding => continue,
                Kind::Rival => {
                    self.rivals[usize::from(!runs.contains(hash))] += 1;
                    assert!(places.contains_key(hash), "the rival {hash} is in no list");
                    continue;
                }
            }
            let Some(told) = told.get(hash) else {
                self.refused += 1;
                continue;
            };
            self.acknowledged += 1;
            if let Some(height) = told["height"].as_u64() {
                let index = told["index"].as_u64().unwrap();
                let told = (height, usize::try_from(index).unwrap());
                assert_eq!(Some(&told), places.get(hash), "{hash}");
            }
            let is_right = |status: &str| assert_eq!(told["status"], status, "{hash}: {told}");
            if runs.contains(hash) {
                is_right("executed");
                self.executed += 1;
                continue;
            }
            is_right("rejected");
            let reason = told["reason"].as_str().unwrap_or("none").to_owned();
            *self.reasons.entry(reason).or_default() += 1;
            match derived.skips.get(hash) {
                Some(_) => self.skipped_in_list += 1,
                None => self.skipped_before_list += 1,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Transactions of one sender, by their nonces; the first byte of a hash is its place here.
    fn sent(nonces: &[u64]) -> BTreeMap<B256, Entry> {
        let entry = |nonce| Entry {
            rollup: 0,
            kind: Kind::Own,
            sender: Address::ZERO,
            nonce,
            to: Address::ZERO,
            value: U256::ZERO,
            due: Duration::ZERO,
            acknowledged: None,
            ordered: None,
            executed: None,
        };
        let entries = (0..).zip(nonces);
        entries
            .map(|(at, nonce)| (B256::repeat_byte(at), entry(*nonce)))
            .collect()
    }

    /// What runs if those of `sent` at these places are ordered in this way, if nothing is wrong.
    fn runs(nonces: &[u64], ordered: &[u8]) -> Vec<u8> {
        let sent = sent(nonces);
        let ours: BTreeMap<B256, &Entry> = sent.iter().map(|(hash, one)| (*hash, one)).collect();
        let items = ordered.iter().enumerate();
        let items = items.map(|(index, at)| ((1, index), B256::repeat_byte(*at)));
        let lists = Lists {
            height: 1,
            items: items.collect(),
        };
        each_is_ordered_once(&ours, &lists);
        let derived = derive(&ours, &lists);
        each_nonce_is_used_once(&ours, &derived);
        derived.runs.iter().map(|hash| hash[0]).collect()
    }

    #[test]
    fn of_two_with_one_nonce_the_first_runs() {
        assert_eq!(runs(&[0, 1, 1, 2], &[0, 2, 1, 3]), [0, 2, 3]);
        // One that comes too early runs nowhere, and its nonce is used by another one.
        assert_eq!(runs(&[0, 1, 1], &[1, 0, 2]), [0, 2]);
    }

    #[test]
    #[should_panic(expected = "is lost")]
    fn what_is_in_no_list_is_missed() {
        runs(&[0, 1, 2], &[0, 1]);
    }

    #[test]
    #[should_panic(expected = "was ordered twice")]
    fn what_is_ordered_twice_is_seen() {
        runs(&[0, 1], &[0, 1, 0]);
    }
}
