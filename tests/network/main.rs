//! Whole networks of real processes: CometBFT, geth and our services, from a wallet to the head.
#![expect(clippy::unwrap_used, reason = "a broken expectation fails the test")]

mod adversary;
mod attesters;
mod batches;
mod bundle_clients;
mod bundles;
mod composer_kills;
mod crashes;
mod differential;
mod documents;
mod engine;
mod evidence;
mod exit;
mod fallback;
mod faults;
mod forged;
mod grammar;
mod join;
mod links;
mod partitions;
mod proxy;
mod receipts;
mod refusals;
mod road;
mod slots;
mod snapshot;
mod soak;
mod solidity;
mod supervisor;
mod support;
mod terms;
mod thin;
mod trust;
mod upgrade;
mod validators;
mod wallets;
