//! A transaction's trace, from a wallet's call to the head, at a collector; and what logs and metrics
//! say meanwhile: their fields and names are an interface, too.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use alloy_primitives::{B256, hex};
use alloy_provider::Provider;
use axum::{Router, body::Bytes, http::StatusCode, routing::post};
use counterpoint_service::{Metrics, sequencer};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::any_value::Value as AnyValue,
    trace::v1::{ResourceSpans, Span},
};
use prost::Message;
use serde_json::Value;

use crate::support::{Network, raw_transfer, receipt, wait_for};

/// The spans of a transaction, each after the one before it has begun.
const HOPS: [(&str, &str); 6] = [
    ("counterpoint-composer", "composer.intake.submit"),
    ("counterpoint-composer", "composer.queue.wait"),
    ("counterpoint-composer", "composer.submitter.sequence"),
    ("counterpoint-conductor", "conductor.assembler.execute"),
    ("counterpoint-conductor", "conductor.committer.head"),
    ("counterpoint-composer", "composer.tracker.track"),
];
/// The processes that are started with other settings.
const RENEWED: [&str; 3] = ["val-0-app", "composer", "alpha-conductor"];

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_leads_from_the_wallet_to_the_head() {
    let mut network = Network::start(1, 1).await;
    let spans = Spans::default();
    let program = with_settings(&network, &collect(spans.clone()).await);
    for process in RENEWED {
        network.devnet.kill(process).await.unwrap();
        network.devnet.install(process, &program).unwrap();
        network.devnet.launch(process).await.unwrap();
    }
    let chain_id = network.info.rollups[0].evm_chain_id;
    let raw = raw_transfer(&network, chain_id, 2, 0, |request| request).await;
    let hash = wait_for("the composer to take a transaction", || async {
        let sent = network.wallet(0, 2).send_raw_transaction(&raw).await;
        Some(*sent.ok()?.tx_hash())
    })
    .await;
    receipt(&network.geth(0), hash).await;
    let trace = wait_for("all spans of a transaction", || async {
        let trace = spans.of(hash);
        (trace.len() >= HOPS.len()).then_some(trace)
    })
    .await;
    spans_hang_together(&trace, hash);
    logs_are_json(&network);
    alarms_are_exported(&network).await;
    network.stop().await;
}

