use std::{fs, path::PathBuf};

use alloy_consensus::crypto::secp256k1::sign_message;
use alloy_primitives::{B256, FixedBytes};
use clap::Args;
use counterpoint_core::{
    atomic::{AtomicBundle, EvmSignature, auth_digest},
    primitive::{EvmAddress, Hash},
};
use eyre::{WrapErr, ensure, eyre};
use serde_json::{Value, json};

use super::file::{BundleFile, Place};
use crate::cmd::{Output, show};

#[derive(Debug, Args)]
pub(super) struct SignArgs {
    /// The bundle file, which is written anew.
    file: PathBuf,
    /// File with the private key of an EVM account: 64 hexadecimal digits. It signs for the transactions
    /// that are its own.
    #[arg(long, value_name = "FILE")]
    evm_key: Vec<PathBuf>,
    /// A signature that was made elsewhere, such as by `cast wallet sign` or a hardware wallet.
    #[arg(long, value_name = "SIGNATURE")]
    signature: Vec<FixedBytes<65>>,
}

pub(super) fn run(args: &SignArgs, output: Output) -> eyre::Result<()> {
    let mut file = BundleFile::read(&args.file)?;
    let bundle = file.bundle()?;
    let senders = file.senders()?;
    for path in &args.evm_key {
        let key = read_key(path)?;
        let signs = |tx_hash: &Hash| sign(&bundle, tx_hash, &key);
        let count = attach(&mut file, &bundle, &senders, signs)?;
        ensure!(
            count > 0,
            "{}: no transaction of the bundle is by this account",
            path.display()
        );
    }
    for signature in &args.signature {
        // Some wallets count from 0.
        let mut signature = *signature;
        if signature[64] < 27 {
            signature[64] += 27;
        }
        let count = attach(&mut file, &bundle, &senders, |_| Ok(signature))?;
        ensure!(
            count > 0,
            "{signature}: no transaction's sender has signed this for its place in the bundle"
        );
    }
    if !(args.evm_key.is_empty() && args.signature.is_empty()) {
        file.write(&args.file)?;
    }
    let missing: Vec<_> = senders
        .into_iter()
        .filter(|(place, _)| auth(&file, *place).is_none())
        .collect();
    let wanted: Vec<Value> = missing
        .iter()
        .map(|(place, sender)| wanted(&file, &bundle, *place, sender))
        .collect();
    match output {
        Output::Json => show(
            &json!({ "bundle_id": format!("0x{}", bundle.id()), "missing": wanted }),
            output,
        ),
        Output::Text if wanted.is_empty() => {
            println!("every transaction is signed for: send it next");
            Ok(())
        }
        Output::Text => {
            for one in &wanted {
                show(one, output)?;
                println!(
                    "  cast wallet sign {}\n",
                    one["message"].as_str().unwrap_or_default()
                );
            }
            println!(
                "Sign each message as bytes (personal_sign, ERC-191), and give it back by --signature."
            );
            Ok(())
        }
    }
}

/// What a sender is to sign.
fn wanted(file: &BundleFile, bundle: &AtomicBundle, place: Place, sender: &EvmAddress) -> Value {
    let leg = &file.bundle.legs[place.leg];
    let hash = Hash::new(leg.transactions[place.tx].hash.0);
    let message = [
        b"counterpoint/leg/v1",
        file.bundle.chain_id.as_bytes(),
        bundle.id().as_bytes(),
        hash.as_bytes(),
    ]
    .concat();
    let digest = auth_digest(&file.bundle.chain_id, &bundle.id(), &hash);
    json!({
        "rollup": leg.rollup,
        "transaction": place.tx,
        "hash": format!("0x{hash}"),
        "signer": sender,
        "message": format!("0x{}", hex::encode(message)),
        "digest": format!("0x{digest}"),
    })
}

fn auth(file: &BundleFile, place: Place) -> Option<FixedBytes<65>> {
    file.bundle.legs[place.leg].transactions[place.tx].auth
}

/// Puts a signature wherever it is by the transaction's sender; gives how often.
fn attach(
    file: &mut BundleFile,
    bundle: &AtomicBundle,
    senders: &[(Place, EvmAddress)],
    signs: impl Fn(&Hash) -> eyre::Result<FixedBytes<65>>,
) -> eyre::Result<usize> {
    let mut count = 0;
    for (place, sender) in senders {
        let sealed = &mut file.bundle.legs[place.leg].transactions[place.tx];
        let hash = Hash::new(sealed.hash.0);
        let signature = signs(&hash)?;
        if bundle.signer(&hash, &EvmSignature::new(signature.0)) == Some(*sender) {
            sealed.auth = Some(signature);
            count += 1;
        }
    }
    Ok(count)
}

