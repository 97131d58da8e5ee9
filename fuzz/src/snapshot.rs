//! A conductor's snapshot: every frame of a file, whoever wrote it. The code is the conductor's own, by
//! its path: a conductor with its EVM and its HTTP client would make the fuzzers' build long.

#[path = "../../conductor/src/snapshot/format.rs"]
mod format;

use self::format::{FormatError, Reader, Section, Writer};

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let file = |bytes: usize| {
        let mut writer = Writer::new(Vec::new())?;
        for section in [
            Section::Head,
            Section::Blocks,
            Section::Accounts,
            Section::Code,
        ] {
            writer.frame(section, &vec![section as u8; bytes])?;
        }
        Ok::<_, FormatError>(writer.finish()?.1)
    };
    [0, 3, 300]
        .map(|bytes| file(bytes).expect("memory takes all bytes"))
        .into()
}

/// What is read to its end is written again as it was.
pub(crate) fn run(data: &[u8]) {
    if let Ok(again) = copy(data) {
        assert_eq!(again, data, "accepted, but not canonical");
    }
}

fn copy(data: &[u8]) -> Result<Vec<u8>, FormatError> {
    let mut reader = Reader::new(data)?;
    let mut writer = Writer::new(Vec::new())?;
    loop {
        let frame = reader.next()?;
        match frame.section {
            Section::End => return Ok(writer.finish()?.1),
            section => writer.frame(section, &frame.payload)?,
        }
    }
}
