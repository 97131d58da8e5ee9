use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

use serde::{Deserialize, Serialize};

/// Where an application listens, written as CometBFT's `proxy_app` writes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ListenAddress {
    /// `unix:///run/abci.sock`.
    Unix(PathBuf),
    /// `tcp://127.0.0.1:26658`.
    Tcp(SocketAddr),
}

/// A text is no [`ListenAddress`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither unix://PATH nor tcp://IP:PORT: write what CometBFT's proxy_app says")]
pub struct ListenAddressError(String);

impl ListenAddress {
    /// Whether only this machine can connect.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp(address) => address.ip().is_loopback(),
        }
    }
}

impl FromStr for ListenAddress {
    type Err = ListenAddressError;

    fn from_str(text: &str) -> Result<Self, ListenAddressError> {
        let wrong = || ListenAddressError(text.to_owned());
        match text.split_once("://") {
            Some(("unix", path)) if !path.is_empty() => Ok(Self::Unix(path.into())),
            Some(("tcp", address)) => Ok(Self::Tcp(address.parse().map_err(|_| wrong())?)),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

impl TryFrom<String> for ListenAddress {
    type Error = ListenAddressError;

    fn try_from(text: String) -> Result<Self, ListenAddressError> {
        text.parse()
    }
}

impl From<ListenAddress> for String {
    fn from(address: ListenAddress) -> Self {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_proxy_app_writes_them() {
        for text in [
            "unix:///run/abci.sock",
            "tcp://127.0.0.1:26658",
            "tcp://[::1]:1",
        ] {
            let address: ListenAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
            assert!(address.is_local());
        }
        assert!(
            !"tcp://0.0.0.0:1"
                .parse::<ListenAddress>()
                .unwrap()
                .is_local()
        );
        for text in [
            "",
            "/run/abci.sock",
            "unix://",
            "tcp://localhost",
            "http://127.0.0.1:1",
        ] {
            assert_eq!(
                text.parse::<ListenAddress>(),
                Err(ListenAddressError(text.into()))
            );
        }
    }
}
