//! Whole GGUF files: a small writer that can also write what section 2 of the text forbids, and a reader with the
//! checks of that section, written from the text.

use crate::common::forge::payload;
use crate::valid::Valid;
use std::collections::HashMap;

const TYPE_ID: u32 = 704;
const F32: u32 = 0;
/// A type that nobody has.
const UNKNOWN: u32 = 70_000;

#[derive(Clone, Debug, PartialEq)]
pub enum Meta {
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
        out.resize(out.len().next_multiple_of(self.alignment), 0);
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
    File { metadata, tensors, alignment, moved: None, tail: Vec::new(), padding: 0, version: 3 }
}

/// A model: its files with their names, and the verdicts of decoder and verifier (`None`: valid).
pub struct Container {
    pub files: Vec<(String, Vec<u8>)>,
    pub decoder: Option<&'static str>,
    pub verifier: Option<&'static str>,
}

/// Valid models, in the order of the manifest.
pub fn valid(payloads: &[Valid]) -> Vec<Container> {
    let get = |name: &str| payloads.iter().find(|valid| valid.name == name).unwrap();
    let mut all = Vec::new();
    let mut add = |name: &str, file: &File| {
        let files = vec![(format!("{name}.gguf"), file.bytes())];
        all.push(Container { files, decoder: None, verifier: None });
    };
    let (example, experts, odd) = (get("worked-example"), get("experts"), get("odd-k16"));
    let two = file(&[("blk.0.attn_q.weight", example), ("blk.0.ffn_down.weight", odd)], 32);
    add("two-tensors", &two);
    add("experts", &file(&[("blk.0.ffn_up_exps.weight", experts)], 32));
    add("alignment-64", &file(&[("blk.0.attn_q.weight", odd), ("blk.0.attn_k.weight", example)], 64));
    let mut plain = two.clone();
    plain.set("wsic.type_id", None);
    plain.set("general.file_type", None);
    add("optional-keys-absent", &plain);
    let mut last = two.clone();
    last.tensors.pop();
    add("ends-with-payload", &last);
    last.tail = vec![0xAB; 100];
    add("bytes-after-last-tensor", &last);
    let mut flat = file(&[("blk.0.ffn_up_exps.weight", example)], 32);
    flat.tensors[0].dims.push(1);
    add("three-dimensions-one-matrix", &flat);
    let mut older = two.clone();
    older.version = 2;
    add("gguf-version-2", &older);
    let mut kinds = two.clone();
    kinds.metadata.splice(0..0, values_of_all_types());
    add("values-of-all-types", &kinds);
    let mut unknown = two.clone();
    unknown.tensors[1].type_id = UNKNOWN;
    add("type-without-sizes", &unknown);
    let mut none = two.clone();
    none.tensors.retain(|tensor| tensor.type_id == F32);
    none.metadata.retain(|(key, _)| !key.starts_with("wsic."));
    add("no-wsic-tensor", &none);
    let mut first = two.clone();
    let mut second = file(&[("blk.1.ffn_up_exps.weight", experts)], 32);
    first.set("wsic.tensor_names", Some(Meta::Texts(wsic_names(&[&first, &second]))));
    let lengths = [example, odd, experts].map(|valid| valid.bytes.len() as u64).to_vec();
    first.set("wsic.tensor_bytes", Some(Meta::U64s(lengths)));
    second.metadata.clear();
    for (number, file) in [&mut first, &mut second].into_iter().enumerate() {
        file.set("split.no", Some(Meta::U16(number as u16)));
        file.set("split.count", Some(Meta::U16(2)));
        file.set("split.tensors.count", Some(Meta::I32(6)));
    }
    let files = vec![
        ("split-00001-of-00002.gguf".to_string(), first.bytes()),
        ("split-00002-of-00002.gguf".to_string(), second.bytes()),
    ];
    all.push(Container { files, decoder: None, verifier: None });
    all
}

