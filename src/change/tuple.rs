//! A row's values as they came over the wire. A cell that an update left out because its TOASTed value
//! did not change is a kind of its own here, so that nothing can take it for NULL.

use std::sync::Arc;

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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Null,
    Unchanged,
    /// Start and end within the body.
    Text(u32, u32),
}

/// The values of one row, in the order of [`super::Relation::columns`]. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tuple(Arc<Values>);

#[derive(Debug)]
struct Values {
    body: Vec<u8>,
    slots: Vec<Slot>,
}

impl Tuple {
    /// Number of columns.
    pub fn len(&self) -> usize {
        self.0.slots.len()
    }

    /// Whether there are no columns at all, which is legal in Postgres.
    pub fn is_empty(&self) -> bool {
        self.0.slots.is_empty()
    }

    /// The cell of that column. Panics when out of range: the decoder has checked the number of columns
    /// against the relation.
    pub fn cell(&self, column: usize) -> Cell<'_> {
        match self.0.slots[column] {
            Slot::Null => Cell::Null,
            Slot::Unchanged => Cell::Unchanged,
            Slot::Text(start, end) => Cell::Text(&self.0.body[start as usize..end as usize]),
        }
    }

    /// All cells, in order.
    pub fn cells(&self) -> impl Iterator<Item = Cell<'_>> {
        (0..self.len()).map(|column| self.cell(column))
    }

    /// Whether some value was left out.
    pub fn has_unchanged(&self) -> bool {
        self.0.slots.contains(&Slot::Unchanged)
    }

    /// Bytes kept in memory.
    pub fn size(&self) -> usize {
        self.0.body.len() + self.len() * size_of::<Slot>() + 64
    }
}

/// Puts a tuple together; texts are copied in, so that a tuple pins no read buffer and its size is
/// what it says.
#[derive(Debug, Default)]
pub struct TupleBuilder {
    body: Vec<u8>,
    slots: Vec<Slot>,
}

impl TupleBuilder {
    /// An empty tuple that will own its values.
    pub fn new(columns: usize) -> Self {
        TupleBuilder::with_room(columns, 0)
    }

    /// The same, for about so many bytes of text.
    pub fn with_room(columns: usize, bytes: usize) -> Self {
        TupleBuilder { body: Vec::with_capacity(bytes), slots: Vec::with_capacity(columns) }
    }

    /// Appends a cell, copying its text. The texts of one tuple come to less than 4 GiB together: a
    /// Postgres message is shorter than that.
    pub fn push(&mut self, cell: Cell<'_>) {
        self.slots.push(match cell {
            Cell::Null => Slot::Null,
            Cell::Unchanged => Slot::Unchanged,
            Cell::Text(text) => {
                let start = self.body.len() as u32;
                self.body.extend_from_slice(text);
                Slot::Text(start, self.body.len() as u32)
            }
        });
    }

    /// The finished tuple.
    pub fn build(mut self) -> Tuple {
        self.body.shrink_to_fit();
        self.slots.shrink_to_fit();
        Tuple(Arc::new(Values { body: self.body, slots: self.slots }))
    }
}

impl<'a> FromIterator<Cell<'a>> for Tuple {
    fn from_iter<I: IntoIterator<Item = Cell<'a>>>(cells: I) -> Self {
        let cells = cells.into_iter();
        let mut builder = TupleBuilder::new(cells.size_hint().0);
        cells.for_each(|cell| builder.push(cell));
        builder.build()
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
    }
}
