//! Metadata values, typed and byte-exact.

use std::borrow::Cow;

macro_rules! value_types {
    ($($variant:ident = $id:literal, $name:literal, $size:expr;)*) => {
        /// Type of a metadata value, by the ids of the format.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs)]
        pub enum ValueType {
            $($variant,)*
        }

        impl ValueType {
            /// The type with this id.
            pub const fn from_id(id: u32) -> Option<Self> {
                match id {
                    $($id => Some(ValueType::$variant),)*
                    _ => None,
                }
            }

            /// The id stored in files.
            pub const fn id(self) -> u32 {
                match self {
                    $(ValueType::$variant => $id,)*
                }
            }

            /// Name as in the format's description.
            pub const fn name(self) -> &'static str {
                match self {
                    $(ValueType::$variant => $name,)*
                }
            }

            /// Bytes of one value; `None` for strings and arrays.
            pub const fn size(self) -> Option<usize> {
                match self {
                    $(ValueType::$variant => $size,)*
                }
            }
        }
    };
}

value_types! {
    U8 = 0, "UINT8", Some(1);
    I8 = 1, "INT8", Some(1);
    U16 = 2, "UINT16", Some(2);
    I16 = 3, "INT16", Some(2);
    U32 = 4, "UINT32", Some(4);
    I32 = 5, "INT32", Some(4);
    F32 = 6, "FLOAT32", Some(4);
    Bool = 7, "BOOL", Some(1);
    String = 8, "STRING", None;
    Array = 9, "ARRAY", None;
    U64 = 10, "UINT64", Some(8);
    I64 = 11, "INT64", Some(8);
    F64 = 12, "FLOAT64", Some(8);
}

/// One metadata value. Equality is equality of the stored bytes, so a NaN equals itself.
#[derive(Clone, Debug)]
pub enum Value {
    /// UINT8.
    U8(u8),
    /// INT8.
    I8(i8),
    /// UINT16.
    U16(u16),
    /// INT16.
    I16(i16),
    /// UINT32.
    U32(u32),
    /// INT32.
    I32(i32),
    /// FLOAT32.
    F32(f32),
    /// BOOL, one byte of value 0 or 1.
    Bool(bool),
    /// STRING: bytes, by custom UTF-8, which is not enforced.
    String(Vec<u8>),
    /// ARRAY of any type but arrays.
    Array(Array),
    /// UINT64.
    U64(u64),
    /// INT64.
    I64(i64),
    /// FLOAT64.
    F64(f64),
}

