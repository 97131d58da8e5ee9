use std::time::Duration;

use clap::Args;
use counterpoint_service::Bar;
use eyre::{OptionExt, WrapErr};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{Output, show};

/// Between two questions.
const PAUSE: Duration = Duration::from_secs(1);
/// A service that takes longer to answer is not ready.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  counterpoint ready http://127.0.0.1:9091 --wait 60")]
pub(crate) struct ReadyArgs {
    /// Where the service has its probes.
    url: String,
    /// Seconds to wait until it is ready.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    wait: u64,
    /// How to show the result.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// Says that a service is ready, or why it is not.
pub(crate) async fn run(args: ReadyArgs) -> eyre::Result<()> {
    let url = format!("{}/readyz", args.url.trim_end_matches('/'));
    let http = reqwest::Client::builder().timeout(PATIENCE).build()?;
    let deadline = Instant::now() + Duration::from_secs(args.wait);
    let bar = Bar::endless("waiting: look");
    let answer = loop {
        bar.advance(1);
        let answer = ask(&http, &url).await;
        let ready = answer.as_ref().is_ok_and(|answer| answer["ready"] == true);
        if ready || Instant::now() >= deadline {
            break answer;
        }
        sleep(PAUSE).await;
    };
    drop(bar);
    let answer = answer.wrap_err_with(|| format!("{} is not ready", args.url))?;
    let ready = answer["ready"] == true;
    match args.output {
        Output::Json => show(&answer, Output::Json)?,
        Output::Text if ready => show(&json!("ready"), Output::Text)?,
        Output::Text => {}
    }
    ready
        .then_some(())
        .ok_or_eyre(format!("{} is not ready: {}", args.url, answer["reasons"]))
}

/// What the service says of itself.
async fn ask(http: &reqwest::Client, url: &str) -> eyre::Result<Value> {
    let answer = http.get(url).send().await.wrap_err("it does not answer")?;
    answer
        .json()
        .await
        .wrap_err("it gives no answer of a service")
}
