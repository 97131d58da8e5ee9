use borsh::{BorshDeserialize, BorshSerialize, io};

use crate::primitive::Height;

/// Schedules other rules from a height on, in place of what was scheduled before. For the authority
/// alone. Scheduling the version in force calls off what was planned.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize)]
pub struct ScheduleUpgrade {
    height: Height,
    name: String, // Invariant: 1..=MAX_NAME_BYTES of printable ASCII, since operators' logs show it.
    app_version: u64,
}

/// The name of an upgrade is empty, too long or not printable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "upgrade name must have 1..={} printable ASCII characters",
    ScheduleUpgrade::MAX_NAME_BYTES
)]
pub struct UpgradeNameError;

impl ScheduleUpgrade {
    /// Longest name, in bytes.
    pub const MAX_NAME_BYTES: usize = 64;

    /// Builds the action.
    ///
    /// # Errors
    /// [`UpgradeNameError`] unless the name is short and printable.
    pub fn new(height: Height, name: String, app_version: u64) -> Result<Self, UpgradeNameError> {
        let printable = name.chars().all(|c| c.is_ascii_graphic() || c == ' ');
        if (1..=Self::MAX_NAME_BYTES).contains(&name.len()) && printable {
            Ok(Self {
                height,
                name,
                app_version,
            })
        } else {
            Err(UpgradeNameError)
        }
    }

    /// The first height under the new rules.
    #[must_use]
    pub fn height(&self) -> Height {
        self.height
    }

    /// What operators know it by.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The version of the rules.
    #[must_use]
    pub fn app_version(&self) -> u64 {
        self.app_version
    }
}

impl BorshDeserialize for ScheduleUpgrade {
    fn deserialize_reader<R: io::Read>(reader: &mut R) -> io::Result<Self> {
        let (height, name, app_version) = BorshDeserialize::deserialize_reader(reader)?;
        Self::new(height, name, app_version)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}
