//! Columns of values as one array parameter. An array in text form is read by the element type's own input
//! function, so every value goes in exactly as its output function wrote it, whatever the type. In binary form, where that of all its
//! values is known, a server reads it in a fraction of the time.

use bytes::{BufMut, BytesMut};
use tokio_postgres::types::{Format, IsNull, ToSql, Type};

use super::binary::Element;

/// A column of values, in the form that the server reads quickest.
#[derive(Debug, Clone)]
pub enum Array {
    /// Of any type.
    Text(ArrayText),
    /// Of a type whose binary form is known.
    Binary(ArrayBinary),
}

impl Array {
    /// These values, for a parameter of that type.
    pub fn new<'a>(element: Option<Element>, values: impl Iterator<Item = Option<&'a [u8]>> + Clone) -> Self {
        if let Some(array) = element.and_then(|element| ArrayBinary::new(element, values.clone())) {
            return Array::Binary(array);
        }
        let mut array = ArrayText::default();
        values.for_each(|value| array.push(value));
        Array::Text(array)
    }
}

impl ToSql for Array {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Array::Text(array) => array.to_sql(ty, out),
            Array::Binary(ArrayBinary(bytes)) => {
                out.extend_from_slice(bytes);
                Ok(IsNull::No)
            }
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        match self {
            Array::Text(_) => Format::Text,
            Array::Binary(_) => Format::Binary,
        }
    }

    tokio_postgres::types::to_sql_checked!();
}

/// An array as `array_recv` takes it: a head, then each element's length and bytes.
#[derive(Debug, Clone)]
pub struct ArrayBinary(Vec<u8>);

/// Number of dimensions, whether there are NULLs, the elements' type, and of the one dimension the length and the first index.
const HEAD_BYTES: usize = 5 * 4;

impl ArrayBinary {
    /// None where the form of a value isn't known.
    fn new<'a>(element: Element, values: impl Iterator<Item = Option<&'a [u8]>>) -> Option<Self> {
        let mut bytes = vec![0; HEAD_BYTES];
        let (mut count, mut has_null) = (0_u32, 0_u32);
        for value in values {
            count += 1;
            has_null |= u32::from(value.is_none());
            element.form.push(value, &mut bytes)?;
        }
        let head = [u32::from(count > 0), has_null, element.oid, count, 1].map(u32::to_be_bytes);
        // An empty array has no dimension.
        let length = if count > 0 { HEAD_BYTES } else { HEAD_BYTES - 8 };
        bytes[..HEAD_BYTES].copy_from_slice(head.as_flattened());
        bytes.truncate(bytes.len() - HEAD_BYTES + length);
        Some(ArrayBinary(bytes))
    }
}

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
    use super::super::binary::Binary;
    use super::*;

    fn text(values: &[Option<&str>]) -> String {
        let mut array = ArrayText::default();
        values.iter().for_each(|v| array.push(v.map(str::as_bytes)));
        let mut out = BytesMut::new();
        array.to_sql(&Type::TEXT_ARRAY, &mut out).unwrap();
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn an_array_is_binary_if_all_its_values_are() {
        let element = Element { form: Binary::Int2, oid: 21 };
        let array = |values: &[Option<&str>]| {
            Array::new(Some(element), values.iter().map(|value| value.map(str::as_bytes)))
        };
        let bytes = |array: &Array| {
            let mut out = BytesMut::new();
            array.to_sql(&Type::INT2_ARRAY, &mut out).unwrap();
            out.to_vec()
        };
        let head = |numbers: &[u32]| numbers.iter().flat_map(|n| n.to_be_bytes()).collect::<Vec<u8>>();
        for (values, expected) in [
            (&[][..], head(&[0, 0, 21])),
            (&[Some("7")], [head(&[1, 0, 21, 1, 1, 2]), vec![0, 7]].concat()),
            (&[None, Some("-1")], [head(&[1, 1, 21, 2, 1, u32::MAX, 2]), vec![255, 255]].concat()),
        ] {
            assert!(matches!(array(values), Array::Binary(_)));
            assert_eq!(bytes(&array(values)), expected);
        }
        let text = array(&[Some("7"), Some("seven")]);
        assert!(matches!(text, Array::Text(_)));
        assert_eq!(bytes(&text), br#"{"7","seven"}"#);
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
