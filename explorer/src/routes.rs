//! Questions of the page. Each answer is bounded, and what cannot be answered says why.

use std::{collections::HashMap, str::FromStr};

use axum::{
    Extension, Json, Router,
    extract::{FromRequestParts, Path, Query},
    http::{HeaderMap, StatusCode, request::Parts},
    middleware,
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use counterpoint_core::{
    block::{LeafProof, RollupItem, TransactionProof},
    primitive::{Hash, Height, RollupId},
    state::{RollupRecord, Validator},
};
use counterpoint_proto::sequencer::{
    GetRollupResponse, RollupBlock, get_transaction_response::Status as Found,
};
use futures::{StreamExt, TryStreamExt, stream};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tonic::Code;

use crate::{
    Explorer, Root,
    answer::Trouble,
    bundles::Entry,
    events, page,
    proof::{HeaderProof, ItemProofView, LeafView, PathView, RootView, TransactionProofView},
    show,
};

/// Most blocks, lists, items and bundles of one answer.
const MAX_BLOCKS: u64 = 32;
const MAX_ITEMS: u64 = 100;
const MAX_BUNDLES: usize = 64;
/// Most rollups of one answer.
const MAX_ROLLUPS: u32 = 100;
/// Blocks of which the votes are counted.
const WINDOW: usize = 100;
/// Lists that are read at a time.
const TOGETHER: usize = 4;

type Answer = Result<Json<Value>, Trouble>;

/// The query of a question.
#[derive(Debug)]
struct Asked(HashMap<String, String>);

impl<S: Sync> FromRequestParts<S> for Asked {
    type Rejection = Trouble;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Trouble> {
        let query = Query::<HashMap<String, String>>::try_from_uri(&parts.uri);
        query
            .map(|query| Self(query.0))
            .map_err(|error| Trouble::Question(format!("the query cannot be read: {error}")))
    }
}

/// What a question names in its path.
#[derive(Debug)]
struct Named<T>(T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Named<T> {
    type Rejection = Trouble;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Trouble> {
        let path = Path::<T>::from_request_parts(parts, state).await;
        path.map(|path| Self(path.0))
            .map_err(|error| Trouble::Question(format!("the path cannot be read: {error}")))
    }
}

impl Asked {
    fn number(&self, key: &str) -> Result<Option<u64>, Trouble> {
        self.0.get(key).map(|text| parse(key, text)).transpose()
    }

    fn limit(&self, most: u64) -> Result<u64, Trouble> {
        match self.number("limit")?.unwrap_or(most) {
            limit if (1..=most).contains(&limit) => Ok(limit),
            limit => Err(Trouble::Question(format!(
                "limit is {limit}, must lie in 1..={most}"
            ))),
        }
    }
}

/// The page, and what it asks for.
pub(crate) fn router(explorer: Explorer) -> Router {
    let api = Router::new()
        .route("/overview", get(overview))
        .route("/trust", get(trust))
        .route("/events", get(listen))
        .route("/blocks", get(blocks))
        .route("/blocks/{height}", get(block))
        .route("/headers/{height}", get(header))
        .route("/rollups", get(rollups))
        .route("/rollups/{name}", get(rollup))
        .route("/rollups/{name}/lists", get(lists))
        .route("/rollups/{name}/lists/{height}", get(list))
        .route(
            "/rollups/{name}/lists/{height}/{index}/proof",
            get(item_proof),
        )
        .route("/transactions/{hash}", get(transaction))
        .route("/transactions/{hash}/proof", get(transaction_proof))
        .route("/bundles", get(bundles))
        .route("/bundles/{id}", get(bundle))
        .route("/validators", get(validators))
        .fallback(nothing)
        .method_not_allowed_fallback(only_get);
    Router::new()
        .route("/", get(|| async { Redirect::temporary("explorer/") }))
        .route(
            "/explorer",
            get(|| async { Redirect::temporary("explorer/") }),
        )
        .route("/explorer/", get(|| async { page::file("") }))
        .route(
            "/explorer/{file}",
            get(|Path(file): Path<String>| async move { page::file(&file) }),
        )
        .nest("/explorer/api", api)
        .layer(middleware::from_fn(page::guard))
        .layer(Extension(explorer))
}

type Shared = Extension<Explorer>;

async fn nothing() -> Trouble {
    Trouble::Unknown("there is no such question".into())
}

async fn only_get() -> Response {
    let said = Json(json!({ "error": "questions are asked with GET" }));
    (StatusCode::METHOD_NOT_ALLOWED, said).into_response()
}

/// Reads a part of a question.
fn parse<T: FromStr<Err: std::fmt::Display>>(what: &str, text: &str) -> Result<T, Trouble> {
    text.parse()
        .map_err(|error| Trouble::Question(format!("{what}: {error}")))
}

async fn overview(Extension(explorer): Shared) -> Answer {
    let question = async {
        let info = explorer.0.client.info().await?;
        let (host, parts) = match explorer.host() {
            Some(host) => (Some(host.name()), host.parts().await),
            None => (None, Vec::new()),
        };
        Ok(json!({
            "chain_id": info.chain_id,
            "height": info.height,
            "lowest_height": info.lowest_height,
            "base_fee": info.base_fee,
            "node_version": info.version,
            "version": env!("CARGO_PKG_VERSION"),
            "served_by": host,
            "parts": parts,
        }))
    };
    explorer.answer(question).await
}

async fn trust(Extension(explorer): Shared) -> Answer {
    let question = async {
        let root = match &explorer.0.root {
            Root::Genesis(trusted) => RootView::genesis(trusted),
            Root::Header(header) => RootView::header(*header),
            Root::Lowest => {
                let lowest = explorer.0.client.info().await?.lowest_height.max(1);
                let lowest = explorer.0.ledger.brief(lowest).await?;
                RootView::Header {
                    height: lowest.height.to_string(),
                    hash: parse("hash", &lowest.hash)?,
                }
            }
        };
        Ok(json!(root))
    };
    explorer.answer(question).await
}

async fn listen(
    Extension(explorer): Shared,
    headers: HeaderMap,
    asked: Asked,
) -> Result<Response, Trouble> {
    events::open(&explorer, &headers, asked.number("after")?)
}

async fn blocks(Extension(explorer): Shared, asked: Asked) -> Answer {
    let question = async {
        let (before, limit) = (asked.number("before")?, asked.limit(MAX_BLOCKS)?);
        let count = usize::try_from(limit).unwrap_or_default();
        let blocks = explorer.0.ledger.newest(before, count).await?;
        Ok(json!({ "blocks": blocks.iter().map(|brief| json!(brief)).collect::<Vec<_>>() }))
    };
    explorer.answer(question).await
}

async fn block(Extension(explorer): Shared, Named(height): Named<String>) -> Answer {
    let question = async {
        let whole = explorer.0.ledger.block(parse("height", &height)?).await?;
        Ok(json!({
            "block": whole.brief,
            "item_hashes": whole.item_hashes,
            "proof": whole.proof,
        }))
    };
    explorer.answer(question).await
}

async fn header(Extension(explorer): Shared, Named(height): Named<String>) -> Answer {
    let question = async {
        let height = Height::new(parse("height", &height)?);
        let answer = explorer.0.client.signed_header(height).await?;
        let proof = HeaderProof::decode(&answer.signed_header, &answer.validators);
        Ok(json!(proof.map_err(|_| Trouble::Malformed("header"))?))
    };
    explorer.answer(question).await
}

async fn rollups(Extension(explorer): Shared, asked: Asked) -> Answer {
    let question = async {
        let after = asked.0.get("after");
        let after = after.map(|id| parse("after", id)).transpose()?;
        let found = explorer.registrations(after).await?;
        let next = found.last().filter(|_| found.len() >= MAX_ROLLUPS as usize);
        Ok(json!({
            "next": next.map(|(record, _)| record.config.rollup_id),
            "rollups": found
                .iter()
                .map(|(record, queued)| show::rollup(record, *queued))
                .collect::<Vec<_>>(),
        }))
    };
    explorer.answer(question).await
}

async fn rollup(Extension(explorer): Shared, Named(name): Named<String>) -> Answer {
    let question = async {
        let (record, queued) = explorer.registration(&name).await?;
        Ok(show::rollup(&record, queued))
    };
    explorer.answer(question).await
}

async fn lists(Extension(explorer): Shared, Named(name): Named<String>, asked: Asked) -> Answer {
    let question = async {
        let (before, limit) = (asked.number("before")?, asked.limit(MAX_BLOCKS)?);
        let id = RollupId::from_name(&name);
        let count = usize::try_from(limit).unwrap_or_default();
        let blocks = explorer.0.ledger.newest(before, count).await?;
        let lists = stream::iter(blocks).map(|brief| {
            let (explorer, known) = (
                &explorer,
                brief.lists.iter().find(|one| one.rollup_id == id),
            );
            let known = known.cloned();
            async move {
                let leaf = match known {
                    Some(leaf) => Some(leaf),
                    // Nothing is left out of a block with so few.
                    None if brief.lists.len() == brief.rollups as usize => None,
                    None => explorer.leaf(brief.height, &id).await?,
                };
                let leaf = leaf.map(|leaf| json!(leaf));
                Ok::<_, Trouble>(json!({
                    "height": brief.height, "time": brief.time, "leaf": leaf,
                }))
            }
        });
        let lists: Vec<Value> = lists.buffered(TOGETHER).try_collect().await?;
        Ok(json!({ "lists": lists }))
    };
    explorer.answer(question).await
}

async fn list(
    Extension(explorer): Shared,
    Named((name, height)): Named<(String, String)>,
    asked: Asked,
) -> Answer {
    let question = async {
        let (from, limit) = (asked.number("from")?.unwrap_or(0), asked.limit(MAX_ITEMS)?);
        let height = parse("height", &height)?;
        let block = explorer.list(height, &RollupId::from_name(&name)).await?;
        let (from, limit) = (usize::try_from(from), usize::try_from(limit));
        let (from, limit) = (from.unwrap_or(usize::MAX), limit.unwrap_or_default());
        let items = block.items.iter().enumerate().skip(from).take(limit);
        let items =
            items.map(|(index, item)| show::item(u32::try_from(index).unwrap_or(u32::MAX), item));
        let time = explorer.0.ledger.brief(height).await?.time.clone();
        Ok(json!({
            "height": height,
            "time": time,
            "leaf": LeafView::new(&block.proof.leaf),
            "from": from,
            "items": items.collect::<Vec<_>>(),
        }))
    };
    explorer.answer(question).await
}

async fn item_proof(
    Extension(explorer): Shared,
    Named((name, height, index)): Named<(String, String, String)>,
) -> Answer {
    let question = async {
        let (height, index) = (parse("height", &height)?, parse("index", &index)?);
        let block = explorer.list(height, &RollupId::from_name(&name)).await?;
        let List {
            proof,
            items,
            signed,
        } = block;
        let proof = ItemProofView::new(&proof, &items, index, signed);
        let none = || Trouble::Unknown(format!("the list of height {height} has no item {index}"));
        Ok(json!(proof.ok_or_else(none)?))
    };
    explorer.answer(question).await
}

async fn transaction(Extension(explorer): Shared, Named(hash): Named<String>) -> Answer {
    let question = async {
        let hash: Hash = parse("hash", &hash)?;
        let standings = async {
            match explorer.host() {
                Some(host) => host.standings(hash).await,
                None => Vec::new(),
            }
        };
        let (found, standings, bundle) = tokio::join!(
            explorer.0.client.transaction(&hash),
            standings,
            explorer.find_bundle(&hash)
        );
        let mut rollups = Vec::new();
        for standing in standings {
            let block = match standing.height {
                Some(height) => explorer.0.ledger.brief(height).await.ok(),
                None => None,
            };
            let mut shown = json!(standing);
            shown["sequenced_time"] = json!(block.map(|block| block.time.clone()));
            rollups.push(shown);
        }
        let sequencer = match found? {
            Found::Unknown(_) => Value::Null,
            Found::Pending(_) => json!({ "status": "pending" }),
            Found::Included(included) => json!({
                "status": "included",
                "height": included.height,
                "index": included.index,
                "code": included.code,
                "log": included.log,
                "time": explorer.0.ledger.brief(included.height).await?.time,
            }),
        };
        Ok(json!({
            "hash": hash,
            "rollups": rollups,
            "sequencer": sequencer,
            "is_bundle": bundle?.is_some(),
            "knows_rollups": explorer.host().is_some(),
        }))
    };
    explorer.answer(question).await
}

async fn transaction_proof(Extension(explorer): Shared, Named(hash): Named<String>) -> Answer {
    let question = async {
        let tx_hash: Hash = parse("hash", &hash)?;
        let Found::Included(included) = explorer.0.client.transaction(&tx_hash).await? else {
            let reason = format!("no block that is here has transaction {tx_hash}");
            return Err(Trouble::Unknown(reason));
        };
        let proof: TransactionProof = borsh::from_slice(&included.borsh_proof)
            .map_err(|_| Trouble::Malformed("transaction proof"))?;
        let signed = HeaderProof::decode(&included.signed_header, &included.validators);
        Ok(json!(TransactionProofView {
            tx_hash,
            path: PathView::new(&proof.path),
            signed: signed.map_err(|_| Trouble::Malformed("header"))?,
        }))
    };
    explorer.answer(question).await
}

async fn bundles(Extension(explorer): Shared) -> Answer {
    let question = async {
        let names = explorer.names().await?;
        let newest = explorer.0.board.newest(MAX_BUNDLES);
        let bundles = newest.iter().map(|entry| show::bundle(entry, &names));
        Ok(json!({ "bundles": bundles.collect::<Vec<_>>() }))
    };
    explorer.answer(question).await
}

async fn bundle(Extension(explorer): Shared, Named(id): Named<String>) -> Answer {
    let question = async {
        let id: Hash = parse("bundle", &id)?;
        let entry = explorer.find_bundle(&id).await?;
        let none = || Trouble::Unknown("no such bundle was ever sealed".into());
        let entry = entry.ok_or_else(none)?;
        let mut shown = show::bundle(&entry, &explorer.names().await?);
        if let Some(height) = show::released_at(&entry) {
            let ids: Vec<RollupId> = entry.record.legs.iter().map(|leg| leg.rollup_id).collect();
            let lists = stream::iter(ids).map(|id| {
                let explorer = &explorer;
                async move { explorer.list(height.get(), &id).await }
            });
            let lists: Vec<_> = lists.buffered(TOGETHER).collect().await;
            for (place, list) in lists.into_iter().enumerate() {
                // It may have been pruned since.
                if let Ok(list) = list {
                    shown["legs"][place]["items"] = json!(show::legs_of(&id, &list.items));
                }
            }
        }
        Ok(shown)
    };
    explorer.answer(question).await
}

async fn validators(Extension(explorer): Shared) -> Answer {
    let question = async {
        let chain = explorer.0.client.chain().await?;
        let set = chain.borsh_validators.iter();
        let set = set.map(|one| borsh::from_slice::<Validator>(one));
        let set: Vec<Validator> = set
            .collect::<Result<_, _>>()
            .map_err(|_| Trouble::Malformed("validator"))?;
        explorer.0.ledger.newest(None, 1).await?;
        let mut recent = explorer.0.ledger.recent();
        recent.truncate(WINDOW);
        let last = recent.first();
        let shown = set.iter().map(|one| {
            let key = one.public_key.to_string();
            let missed = recent.iter().filter(|block| block.missing.contains(&key));
            let address = Hash::digest(&[one.public_key.as_bytes()]).to_string();
            let address = address.get(..40).unwrap_or_default();
            let proposed = recent.iter().filter(|block| block.proposer == address);
            json!({
                "address": address,
                "public_key": key,
                "power": one.power.to_string(),
                "payout": one.payout,
                "voted": last.map(|block| !block.missing.contains(&key)),
                "missed": missed.count(),
                "proposed": proposed.count(),
            })
        });
        Ok(json!({
            "height": last.map(|block| block.height),
            "window": recent.len(),
            "validators": shown.collect::<Vec<_>>(),
        }))
    };
    explorer.answer(question).await
}

/// A rollup's list with its proof, as a node gives it.
struct List {
    proof: LeafProof,
    items: Vec<RollupItem>,
    signed: HeaderProof,
}

impl List {
    fn read(block: &RollupBlock) -> Result<Self, Trouble> {
        let signed = HeaderProof::decode(&block.signed_header, &block.validators);
        Ok(Self {
            proof: borsh::from_slice(&block.borsh_leaf_proof)
                .map_err(|_| Trouble::Malformed("leaf proof"))?,
            items: borsh::from_slice(&block.borsh_list).map_err(|_| Trouble::Malformed("list"))?,
            signed: signed.map_err(|_| Trouble::Malformed("header"))?,
        })
    }
}

impl Explorer {
    async fn list(&self, height: u64, id: &RollupId) -> Result<List, Trouble> {
        let (_, block) = self.0.client.rollup_block(Height::new(height), id).await?;
        List::read(&block)
    }

    /// A rollup's leaf, if it has one at this height.
    async fn leaf(&self, height: u64, id: &RollupId) -> Result<Option<LeafView>, Trouble> {
        match self.list(height, id).await {
            Ok(list) => Ok(Some(LeafView::new(&list.proof.leaf))),
            Err(Trouble::Unknown(_)) => Ok(None),
            Err(trouble) => Err(trouble),
        }
    }

    async fn registrations(
        &self,
        after: Option<RollupId>,
    ) -> Result<Vec<(RollupRecord, u64)>, Trouble> {
        let found = self.0.client.registrations(after, MAX_ROLLUPS).await?;
        found.iter().map(registration).collect()
    }

    async fn registration(&self, name: &str) -> Result<(RollupRecord, u64), Trouble> {
        let answer = self.0.client.registration(name).await?;
        registration(&answer)
    }

    /// The names of rollups, of the first hundred.
    async fn names(&self) -> Result<show::Names, Trouble> {
        let found = self.registrations(None).await?;
        let name = |(record, _): (RollupRecord, u64)| (record.config.rollup_id, record.config.name);
        Ok(found.into_iter().map(name).collect())
    }

    /// A bundle, as it was followed, or else as the state has it.
    async fn find_bundle(&self, id: &Hash) -> Result<Option<Entry>, Trouble> {
        if let Some(entry) = self.0.board.get(id) {
            return Ok(Some(entry));
        }
        match self.0.client.bundle(id).await {
            Ok(bundle) => {
                let mut entry = Entry::read(&bundle)?;
                // What was not followed has no history.
                entry.stages.clear();
                Ok(Some(entry))
            }
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(status.into()),
        }
    }
}

fn registration(answer: &GetRollupResponse) -> Result<(RollupRecord, u64), Trouble> {
    let record = borsh::from_slice(&answer.borsh_record);
    let record = record.map_err(|_| Trouble::Malformed("rollup record"))?;
    Ok((record, answer.queued_deposits))
}

#[cfg(test)]
mod tests;
