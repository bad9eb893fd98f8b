//! Whole GGUF files: a small writer that can also write what section 2 of the text forbids, and the checks of that
//! section, written from the text.

use crate::common::forge::payload;
use crate::valid::Valid;
use std::collections::HashMap;

const TYPE_ID: u32 = 704;
const F32: u32 = 0;

#[derive(Clone, Debug, PartialEq)]
pub enum Meta {
    U16(u16),
    U32(u32),
    I32(i32),
    U64(u64),
    Text(String),
    Texts(Vec<String>),
    U64s(Vec<u64>),
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
        }
    }
}

impl File {
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF\x03\0\0\0".to_vec();
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
    File { metadata, tensors, alignment, moved: None, tail: Vec::new(), padding: 0 }
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
    // A verifier checks the checksum of the tile before it decodes it.
    all.iter_mut()
        .filter(|c| c.files[0].0 == "tile-damaged.gguf")
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

struct Reader<'a>(&'a [u8], usize);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> [u8; N] {
        self.1 += N;
        self.0[self.1 - N..self.1].try_into().unwrap()
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    fn text(&mut self) -> String {
        let length = self.u64() as usize;
        self.1 += length;
        String::from_utf8(self.0[self.1 - length..self.1].to_vec()).unwrap()
    }

    fn value(&mut self) -> Meta {
        match self.u32() {
            2 => Meta::U16(u16::from_le_bytes(self.array())),
            4 => Meta::U32(self.u32()),
            5 => Meta::I32(self.u32() as i32),
            8 => Meta::Text(self.text()),
            10 => Meta::U64(self.u64()),
            9 => match (self.u32(), self.u64()) {
                (8, count) => Meta::Texts((0..count).map(|_| self.text()).collect()),
                (10, count) => Meta::U64s((0..count).map(|_| self.u64()).collect()),
                other => panic!("array of {other:?}"),
            },
            other => panic!("value type {other}"),
        }
    }
}

/// The GGUF structure, which is sound in all vectors.
fn parse(bytes: &[u8]) -> Parsed {
    let mut reader = Reader(bytes, 8);
    let (tensors, entries) = (reader.u64(), reader.u64());
    let metadata: HashMap<String, Meta> = (0..entries).map(|_| (reader.text(), reader.value())).collect();
    let tensors = (0..tensors)
        .map(|_| {
            let name = reader.text();
            let dims = (0..reader.u32()).map(|_| reader.u64()).collect();
            (name, dims, reader.u32(), reader.u64())
        })
        .collect();
    let alignment = match metadata.get("general.alignment") {
        Some(Meta::U32(alignment)) => u64::from(*alignment),
        _ => 32,
    };
    Parsed { metadata, tensors, alignment, data: (reader.1 as u64).next_multiple_of(alignment) }
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
    let parsed: Vec<Parsed> = files.iter().map(|(_, bytes)| parse(bytes)).collect();
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
            let inside = |other: &u64| *other > *offset && *other < offset + length;
            check(!file.tensors.iter().any(|tensor| inside(&tensor.3)), "bad-container")?;
            let shape = open(&rest[..length as usize])?;
            let third = dims.get(2).copied().unwrap_or(1);
            check(shape == [dims[0], dims[1], third], "shape-mismatch")?;
            found.push(Found { name: name.clone(), bytes: rest[..length as usize].to_vec() });
        }
        if verifier {
            check_gaps(bytes, file)?;
        }
    }
    Ok(found)
}

/// No gaps, and zeros between tensors.
fn check_gaps(bytes: &[u8], file: &Parsed) -> Result<(), &'static str> {
    let mut expected = 0;
    for (index, (_, dims, kind, offset)) in file.tensors.iter().enumerate() {
        check(*offset == expected, "bad-container")?;
        let start = (file.data + offset) as usize;
        let length = match *kind {
            TYPE_ID => u64::from_le_bytes(bytes[start + 8..start + 16].try_into().unwrap()),
            _ => 4 * dims.iter().product::<u64>(),
        };
        expected = (offset + length).next_multiple_of(file.alignment);
        if index + 1 < file.tensors.len() {
            let padding = &bytes[start + length as usize..(file.data + expected) as usize];
            check(padding.iter().all(|&byte| byte == 0), "bad-container")?;
        }
    }
    Ok(())
}
