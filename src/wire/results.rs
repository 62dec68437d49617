//! Results that are made here and not at a server: their columns and rows, and what a Bind asks of them.

use bytes::{BufMut, BytesMut};

use crate::backend::tag;
use crate::frame::{Fields, WireError, message, put_cstr};

/// Type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnType {
    /// `int8`
    Int8,
    /// `text`
    Text,
    /// `bool`
    Bool,
}

impl ColumnType {
    /// Its OID, and its size in bytes (src/include/catalog/pg_type.dat).
    fn oid_and_size(self) -> (u32, i16) {
        match self {
            Self::Bool => (16, 1),
            Self::Int8 => (20, 8),
            Self::Text => (25, -1),
        }
    }
}

/// A column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: ColumnType,
}

/// A value of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// NULL, of whatever type.
    Null,
    /// Of type `int8`.
    Int8(i64),
    /// Of type `text`.
    Text(String),
    /// Of type `bool`.
    Bool(bool),
}

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// As text.
    Text,
    /// As the type's send function writes it.
    Binary,
}

impl Format {
    fn read(code: i16) -> Option<Self> {
        match code {
            0 => Some(Self::Text),
            1 => Some(Self::Binary),
            _ => None,
        }
    }
}

/// The formats that a Bind asks for: none, one for all columns, or one for each.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Formats(Vec<Format>);

impl Formats {
    /// Whether they fit a result with so many columns.
    #[must_use]
    pub fn fit(&self, columns: usize) -> bool {
        self.0.len() <= 1 || self.0.len() == columns
    }

    fn of(&self, column: usize) -> Format {
        match self.0[..] {
            [] => Format::Text,
            [all] => all,
            _ => self.0.get(column).copied().unwrap_or(Format::Text),
        }
    }
}

/// Reads what follows the names of a Bind that is all there: the number of parameters, and the formats of the result.
///
/// # Errors
/// [`WireError::Malformed`].
pub fn bind_rest(rest: &[u8]) -> Result<(usize, Formats), WireError> {
    let mut fields = Fields::new(rest, "Bind");
    let count = |fields: &mut Fields<'_>| {
        let count = fields.i16()?;
        usize::try_from(count).map_err(|_| fields.malformed())
    };
    let parameter_formats = count(&mut fields)?;
    fields.take(parameter_formats * 2)?;
    let parameters = count(&mut fields)?;
    for _ in 0..parameters {
        let length = fields.i32()?;
        if length != -1 {
            let length = usize::try_from(length).map_err(|_| fields.malformed())?;
            fields.take(length)?;
        }
    }
    let formats = (0..count(&mut fields)?)
        .map(|_| fields.i16().and_then(|code| Format::read(code).ok_or_else(|| fields.malformed())))
        .collect::<Result<_, _>>()?;
    fields.end()?;
    Ok((parameters, Formats(formats)))
}

/// Writes a RowDescription.
pub fn write_row_description(out: &mut BytesMut, columns: &[Column], formats: &Formats) {
    message(out, tag::ROW_DESCRIPTION, |out| {
        out.put_u16(columns.len() as u16);
        for (i, column) in columns.iter().enumerate() {
            let (oid, size) = column.kind.oid_and_size();
            put_cstr(out, column.name.as_bytes());
            // No table, no column of one.
            out.put_u32(0);
            out.put_u16(0);
            out.put_u32(oid);
            out.put_i16(size);
            // No type modifier.
            out.put_i32(-1);
            out.put_i16(formats.of(i) as i16);
        }
    });
}

/// Writes a DataRow.
pub fn write_data_row(out: &mut BytesMut, values: &[Value], formats: &Formats) {
    message(out, tag::DATA_ROW, |out| {
        out.put_u16(values.len() as u16);
        for (i, value) in values.iter().enumerate() {
            write_value(out, value, formats.of(i));
        }
    });
}

fn write_value(out: &mut BytesMut, value: &Value, format: Format) {
    let mut put = |bytes: &[u8]| {
        // Values are short: names, numbers, addresses.
        out.put_i32(bytes.len() as i32);
        out.put_slice(bytes);
    };
    match (value, format) {
        (Value::Null, _) => out.put_i32(-1),
        (Value::Text(text), _) => put(text.as_bytes()),
        (Value::Int8(number), Format::Text) => put(number.to_string().as_bytes()),
        (Value::Int8(number), Format::Binary) => put(&number.to_be_bytes()),
        (Value::Bool(truth), Format::Text) => put(if *truth { b"t" } else { b"f" }),
        (Value::Bool(truth), Format::Binary) => put(&[u8::from(*truth)]),
    }
}

/// Writes a ParameterDescription of a statement without parameters.
pub fn write_no_parameters(out: &mut BytesMut) {
    message(out, tag::PARAMETER_DESCRIPTION, |out| out.put_u16(0));
}

/// Writes a message that has only a tag.
pub fn write_bare(out: &mut BytesMut, tag: u8) {
    message(out, tag, |_| {});
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 3] = [
        Column { name: "n", kind: ColumnType::Int8 },
        Column { name: "t", kind: ColumnType::Text },
        Column { name: "b", kind: ColumnType::Bool },
    ];

    fn bytes(write: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
        let mut out = BytesMut::new();
        write(&mut out);
        out[5..].to_vec()
    }

    #[test]
    fn rows_are_written_in_the_formats_asked_for() {
        let row = [Value::Int8(258), Value::Text("x".into()), Value::Bool(true)];
        let text = bytes(|out| write_data_row(out, &row, &Formats::default()));
        assert_eq!(text, b"\0\x03\0\0\0\x03258\0\0\0\x01x\0\0\0\x01t");
        let (parameters, binary) = bind_rest(b"\0\0\0\0\0\x01\0\x01").unwrap();
        assert_eq!(parameters, 0);
        let row = bytes(|out| write_data_row(out, &row, &binary));
        assert_eq!(row, b"\0\x03\0\0\0\x08\0\0\0\0\0\0\x01\x02\0\0\0\x01x\0\0\0\x01\x01");
        let null = bytes(|out| write_data_row(out, &[Value::Null], &binary));
        assert_eq!(null, b"\0\x01\xff\xff\xff\xff");
        let described = bytes(|out| write_row_description(out, &COLUMNS, &binary));
        assert_eq!(&described[..22], b"\0\x03n\0\0\0\0\0\0\0\0\0\0\x14\0\x08\xff\xff\xff\xff\0\x01");
    }

    #[test]
    fn a_bind_is_read_whole_or_not_at_all() {
        let body = b"\0\x01\0\x01\0\x02\0\0\0\x01x\xff\xff\xff\xff\0\x02\0\0\0\x01";
        let (parameters, formats) = bind_rest(body).unwrap();
        assert_eq!(parameters, 2);
        assert_eq!(formats, Formats(vec![Format::Text, Format::Binary]));
        assert!(formats.fit(2) && !formats.fit(3));
        for cut in 0..body.len() {
            assert!(bind_rest(&body[..cut]).is_err(), "cut at {cut}");
        }
        assert!(bind_rest(b"\0\0\0\0\0\x01\0\x02").is_err(), "no such format");
        assert!(bind_rest(b"\xff\xff\0\0\0\0").is_err());
    }
}
