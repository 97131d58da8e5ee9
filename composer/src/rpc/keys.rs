//! API keys: who has one is counted by it, wherever it calls from.

use std::{path::Path, sync::Arc};

use eyre::{WrapErr, ensure, eyre};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Shortest key, in characters.
const MIN_CHARS: usize = 16;

/// A key's owner.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) name: String,
    pub(crate) calls_per_second: Option<u32>,
    pub(crate) calls_burst: Option<u32>,
}

/// All keys, of which only digests are kept.
#[derive(Debug, Default)]
pub(crate) struct Keys(Vec<([u8; 32], Arc<Key>)>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    keys: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    key: Option<String>,
    sha256: Option<String>,
    calls_per_second: Option<u32>,
    calls_burst: Option<u32>,
}

impl Keys {
    /// Reads a file of keys.
    ///
    /// # Errors
    /// It cannot be read, or an entry is wrong; no key is shown.
    pub(crate) fn read(path: &Path) -> eyre::Result<Self> {
        let text = std::fs::read_to_string(path);
        let keys = text.map_err(Into::into).and_then(|text| Self::parse(&text));
        keys.wrap_err_with(|| format!("limits: api_keys {}", path.display()))
    }

    fn parse(text: &str) -> eyre::Result<Self> {
        // What is shown of an error must not be the line with the key.
        let file: File = toml::from_str(text).map_err(|error| eyre!("{}", error.message()))?;
        let mut keys: Vec<([u8; 32], Arc<Key>)> = Vec::with_capacity(file.keys.len());
        for entry in file.keys {
            let digest = entry.digest().wrap_err_with(|| entry.name.clone())?;
            let taken =
                |(other, key): &([u8; 32], Arc<Key>)| *other == digest || key.name == entry.name;
            ensure!(!keys.iter().any(taken), "{}: listed twice", entry.name);
            let key = Key {
                name: entry.name,
                calls_per_second: entry.calls_per_second,
                calls_burst: entry.calls_burst,
            };
            keys.push((digest, Arc::new(key)));
        }
        Ok(Self(keys))
    }

    /// Whose key this is. It takes the same time for every key.
    #[must_use]
    pub(crate) fn find(&self, key: &str) -> Option<Arc<Key>> {
        let digest = digest(key);
        let mut found = None;
        for (known, key) in &self.0 {
            if bool::from(known.ct_eq(&digest)) {
                found = Some(Arc::clone(key));
            }
        }
        found
    }
}

impl Entry {
    fn digest(&self) -> eyre::Result<[u8; 32]> {
        match (&self.key, &self.sha256) {
            (Some(key), None) => {
                let is_long = key.chars().count() >= MIN_CHARS;
                ensure!(is_long, "a key has at least {MIN_CHARS} characters");
                Ok(digest(key))
            }
            (None, Some(hash)) => {
                let bytes = hex::decode(hash).ok().and_then(|hash| hash.try_into().ok());
                bytes.ok_or_else(|| eyre!("sha256 is not 64 hexadecimal digits"))
            }
            _ => Err(eyre!("either key or sha256 is needed")),
        }
    }
}

fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_plain_or_hashed() {
        let hash = hex::encode(digest("another secret of it"));
        let text = format!(
            "[[keys]]\nname = 'one'\nkey = 'a secret of sixteen'\ncalls_per_second = 7\n\
             [[keys]]\nname = 'two'\nsha256 = '{hash}'\n"
        );
        let keys = Keys::parse(&text).unwrap();
        let name = |key| keys.find(key).map(|key| key.name.clone());
        assert_eq!(name("a secret of sixteen").as_deref(), Some("one"));
        assert_eq!(name("another secret of it").as_deref(), Some("two"));
        assert_eq!(
            (name(""), name(&hash), name("a secret of sixteen ")),
            (None, None, None)
        );
        assert_eq!(keys.0[0].1.calls_per_second, Some(7));
    }

    #[test]
    fn what_is_wrong_is_named_and_no_key_shown() {
        let check = |text: &str, expect: &str| {
            let error = format!("{:#}", Keys::parse(text).unwrap_err());
            assert!(
                error.contains(expect) && !error.contains("secret"),
                "{error}"
            );
        };
        check(
            "[[keys]]\nname = 'one'\nkey = 'secret'",
            "one: a key has at least 16",
        );
        check("[[keys]]\nname = 'one'", "one: either key or sha256");
        check(
            "[[keys]]\nname = 'one'\nsha256 = 'secret'",
            "one: sha256 is not 64",
        );
        check("[[keys]]\nname = 'one'\nkey = secret", "");
        check("[[keys]]\nname = 'one'\nkeys = 'secret'", "keys");
        let twice = "[[keys]]\nname = 'one'\nkey = 'a secret of sixteen'\n";
        check(&twice.repeat(2), "one: listed twice");
    }
}
