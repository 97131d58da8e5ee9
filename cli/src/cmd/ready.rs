use std::time::Duration;

use clap::Args;
use eyre::{WrapErr, bail};
use tokio::time::{Instant, sleep};

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
}

/// Says that a service is ready, or why it is not.
pub(crate) async fn run(args: ReadyArgs) -> eyre::Result<()> {
    let url = format!("{}/readyz", args.url.trim_end_matches('/'));
    let http = reqwest::Client::builder().timeout(PATIENCE).build()?;
    let deadline = Instant::now() + Duration::from_secs(args.wait);
    loop {
        let Err(reason) = ask(&http, &url).await else {
            println!("ready");
            return Ok(());
        };
        if Instant::now() >= deadline {
            return Err(reason.wrap_err(format!("{} is not ready", args.url)));
        }
        sleep(PAUSE).await;
    }
}

async fn ask(http: &reqwest::Client, url: &str) -> eyre::Result<()> {
    let answer = http.get(url).send().await.wrap_err("it does not answer")?;
    if answer.status().is_success() {
        return Ok(());
    }
    bail!("{}", answer.text().await?.trim())
}