impl Value {
    /// A value of `kind` from its little-endian bytes; `None` if the length is wrong or the kind is no scalar.
    pub(crate) fn scalar(kind: ValueType, bytes: &[u8]) -> Option<Self> {
        Some(match kind {
            ValueType::U8 => Value::U8(u8::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::I8 => Value::I8(i8::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::U16 => Value::U16(u16::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::I16 => Value::I16(i16::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::U32 => Value::U32(u32::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::I32 => Value::I32(i32::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::F32 => Value::F32(f32::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::Bool => Value::Bool(u8::from_le_bytes(bytes.try_into().ok()?) != 0),
            ValueType::U64 => Value::U64(u64::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::I64 => Value::I64(i64::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::F64 => Value::F64(f64::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::String | ValueType::Array => return None,
        })
    }

    /// Type of the value.
    pub fn value_type(&self) -> ValueType {
        match self {
            Value::U8(_) => ValueType::U8,
            Value::I8(_) => ValueType::I8,
            Value::U16(_) => ValueType::U16,
            Value::I16(_) => ValueType::I16,
            Value::U32(_) => ValueType::U32,
            Value::I32(_) => ValueType::I32,
            Value::F32(_) => ValueType::F32,
            Value::Bool(_) => ValueType::Bool,
            Value::String(_) => ValueType::String,
            Value::Array(_) => ValueType::Array,
            Value::U64(_) => ValueType::U64,
            Value::I64(_) => ValueType::I64,
            Value::F64(_) => ValueType::F64,
        }
    }

    /// The integer, from any integer width; `None` for other types.
    pub fn as_integer(&self) -> Option<i128> {
        Some(match *self {
            Value::U8(v) => v.into(),
            Value::I8(v) => v.into(),
            Value::U16(v) => v.into(),
            Value::I16(v) => v.into(),
            Value::U32(v) => v.into(),
            Value::I32(v) => v.into(),
            Value::U64(v) => v.into(),
            Value::I64(v) => v.into(),
            _ => return None,
        })
    }

    /// The value as a double, from FLOAT32, FLOAT64 or any integer; `None` for other types.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Value::F32(v) => Some(v.into()),
            Value::F64(v) => Some(v),
            _ => self.as_integer().map(|v| v as f64),
        }
    }

    /// Appends the value's bytes, without its type id.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Value::U8(v) => out.push(*v),
            Value::I8(v) => out.extend_from_slice(&v.to_le_bytes()),
            Value::U16(v) => out.extend_from_slice(&v.to_le_bytes()),
            Value::I16(v) => out.extend_from_slice(&v.to_le_bytes()),
            Value::U32(v) => out.extend_from_slice(&v.to_le_bytes()),
            Value::I32(v) => out.extend_from_slice(&v.to_le_bytes()),
            Value::F32(v) => out.extend_from_slice(&v.to_le_bytes()),
            Value::Bool(v) => out.push(u8::from(*v)),
            Value::String(v) => encode_string(v, out),
            Value::Array(array) => {
                out.extend_from_slice(&array.element.id().to_le_bytes());
                out.extend_from_slice(&(array.len as u64).to_le_bytes());
                out.extend_from_slice(&array.bytes);
            }
            Value::U64(v) => out.extend_from_slice(&v.to_le_bytes()),
            Value::I64(v) => out.extend_from_slice(&v.to_le_bytes()),
            Value::F64(v) => out.extend_from_slice(&v.to_le_bytes()),
        }
    }

    /// Short text for error messages and listings: type, then the value or its length.
    pub fn summary(&self) -> String {
        let name = self.value_type().name();
        match self {
            Value::F32(v) => format!("{name} {v}"),
            Value::F64(v) => format!("{name} {v}"),
            Value::Bool(v) => format!("{name} {v}"),
            Value::String(v) if v.len() <= 80 => format!("{name} {:?}", String::from_utf8_lossy(v)),
            Value::String(v) => format!("{name} of {} bytes", v.len()),
            Value::Array(array) => format!("{name} of {} {}", array.len, array.element.name()),
            other => format!("{name} {}", other.as_integer().unwrap_or_default()),
        }
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Value::F32(a), Value::F32(b)) => a.to_bits() == b.to_bits(),
            (Value::F64(a), Value::F64(b)) => a.to_bits() == b.to_bits(),
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::String(a), Value::String(b)) => a == b,
            (Value::Array(a), Value::Array(b)) => a == b,
            _ => self.value_type() == other.value_type() && self.as_integer() == other.as_integer(),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::String(text.as_bytes().to_vec())
    }
}

/// Appends a string in the format's form: length as u64, bytes.
pub(crate) fn encode_string(text: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text);
}

/// A metadata array: the elements in the bytes of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Array {
    element: ValueType,
    len: usize,
    /// Elements as stored: little endian, strings with their u64 lengths.
    bytes: Vec<u8>,
    /// For strings, where each one ends in `bytes`.
    ends: Vec<usize>,
}

impl Array {
    /// An array from checked parts. `ends` holds for strings the end of each in `bytes`, else nothing.
    pub(crate) fn from_parts(element: ValueType, len: usize, bytes: Vec<u8>, ends: Vec<usize>) -> Self {
        Self { element, len, bytes, ends }
    }

    /// An array of strings.
    pub fn from_strings<S: AsRef<[u8]>>(strings: impl IntoIterator<Item = S>) -> Self {
        let mut bytes = Vec::new();
        let mut ends = Vec::new();
        for text in strings {
            encode_string(text.as_ref(), &mut bytes);
            ends.push(bytes.len());
        }
        Self { element: ValueType::String, len: ends.len(), bytes, ends }
    }

    /// An array of scalars of one type; `None` if a value has another type or is no scalar.
    pub fn from_values(element: ValueType, values: &[Value]) -> Option<Self> {
        element.size()?;
        let mut bytes = Vec::new();
        for value in values {
            if value.value_type() != element {
                return None;
            }
            value.encode(&mut bytes);
        }
        Some(Self { element, len: values.len(), bytes, ends: Vec::new() })
    }

    /// An array of UINT64.
    pub fn from_u64(values: &[u64]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { element: ValueType::U64, len: values.len(), bytes, ends: Vec::new() }
    }

    /// An array of UINT32.
    pub fn from_u32(values: &[u32]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { element: ValueType::U32, len: values.len(), bytes, ends: Vec::new() }
    }

    /// Type of the elements.
    pub fn element_type(&self) -> ValueType {
        self.element
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements as stored.
    pub fn raw(&self) -> &[u8] {
        &self.bytes
    }

    /// Element `index`, as a value of its own.
    pub fn get(&self, index: usize) -> Option<Value> {
        if index >= self.len {
            return None;
        }
        match self.element.size() {
            Some(size) => {
                let start = index.checked_mul(size)?;
                Value::scalar(self.element, self.bytes.get(start..start.checked_add(size)?)?)
            }
            None => self.string(index).map(|text| Value::String(text.to_vec())),
        }
    }

    /// String `index`; `None` if there is none or the array holds no strings.
    pub fn string(&self, index: usize) -> Option<&[u8]> {
        let end = *self.ends.get(index)?;
        let start = match index.checked_sub(1) {
            Some(before) => *self.ends.get(before)?,
            None => 0,
        };
        self.bytes.get(start.checked_add(8)?..end)
    }

    /// All strings in order; nothing if the array holds no strings.
    pub fn strings(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        (0..self.ends.len()).map(|index| self.string(index).unwrap_or_default())
    }

    /// All strings as text, with replacement characters where they are not UTF-8.
    pub fn texts(&self) -> impl ExactSizeIterator<Item = Cow<'_, str>> {
        self.strings().map(String::from_utf8_lossy)
    }

    /// All elements as values.
    pub fn values(&self) -> impl Iterator<Item = Value> + '_ {
        (0..self.len).filter_map(|index| self.get(index))
    }

    /// All elements as integers of another type; `None` if one is no integer or does not fit.
    pub fn to_integers<T: TryFrom<i128>>(&self) -> Option<Vec<T>> {
        self.values().map(|value| T::try_from(value.as_integer()?).ok()).collect()
    }

    /// All elements as floats; `None` for strings and booleans.
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        self.values().map(|value| value.as_f64().map(|v| v as f32)).collect()
    }

    /// All elements as booleans; `None` for other types.
    pub fn to_bool(&self) -> Option<Vec<bool>> {
        self.values().map(|value| if let Value::Bool(v) = value { Some(v) } else { None }).collect()
    }
}
