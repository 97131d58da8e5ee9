//! A composer that ends itself, as kill −9 would, at a chosen moment of a write to its queue's log.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

/// A record of the log, by its tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Accepted = 0,
    Replaced = 1,
    Signed = 2,
    Included = 3,
    /// What compaction writes.
    Kept = 4,
}

/// How far the write of a record has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// All that led to it was done.
    Before,
    /// The file has half of it.
    Half,
    /// The file has it.
    Written,
    /// The disk has it, and nobody knows.
    Synced,
    /// The new log is the log.
    Renamed,
}

impl Moment {
    pub(super) const OF_APPEND: [Self; 4] = [Self::Before, Self::Half, Self::Written, Self::Synced];

    fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

/// The program that is started in the composer's place.
pub(super) struct Deadly {
    pub(super) program: PathBuf,
    wish: PathBuf,
}

impl Deadly {
    /// Builds what is preloaded, and the program, in a directory.
    pub(super) fn build(directory: &Path) -> Self {
        let [library, program, wish] =
            ["die.so", "deadly-composer", "die.env"].map(|name| directory.join(name));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("network/composer_kills/die.c");
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .args([&library, &source])
            .output()
            .expect("cc is not installed: install a C compiler");
        let said = String::from_utf8_lossy(&compiled.stderr);
        assert!(compiled.status.success(), "{said}");
        let script = format!(
            "#!/bin/sh\nDIE_WISH='{}'\n. \"$DIE_WISH\"\n\
             export DIE_RECORD DIE_COUNT DIE_MOMENT DIE_WISH\n\
             LD_PRELOAD='{}' exec '{}' \"$@\"\n",
            wish.display(),
            library.display(),
            env!("CARGO_BIN_EXE_counterpoint-under-test"),
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let deadly = Self { program, wish };
        deadly.live();
        deadly
    }

    /// From its next start on it ends at the `count`th such moment.
    pub(super) fn die(&self, record: Record, moment: Moment, count: u8) {
        let (tag, moment) = (record as u8, moment.name());
        let wish = format!("DIE_RECORD={tag}\nDIE_COUNT={count}\nDIE_MOMENT={moment}\n");
        fs::write(&self.wish, wish).unwrap();
    }

    /// Whether it ended as it was told to.
    pub(super) fn has_died(&self) -> bool {
        !self.wish.exists()
    }

    /// From its next start on it goes on until somebody else ends it.
    pub(super) fn live(&self) {
        fs::write(&self.wish, "").unwrap();
    }
}
