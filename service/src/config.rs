//! Configuration in layers, later ones winning: file, environment, flags.

use std::path::{Path, PathBuf};

use axum::http::Uri;
use figment::{
    Figment,
    error::Kind,
    providers::{Env, Format, Serialized, Toml},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// Why a service cannot be configured. Exit code 78 (`EX_CONFIG`).
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file named on the command line does not exist.
    #[error("configuration file {} does not exist", .0.display())]
    NoFile(PathBuf),
    /// A key that no service of this kind has.
    #[error("unknown configuration key `{key}`{hint}")]
    UnknownKey {
        /// The key, as written.
        key: String,
        /// What was probably meant, ready to be appended.
        hint: String,
    },
    /// A key that has no value anywhere.
    #[error(
        "configuration key `{key}` is missing: set it in the file, as {variable} or as --{flag}"
    )]
    Missing {
        /// The key.
        key: String,
        /// The environment variable that sets it.
        variable: String,
        /// The flag that sets it.
        flag: String,
    },
    /// A value of the wrong kind, or a file that is not TOML.
    #[error("invalid configuration: {0}")]
    Invalid(String),
    /// A key that names a file which is not there.
    #[error("{key}: {} is not a file", .path.display())]
    NotThere {
        /// The key.
        key: String,
        /// What it says.
        path: PathBuf,
    },
    /// A key that is no URL.
    #[error("{key}: {url} is not a URL like http://127.0.0.1:9090")]
    NoUrl {
        /// The key.
        key: String,
        /// What it says.
        url: String,
    },
    /// A file that does not hold what it should.
    #[error("{0}")]
    File(String),
}

/// Loads the configuration of `service` ("app", "composer", "conductor"). `flags` must leave out
/// what was not given on the command line.
///
/// # Errors
/// [`ConfigError`] names the key and says what to do.
pub fn load<C: DeserializeOwned>(
    service: &str,
    file: Option<&Path>,
    flags: impl Serialize,
) -> Result<C, ConfigError> {
    let mut layers = Figment::new();
    if let Some(file) = file {
        if !file.is_file() {
            return Err(ConfigError::NoFile(file.into()));
        }
        layers = layers.merge(Toml::file_exact(file));
    }
    let prefix = format!("COUNTERPOINT_{}_", service.to_uppercase());
    let layers = layers
        .merge(Env::prefixed(&prefix))
        .merge(Serialized::defaults(flags));
    layers.extract().map_err(|error| explain(&prefix, &error))
}

/// Names the first key that is about a file that is not there, or that is no URL.
///
/// # Errors
/// [`ConfigError::NotThere`] or [`ConfigError::NoUrl`].
pub fn check(config: &impl Serialize) -> Result<(), ConfigError> {
    let config = serde_json::to_value(config);
    let config = config.map_err(|error| ConfigError::Invalid(error.to_string()))?;
    check_value("", "", &config)
}

/// `name` is the key, `at` where it is.
fn check_value(at: &str, name: &str, value: &Value) -> Result<(), ConfigError> {
    match value {
        Value::Object(table) => table.iter().try_for_each(|(name, value)| {
            let inner = if at.is_empty() {
                name.clone()
            } else {
                format!("{at}.{name}")
            };
            check_value(&inner, name, value)
        }),
        Value::Array(values) if values.is_empty() && name == "sequencers" => Err(
            ConfigError::Invalid(format!("{at} is empty: name a node at least")),
        ),
        Value::Array(values) => (0..)
            .zip(values)
            .try_for_each(|(place, value)| check_value(&format!("{at}[{place}]"), name, value)),
        Value::String(path) if names_file(name) && !Path::new(path).exists() => {
            Err(ConfigError::NotThere {
                key: at.into(),
                path: path.into(),
            })
        }
        Value::String(url) if names_url(name) && !is_url(url) => Err(ConfigError::NoUrl {
            key: at.into(),
            url: url.clone(),
        }),
        _ => Ok(()),
    }
}

fn names_file(key: &str) -> bool {
    key.ends_with("_file") || key.ends_with("genesis") || key == "api_keys"
}

