//! How far long work is, for whoever watches it on a terminal; a log that goes elsewhere is spared.

use std::{
    io::{self, Read, Seek, SeekFrom, Write},
    sync::LazyLock,
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// All bars of this process, at the end of standard error. They hide where that is no terminal.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Between two frames of a bar.
const TICK: Duration = Duration::from_millis(200);

/// A bar that goes when it is dropped.
#[derive(Debug)]
pub struct Bar(ProgressBar);

impl Bar {
    /// Work whose end is known, in bytes.
    #[must_use]
    pub fn bytes(what: &'static str, total: u64) -> Self {
        let template = "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes}, {eta} left";
        Self::new(ProgressBar::new(total), what, template)
    }

    /// Work whose end is known, in steps.
    #[must_use]
    pub fn steps(what: &'static str, total: u64) -> Self {
        Self::new(
            ProgressBar::new(total),
            what,
            "{msg} {wide_bar} {human_pos}/{human_len}, {eta} left",
        )
    }

    /// Work whose end is not known.
    #[must_use]
    pub fn endless(what: &'static str) -> Self {
        Self::new(
            ProgressBar::no_length(),
            what,
            "{spinner} {msg} {human_pos} [{elapsed}]",
        )
    }

    fn new(bar: ProgressBar, what: &'static str, template: &str) -> Self {
        let bar = BARS.add(bar.with_message(what));
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(TICK);
        Self(bar)
    }

    /// So much more is done.
    pub fn advance(&self, by: u64) {
        self.0.inc(by);
    }

    /// So much is done.
    pub fn reach(&self, done: u64) {
        self.0.set_position(done);
    }

    /// Something that moves the bar as it is read.
    pub fn reading<R>(self, from: R) -> Reading<R> {
        Reading { from, bar: self }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A source whose bar moves.
#[derive(Debug)]
pub struct Reading<R> {
    from: R,
    bar: Bar,
}

impl<R: Read> Read for Reading<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.bar.advance(read as u64);
        Ok(read)
    }
}

impl<R: Seek> Seek for Reading<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = self.from.seek(to)?;
        self.bar.reach(position);
        Ok(position)
    }
}

/// Standard error, where lines stand above the bars.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AboveBars;

impl Write for AboveBars {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        BARS.suspend(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_follows_what_is_read() {
        let watched = Bar::bytes("reading", 9);
        let bar = watched.0.clone();
        let mut reading = watched.reading(io::Cursor::new(b"nine byte"));
        let mut buffer = [0; 4];
        assert_eq!(reading.read(&mut buffer).unwrap(), 4);
        assert_eq!(bar.position(), 4);
        reading.rewind().unwrap();
        assert_eq!(bar.position(), 0);
        drop(reading);
        assert!(bar.is_finished());
    }
}
