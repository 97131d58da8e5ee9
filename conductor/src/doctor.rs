//! `doctor`: whether files, client and sequencer fit together, as far as they tell.
//!
//! Each check says what it has found, and what to do if that is wrong. Nothing is written, but for the
//! genesis state in a store of its own; a conductor may run meanwhile.

use std::{fs, io::Write, sync::Arc};

use alloy_primitives::U64;
use clap::ValueEnum;
use counterpoint_core::chain_spec::{BlobParams, Fork};
use counterpoint_service::doctor::{self, Check, Finding};
use eyre::OptionExt;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    Config,
    chain_spec::Specification,
    engine::{EngineClient, EngineError, FORKCHOICE, new_payload},
    evm::{DiskStore, Store},
    mode::Mode,
    thin::{Ipc, probe},
};

/// How many blocks back geth keeps the state without an archive.
const KEPT_STATES: u64 = 128;
/// What a client answers that does not know a method.
const UNKNOWN_METHOD: i64 = -32_601;

/// How to tell.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Doctor {
    /// How results are shown.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Judges what a client has answered.
fn answer(
    check: &str,
    answer: Result<Value, EngineError>,
    judge: impl FnOnce(&Value) -> Finding,
) -> Check {
    match answer {
        Ok(value) => Check::of(check, judge(&value)),
        Err(EngineError::Rpc {
            code: UNKNOWN_METHOD,
            ..
        }) => Check::unknown(
            check,
            "the client does not tell",
            "compare the client's flags with docs/operator-guide.md",
        ),
        Err(error) => {
            let advice = match error {
                EngineError::Secret { .. } | EngineError::Unauthorized(_) => {
                    "give both the same file with 64 hexadecimal digits, and set both clocks by NTP"
                }
                EngineError::Unreachable { .. } => {
                    "start the client, and set engine_url to its authenticated port"
                }
                EngineError::Rpc { .. } | EngineError::Malformed { .. } => {
                    "engine_url must be the authenticated port of an execution client"
                }
            };
            Check::of(check, Err((error.to_string(), advice)))
        }
    }
}

pub(crate) async fn work(
    config: Config,
    args: Doctor,
    shutdown: CancellationToken,
) -> eyre::Result<()> {
    let checks = shutdown.run_until_cancelled(examine(&config)).await;
    let checks = checks.ok_or_eyre("stopped")??;
    let text = match args.output {
        Output::Json => serde_json::to_string_pretty(&checks)? + "\n",
        Output::Text => checks.iter().map(Check::line).collect(),
    };
    std::io::stdout().write_all(text.as_bytes())?;
    doctor::conclude(&checks)
}

/// Looks at everything that a conductor needs, and at its client.
///
/// # Errors
/// A store of its own cannot be written.
pub async fn examine(config: &Config) -> eyre::Result<Vec<Check>> {
    let others = [
        config.grpc_listen.map(|address| ("grpc_listen", address)),
        config.rpc_listen.map(|address| ("rpc_listen", address)),
    ];
    let others: Vec<_> = others.into_iter().flatten().collect();
    let mut checks = doctor::ports(config.http_listen, &others).await;
    checks.push(doctor::room("data_dir", &config.data_dir));
    let (check, trusted) = doctor::trust(&config.sequencer_genesis);
    checks.push(check);
    if let Some(trusted) = trusted {
        checks.extend(doctor::sequencers(&config.sequencers, trusted.chain_id()).await);
    }
    let scratch = config.data_dir.join("doctor");
    let specification = tokio::task::block_in_place(|| {
        let store: Arc<dyn Store> = Arc::new(DiskStore::open(&scratch, config.cache_bytes())?);
        Ok::<_, eyre::Report>(Specification::load(&config.rollup_genesis, store.as_ref()))
    })?;
    fs::remove_dir_all(&scratch)?;
    let specification = match specification {
        Ok(specification) => specification,
        Err(error) => {
            let advice = "rollup_genesis must be what `counterpoint genesis rollup` writes";
            checks.push(Check::of(
                "rollup genesis",
                Err((error.to_string(), advice)),
            ));
            return Ok(checks);
        }
    };
    let found = format!("block 0 is {}", specification.genesis_header().hash_slow());
    checks.push(Check::of("rollup genesis", Ok(found)));
    checks.extend(client(config, &specification).await);
    if config.mode == Mode::Thin {
        checks.push(Check::of("thin mode", thin(config, &specification).await));
    }
    Ok(checks)
}