fn names_url(key: &str) -> bool {
    key.ends_with("_url") || key == "cometbft_rpc" || key == "sequencers"
}

fn is_url(text: &str) -> bool {
    let uri: Result<Uri, _> = text.parse();
    uri.is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some_and(|host| !host.is_empty())
    })
}

fn explain(prefix: &str, error: &figment::Error) -> ConfigError {
    match &error.kind {
        Kind::UnknownField(key, known) => {
            let similar = |name: &&&str| strsim::levenshtein(key, name) <= 3;
            let nearest = known
                .iter()
                .filter(similar)
                .min_by_key(|name| strsim::levenshtein(key, name));
            let hint = nearest
                .map(|name| format!("; did you mean `{name}`?"))
                .unwrap_or_default();
            ConfigError::UnknownKey {
                key: key.clone(),
                hint,
            }
        }
        Kind::MissingField(key) => ConfigError::Missing {
            variable: format!("{prefix}{}", key.to_uppercase()),
            flag: key.replace('_', "-"),
            key: key.to_string(),
        },
        _ => ConfigError::Invalid(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Example {
        grpc_listen: String,
        #[serde(default)]
        data_dir: String,
    }

    #[track_caller]
    fn check(toml: &str, flags: Value, expect: Result<(&str, &str), &str>) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("service.toml");
        std::fs::write(&file, toml).unwrap();
        let actual = load::<Example>("example", Some(&file), flags);
        let expect = expect.map(|(grpc_listen, data_dir)| Example {
            grpc_listen: grpc_listen.into(),
            data_dir: data_dir.into(),
        });
        assert_eq!(
            actual.map_err(|error| error.to_string()),
            expect.map_err(str::to_owned)
        );
    }

    #[test]
    fn flags_win_over_the_file() {
        let none = serde_json::json!({});
        check("grpc_listen = 'a'\ndata_dir = 'd'", none, Ok(("a", "d")));
        let flags = serde_json::json!({ "grpc_listen": "b" });
        check("grpc_listen = 'a'\ndata_dir = 'd'", flags, Ok(("b", "d")));
    }

    #[test]
    fn mistakes_are_named() {
        let none = || serde_json::json!({});
        check(
            "grpc_listn = 'a'",
            none(),
            Err("unknown configuration key `grpc_listn`; did you mean `grpc_listen`?"),
        );
        check(
            "",
            none(),
            Err(
                "configuration key `grpc_listen` is missing: set it in the file, as \
                 COUNTERPOINT_EXAMPLE_GRPC_LISTEN or as --grpc-listen",
            ),
        );
        let missing = load::<Example>("example", Some(Path::new("/nowhere.toml")), none());
        assert!(matches!(missing, Err(ConfigError::NoFile(_))));
    }

    #[test]
    fn files_and_urls_are_looked_at() {
        let wrong = |config: Value| super::check(&config).unwrap_err().to_string();
        let config = |url: &str| {
            serde_json::json!({
                "sequencers": ["http://127.0.0.1:9090"],
                "key_file": "/dev/null",
                "rollups": [{ "name": "alpha", "execution_url": url }],
            })
        };
        super::check(&config("https://alpha.example.org/rpc")).unwrap();
        for url in [
            "alpha",
            "127.0.0.1:8545",
            "ws://127.0.0.1:8545",
            "http://",
            "",
        ] {
            let expected =
                format!("rollups[0].execution_url: {url} is not a URL like http://127.0.0.1:9090");
            assert_eq!(wrong(config(url)), expected);
        }
        let mut other = config("http://a");
        other["sequencers"] = serde_json::json!([]);
        assert!(wrong(other.clone()).contains("sequencers is empty"));
        other["sequencers"] = serde_json::json!(["http://a", "b"]);
        assert!(wrong(other).starts_with("sequencers[1]: b is not a URL"));
        let mut other = config("http://a");
        other["key_file"] = serde_json::json!("/no/such/key");
        assert_eq!(wrong(other), "key_file: /no/such/key is not a file");
    }
}