/// One key for each type of value.
fn values_of_all_types() -> Vec<(String, Meta)> {
    let sizes = [(0, 1), (1, 1), (2, 2), (3, 2), (4, 4), (5, 4), (6, 4), (7, 1), (10, 8), (11, 8), (12, 8)];
    let mut values: Vec<(String, Meta)> = sizes
        .iter()
        .map(|&(kind, size)| (format!("test.{kind}"), Meta::Other(kind, vec![1; size])))
        .collect();
    let array =
        |kind: u32, count: u64, items: &[u8]| [&kind.to_le_bytes()[..], &count.to_le_bytes(), items].concat();
    values.push(("test.floats".into(), Meta::Other(9, array(12, 1, &[0; 8]))));
    values
}

fn wsic_names(files: &[&File]) -> Vec<String> {
    let tensors = files.iter().flat_map(|file| &file.tensors);
    tensors.filter(|tensor| tensor.type_id == TYPE_ID).map(|tensor| tensor.name.clone()).collect()
}

/// Invalid models, at least one for every check of section 2.
pub fn invalid(payloads: &[Valid]) -> Vec<Container> {
    let get = |name: &str| payloads.iter().find(|valid| valid.name == name).unwrap();
    let good = file(
        &[("blk.0.attn_q.weight", get("worked-example")), ("blk.0.ffn_down.weight", get("odd-k16"))],
        32,
    );
    let experts = file(&[("blk.0.ffn_up_exps.weight", get("experts"))], 32);
    let mut all = Vec::new();
    let mut add = |name: &str, class: &'static str, start: &File, edit: &dyn Fn(&mut File)| {
        let mut file = start.clone();
        edit(&mut file);
        let files = vec![(format!("{name}.gguf"), file.bytes())];
        let decoder = (!name.starts_with("verifier-")).then_some(class);
        all.push(Container { files, decoder, verifier: Some(class) });
    };
    let metadata = "metadata-mismatch";
    for (name, key) in [
        ("version-missing", "wsic.version"),
        ("names-missing", "wsic.tensor_names"),
        ("bytes-missing", "wsic.tensor_bytes"),
    ] {
        add(name, metadata, &good, &|f| f.set(key, None));
    }
    add("version-of-other-type", metadata, &good, &|f| f.set("wsic.version", Some(Meta::U64(1))));
    add("bytes-of-other-type", metadata, &good, &|f| f.set("wsic.tensor_bytes", Some(Meta::Texts(vec![]))));
    let names = |names: &[&str]| Some(Meta::Texts(names.iter().map(|name| name.to_string()).collect()));
    let (q, down) = ("blk.0.attn_q.weight", "blk.0.ffn_down.weight");
    add("names-in-other-order", metadata, &good, &|f| f.set("wsic.tensor_names", names(&[down, q])));
    add("one-name-less", metadata, &good, &|f| f.set("wsic.tensor_names", names(&[q])));
    add("one-length-more", metadata, &good, &|f| {
        f.set("wsic.tensor_bytes", Some(Meta::U64s(vec![223, 0, 0])))
    });
    add("version-2", "unsupported-version", &good, &|f| f.set("wsic.version", Some(Meta::U32(2))));
    add("other-type-id", "unsupported-feature", &good, &|f| f.set("wsic.type_id", Some(Meta::U32(705))));
    add("one-dimension", "shape-mismatch", &good, &|f| f.tensors[0].dims = vec![12]);
    add("four-dimensions", "shape-mismatch", &good, &|f| f.tensors[0].dims = vec![3, 4, 1, 1]);
    add("offset-not-aligned", "bad-container", &good, &|f| f.moved = Some((2, 8)));
    add("offset-beyond-file", "bad-container", &good, &|f| f.moved = Some((2, 1 << 40)));
    add("fifteen-bytes", "truncated", &good, &|f| {
        f.tensors.truncate(3);
        f.tensors[2].bytes.truncate(15);
    });
    add("magic", "bad-magic", &good, &|f| f.tensors[2].bytes[0] = b'w');
    add("payload-cut", "truncated", &good, &|f| {
        f.tensors.truncate(3);
        f.tensors[2].bytes.pop();
    });
    add("length-of-other-payload", metadata, &good, &|f| {
        f.set("wsic.tensor_bytes", Some(Meta::U64s(vec![223, 222])));
    });
    add("overlap", "bad-container", &good, &|f| f.moved = Some((1, -32)));
    add("overlap-from-before", "bad-container", &good, &|f| f.tensors[1].dims = vec![16]);
    add("payload-damaged", "bad-checksum", &good, &|f| f.tensors[2].bytes[20] ^= 1);
    add("tile-damaged", "corrupt-tile", &good, &|f| f.tensors[0].bytes[90] = 0);
    add("other-columns", "shape-mismatch", &good, &|f| f.tensors[0].dims = vec![4, 4]);
    add("transposed", "shape-mismatch", &good, &|f| f.tensors[0].dims = vec![4, 3]);
    add("experts-in-two-dimensions", "shape-mismatch", &experts, &|f| {
        f.tensors[0].dims.pop();
    });
    add("other-experts", "shape-mismatch", &experts, &|f| f.tensors[0].dims[2] = 2);
    add("payload-empty", "truncated", &good, &|f| {
        f.tensors[0].bytes = payload(4, 3, &[])[..16].to_vec();
        f.tensors[0].bytes[8] = 16;
        f.set("wsic.tensor_bytes", Some(Meta::U64s(vec![16, get("odd-k16").bytes.len() as u64])));
    });
    add("verifier-padding", "bad-container", &good, &|f| f.padding = 1);
    add("verifier-gap", "bad-container", &good, &|f| {
        f.moved = Some((3, 32));
        f.tensors[3].bytes.splice(0..0, [0; 32]);
    });
    add("type-id-of-other-type", "unsupported-feature", &good, &|f| {
        f.set("wsic.type_id", Some(Meta::U64(704)));
    });
    add("names-of-other-type", metadata, &good, &|f| {
        f.set("wsic.tensor_names", Some(Meta::U64s(vec![1, 2])))
    });
    // The last tensor would begin where the file ends: it lies in the file, and nothing of it is there.
    add("offset-at-the-end", "truncated", &good, &|f| {
        f.tensors.truncate(3);
        f.tensors[2].bytes.clear();
    });
    add("offset-past-the-end", "bad-container", &good, &|f| {
        f.tensors.truncate(3);
        f.tensors[2].bytes.clear();
        f.moved = Some((2, 32));
    });
    // 2^68 bytes, which a product of 64 bits takes for none.
    add("overlap-by-a-huge-size", "bad-container", &good, &|f| f.tensors[1].dims = vec![1 << 62, 16]);
    // All tiles of a tensor are decoded before the next tensor is looked at, and before gaps are.
    add("first-tensor-first", "corrupt-tile", &good, &|f| {
        f.tensors[0].bytes[90] = 0;
        f.tensors[2].bytes[0] = b'w';
    });
    add("gap-and-damaged-tile", "corrupt-tile", &good, &|f| {
        f.tensors[0].bytes[90] = 0;
        f.moved = Some((3, 32));
        f.tensors[3].bytes.splice(0..0, [0; 32]);
    });
    add("verifier-gap-at-the-start", "bad-container", &file(&[(q, get("worked-example"))], 32), &|f| {
        f.tensors.truncate(1);
        f.moved = Some((0, 32));
        f.tensors[0].bytes.splice(0..0, [0; 32]);
    });
    add("verifier-padding-after-the-payload", "bad-container", &good, &|f| f.tensors[0].bytes.push(1));
    let container = "bad-container";
    for (name, version) in [("gguf-version-1", 1), ("gguf-version-4", 4), ("gguf-big-endian", 3 << 24)] {
        add(name, container, &good, &|f| f.version = version);
    }
    add("gguf-five-dimensions", container, &good, &|f| f.tensors[1].dims = vec![3, 1, 1, 1, 1]);
    add("gguf-tensor-name-twice", container, &good, &|f| f.tensors[3].name = f.tensors[1].name.clone());
    add("gguf-key-twice", container, &good, &|f| f.metadata.push(f.metadata[0].clone()));
    for (name, alignment) in [
        ("gguf-alignment-0", Meta::U32(0)),
        ("gguf-alignment-24", Meta::U32(24)),
        ("gguf-alignment-of-other-type", Meta::U64(32)),
    ] {
        add(name, container, &good, &|f| f.set("general.alignment", Some(alignment.clone())));
    }
    let kind = 13u32.to_le_bytes();
    add("gguf-value-type-13", container, &good, &|f| f.set("test", Some(Meta::Other(13, vec![0; 8]))));
    add("gguf-element-type-13", container, &good, &|f| {
        f.set("test", Some(Meta::Other(9, [&kind[..], &0u64.to_le_bytes()].concat())));
    });
    let endless = [&4u32.to_le_bytes()[..], &u64::MAX.to_le_bytes()].concat();
    add("gguf-array-beyond", container, &good, &|f| f.set("test", Some(Meta::Other(9, endless.clone()))));
    add("gguf-string-beyond", container, &good, &|f| {
        f.set("test", Some(Meta::Other(8, (1u64 << 40).to_le_bytes().to_vec())));
    });
    let mut raw = |name: &str, edit: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.bytes();
        edit(&mut bytes);
        let (files, class) = (vec![(format!("{name}.gguf"), bytes)], Some(container));
        all.push(Container { files, decoder: class, verifier: class });
    };
    raw("gguf-magic", &|b| b[0] = b'X');
    raw("gguf-empty", &|b| b.clear());
    raw("gguf-23-bytes", &|b| b.truncate(23));
    raw("gguf-cut-in-metadata", &|b| b.truncate(100));
    let infos = good.bytes().windows(18).rposition(|window| window == b"blk.0.ffn_down.wei").unwrap();
    raw("gguf-cut-in-tensor-infos", &|b| b.truncate(infos));
    raw("gguf-endless-tensors", &|b| b[8..16].fill(0xFF));
    raw("gguf-endless-metadata", &|b| b[16..24].fill(0xFF));
    let mut split = |name: &str, count: Meta| {
        let mut first = good.clone();
        first.set("split.count", Some(count));
        let (files, class) = (vec![(format!("{name}.gguf"), first.bytes())], Some(container));
        all.push(Container { files, decoder: class, verifier: class });
    };
    split("split-without-second-00001-of-00002", Meta::U16(2));
    split("split-of-another-count-00001-of-00002", Meta::U16(3));
    split("split-without-number", Meta::U16(2));
    split("split-second-first-00002-of-00002", Meta::U16(2));
    split("split-count-of-text-00001-of-00002", Meta::Text("2".into()));
    // A verifier checks the checksum of the tile before it decodes it.
    let damaged = ["tile-damaged.gguf", "first-tensor-first.gguf", "gap-and-damaged-tile.gguf"];
    all.iter_mut()
        .filter(|c| damaged.contains(&c.files[0].0.as_str()))
        .for_each(|c| c.verifier = Some("bad-checksum"));
    all
}

