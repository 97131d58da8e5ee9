//! Configuration in layers, later ones winning: file, environment, flags.

use std::path::{Path, PathBuf};

use figment::{
    Figment,
    error::Kind,
    providers::{Env, Format, Serialized, Toml},
};
use serde::{Serialize, de::DeserializeOwned};

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
    fn check(toml: &str, flags: serde_json::Value, expect: Result<(&str, &str), &str>) {
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
}