async fn client(config: &Config, specification: &Specification) -> Vec<Check> {
    let client = match EngineClient::new(&config.engine_url, &config.jwt_file) {
        Ok(client) => client,
        Err(error) => return vec![answer("jwt", Err(error), |_| Ok(String::new()))],
    };
    let chain_id = client.call("eth_chainId", json!([])).await;
    let there = !matches!(
        chain_id,
        Err(EngineError::Unreachable { .. } | EngineError::Unauthorized(_))
    );
    let judge = |value: &Value| judge_chain_id(value, specification);
    let mut checks = vec![answer("chain id", chain_id, judge)];
    if !there {
        return checks;
    }
    checks.push(Check::of("jwt", Ok("accepted".into())));
    let us =
        json!({ "code": "CP", "name": "counterpoint", "version": "1", "commit": "0x00000000" });
    let version = client.call("engine_getClientVersionV1", json!([us])).await;
    let is_geth = version
        .as_ref()
        .is_ok_and(|version: &Value| version[0]["code"] == "GE");
    checks.push(answer("client", version, |told| {
        Ok(format!(
            "{} {}",
            text(&told[0]["name"]),
            text(&told[0]["version"])
        ))
    }));
    let capabilities = client
        .call("engine_exchangeCapabilities", json!([[]]))
        .await;
    let judge = |value: &Value| judge_methods(value, specification);
    checks.push(answer("engine methods", capabilities, judge));
    let block = |tag: &str| client.call("eth_getBlockByNumber", json!([tag, false]));
    let judge = |value: &Value| judge_genesis(value, specification);
    checks.push(answer("client genesis", block("0x0").await, judge));
    let head: Result<Value, EngineError> = block("latest").await;
    let (time, number) = head
        .as_ref()
        .map(|head| (number(&head["timestamp"]), number(&head["number"])))
        .unwrap_or_default();
    let schedule = client.call("eth_config", json!([])).await;
    checks.push(answer("fork schedule", schedule, |value| {
        judge_forks(value, specification, time.unwrap_or_default())
    }));
    checks.push(answer("gas limit", head, |head| {
        judge_gas_limit(head, specification)
    }));
    let now = jsonwebtoken::get_current_timestamp();
    checks.push(Check::of("clock", judge_clock(time, now)));
    let syncing = client.call("eth_syncing", json!([])).await;
    checks.push(answer("syncing", syncing, judge_syncing));
    let count = "eth_getBlockTransactionCountByNumber";
    let pending = client.call(count, json!(["pending"])).await;
    checks.push(answer("pool", pending, judge_pool));
    if is_geth && number.is_some_and(|number| number > KEPT_STATES) {
        let nobody = "0x0000000000000000000000000000000000000000";
        let old = client.call("eth_getBalance", json!([nobody, "0x0"])).await;
        checks.push(Check::of("archive", judge_archive(&old)));
    }
    checks
}