/// A payload found in a model.
pub struct Found {
    pub name: String,
    pub bytes: Vec<u8>,
}

struct Parsed {
    metadata: HashMap<String, Meta>,
    /// Name, dimensions, type, offset.
    tensors: Vec<(String, Vec<u64>, u32, u64)>,
    alignment: u64,
    data: u64,
}

/// Values one after another; `None` where the file ends or a type is not one.
struct Reader<'a>(&'a [u8], usize);

impl<'a> Reader<'a> {
    fn take(&mut self, length: u64) -> Option<&'a [u8]> {
        let taken = self.0.get(self.1..)?.get(..usize::try_from(length).ok()?)?;
        self.1 += taken.len();
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn text(&mut self) -> Option<String> {
        let length = self.u64()?;
        String::from_utf8(self.take(length)?.to_vec()).ok()
    }

    fn value(&mut self) -> Option<Meta> {
        let kind = self.u32()?;
        self.value_of(kind)
    }

    fn value_of(&mut self, kind: u32) -> Option<Meta> {
        const SIZES: [u64; 13] = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8];
        Some(match kind {
            2 => Meta::U16(u16::from_le_bytes(self.take(2)?.try_into().ok()?)),
            4 => Meta::U32(self.u32()?),
            5 => Meta::I32(self.u32()? as i32),
            8 => Meta::Text(self.text()?),
            10 => Meta::U64(self.u64()?),
            9 => match (self.u32()?, self.u64()?) {
                (8, count) => Meta::Texts((0..count).map(|_| self.text()).collect::<Option<_>>()?),
                (10, count) => Meta::U64s((0..count).map(|_| self.u64()).collect::<Option<_>>()?),
                (element, count) if element < 13 => {
                    (0..count).try_for_each(|_| self.value_of(element).map(|_| ()))?;
                    Meta::Other(9, vec![])
                }
                _ => return None,
            },
            other => Meta::Other(other, self.take(*SIZES.get(other as usize)?)?.to_vec()),
        })
    }
}

