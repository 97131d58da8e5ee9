//! Free ports for processes that may end and come back.
//!
//! They are none of those that the kernel gives to connections: while a process is away a connection could have its
//! port, even one that somebody tries to make to that very port.

use std::{
    io,
    net::{Ipv4Addr, TcpListener},
    ops::Range,
    process,
    sync::atomic::{AtomicU32, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

/// Linux gives 32768 and above to connections, other systems 49152 and above.
const PORTS: Range<u16> = 20_000..32_768;

/// A port of this machine that nobody has, held until the listener is dropped. Another call gives another one, also
/// in another process but for bad luck.
///
/// # Errors
/// All are in use, or none may be opened.
pub fn free() -> io::Result<TcpListener> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let count = u32::from(PORTS.end - PORTS.start);
    // Processes that start together begin at different places.
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let moment = since.map_or(0, |since| since.subsec_micros());
    let first = process::id()
        .wrapping_mul(7_919)
        .wrapping_add(moment)
        .max(1);
    let _ = NEXT.compare_exchange(0, first, Ordering::Relaxed, Ordering::Relaxed);
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..count {
        let offset = NEXT.fetch_add(1, Ordering::Relaxed) % count;
        let port = PORTS
            .start
            .saturating_add(u16::try_from(offset).unwrap_or_default());
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_twice() {
        let ports = || free().unwrap().local_addr().unwrap().port();
        let (one, other) = (ports(), ports());
        assert_ne!(one, other);
        assert!(PORTS.contains(&one) && PORTS.contains(&other));
    }
}
