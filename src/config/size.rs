//! Sizes as Postgres writes them in its settings: a number and `kB`, `MB`, `GB` or `TB`, in powers of 1024.

const UNITS: [(&str, u32); 5] = [("TB", 40), ("GB", 30), ("MB", 20), ("kB", 10), ("B", 0)];

/// Bytes; None for anything else. A number alone is refused, since it could be of any unit.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let (number, shift) = UNITS.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)))?;
    let number = number.trim_end();
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let number: f64 = number.parse().ok().filter(|_| is_number)?;
    let bytes = number * (1u64 << shift) as f64;
    (bytes >= 1.0 && bytes < (1u64 << 60) as f64).then_some(bytes as u64)
}

/// A size for people, in the same units.
pub fn shown_size(bytes: u64) -> String {
    let (unit, shift) = UNITS.iter().find(|(_, shift)| bytes >= 1 << shift).unwrap_or(&UNITS[4]);
    let amount = bytes as f64 / (1u64 << shift) as f64;
    if amount.fract() < 0.05 { format!("{amount:.0} {unit}") } else { format!("{amount:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_postgres_reads_them_but_never_without_a_unit() {
        for (text, bytes) in [
            ("10GB", Some(10 << 30)),
            ("1.5 GB", Some(3 << 29)),
            ("64kB", Some(64 << 10)),
            ("512 MB", Some(512 << 20)),
            ("2TB", Some(2 << 40)),
            ("100B", Some(100)),
            ("10", None),
            ("10 gb", None),
            ("-1GB", None),
            ("0GB", None),
            ("1e3GB", None),
            ("GB", None),
            ("..GB", None),
            ("99999999999TB", None),
            ("", None),
        ] {
            assert_eq!(parse_size(text), bytes, "{text}");
        }
    }

    #[test]
    fn sizes_are_shown_in_the_same_units() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 kB"),
            (3 << 29, "1.5 GB"),
            (10 << 30, "10 GB"),
            (5 << 40, "5 TB"),
        ] {
            assert_eq!(shown_size(bytes), text);
        }
    }
}