/// Whether the client can do what thin mode asks of it.
async fn thin(config: &Config, specification: &Specification) -> Finding {
    let advice = "see docs/operator-guide.md, thin mode, or set mode to embedded";
    let path = config.testing_ipc.as_deref();
    let path = path.ok_or_else(|| ("testing_ipc is not set".to_owned(), advice))?;
    match probe(&Ipc::new(path), specification).await {
        Ok(()) => Ok("an empty block was built".into()),
        Err(error) => Err((format!("{error:#}"), advice)),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

/// A quantity of JSON-RPC.
fn number(value: &Value) -> Option<u64> {
    let number: U64 = serde_json::from_value(value.clone()).ok()?;
    Some(number.to())
}

fn judge_chain_id(told: &Value, specification: &Specification) -> Finding {
    let (theirs, ours) = (number(told), specification.chain_id());
    let advice = "initialise the client with rollup_genesis, or set engine_url to the right one";
    match theirs {
        Some(theirs) if theirs == ours => Ok(ours.to_string()),
        _ => Err((
            format!("the client says {told}, rollup_genesis {ours}"),
            advice,
        )),
    }
}

fn judge_genesis(told: &Value, specification: &Specification) -> Finding {
    let ours = specification.genesis_header().hash_slow().to_string();
    let advice = "remove the client's chain data and initialise it with rollup_genesis";
    match text(&told["hash"]) {
        theirs if theirs == ours => Ok(ours),
        theirs => Err((format!("block 0 is {theirs}, not {ours}"), advice)),
    }
}

/// All methods that the rollup's forks will ever need.
fn judge_methods(told: &Value, specification: &Specification) -> Finding {
    let needed = specification.forks().map(new_payload).chain([FORKCHOICE]);
    let known = |name: &str| {
        let told = told.as_array().into_iter().flatten();
        told.map(text).any(|told| told == name)
    };
    let mut missing = needed.filter(|name| !known(name));
    match missing.next() {
        None => Ok("all that the forks need".into()),
        Some(first) => Err((
            format!("the client does not know {first}"),
            "install a newer one",
        )),
    }
}

/// Compares the schedule that EIP-7910 tells with ours, around the client's head.
fn judge_forks(told: &Value, specification: &Specification, head_time: u64) -> Finding {
    let spec = specification.chain_spec();
    let genesis_time = specification.genesis_header().timestamp;
    let active = spec
        .forks
        .iter()
        .filter(|(_, time)| *time <= head_time.max(genesis_time));
    let later = spec
        .forks
        .iter()
        .find(|(_, time)| *time > head_time.max(genesis_time));
    let advice =
        "give the client the genesis file that the conductor has: init again keeps its blocks";
    // The one of forks at the same time that comes last.
    for (name, ours) in [("current", active.max()), ("next", later)] {
        let told = &told[name];
        let (Some((fork, time)), false) = (ours, told.is_null()) else {
            if ours.is_some() || !told.is_null() {
                let ours = ours.map_or_else(|| "no fork".into(), |fork| format!("{fork:?}"));
                let found = format!("{name}: the client has {told}, rollup_genesis {ours}");
                return Err((found, advice));
            }
            continue;
        };
        // What is active at genesis counts from 0.
        let time = if *time <= genesis_time { 0 } else { *time };
        let theirs = told["activationTime"].as_u64();
        if theirs != Some(time) {
            let theirs = &told["activationTime"];
            let found =
                format!("{name}: the client is at {theirs}, rollup_genesis has {fork:?} at {time}");
            return Err((found, advice));
        }
        let blobs = spec.blobs.iter().find(|blobs| blobs.fork == *fork);
        if let Some(ours) = blobs.filter(|ours| !same_blobs(&told["blobSchedule"], ours)) {
            let theirs = &told["blobSchedule"];
            let found = format!("{name}: blob schedule is {theirs}, rollup_genesis has {ours:?}");
            return Err((found, advice));
        }
    }
    let forks = spec
        .forks
        .iter()
        .map(|(fork, _): &(Fork, u64)| format!("{fork:?}"));
    Ok(forks.collect::<Vec<_>>().join(", "))
}

fn same_blobs(told: &Value, ours: &BlobParams) -> bool {
    told["target"] == ours.target
        && told["max"] == ours.max
        && told["baseFeeUpdateFraction"] == ours.update_fraction
}

fn judge_gas_limit(head: &Value, specification: &Specification) -> Finding {
    let (theirs, ours) = (
        number(&head["gasLimit"]),
        specification.genesis_header().gas_limit,
    );
    let advice =
        "the head was not made by this rollup's conductor: docs/runbook/conductor-halted.md";
    match theirs {
        Some(theirs) if theirs == ours => Ok(ours.to_string()),
        _ => Err((
            format!("the head has {}, registered is {ours}", head["gasLimit"]),
            advice,
        )),
    }
}

fn judge_clock(head_time: Option<u64>, now: u64) -> Finding {
    match head_time {
        None => Err((
            "the client tells no head".into(),
            "look at the client's log",
        )),
        Some(time) => doctor::clock(time, now),
    }
}

fn judge_syncing(told: &Value) -> Finding {
    match told {
        Value::Bool(false) => Ok("no".into()),
        told => Err((
            format!("the client syncs from peers: {told}"),
            "start it without peers: --nodiscover --maxpeers 0, or what its manual calls that",
        )),
    }
}

/// What stands in a block that the client would make holds what its own pool has taken in.
fn judge_pool(told: &Value) -> Finding {
    match number(told) {
        Some(0) => Ok("empty".into()),
        _ => Err((
            format!("the client's own pool has transactions that no block will hold: {told}"),
            "start geth with --txpool.pricelimit 18446744073709551615, and send wallets to the composer",
        )),
    }
}

fn judge_archive(old: &Result<Value, EngineError>) -> Finding {
    match old {
        Ok(_) => Ok("old states are there".into()),
        Err(error) => Err((
            error.to_string(),
            "after kill -9 geth may come back at block 0: --state.scheme hash --gcmode archive",
        )),
    }
}

#[cfg(test)]
mod tests {
    use counterpoint_service::doctor::Verdict;

    use super::*;
    use crate::testing::{CHAIN_ID, GENESIS_TIME, specification};

    fn blobs() -> Value {
        let spec = specification();
        let blobs = spec.chain_spec().blobs.last().unwrap();
        json!({
            "target": blobs.target,
            "max": blobs.max,
            "baseFeeUpdateFraction": blobs.update_fraction,
        })
    }

    #[track_caller]
    fn wrong(finding: Finding, expected: &str) {
        let (found, advice) = finding.unwrap_err();
        assert!(found.contains(expected), "{found}");
        assert!(!advice.is_empty());
    }

    #[test]
    fn a_client_of_another_rollup_is_told() {
        let spec = specification();
        assert!(judge_chain_id(&json!(format!("{CHAIN_ID:#x}")), &spec).is_ok());
        wrong(
            judge_chain_id(&json!("0x1"), &spec),
            "rollup_genesis 412000",
        );
        wrong(judge_chain_id(&json!(null), &spec), "says null");
        let hash = spec.genesis_header().hash_slow();
        assert!(judge_genesis(&json!({ "hash": hash }), &spec).is_ok());
        wrong(
            judge_genesis(&json!({ "hash": "0x00" }), &spec),
            "block 0 is 0x00",
        );
        wrong(judge_genesis(&json!(null), &spec), "block 0 is ?");
        assert!(judge_gas_limit(&json!({ "gasLimit": "0x1c9c380" }), &spec).is_ok());
        wrong(
            judge_gas_limit(&json!({ "gasLimit": "0x1" }), &spec),
            "registered is 30000000",
        );
    }

    #[test]
    fn another_fork_schedule_is_told() {
        let spec = specification();
        let now = GENESIS_TIME + 9;
        let current = json!({ "activationTime": 0, "blobSchedule": blobs() });
        let told = json!({ "current": current, "next": null });
        assert!(judge_forks(&told, &spec, now).is_ok());
        assert!(judge_forks(&told, &spec, 0).is_ok());
        let next = json!({ "current": current, "next": current });
        wrong(judge_forks(&next, &spec, now), "next: the client has");
        let mut late = told.clone();
        late["current"]["activationTime"] = json!(now);
        wrong(judge_forks(&late, &spec, now), "current: the client is at");
        let mut other = told;
        other["current"]["blobSchedule"]["max"] = json!(1);
        wrong(judge_forks(&other, &spec, now), "blob schedule");
        wrong(
            judge_forks(&json!({}), &spec, now),
            "current: the client has null",
        );
    }

    #[test]
    fn what_a_client_lacks_is_told() {
        let spec = specification();
        let all = json!([
            "engine_newPayloadV3",
            "engine_newPayloadV4",
            "engine_forkchoiceUpdatedV3"
        ]);
        assert!(judge_methods(&all, &spec).is_ok());
        wrong(
            judge_methods(&json!(["engine_newPayloadV3"]), &spec),
            "does not know",
        );
        assert!(judge_clock(Some(100), 100).is_ok());
        wrong(judge_clock(None, 0), "no head");
        assert!(judge_syncing(&json!(false)).is_ok());
        wrong(
            judge_syncing(&json!({ "currentBlock": "0x1" })),
            "currentBlock",
        );
        assert!(judge_pool(&json!("0x0")).is_ok());
        wrong(judge_pool(&json!("0x2")), "0x2");
    }

    #[test]
    fn an_answer_that_is_none_is_told_apart() {
        let rpc = |code| {
            let (method, message) = ("eth_config", "no".into());
            Err(EngineError::Rpc {
                method,
                code,
                message,
            })
        };
        let verdict = |code| answer("x", rpc(code), |_| Ok(String::new())).verdict;
        assert_eq!(verdict(UNKNOWN_METHOD), Verdict::Unknown);
        assert_eq!(verdict(-32_000), Verdict::Wrong);
        let refused = Err(EngineError::Unauthorized("stale token".into()));
        let check = answer("jwt", refused, |_| Ok(String::new()));
        let line = check.line();
        assert!(line.starts_with("WRONG   jwt "), "{line}");
        assert!(line.contains("to do: give both the same file"), "{line}");
    }
}
