//! One newtype per file: the words that all other modules speak in.

mod address;
mod amount;
mod evm_address;
mod hash;
mod height;
mod nonce;
mod rollup_id;

pub use address::{Address, AddressError};
pub use amount::Amount;
pub use evm_address::EvmAddress;
pub(crate) use hash::parse_hex;
pub use hash::{Hash, HexError};
pub use height::Height;
pub use nonce::Nonce;
pub use rollup_id::RollupId;

/// Serialises a type through its `Display` and `FromStr`.
macro_rules! serde_by_string {
    ($type:ty) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text: String = serde::Deserialize::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use serde_by_string;
