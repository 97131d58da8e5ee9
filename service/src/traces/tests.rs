use std::{
    collections::BTreeSet,
    future::pending,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    http::StatusCode,
    routing::{MethodRouter, post},
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest, trace::v1::Span,
};
use prost::Message;

use super::*;

fn hash(number: u64) -> [u8; 32] {
    use counterpoint_core::primitive::Hash;
    *Hash::digest(&[b"trace", &number.to_be_bytes()]).as_bytes()
}

#[test]
fn one_in_so_many_is_sampled_and_more_of_the_same_if_more_are() {
    let sampled = |every| {
        let every = NonZero::new(every).unwrap();
        (0..20_000)
            .filter(|number| is_sampled(&hash(*number), every))
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(sampled(1).len(), 20_000);
    let (hundredth, tenth) = (sampled(100), sampled(10));
    assert!((150..250).contains(&hundredth.len()), "{hundredth:?}");
    assert!((1_850..2_150).contains(&tenth.len()), "{}", tenth.len());
    assert!(hundredth.is_subset(&tenth));
}

#[test]
fn spans_of_a_transaction_are_apart_and_hang_together() {
    let hops = [
        Hop::Submit,
        Hop::Queue,
        Hop::Sequence,
        Hop::Track,
        Hop::Execute,
        Hop::Head,
    ];
    let spans = hops.map(|hop| span(hop, &hash(1), SystemTime::now(), Vec::new()));
    let context = |span: &SpanData| span.span_context.clone();
    let traces: BTreeSet<_> = spans
        .iter()
        .map(|span| context(span).trace_id().to_bytes())
        .collect();
    assert_eq!(traces, BTreeSet::from([hash(1)[..16].try_into().unwrap()]));
    let ids: BTreeSet<_> = spans
        .iter()
        .map(|span| context(span).span_id().to_bytes())
        .collect();
    assert_eq!(ids.len(), hops.len());
    let orphans = spans
        .iter()
        .filter(|span| !ids.contains(&span.parent_span_id.to_bytes()));
    let orphans: Vec<_> = orphans.map(|span| span.name.as_ref()).collect();
    assert_eq!(orphans, ["composer.intake.submit"]);
}

#[test]
fn what_never_ends_is_forgotten() {
    let mut open = Open::default();
    let key = |number| (Hop::Queue, hash(number));
    for number in 0..=MAX_OPEN as u64 {
        open.begin(key(number));
    }
    assert_eq!(open.begun.len(), MAX_OPEN);
    assert_eq!(open.end(&key(0)), None);
    let begun = open.end(&key(1)).unwrap();
    assert!(begun <= SystemTime::now());
    assert_eq!(open.end(&key(1)), None);
}

/// A collector that keeps what it is sent.
async fn collector(spans: Arc<Mutex<Vec<Span>>>) -> CollectorUrl {
    serve(post(async move |body: Bytes| {
        let request = ExportTraceServiceRequest::decode(body).unwrap();
        let resources = request.resource_spans.into_iter();
        let scopes = resources.flat_map(|resource| resource.scope_spans);
        let told = scopes.flat_map(|scope| scope.spans);
        spans.lock().unwrap().extend(told);
        StatusCode::OK
    }))
    .await
}

async fn serve(handler: MethodRouter) -> CollectorUrl {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let routes = Router::new().route("/v1/traces", handler);
    tokio::spawn(async move { axum::serve(listener, routes).await });
    CollectorUrl::try_from(url).unwrap()
}

/// An exporter that nothing but this test tells of spans.
fn begin_export(url: CollectorUrl) -> (Traces, Exporter) {
    let settings = TraceSettings {
        url,
        sample_every: NonZero::<u64>::MIN,
        resource: vec![("rollup", "alpha".into())],
    };
    tracing_of("test", settings).unwrap()
}

#[tokio::test]
async fn a_collector_gets_the_spans() {
    let spans = Arc::<Mutex<Vec<Span>>>::default();
    let (traces, exporter) = begin_export(collector(Arc::clone(&spans)).await);
    let attributes = vec![Attribute::Number("height", 7)];
    traces.tell(span(Hop::Head, &hash(1), SystemTime::now(), attributes));
    traces.tell(span(Hop::Execute, &hash(1), SystemTime::now(), Vec::new()));
    exporter.finish().await;
    let spans = spans.lock().unwrap();
    let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, [Hop::Head.name(), Hop::Execute.name()]);
    assert_eq!(spans[0].trace_id, hash(1)[..16]);
    assert_eq!(spans[0].parent_span_id, spans[1].span_id);
    assert!(spans[0].end_time_unix_nano >= spans[0].start_time_unix_nano);
    let keys: Vec<&str> = spans[0]
        .attributes
        .iter()
        .map(|one| one.key.as_str())
        .collect();
    assert_eq!(keys, ["tx_hash", "height"]);
}

#[tokio::test]
async fn nobody_waits_for_a_collector_that_hangs() {
    let url = serve(post(async || pending::<StatusCode>().await)).await;
    let (traces, exporter) = begin_export(url);
    for number in 0..10 * MAX_WAITING as u64 {
        traces.tell(span(
            Hop::Submit,
            &hash(number),
            SystemTime::now(),
            Vec::new(),
        ));
    }
    assert_eq!(traces.spans.capacity(), 0, "what has no room is gone");
    exporter.finish().await;
}

#[test]
fn a_url_of_another_kind_is_refused() {
    for wrong in ["https://collector:4318", "collector:4318", "http://", ""] {
        let refused = CollectorUrl::try_from(wrong.to_owned()).unwrap_err();
        assert!(refused.contains("must be http://HOST:PORT"), "{refused}");
    }
    assert!(CollectorUrl::try_from("http://collector:4318".to_owned()).is_ok());
}
