//! What the chain's state has of a bundle, proven down to headers that the validators signed.

use counterpoint_core::{
    atomic::AtomicBundle,
    light::TrustedState,
    primitive::{EvmAddress, Hash, Height, RollupId},
    state::{BundleRecord, BundleStatus, Key},
};
use counterpoint_service::sequencer::{Client, proven_record};
use eyre::bail;
use serde_json::{Value, json};

use super::file::BundleFile;

pub(super) struct Verifier {
    client: Client,
    trusted: TrustedState,
}

impl Verifier {
    pub(super) fn new(client: Client, trusted: TrustedState) -> Self {
        Self { client, trusted }
    }

    /// How far the chain was when it was asked the last time.
    pub(super) fn height(&self) -> Height {
        self.trusted.height()
    }

    /// A bundle's record, and the height that left it.
    pub(super) async fn record(
        &mut self,
        id: Hash,
    ) -> eyre::Result<Option<(BundleRecord, Height)>> {
        let key = Key::Bundle(id);
        let proven = proven_record(&self.client, &mut self.trusted, &key).await?;
        Ok(proven.record.map(|record| (record, proven.height)))
    }

    /// The same, if every transaction is sealed by its own sender. The bundle's identifier does not say
    /// who signed, and a stranger's seal is inert: it would not keep anybody from running a leg alone.
    pub(super) async fn sealed(
        &mut self,
        file: &BundleFile,
        bundle: &AtomicBundle,
    ) -> eyre::Result<Option<(BundleRecord, Height)>> {
        let id = bundle.id();
        let Some(known) = self.record(id).await? else {
            return Ok(None);
        };
        for (place, sender) in file.senders()? {
            let leg = &bundle.terms().legs[place.leg];
            let key = Key::Seal(leg.rollup_id, leg.txs[place.tx].tx_hash, sender);
            let seal = proven_record::<Hash>(&self.client, &mut self.trusted, &key).await?;
            if seal.record != Some(id) {
                bail!(
                    "{place}: bundle 0x{id} is on the chain without a seal by {sender}: somebody else has \
                     submitted it with other auths. Reveal nothing; build it again"
                );
            }
        }
        Ok(Some(known))
    }
}

/// A bundle's record for people and programs.
pub(super) fn shown(
    id: Hash,
    record: &BundleRecord,
    height: Height,
    file: Option<&BundleFile>,
) -> Value {
    let mut shown = json!({
        "bundle_id": format!("0x{id}"),
        "stage": record.status.to_string(),
        "sealed_at": record.height,
        "attempts_left": record.attempts_left,
        "valid_until": record.valid_until,
        "height": height,
        "verified": true,
    });
    if let BundleStatus::Aborted(reason) = record.status {
        shown["reason"] = reason.explain(|id| rollup_name(id, record, file)).into();
    }
    if let Some(release) = &record.release {
        shown["released_at"] = json!(release.pin.height.get().saturating_add(1));
        let blocks = release.legs.iter().enumerate().map(|(leg, released)| {
            json!({
                "rollup": name(leg, record, file),
                "block": released.block_number,
                "confirmed": released.confirmed,
            })
        });
        shown["legs"] = blocks.collect();
    }
    shown
}

fn rollup_name(id: &RollupId, record: &BundleRecord, file: Option<&BundleFile>) -> String {
    let leg = record.legs.iter().position(|leg| leg.rollup_id == *id);
    leg.map(|leg| name(leg, record, file)).unwrap_or_default()
}

fn name(leg: usize, record: &BundleRecord, file: Option<&BundleFile>) -> String {
    match file.and_then(|file| file.bundle.legs.get(leg)) {
        Some(leg) => leg.rollup.clone(),
        None => record
            .legs
            .get(leg)
            .map(|leg| format!("0x{}", leg.rollup_id))
            .unwrap_or_default(),
    }
}

/// Whose auth is missing or not the sender's, before anything is sent.
pub(super) fn unsigned(file: &BundleFile, bundle: &AtomicBundle) -> eyre::Result<()> {
    for (place, sender) in file.senders()? {
        let sealed = &bundle.terms().legs[place.leg].txs[place.tx];
        let signer: Option<EvmAddress> = bundle.signer(&sealed.tx_hash, &sealed.auth);
        if signer != Some(sender) {
            bail!("{place}: {sender} has not signed for it: run `counterpoint bundle sign` first");
        }
    }
    Ok(())
}
