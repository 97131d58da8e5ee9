//! The charts on a real Kubernetes API server: its admission, its controllers, its scheduler, and Helm as
//! operators use it. There are no containers: kwok pretends to be the nodes, so probes, network policies and
//! what runs inside are not seen here.
//!
//! `just k8s` runs it and ends with tables of what passed, which stand in `docs/kubernetes.md`.
#![expect(clippy::unwrap_used, reason = "a broken expectation fails the test")]

mod cluster;
mod life;
mod refusals;
#[path = "../charts/render.rs"]
#[allow(dead_code, reason = "what charts render is looked at elsewhere")]
mod render;
mod report;

use crate::{cluster::Cluster, report::Report};

#[test]
#[ignore = "builds a control plane on first use, 13 minutes: `just k8s`"]
fn charts_live_on_a_real_api_server() {
    let cluster = Cluster::start().unwrap();
    let mut report = Report::default();
    life::check(&cluster, &mut report);
    refusals::check(&cluster, &mut report);
    report.finish();
}
