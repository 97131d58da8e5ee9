//! What a disk without room does to the node.

use std::path::Path;

use counterpoint_service::{ConfigError, disk::full};

/// A fault, with the state of a full disk: what the database says of a write that follows a failed
/// one does not name the cause.
pub(crate) fn explain(fault: eyre::Report, path: &Path) -> eyre::Report {
    match full(path) {
        Some(why) if !fault.is::<ConfigError>() => fault.wrap_err(why),
        _ => fault,
    }
}

#[cfg(test)]
mod tests;
