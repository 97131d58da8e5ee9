//! One fuzz target per decoder, all in one program: `COUNTERPOINT_FUZZ` names the target.
//!
//! The law of each: never panic, and what is accepted encodes to the bytes that came. Linking once
//! instead of a dozen times keeps the build short. Seeds are made from golden vectors and by the
//! same code that makes real messages, when a target starts; nothing is checked in.
#![no_main]

mod atomic;
mod block;
mod body;
mod execution;
mod follower;
mod frame;
mod genesis;
mod gossip;
mod light;
mod proof;
mod records;
mod samples;
mod snapshot;
mod transaction;

use std::{env, fs, path::Path, sync::OnceLock};

use borsh::{BorshDeserialize, BorshSerialize};
use libfuzzer_sys::fuzz_target;

/// A decoder under test.
struct Target {
    name: &'static str,
    /// Inputs to start from.
    seeds: fn() -> Vec<Vec<u8>>,
    run: fn(&[u8]),
}

macro_rules! targets {
    ($($module:ident),* $(,)?) => {
        &[$(Target {
            name: stringify!($module),
            seeds: $module::seeds,
            run: $module::run,
        }),*]
    };
}

const TARGETS: &[Target] = targets!(
    atomic,
    block,
    body,
    execution,
    follower,
    frame,
    genesis,
    gossip,
    light,
    proof,
    records,
    snapshot,
    transaction,
);

static CHOSEN: OnceLock<&Target> = OnceLock::new();

fuzz_target!(init: start(), |data: &[u8]| {
    if let Some(target) = CHOSEN.get() {
        (target.run)(data);
    }
});

/// Finds the target, and writes its seeds into `COUNTERPOINT_FUZZ_SEEDS`.
fn start() {
    let name = env::var("COUNTERPOINT_FUZZ").unwrap_or_default();
    let target = TARGETS.iter().find(|target| target.name == name);
    let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
    let target = target.unwrap_or_else(|| panic!("COUNTERPOINT_FUZZ is none of {names:?}"));
    if let Ok(seeds) = env::var("COUNTERPOINT_FUZZ_SEEDS") {
        for (at, seed) in (target.seeds)().into_iter().enumerate() {
            let path = Path::new(&seeds).join(format!("seed-{at}"));
            fs::write(path, seed).expect("the directory of seeds can be written");
        }
    }
    CHOSEN.get_or_init(|| target);
}

/// The law of everything that is borsh.
fn is_canonical<T: BorshDeserialize + BorshSerialize>(data: &[u8]) -> Option<T> {
    let value: T = borsh::from_slice(data).ok()?;
    assert_eq!(encode(&value), data, "accepted, but not canonical");
    Some(value)
}

/// The bytes of anything that is borsh.
fn encode<T: BorshSerialize + ?Sized>(value: &T) -> Vec<u8> {
    borsh::to_vec(value).expect("memory takes all bytes")
}
