//! A reader with the checks of section 2, written from the text.

use super::*;

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
            0 => Meta::U8(self.take(1)?[0]),
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

/// Types with fixed block size: id, weights and bytes of a block.
pub const BLOCKS: &[(u32, u64, u64)] = &[
    (0, 1, 4),
    (1, 1, 2),
    (2, 32, 18),
    (3, 32, 20),
    (6, 32, 22),
    (7, 32, 24),
    (8, 32, 34),
    (9, 32, 36),
    (10, 256, 84),
    (11, 256, 110),
    (12, 256, 144),
    (13, 256, 176),
    (14, 256, 210),
    (15, 256, 292),
    (16, 256, 66),
    (17, 256, 74),
    (18, 256, 98),
    (19, 256, 50),
    (20, 32, 18),
    (21, 256, 110),
    (22, 256, 82),
    (23, 256, 136),
    (24, 1, 1),
    (25, 1, 2),
    (26, 1, 4),
    (27, 1, 8),
    (28, 1, 8),
    (29, 256, 56),
    (30, 1, 2),
    (34, 256, 54),
    (35, 256, 66),
    (39, 32, 17),
];

/// Bytes of a tensor of such a type; as good as endless where 64 bits do not hold them.
fn plain_size(type_id: u32, dims: &[u64]) -> Option<u64> {
    let &(_, weights, bytes) = BLOCKS.iter().find(|block| block.0 == type_id)?;
    let count = dims.iter().fold(1u128, |count, &dim| count.saturating_mul(u128::from(dim)));
    let size = (count / u128::from(weights)).saturating_mul(u128::from(bytes));
    Some(u64::try_from(size).unwrap_or(u64::MAX))
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

/// The value of an integer, with what its type can hold.
fn integer(value: Option<&Meta>, signed: bool) -> Option<u64> {
    match value? {
        Meta::U8(v) => Some(u64::from(*v)),
        Meta::U16(v) => Some(u64::from(*v)),
        Meta::U32(v) => Some(u64::from(*v)),
        Meta::U64(v) => Some(*v),
        Meta::I32(v) if signed => u64::try_from(*v).ok(),
        _ => None,
    }
}

/// Whether all files of the model are here and belong together.
fn complete(files: &[(String, Vec<u8>)], parsed: &[Parsed]) -> bool {
    let mut names: Vec<&String> =
        parsed.iter().flat_map(|file| file.tensors.iter().map(|tensor| &tensor.0)).collect();
    let tensors = names.len() as u64;
    names.sort();
    if names.windows(2).any(|pair| pair[0] == pair[1]) {
        return false;
    }
    let count = parsed[0].metadata.get("split.count");
    let count = match (count, integer(count, false)) {
        (None, _) | (_, Some(0 | 1)) => return files.len() == 1,
        (_, Some(count)) => count,
        _ => return false,
    };
    let belongs = |((file, parsed), number): ((&(String, Vec<u8>), &Parsed), u64)| {
        let key = |key: &str| integer(parsed.metadata.get(key), true);
        file.0.ends_with(&format!("-{:05}-of-{count:05}.gguf", number + 1))
            && key("split.no") == Some(number)
            && key("split.count") == Some(count)
            && key("split.tensors.count") == Some(tensors)
    };
    files.len() as u64 == count && files.iter().zip(parsed).zip(0..).all(belongs)
}

fn check(condition: bool, class: &'static str) -> Result<(), &'static str> {
    condition.then_some(()).ok_or(class)
}

/// Check 1; the lengths of the payloads.
fn check_keys(first: &Parsed, names: &[String]) -> Result<Vec<u64>, &'static str> {
    let keys = &first.metadata;
    let (Some(Meta::U32(version)), Some(Meta::Texts(listed)), Some(Meta::U64s(lengths))) =
        (keys.get("wsic.version"), keys.get("wsic.tensor_names"), keys.get("wsic.tensor_bytes"))
    else {
        return Err("metadata-mismatch");
    };
    check(listed == names && lengths.len() == names.len(), "metadata-mismatch")?;
    check(*version == 1, "unsupported-version")?;
    check(keys.get("wsic.type_id").is_none_or(|id| *id == Meta::U32(TYPE_ID)), "unsupported-feature")?;
    Ok(lengths.clone())
}

/// The checks of section 2, in its order. `open` opens one payload and yields columns, rows, matrices; `decode` judges its
/// tiles too.
pub fn read(
    files: &[(String, Vec<u8>)],
    verifier: bool,
    open: impl Fn(&[u8]) -> Result<[u64; 3], &'static str>,
    decode: impl Fn(&[u8]) -> Result<(), &'static str>,
) -> Result<Vec<Found>, &'static str> {
    let parsed: Option<Vec<Parsed>> = files.iter().map(|(_, bytes)| parse(bytes)).collect();
    let parsed = parsed.filter(|parsed| complete(files, parsed)).ok_or("bad-container")?;
    let names: Vec<String> = parsed
        .iter()
        .flat_map(|file| {
            file.tensors.iter().filter(|tensor| tensor.2 == TYPE_ID).map(|tensor| tensor.0.clone())
        })
        .collect();
    let lengths = if names.is_empty() { Vec::new() } else { check_keys(&parsed[0], &names)? };
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
            for (_, dims, kind, start) in file.tensors.iter().filter(|tensor| tensor.0 != *name) {
                let end = start.saturating_add(plain_size(*kind, dims).unwrap_or(0));
                let inside = (*offset..offset + length).contains(start);
                check(!inside && (start > offset || end <= *offset), "bad-container")?;
            }
            let shape = open(&rest[..length as usize])?;
            let third = dims.get(2).copied().unwrap_or(1);
            check(shape == [dims[0], dims[1], third], "shape-mismatch")?;
            decode(&rest[..length as usize])?;
            found.push(Found { name: name.clone(), bytes: rest[..length as usize].to_vec() });
        }
    }
    if verifier {
        files.iter().zip(&parsed).try_for_each(|((_, bytes), file)| check_gaps(bytes, file))?;
    }
    Ok(found)
}

/// No gaps, zeros between tensors, and nothing cut off. `None` stands for an end that is not known.
fn check_gaps(bytes: &[u8], file: &Parsed) -> Result<(), &'static str> {
    let of_data = |first: u64, last: u64| {
        let place = |at: u64| usize::try_from(file.data.checked_add(at)?).ok();
        bytes.get(place(first)?..place(last)?)
    };
    let mut end = Some(0);
    for (_, dims, kind, offset) in &file.tensors {
        if let Some(end) = end {
            check(*offset == u64::next_multiple_of(end, file.alignment), "bad-container")?;
            let zeros = of_data(end, *offset).is_some_and(|padding| padding.iter().all(|&byte| byte == 0));
            check(zeros, "bad-container")?;
        }
        let size = match *kind {
            TYPE_ID => of_data(offset + 8, offset + 16).map(|b| u64::from_le_bytes(b.try_into().unwrap())),
            _ => plain_size(*kind, dims),
        };
        end = size.map(|size| offset.saturating_add(size));
        check(end.is_none_or(|end| of_data(*offset, end).is_some()), "bad-container")?;
    }
    Ok(())
}
