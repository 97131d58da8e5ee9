use std::{
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Args;
use counterpoint_core::{
    action::{Action, SubmitBundle},
    atomic::AtomicBundle,
    key::SecretKey,
    primitive::Height,
    state::{BundleRecord, BundleStatus},
};
use counterpoint_service::{files::read_key, sequencer::Client};
use eyre::{bail, ensure};
use serde_json::{Value, json};

use super::{
    BundleArgs,
    composer::Composer,
    file::BundleFile,
    verify::{Verifier, shown, unsigned},
};
use crate::cmd::{show, tx};

/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(200);
/// How long after a bundle's last second its end is waited for.
const MARGIN_SECS: u64 = 60;
/// How long receipts are waited for after the outcome.
const RECEIPTS: Duration = Duration::from_secs(20);

#[derive(Debug, Args)]
pub(super) struct SendArgs {
    /// The bundle file.
    file: PathBuf,
    /// JSON-RPC of a composer that pays for it; that of the development network unless given.
    #[arg(long, value_name = "URL", conflicts_with = "key")]
    composer: Option<String>,
    /// Key file of a sequencer account that pays for it, straight to a node.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Return once the transactions are revealed.
    #[arg(long)]
    no_wait: bool,
}

/// Who seals and reveals.
enum Way {
    Composer(Composer),
    Own(Client, Box<SecretKey>),
}

pub(super) async fn run(send: &SendArgs, args: &BundleArgs) -> eyre::Result<()> {
    let file = BundleFile::read(&send.file)?;
    let bundle = file.bundle()?;
    unsigned(&file, &bundle)?;
    let mut verifier = args.verifier()?;
    let way = match &send.key {
        Some(key) => Way::Own(args.node.client()?, Box::new(read_key(key)?)),
        None => {
            let url = match &send.composer {
                Some(url) => url.clone(),
                None => args.node.info()?.composer.rpc,
            };
            Way::Composer(Composer::new(url)?)
        }
    };
    // Interrupted and run again, it goes on where it was.
    if verifier.record(bundle.id()).await?.is_none() {
        way.seal(&file, &bundle).await?;
        eprintln!("sent; waiting for a proof that it is sealed");
    }
    let (record, height) = sealed(&mut verifier, &file, &bundle, &way).await?;
    eprintln!(
        "sealed at height {}: every seal is proven as of height {height}",
        record.height
    );
    if record.status == BundleStatus::Sealed {
        way.reveal(&file, &bundle).await?;
        eprintln!("revealed");
    }
    if send.no_wait {
        return show(
            &shown(bundle.id(), &record, height, Some(&file)),
            args.output,
        );
    }
    let (record, height) = outcome(&mut verifier, &bundle, &way).await?;
    let mut shown = shown(bundle.id(), &record, height, Some(&file));
    if record.release.is_some()
        && let Way::Composer(composer) = &way
    {
        shown["receipts"] = receipts(composer, &bundle).await;
    }
    show(&shown, args.output)?;
    let done = matches!(
        record.status,
        BundleStatus::Executed | BundleStatus::Unconfirmed
    );
    ensure!(done, "the bundle is {}", record.status);
    Ok(())
}

impl Way {
    async fn seal(&self, file: &BundleFile, bundle: &AtomicBundle) -> eyre::Result<()> {
        match self {
            Self::Composer(composer) => composer
                .call("counterpoint_sendBundle", json!([file.bundle]))
                .await
                .map(drop),
            Self::Own(client, key) => {
                let bundle = bundle.clone();
                let action = Action::SubmitBundle(SubmitBundle { bundle });
                tx::include(client, key, 0, vec![action]).await.map(drop)
            }
        }
    }

    async fn reveal(&self, file: &BundleFile, bundle: &AtomicBundle) -> eyre::Result<()> {
        let legs = file.reveal(bundle)?;
        match self {
            Self::Composer(composer) => {
                let id = format!("0x{}", bundle.id());
                // It may not have seen the proof yet that is here.
                let mut looks = 0;
                loop {
                    let params = json!([id, file.legs]);
                    match composer.call("counterpoint_revealBundle", params).await {
                        Err(error)
                            if error.to_string().contains("is not sealed yet") && looks < 100 =>
                        {
                            looks += 1;
                            tokio::time::sleep(LOOK).await;
                        }
                        revealed => return revealed.map(drop),
                    }
                }
            }
            Self::Own(client, key) => tx::include(client, key, 0, vec![Action::RevealLegs(legs)])
                .await
                .map(drop),
        }
    }

    /// What the composer's last try came to nothing for.
    async fn trouble(&self, bundle: &AtomicBundle) -> Option<String> {
        let Self::Composer(composer) = self else {
            return None;
        };
        let known = get(composer, bundle).await?;
        known["trouble"].as_str().map(str::to_owned)
    }

    /// Why nothing becomes of the bundle, if the composer knows.
    async fn refusal(&self, bundle: &AtomicBundle) -> Option<String> {
        let Self::Composer(composer) = self else {
            return None;
        };
        let known = get(composer, bundle).await?;
        let refused = known["stage"] == "refused";
        refused.then(|| known["reason"].as_str().unwrap_or_default().to_owned())
    }
}

async fn get(composer: &Composer, bundle: &AtomicBundle) -> Option<Value> {
    let id = format!("0x{}", bundle.id());
    composer
        .call("counterpoint_getBundle", json!([id]))
        .await
        .ok()
}

/// Waits until every seal is proven.
async fn sealed(
    verifier: &mut Verifier,
    file: &BundleFile,
    bundle: &AtomicBundle,
    way: &Way,
) -> eyre::Result<(BundleRecord, Height)> {
    loop {
        if let Some(known) = verifier.sealed(file, bundle).await? {
            return Ok(known);
        }
        if let Some(why) = way.refusal(bundle).await {
            bail!("the composer gave the bundle up: {why}");
        }
        is_in_time(bundle)?;
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until nothing changes any more; attesters that never confirm a release are not waited for longer
/// than the bundle's time.
async fn outcome(
    verifier: &mut Verifier,
    bundle: &AtomicBundle,
    way: &Way,
) -> eyre::Result<(BundleRecord, Height)> {
    let (mut last, mut trouble) = (None, None);
    loop {
        let Some((record, height)) = verifier.record(bundle.id()).await? else {
            bail!("the chain has forgotten bundle 0x{}", bundle.id());
        };
        if last != Some(record.status) {
            eprintln!("{} as of height {height}", record.status);
            last = Some(record.status);
        }
        let is_released = record.status == BundleStatus::Released;
        if !record.status.is_live() && !is_released {
            return Ok((record, height));
        }
        match is_in_time(bundle) {
            Err(_) if is_released => return Ok((record, height)),
            in_time => in_time?,
        }
        let now = way.trouble(bundle).await;
        if let Some(now) = now.filter(|now| trouble.as_ref() != Some(now)) {
            eprintln!("the composer has trouble: {now}");
            trouble = Some(now);
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn is_in_time(bundle: &AtomicBundle) -> eyre::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let until = bundle.terms().valid_until;
    ensure!(
        now <= until.saturating_add(MARGIN_SECS),
        "its time has passed: it was valid until {until}"
    );
    Ok(())
}

/// Receipts of all legs that the composer serves.
async fn receipts(composer: &Composer, bundle: &AtomicBundle) -> Value {
    let deadline = tokio::time::Instant::now() + RECEIPTS;
    loop {
        let known = get(composer, bundle).await.unwrap_or_default();
        let legs = known["legs"].as_array().cloned().unwrap_or_default();
        let txs = legs.iter().flat_map(|leg| {
            let txs = leg["transactions"].as_array().cloned().unwrap_or_default();
            txs.into_iter().map(|tx| (leg["rollup"].clone(), tx))
        });
        let receipts: Vec<Value> = txs
            .map(|(rollup, tx)| {
                let receipt = &tx["receipt"];
                json!({
                    "rollup": rollup, "hash": tx["hash"], "status": receipt["status"],
                    "blockNumber": receipt["blockNumber"], "gasUsed": receipt["gasUsed"],
                })
            })
            .collect();
        let all = receipts.iter().all(|receipt| !receipt["status"].is_null());
        if all || tokio::time::Instant::now() > deadline {
            return receipts.into();
        }
        tokio::time::sleep(LOOK).await;
    }
}
