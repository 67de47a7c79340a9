//! Columns of values as one array parameter. An array in text form is read by the element type's own input
//! function, so every value goes in exactly as its output function wrote it, whatever the type.

use bytes::{BufMut, BytesMut};
use tokio_postgres::types::{Format, IsNull, ToSql, Type};

/// An array constant in the making: `{"a",NULL,"b"}`. Every element is quoted, so none can be taken for NULL, a
/// delimiter or another array.
#[derive(Debug, Clone, Default)]
pub struct ArrayText {
    text: Vec<u8>,
    len: usize,
}

impl ArrayText {
    /// Appends an element.
    pub fn push(&mut self, value: Option<&[u8]>) {
        self.text.push(if self.len == 0 { b'{' } else { b',' });
        self.len += 1;
        let Some(value) = value else { return self.text.extend_from_slice(b"NULL") };
        self.text.push(b'"');
        let mut rest = value;
        while let Some(place) = rest.iter().position(|b| matches!(b, b'"' | b'\\')) {
            self.text.extend_from_slice(&rest[..place]);
            self.text.extend_from_slice(&[b'\\', rest[place]]);
            rest = &rest[place + 1..];
        }
        self.text.extend_from_slice(rest);
        self.text.push(b'"');
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl ToSql for ArrayText {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        if self.len == 0 {
            out.put_u8(b'{');
        }
        out.extend_from_slice(&self.text);
        out.put_u8(b'}');
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    tokio_postgres::types::to_sql_checked!();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(values: &[Option<&str>]) -> String {
        let mut array = ArrayText::default();
        values.iter().for_each(|v| array.push(v.map(str::as_bytes)));
        let mut out = BytesMut::new();
        array.to_sql(&Type::TEXT_ARRAY, &mut out).unwrap();
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn no_value_can_leave_its_place() {
        for (values, expected) in [
            (&[][..], "{}"),
            (&[None], "{NULL}"),
            (&[Some("NULL"), None, Some("")], r#"{"NULL",NULL,""}"#),
            (&[Some(r#"a"b\c"#), Some("{1,2}")], r#"{"a\"b\\c","{1,2}"}"#),
            (&[Some("\\\\")], r#"{"\\\\"}"#),
        ] {
            assert_eq!(text(values), expected);
        }
    }
}
