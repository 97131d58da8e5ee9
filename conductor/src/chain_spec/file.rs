//! Reads a genesis file account by account, however many it has.

use std::{fmt, io::Read};

use alloy_genesis::{Genesis, GenesisAccount};
use alloy_primitives::{Address, B256, Keccak256, keccak256};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, Visitor};
use serde_json::{Map, Value, json};

use super::GenesisError;

/// Takes in one account after the other.
pub(super) type Accounts<'a> = dyn FnMut(Address, &GenesisAccount) -> Result<(), GenesisError> + 'a;

/// Gives the file's accounts to `accounts`, in their order, and returns the rest of it.
pub(super) fn read(file: impl Read, accounts: &mut Accounts<'_>) -> Result<Genesis, GenesisError> {
    let mut refused = Ok(());
    let mut json = serde_json::Deserializer::from_reader(file);
    let parsed = Document {
        accounts,
        refused: &mut refused,
    }
    .deserialize(&mut json)
    .and_then(|genesis| json.end().map(|()| genesis));
    refused?;
    Ok(parsed?)
}

/// The whole file.
struct Document<'a, 'b> {
    accounts: &'a mut Accounts<'b>,
    /// The parser has no place for errors that are not its own.
    refused: &'a mut Result<(), GenesisError>,
}

impl<'de> DeserializeSeed<'de> for Document<'_, '_> {
    type Value = Genesis;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Genesis, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Document<'_, '_> {
    type Value = Genesis;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a genesis file")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut fields: M) -> Result<Genesis, M::Error> {
        let mut rest = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            if rest.contains_key(&name) {
                return Err(M::Error::custom(format!("duplicate field `{name}`")));
            }
            let value = if name == "alloc" {
                let (accounts, refused) = (&mut *self.accounts, &mut *self.refused);
                fields.next_value_seed(Alloc { accounts, refused })?;
                json!({})
            } else {
                fields.next_value()?
            };
            rest.insert(name, value);
        }
        serde_json::from_value(Value::Object(rest)).map_err(M::Error::custom)
    }
}

/// The field `alloc`.
struct Alloc<'a, 'b> {
    accounts: &'a mut Accounts<'b>,
    refused: &'a mut Result<(), GenesisError>,
}

impl<'de> DeserializeSeed<'de> for Alloc<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Alloc<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("accounts by address")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut accounts: M) -> Result<(), M::Error> {
        while let Some((address, account)) = accounts.next_entry()? {
            if let Err(error) = (self.accounts)(address, &account) {
                *self.refused = Err(error);
                return Err(M::Error::custom("refused"));
            }
        }
        Ok(())
    }
}

/// Tells accounts apart from others, in the order of the file.
#[derive(Default)]
pub(super) struct Digest(Keccak256);

impl Digest {
    pub(super) fn add(&mut self, address: Address, account: &GenesisAccount) {
        let code = account.code.as_ref().map_or(&[][..], |code| code);
        self.0.update(address);
        self.0
            .update(account.nonce.unwrap_or_default().to_be_bytes());
        self.0.update(account.balance.to_be_bytes::<32>());
        self.0.update(keccak256(code));
        let mut slots = Keccak256::new();
        for (slot, value) in account.storage.iter().flatten() {
            slots.update(slot);
            slots.update(value);
        }
        self.0.update(slots.finalize());
    }

    pub(super) fn finish(self) -> B256 {
        self.0.finalize()
    }
}