/// The GGUF structure, by the first of the details in section 2.
fn parse(bytes: &[u8]) -> Option<Parsed> {
    let mut reader = Reader(bytes, 0);
    if reader.take(4)? != b"GGUF" || !matches!(reader.u32()?, 2 | 3) {
        return None;
    }
    let (count, entries) = (reader.u64()?, reader.u64()?);
    let mut metadata = HashMap::new();
    for _ in 0..entries {
        if metadata.insert(reader.text()?, reader.value()?).is_some() {
            return None;
        }
    }
    let mut tensors: Vec<(String, Vec<u64>, u32, u64)> = Vec::new();
    for _ in 0..count {
        let name = reader.text()?;
        let dimensions = reader.u32()?;
        if dimensions > 4 || tensors.iter().any(|tensor| tensor.0 == name) {
            return None;
        }
        let dims = (0..dimensions).map(|_| reader.u64()).collect::<Option<_>>()?;
        tensors.push((name, dims, reader.u32()?, reader.u64()?));
    }
    let alignment = match metadata.get("general.alignment") {
        Some(Meta::U32(alignment)) if alignment.is_power_of_two() => u64::from(*alignment),
        Some(_) => return None,
        None => 32,
    };
    Some(Parsed { metadata, tensors, alignment, data: (reader.1 as u64).next_multiple_of(alignment) })
}

