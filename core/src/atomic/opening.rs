/// The next second from `from` on at which slots of all these lengths begin.
#[must_use]
pub fn next_opening(from: u64, slot_secs: impl Iterator<Item = u8>) -> u64 {
    let period = slot_secs.map(u64::from).fold(1, lcm);
    let periods = from.div_ceil(period.max(1));
    periods.saturating_mul(period)
}

fn lcm(a: u64, b: u64) -> u64 {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x.checked_rem(y).unwrap_or(0));
    }
    a.checked_div(x).unwrap_or(0).saturating_mul(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_of_several_lengths_begin_together_at_common_multiples() {
        let next = |from, secs: &[u8]| next_opening(from, secs.iter().copied());
        assert_eq!(next(100, &[1, 1]), 100);
        assert_eq!(next(101, &[2, 3]), 102);
        assert_eq!(next(103, &[2, 3]), 108);
        assert_eq!(next(1, &[12, 60, 7]), 420);
        assert_eq!(next(0, &[1]), 0);
    }
}
