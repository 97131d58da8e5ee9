//! A composer, asked by JSON-RPC.

use std::time::Duration;

use eyre::{WrapErr, bail};
use serde_json::{Value, json};

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(30);

pub(super) struct Composer {
    http: reqwest::Client,
    url: String,
}

impl Composer {
    pub(super) fn new(url: String) -> eyre::Result<Self> {
        let http = reqwest::Client::builder().timeout(TIMEOUT).build()?;
        Ok(Self { http, url })
    }

    /// # Errors
    /// The composer does not answer, or refuses, in its own words.
    pub(super) async fn call(&self, method: &str, params: Value) -> eyre::Result<Value> {
        let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let answer = self.http.post(&self.url).json(&request).send().await;
        let answer = answer.wrap_err_with(|| format!("composer {}", self.url))?;
        let mut answer: Value = answer
            .json()
            .await
            .wrap_err_with(|| format!("composer {}", self.url))?;
        if let Some(error) = answer.get("error") {
            let message = error["message"]
                .as_str()
                .map_or_else(|| error.to_string(), str::to_owned);
            bail!("the composer refuses: {message}");
        }
        Ok(answer["result"].take())
    }
}