/// Whether all files of the model are here.
fn complete(files: &[(String, Vec<u8>)], first: &Parsed) -> bool {
    match first.metadata.get("split.count") {
        None | Some(Meta::U16(0 | 1)) => files.len() == 1,
        Some(Meta::U16(count)) => {
            let names = (1..=*count).map(|number| format!("-{number:05}-of-{count:05}.gguf"));
            files.len() == usize::from(*count)
                && files.iter().zip(names).all(|(file, end)| file.0.ends_with(&end))
        }
        Some(_) => false,
    }
}

fn check(condition: bool, class: &'static str) -> Result<(), &'static str> {
    condition.then_some(()).ok_or(class)
}

/// The checks of section 2, in its order. `open` judges one payload and yields columns, rows, matrices.
pub fn read(
    files: &[(String, Vec<u8>)],
    verifier: bool,
    open: impl Fn(&[u8]) -> Result<[u64; 3], &'static str>,
) -> Result<Vec<Found>, &'static str> {
    let parsed: Option<Vec<Parsed>> = files.iter().map(|(_, bytes)| parse(bytes)).collect();
    let parsed = parsed.filter(|parsed| complete(files, &parsed[0])).ok_or("bad-container")?;
    let names: Vec<String> = parsed
        .iter()
        .flat_map(|file| {
            file.tensors.iter().filter(|tensor| tensor.2 == TYPE_ID).map(|tensor| tensor.0.clone())
        })
        .collect();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let keys = &parsed[0].metadata;
    let (Some(Meta::U32(version)), Some(Meta::Texts(listed)), Some(Meta::U64s(lengths))) =
        (keys.get("wsic.version"), keys.get("wsic.tensor_names"), keys.get("wsic.tensor_bytes"))
    else {
        return Err("metadata-mismatch");
    };
    check(*listed == names && lengths.len() == names.len(), "metadata-mismatch")?;
    check(*version == 1, "unsupported-version")?;
    check(keys.get("wsic.type_id").is_none_or(|id| *id == Meta::U32(TYPE_ID)), "unsupported-feature")?;
    let mut lengths = lengths.iter();
    let mut found = Vec::new();
    for ((_, bytes), file) in files.iter().zip(&parsed) {
        for (name, dims, _, offset) in file.tensors.iter().filter(|tensor| tensor.2 == TYPE_ID) {
            check(matches!(dims.len(), 2 | 3), "shape-mismatch")?;
            let start = file.data.checked_add(*offset).filter(|&start| start <= bytes.len() as u64);
            check(offset % file.alignment == 0 && start.is_some(), "bad-container")?;
            let rest = &bytes[start.unwrap() as usize..];
            check(rest.len() >= 16, "truncated")?;
            check(rest.starts_with(b"WSIC"), "bad-magic")?;
            let length = u64::from_le_bytes(rest[8..16].try_into().unwrap());
            check(length <= rest.len() as u64, "truncated")?;
            check(lengths.next() == Some(&length), "metadata-mismatch")?;
            let meets = |(other, dims, kind, start): &(String, Vec<u64>, u32, u64)| {
                // The only other type of the vectors is F32; of our own only the start is known here.
                let size = if *kind == F32 {
                    dims.iter().fold(4, |size: u64, dim| size.saturating_mul(*dim))
                } else {
                    1
                };
                let end = start.saturating_add(size);
                other != name && *start < offset + length && end > *offset
            };
            check(!file.tensors.iter().any(meets), "bad-container")?;
            let shape = open(&rest[..length as usize])?;
            let third = dims.get(2).copied().unwrap_or(1);
            check(shape == [dims[0], dims[1], third], "shape-mismatch")?;
            found.push(Found { name: name.clone(), bytes: rest[..length as usize].to_vec() });
        }
    }
    if verifier {
        files.iter().zip(&parsed).try_for_each(|((_, bytes), file)| check_gaps(bytes, file))?;
    }
    Ok(found)
}

/// No gaps, and zeros between tensors. `None` stands for an end that is not known.
fn check_gaps(bytes: &[u8], file: &Parsed) -> Result<(), &'static str> {
    let mut end = Some(0);
    for (_, dims, kind, offset) in &file.tensors {
        if let Some(end) = end {
            let (start, expected) = (file.data + end, u64::next_multiple_of(end, file.alignment));
            check(*offset == expected, "bad-container")?;
            let padding = &bytes[start as usize..(file.data + expected) as usize];
            check(padding.iter().all(|&byte| byte == 0), "bad-container")?;
        }
        let start = (file.data + offset) as usize;
        end = match *kind {
            TYPE_ID => Some(offset + u64::from_le_bytes(bytes[start + 8..start + 16].try_into().unwrap())),
            F32 => Some(offset + 4 * dims.iter().product::<u64>()),
            _ => None,
        };
    }
    Ok(())
}
