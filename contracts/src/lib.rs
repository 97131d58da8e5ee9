//! The contracts of atomic bundles: where they are, what they are, and how to call them.
//!
//! The sources are in `solidity/`, what the pinned compiler makes of them in `generated/`, and a test
//! compares the two. [`IAtomicMailbox`] is made from the source itself.

mod mail;
#[cfg(any(test, feature = "test-utils"))]
pub mod scenarios;

use alloy_genesis::GenesisAccount;
use alloy_primitives::{Address, B256, Bytes, address, hex};

pub use self::{
    bindings::{Caller, IAtomicMailbox, Message},
    mail::Mail,
};

mod bindings {
    alloy_sol_types::sol!(
        #![sol(all_derives)]
        "solidity/IAtomicMailbox.sol"
    );
}

/// The deterministic deployment proxy, which creates what it is sent by CREATE2 on every EVM chain.
pub const DEPLOYER: Address = address!("4e59b44847b379578588920cA78FbF26c0B4956C");

/// The proxy's code.
pub const DEPLOYER_CODE: [u8; 69] = hex!(
    "7fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"
    "e03601600081602082378035828234f58015156039578182fd5b8082525050506014600cf3"
);

/// The salt that our contracts are created with.
pub const SALT: B256 = B256::ZERO;

/// `AtomicMailbox`, on every rollup.
pub const MAILBOX: Address = address!("47DeB2eF86C859852119b9c322ec63693192f26A");

/// The mailbox's code.
pub const MAILBOX_CODE: &[u8] = &decode::<{ MAILBOX_HEX.len() / 2 }>(MAILBOX_HEX);

/// What creates the mailbox; it takes no arguments.
pub const MAILBOX_INIT_CODE: &[u8] = &decode::<{ MAILBOX_INIT_HEX.len() / 2 }>(MAILBOX_INIT_HEX);

/// What creates an `AtomicToken`, once its arguments are appended.
pub const TOKEN_INIT_CODE: &[u8] = &decode::<{ TOKEN_INIT_HEX.len() / 2 }>(TOKEN_INIT_HEX);

const MAILBOX_HEX: &[u8] = include_bytes!("../generated/AtomicMailbox.runtime.hex");
const MAILBOX_INIT_HEX: &[u8] = include_bytes!("../generated/AtomicMailbox.init.hex");
const TOKEN_INIT_HEX: &[u8] = include_bytes!("../generated/AtomicToken.init.hex");

const fn decode<const N: usize>(text: &[u8]) -> [u8; N] {
    match hex::const_decode_to_array(text) {
        Ok(code) => code,
        Err(_) => panic!("generated code is hexadecimal"),
    }
}

/// What a rollup's genesis should hold: the proxy, whose own transaction has no chain id and is thus
/// refused by many rollups, and the mailbox as the proxy would create it.
#[must_use]
pub fn predeploys() -> [(Address, GenesisAccount); 2] {
    [(DEPLOYER, &DEPLOYER_CODE[..]), (MAILBOX, MAILBOX_CODE)].map(|(address, code)| {
        let account = GenesisAccount {
            nonce: Some(1),
            code: Some(Bytes::from_static(code)),
            ..GenesisAccount::default()
        };
        (address, account)
    })
}

#[cfg(test)]
mod tests;