fn sign(bundle: &AtomicBundle, tx_hash: &Hash, key: &B256) -> eyre::Result<FixedBytes<65>> {
    let digest = auth_digest(&bundle.terms().chain_id, &bundle.id(), tx_hash);
    let signature = sign_message(*key, B256::new(*digest.as_bytes()))
        .map_err(|_| eyre!("the key is none of secp256k1"))?;
    Ok(signature.as_bytes().into())
}

fn read_key(path: &PathBuf) -> eyre::Result<B256> {
    let text = fs::read_to_string(path);
    let text = text.wrap_err_with(|| format!("failed to read key file {}", path.display()))?;
    let key: Result<B256, _> = text.trim().parse();
    // What is shown of an error must not be the key.
    key.map_err(|_| {
        eyre!(
            "key file {} does not have 64 hexadecimal digits",
            path.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use counterpoint_core::atomic::{BundleDocument, LegDocument, OnAbortDocument, SealedDocument};

    use super::*;

    /// A transfer of 5 wei by account 1 (its key is 32 bytes 1), on chain 1,001 and 1,002.
    fn file() -> BundleFile {
        use counterpoint_core::{atomic::testing::raw_transaction, primitive::RollupId};
        let mut rollups = [("alpha", 1_001), ("beta", 1_002)];
        rollups.sort_by_key(|(name, _)| RollupId::from_name(name));
        let legs = rollups.map(|(_, chain_id)| vec![raw_transaction(1, chain_id, 0).into()]);
        let leg = |((name, _), raws): (&(&str, u64), &Vec<alloy_primitives::Bytes>)| LegDocument {
            rollup: (*name).into(),
            transactions: vec![SealedDocument {
                hash: alloy_primitives::keccak256(&raws[0]),
                auth: None,
            }],
        };
        BundleFile {
            bundle: BundleDocument {
                chain_id: "test".into(),
                session_salt: B256::repeat_byte(1),
                callers: vec![],
                legs: rollups.iter().zip(&legs).map(leg).collect(),
                messages: vec![],
                valid_from: 1,
                valid_until: 2,
                on_abort: OnAbortDocument::FailFast,
                max_attempts: 1,
                extra_attesters: vec![],
                tip_per_attempt: counterpoint_core::primitive::Amount::ZERO,
            },
            legs: legs.to_vec(),
        }
    }

    #[test]
    fn a_key_signs_for_what_is_its_own_and_a_foreign_signature_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let [path, own, other] =
            ["bundle.json", "own", "other"].map(|name| directory.path().join(name));
        file().write(&path).unwrap();
        fs::write(&own, "01".repeat(32)).unwrap();
        fs::write(&other, format!("0x{}\n", "02".repeat(32))).unwrap();
        let args = |evm_key, signature| SignArgs {
            file: path.clone(),
            evm_key,
            signature,
        };
        let error = run(&args(vec![other], vec![]), Output::Json).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("no transaction of the bundle is by this account")
        );
        let foreign = FixedBytes::repeat_byte(1);
        assert!(run(&args(vec![], vec![foreign]), Output::Json).is_err());
        run(&args(vec![own], vec![]), Output::Json).unwrap();
        let signed = BundleFile::read(&path).unwrap();
        let auths = signed
            .senders()
            .unwrap()
            .into_iter()
            .map(|(place, _)| auth(&signed, place));
        let auths: Vec<_> = auths.map(Option::unwrap).collect();
        // The same signatures, made elsewhere and counted from 0.
        file().write(&path).unwrap();
        let elsewhere = auths.iter().map(|auth| {
            let mut auth = *auth;
            auth[64] -= 27;
            auth
        });
        run(&args(vec![], elsewhere.collect()), Output::Text).unwrap();
        assert_eq!(BundleFile::read(&path).unwrap().bundle, signed.bundle);
    }

    #[test]
    fn what_is_printed_to_be_signed_is_what_the_chain_recovers() {
        let file = file();
        let bundle = file.bundle().unwrap();
        let (place, sender) = file.senders().unwrap()[0];
        let wanted = wanted(&file, &bundle, place, &sender);
        let message: alloy_primitives::Bytes = wanted["message"].as_str().unwrap().parse().unwrap();
        let digest = alloy_primitives::eip191_hash_message(&message);
        assert_eq!(wanted["digest"], digest.to_string());
    }
}
