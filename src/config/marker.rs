//! Marks places in a text with numbers, by characters that stand in no text by chance: three private-use
//! characters, drawn anew for each marker so that nobody can forge a mark, and two more that hold the number.

use std::hash::{BuildHasher, Hasher, RandomState};

/// The three characters that all marks of one marker begin with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Marker(String);

/// How many characters of each private-use plane are used; a plane's last two are no characters.
const PLANE: u32 = 0xF000;

impl Marker {
    /// Bytes of one mark.
    pub(super) const MARK_LEN: usize = 20;

    /// A marker whose marks don't occur in the text.
    pub(super) fn absent_from(text: &str) -> Marker {
        loop {
            let random = RandomState::new().build_hasher().finish();
            let prefix = [0, 16, 32].map(|shift| private_use(0xF_0000, random >> shift));
            let marker = Marker(prefix.iter().collect());
            if !text.contains(&marker.0) {
                return marker;
            }
        }
    }

    /// The mark of a number.
    pub(super) fn mark(&self, number: usize) -> String {
        let number = number as u64;
        let mut mark = self.0.clone();
        mark.push(private_use(0x10_0000, number / u64::from(PLANE)));
        mark.push(private_use(0x10_0000, number));
        mark
    }

    /// The text in pieces, each with the number of the mark that ends it; the last has none.
    pub(super) fn split<'t>(&self, text: &'t str) -> impl Iterator<Item = (&'t str, Option<usize>)> {
        let mut rest = Some(text);
        std::iter::from_fn(move || {
            let text = rest.take()?;
            let mut from = 0;
            while let Some(found) = text[from..].find(&self.0) {
                let end = from + found;
                let mut behind = text[end + self.0.len()..].chars();
                if let Some(number) = behind.next().zip(behind.next()).and_then(number_of) {
                    rest = Some(behind.as_str());
                    return Some((&text[..end], Some(number)));
                }
                from = end + self.0.len();
            }
            Some((text, None))
        })
    }
}

fn private_use(plane: u32, number: u64) -> char {
    let low = u32::try_from(number % u64::from(PLANE)).expect("less than PLANE");
    char::from_u32(plane + low).expect("a character of a private-use plane")
}

fn number_of((high, low): (char, char)) -> Option<usize> {
    let part = |c: char| u32::from(c).checked_sub(0x10_0000).filter(|&part| part < PLANE);
    Some(part(high)? as usize * PLANE as usize + part(low)? as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_come_back_with_their_numbers() {
        let marker = Marker::absent_from("");
        for number in [0, 1, 0xEFFF, 0xF000, 0xFFFF, 1_000_000] {
            let mark = marker.mark(number);
            assert_eq!(mark.len(), Marker::MARK_LEN);
            let text = format!("{}a{mark}b{mark}", marker.0);
            let head = format!("{}a", marker.0);
            let pieces: Vec<_> = marker.split(&text).collect();
            assert_eq!(pieces, [(head.as_str(), Some(number)), ("b", Some(number)), ("", None)]);
        }
    }

    #[test]
    fn another_markers_marks_are_text() {
        let (one, other) = (Marker::absent_from(""), Marker::absent_from(""));
        assert_ne!(one, other);
        let mark = other.mark(1);
        assert_eq!(one.split(&mark).collect::<Vec<_>>(), [(mark.as_str(), None)]);
    }
}
