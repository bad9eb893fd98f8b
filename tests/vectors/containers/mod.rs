//! Whole GGUF files: a small writer that can also write what section 2 of the text forbids, and a reader with the
//! checks of that section, written from the text.

mod invalid;
mod order;
mod reader;
mod valid;

pub use invalid::invalid;
pub use reader::read;
pub use valid::valid;

use crate::common::forge::payload;
use crate::valid::Valid;
use std::collections::HashMap;

const TYPE_ID: u32 = 704;
const F32: u32 = 0;
/// A type that nobody has.
const UNKNOWN: u32 = 70_000;

#[derive(Clone, Debug, PartialEq)]
pub enum Meta {
    U8(u8),
    U16(u16),
    U32(u32),
    I32(i32),
    U64(u64),
    Text(String),
    Texts(Vec<String>),
    U64s(Vec<u64>),
    /// A value of any type, its bytes after the type.
    Other(u32, Vec<u8>),
}

#[derive(Clone, Debug)]
pub struct Tensor {
    pub name: String,
    pub dims: Vec<u64>,
    pub type_id: u32,
    pub bytes: Vec<u8>,
}

/// A GGUF file in parts.
#[derive(Clone, Debug)]
pub struct File {
    pub metadata: Vec<(String, Meta)>,
    pub tensors: Vec<Tensor>,
    pub alignment: usize,
    /// Added to the offset of a tensor: (tensor, bytes).
    pub moved: Option<(usize, i64)>,
    /// Bytes after the last tensor.
    pub tail: Vec<u8>,
    /// Value of the padding between tensors.
    pub padding: u8,
    /// Value of the bytes before the data section.
    pub before: u8,
    /// Version of GGUF.
    pub version: u32,
}

impl Meta {
    fn write(&self, out: &mut Vec<u8>) {
        let text = |text: &str, out: &mut Vec<u8>| {
            out.extend((text.len() as u64).to_le_bytes());
            out.extend(text.as_bytes());
        };
        let head = |ids: &[u32], out: &mut Vec<u8>| ids.iter().for_each(|id| out.extend(id.to_le_bytes()));
        match self {
            Meta::U8(v) => {
                head(&[0], out);
                out.push(*v);
            }
            Meta::U16(v) => {
                head(&[2], out);
                out.extend(v.to_le_bytes());
            }
            Meta::U32(v) => head(&[4, *v], out),
            Meta::I32(v) => head(&[5, *v as u32], out),
            Meta::U64(v) => {
                head(&[10], out);
                out.extend(v.to_le_bytes());
            }
            Meta::Text(v) => {
                head(&[8], out);
                text(v, out);
            }
            Meta::Texts(list) => {
                head(&[9, 8], out);
                out.extend((list.len() as u64).to_le_bytes());
                list.iter().for_each(|v| text(v, out));
            }
            Meta::U64s(list) => {
                head(&[9, 10], out);
                out.extend((list.len() as u64).to_le_bytes());
                list.iter().for_each(|v| out.extend(v.to_le_bytes()));
            }
            Meta::Other(kind, bytes) => {
                head(&[*kind], out);
                out.extend(bytes);
            }
        }
    }
}

impl File {
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            out.extend((key.len() as u64).to_le_bytes());
            out.extend(key.as_bytes());
            value.write(&mut out);
        }
        let mut offset = 0u64;
        for (index, tensor) in self.tensors.iter().enumerate() {
            out.extend((tensor.name.len() as u64).to_le_bytes());
            out.extend(tensor.name.as_bytes());
            out.extend((tensor.dims.len() as u32).to_le_bytes());
            tensor.dims.iter().for_each(|dim| out.extend(dim.to_le_bytes()));
            out.extend(tensor.type_id.to_le_bytes());
            let moved = self.moved.filter(|&(which, _)| which == index).map_or(0, |(_, by)| by);
            out.extend(offset.wrapping_add_signed(moved).to_le_bytes());
            offset += tensor.bytes.len().next_multiple_of(self.alignment) as u64;
        }
        out.resize(out.len().next_multiple_of(self.alignment), self.before);
        for (index, tensor) in self.tensors.iter().enumerate() {
            out.extend(&tensor.bytes);
            if index + 1 < self.tensors.len() {
                out.resize(out.len().next_multiple_of(self.alignment), self.padding);
            }
        }
        out.extend(&self.tail);
        out
    }

    fn set(&mut self, key: &str, value: Option<Meta>) {
        self.metadata.retain(|(k, _)| k != key);
        self.metadata.extend(value.map(|value| (key.to_string(), value)));
    }
}