/// A program that runs ours with a collector and other logs.
fn with_settings(network: &Network, collector: &str) -> PathBuf {
    let program = network.layout().dir.join("with-settings");
    let mut script = "#!/bin/sh\n".to_owned();
    for service in ["APP", "COMPOSER", "CONDUCTOR"] {
        script += &format!("export COUNTERPOINT_{service}_LOG_FORMAT=json\n");
    }
    for service in ["COMPOSER", "CONDUCTOR"] {
        script += &format!("export COUNTERPOINT_{service}_OTLP_URL={collector}\n");
        script += &format!("export COUNTERPOINT_{service}_OTLP_SAMPLE_EVERY=1\n");
    }
    script += &format!(
        "exec '{}' \"$@\"\n",
        env!("CARGO_BIN_EXE_counterpoint-under-test")
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    program
}

/// What a collector was told: spans, and whose they are.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<(String, Span)>>>);

impl Spans {
    fn take(&self, told: ResourceSpans) {
        let attributes = told.resource.unwrap().attributes;
        let name = attributes.iter().find(|one| one.key == "service.name");
        let Some(AnyValue::StringValue(service)) = name.and_then(|name| name.value.clone()?.value)
        else {
            panic!("a service without a name: {attributes:?}");
        };
        let spans = told.scope_spans.into_iter().flat_map(|scope| scope.spans);
        let spans = spans.map(|span| (service.clone(), span));
        self.0.lock().unwrap().extend(spans);
    }

    /// The trace of a transaction, in the order in which its spans began.
    fn of(&self, hash: B256) -> Vec<(String, Span)> {
        let spans = self.0.lock().unwrap();
        let of_trace = spans.iter().filter(|(_, span)| span.trace_id == hash[..16]);
        let mut trace: Vec<_> = of_trace.cloned().collect();
        trace.sort_by_key(|(_, span)| span.start_time_unix_nano);
        trace
    }
}

/// A collector that takes everything.
async fn collect(spans: Spans) -> String {
    let take = async move |body: Bytes| {
        let request = ExportTraceServiceRequest::decode(body).unwrap();
        request
            .resource_spans
            .into_iter()
            .for_each(|told| spans.take(told));
        StatusCode::OK
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let routes = Router::new().route("/v1/traces", post(take));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    url
}

/// One root; every other span has its parent in the same trace, and begins after it.
fn spans_hang_together(trace: &[(String, Span)], hash: B256) {
    let told: BTreeMap<&str, (&str, &Span)> = trace
        .iter()
        .map(|(service, span)| (span.name.as_str(), (service.as_str(), span)))
        .collect();
    assert_eq!(trace.len(), told.len(), "each hop once: {trace:#?}");
    let ids: BTreeMap<&[u8], &Span> = trace
        .iter()
        .map(|(_, span)| (span.span_id.as_slice(), span))
        .collect();
    let mut begun = 0;
    for (service, name) in HOPS {
        let (by, span) = told[name];
        assert_eq!(by, service, "{name}");
        assert!(
            span.end_time_unix_nano >= span.start_time_unix_nano,
            "{name}"
        );
        if name == HOPS[0].1 {
            assert_eq!(span.parent_span_id, [0_u8; 0], "the root");
        } else {
            let parent = ids[span.parent_span_id.as_slice()];
            assert!(
                span.start_time_unix_nano >= parent.start_time_unix_nano,
                "{name}"
            );
        }
        // The composer may see the place of a transaction only after it has run.
        if name != "composer.tracker.track" {
            assert!(span.start_time_unix_nano >= begun, "{name}");
            begun = span.start_time_unix_nano;
        }
        let says = |key: &str| span.attributes.iter().any(|one| one.key == key);
        assert!(says("tx_hash"), "{name} of {}", hex::encode(hash));
    }
    let head = told["conductor.committer.head"].1;
    let place = told["conductor.assembler.execute"].1;
    let ordered = told["composer.submitter.sequence"].1;
    let value = |span: &Span, key: &str| {
        let attribute = span.attributes.iter().find(|one| one.key == key);
        attribute.unwrap().value.clone()
    };
    for key in ["height", "index"] {
        assert_eq!(value(place, key), value(ordered, key), "{key}");
    }
    let tracked = told["composer.tracker.track"].1;
    assert_eq!(value(head, "block_number"), value(tracked, "block_number"));
}

/// One line for each block, whose fields people look for.
fn logs_are_json(network: &Network) {
    let lines = [
        ("val-0-app", "committed", &["height", "transactions"][..]),
        ("composer", "sequenced", &["nonce", "height", "items"]),
        (
            "alpha-conductor",
            "executed",
            &[
                "number",
                "hash",
                "transactions",
                "gas_used",
                "cursor_height",
                "cursor_index",
            ],
        ),
    ];
    for (process, message, fields) in lines {
        let log = network.log(process);
        let lines = log
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut said = lines.filter(|line| line["fields"]["message"] == message);
        let line = said
            .next_back()
            .unwrap_or_else(|| panic!("{process}: no {message}"));
        assert_eq!(line["level"], "INFO", "{line}");
        for field in fields {
            assert!(line["fields"].get(field).is_some(), "{field} in {line}");
        }
    }
}

/// What alerts are about is there before anything is wrong.
async fn alarms_are_exported(network: &Network) {
    let services: [(&str, &[&Metrics]); 3] = [
        (
            &network.info.validators[0].http,
            &[&counterpoint_app::METRICS],
        ),
        (
            &network.info.composer.http,
            &[&counterpoint_composer::METRICS, &sequencer::METRICS],
        ),
        (
            &network.info.rollups[0].conductor_http,
            &[&counterpoint_conductor::METRICS, &sequencer::METRICS],
        ),
    ];
    for (http, metrics) in services {
        let counters = metrics.iter().flat_map(|one| one.counters);
        let counters: BTreeSet<&str> = counters.map(|(name, _)| *name).collect();
        let alarms = metrics.iter().flat_map(|one| one.alarms);
        let text = reqwest::get(format!("{http}/metrics")).await.unwrap();
        let text = text.text().await.unwrap();
        for alarm in alarms.filter(|alarm| counters.contains(*alarm)) {
            // Its labels are known only when it happens, and its alert is about a rate.
            if *alarm == "composer_refused_total" {
                continue;
            }
            let is_there = text.lines().any(|line| line.starts_with(alarm));
            assert!(is_there, "{http} exports no {alarm}");
        }
    }
}
