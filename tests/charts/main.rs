//! The charts, rendered by Helm as operators render them: what comes out, what is refused, and
//! whether alerts and dashboards are about metrics that there are.
#![expect(clippy::unwrap_used, reason = "a broken expectation fails the test")]

mod config;
mod devnet;
mod objects;
mod pods;
mod refusals;
mod render;
mod schemas;
mod telemetry;