/// A model of some payloads, an F32 tensor after each.
fn file(payloads: &[(&str, &Valid)], alignment: usize) -> File {
    let mut tensors = Vec::new();
    let (mut names, mut lengths) = (Vec::new(), Vec::new());
    for (name, valid) in payloads {
        let plan = &valid.plans[0];
        let mut dims = vec![plan.columns as u64, plan.rows as u64];
        if valid.plans.len() > 1 {
            dims.push(valid.plans.len() as u64);
        }
        names.push(name.to_string());
        lengths.push(valid.bytes.len() as u64);
        tensors.push(Tensor { name: name.to_string(), dims, type_id: TYPE_ID, bytes: valid.bytes.clone() });
        let norm = [1.0f32, 0.5, 0.25].iter().flat_map(|v| v.to_le_bytes()).collect();
        tensors.push(Tensor {
            name: name.replace(".weight", "_norm.weight"),
            dims: vec![3],
            type_id: F32,
            bytes: norm,
        });
    }
    let mut metadata = vec![("general.architecture".to_string(), Meta::Text("llama".into()))];
    if alignment != 32 {
        metadata.push(("general.alignment".into(), Meta::U32(alignment as u32)));
    }
    metadata.push(("general.file_type".into(), Meta::U32(704)));
    metadata.push(("wsic.version".into(), Meta::U32(1)));
    metadata.push(("wsic.type_id".into(), Meta::U32(TYPE_ID)));
    metadata.push(("wsic.tensor_names".into(), Meta::Texts(names)));
    metadata.push(("wsic.tensor_bytes".into(), Meta::U64s(lengths)));
    File { metadata, tensors, alignment, moved: None, tail: Vec::new(), padding: 0, before: 0, version: 3 }
}

/// A model: its files with their names, and the verdicts of decoder and verifier (`None`: valid).
pub struct Container {
    pub files: Vec<(String, Vec<u8>)>,
    pub decoder: Option<&'static str>,
    pub verifier: Option<&'static str>,
}

/// The first of two files of a split model: it has the keys of both.
fn first_of_two(first: &File, second: &File) -> File {
    let mut whole = first.clone();
    let lists = |key: &str| {
        let found = [first, second].map(|file| file.metadata.iter().find(|(k, _)| k == key));
        found.map(|entry| entry.unwrap().1.clone())
    };
    if let [Meta::Texts(a), Meta::Texts(b)] = lists("wsic.tensor_names") {
        whole.set("wsic.tensor_names", Some(Meta::Texts([a, b].concat())));
    }
    if let [Meta::U64s(a), Meta::U64s(b)] = lists("wsic.tensor_bytes") {
        whole.set("wsic.tensor_bytes", Some(Meta::U64s([a, b].concat())));
    }
    whole
}

/// Two files of a split model with their keys.
fn split(first: &File, second: &File, count: Meta) -> [File; 2] {
    let mut files = [first.clone(), second.clone()];
    let tensors = first.tensors.len() + second.tensors.len();
    for (number, file) in files.iter_mut().enumerate() {
        file.set("split.no", Some(Meta::U16(number as u16)));
        file.set("split.count", Some(count.clone()));
        file.set("split.tensors.count", Some(Meta::I32(tensors as i32)));
    }
    files
}

/// The files with their names.
fn named(name: &str, files: [File; 2]) -> Vec<(String, Vec<u8>)> {
    let number = |index: usize| format!("{name}-{:05}-of-00002.gguf", index + 1);
    files.iter().enumerate().map(|(index, file)| (number(index), file.bytes())).collect()
}
