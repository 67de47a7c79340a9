//! A row's values as they came over the wire. A cell that an update left out because its TOASTed value
//! did not change is a kind of its own here, so that nothing can take it for NULL.

use std::fmt;
use std::iter::repeat_n;
use std::sync::Arc;

use smallvec::SmallVec;

/// One value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell<'a> {
    /// SQL NULL.
    Null,
    /// Stored out of line and left alone by the update: not sent, and not NULL.
    Unchanged,
    /// The output function's text, in UTF-8 as far as the source's encoding could be converted.
    Text(&'a [u8]),
}

impl<'a> Cell<'a> {
    /// The text, where there is one.
    pub fn text(self) -> Option<&'a [u8]> {
        match self {
            Cell::Text(bytes) => Some(bytes),
            Cell::Null | Cell::Unchanged => None,
        }
    }
}

/// The values of one row, in the order of [`super::Relation::columns`]. Cheap to clone.
///
/// One piece of memory, since there is one for every change: the texts, then a slot for each column, then how many these are.
#[derive(Clone)]
pub struct Tuple(Arc<[u8]>);

/// Where a text starts and ends; in place of the start, that there is none.
type Slot = [u32; 2];

const SLOT_BYTES: usize = size_of::<Slot>();
const COUNT_BYTES: usize = size_of::<u32>();
const NULL: u32 = u32::MAX;
const UNCHANGED: u32 = u32::MAX - 1;

impl Tuple {
    /// The tuple of these. Texts are copied in, so that a tuple pins no read buffer and its size is what it says; together they come to
    /// less than 4 GiB, since a Postgres message is shorter than that.
    pub fn new(cells: &[Cell<'_>]) -> Self {
        let texts: usize = cells.iter().filter_map(|cell| cell.text()).map(<[u8]>::len).sum();
        let mut bytes: Arc<[u8]> = repeat_n(0, texts + cells.len() * SLOT_BYTES + COUNT_BYTES).collect();
        let all = Arc::get_mut(&mut bytes).expect("nobody else has it yet");
        let (body, slots) = all.split_at_mut(texts);
        let mut end = 0;
        for (slot, cell) in slots.chunks_exact_mut(SLOT_BYTES).zip(cells) {
            let numbers: Slot = match cell {
                Cell::Null => [NULL; 2],
                Cell::Unchanged => [UNCHANGED; 2],
                Cell::Text(text) => {
                    let start = end;
                    end += text.len();
                    body[start..end].copy_from_slice(text);
                    [start as u32, end as u32]
                }
            };
            slot.copy_from_slice(numbers.map(u32::to_ne_bytes).as_flattened());
        }
        all[texts + cells.len() * SLOT_BYTES..].copy_from_slice(&(cells.len() as u32).to_ne_bytes());
        Tuple(bytes)
    }

    /// Number of columns.
    pub fn len(&self) -> usize {
        number(&self.0, self.0.len() - COUNT_BYTES) as usize
    }

    /// Whether there are no columns at all, which is legal in Postgres.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The cell of that column. Panics when out of range: the decoder has checked the number of columns
    /// against the relation.
    pub fn cell(&self, column: usize) -> Cell<'_> {
        let columns = self.len();
        assert!(column < columns, "a cell of a column that the tuple doesn't have");
        self.slot_cell(self.0.len() - COUNT_BYTES - (columns - column) * SLOT_BYTES)
    }

    fn slot_cell(&self, place: usize) -> Cell<'_> {
        match [number(&self.0, place), number(&self.0, place + SLOT_BYTES / 2)] {
            [NULL, _] => Cell::Null,
            [UNCHANGED, _] => Cell::Unchanged,
            [start, end] => Cell::Text(&self.0[start as usize..end as usize]),
        }
    }

    /// Where the slots are.
    fn slots(&self) -> impl Iterator<Item = usize> {
        let end = self.0.len() - COUNT_BYTES;
        (end - self.len() * SLOT_BYTES..end).step_by(SLOT_BYTES)
    }

    /// All cells, in order.
    pub fn cells(&self) -> impl Iterator<Item = Cell<'_>> {
        self.slots().map(|place| self.slot_cell(place))
    }

    /// Whether some value was left out.
    pub fn has_unchanged(&self) -> bool {
        self.slots().any(|place| number(&self.0, place) == UNCHANGED)
    }

    /// Bytes kept in memory.
    pub fn size(&self) -> usize {
        self.0.len() + 64
    }
}

impl fmt::Debug for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.cells()).finish()
    }
}

fn number(bytes: &[u8], place: usize) -> u32 {
    let four = bytes[place..].first_chunk().expect("slots and count are written whole");
    u32::from_ne_bytes(*four)
}

/// Cells on their way into a tuple, mostly not so many that they need memory of their own.
pub type Cells<'a> = SmallVec<[Cell<'a>; 24]>;

impl<'a> FromIterator<Cell<'a>> for Tuple {
    fn from_iter<I: IntoIterator<Item = Cell<'a>>>(cells: I) -> Self {
        Tuple::new(&cells.into_iter().collect::<Cells<'a>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_come_back_as_they_went_in() {
        let cells =
            [Cell::Text(b"a"), Cell::Null, Cell::Text(b""), Cell::Unchanged, Cell::Text("é".as_bytes())];
        let tuple: Tuple = cells.into_iter().collect();
        assert_eq!(tuple.cells().collect::<Vec<_>>(), cells);
        assert!(tuple.has_unchanged());
        for (column, cell) in cells.into_iter().enumerate() {
            assert_eq!(tuple.cell(column), cell);
        }
        let none: Tuple = std::iter::empty().collect();
        assert!(none.is_empty() && !none.has_unchanged() && none.cells().next().is_none());
    }
}
