//! Properties of the container: arbitrary metadata and tensors survive writing and reading; a foreign reader agrees.

use proptest::collection::vec;
use proptest::prelude::*;
use wsic::gguf::{Array, GgmlType, GgufFile, GgufWriter, Limits, Metadata, TensorSpec, Value, ValueType};

const SCALARS: [ValueType; 11] = [
    ValueType::U8,
    ValueType::I8,
    ValueType::U16,
    ValueType::I16,
    ValueType::U32,
    ValueType::I32,
    ValueType::F32,
    ValueType::Bool,
    ValueType::U64,
    ValueType::I64,
    ValueType::F64,
];

/// The scalar of type `kind` with the low bits of `bits`.
fn scalar(kind: ValueType, bits: u64) -> Value {
    match kind {
        ValueType::U8 => Value::U8(bits as u8),
        ValueType::I8 => Value::I8(bits as i8),
        ValueType::U16 => Value::U16(bits as u16),
        ValueType::I16 => Value::I16(bits as i16),
        ValueType::U32 => Value::U32(bits as u32),
        ValueType::I32 => Value::I32(bits as i32),
        ValueType::F32 => Value::F32(f32::from_bits(bits as u32)),
        ValueType::Bool => Value::Bool(bits & 1 == 1),
        ValueType::U64 => Value::U64(bits),
        ValueType::I64 => Value::I64(bits as i64),
        _ => Value::F64(f64::from_bits(bits)),
    }
}

fn any_scalar_type() -> impl Strategy<Value = ValueType> {
    (0..SCALARS.len()).prop_map(|at| SCALARS[at])
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        (any_scalar_type(), any::<u64>()).prop_map(|(kind, bits)| scalar(kind, bits)),
        vec(any::<u8>(), 0..40).prop_map(Value::String),
        vec(vec(any::<u8>(), 0..12), 0..12).prop_map(|strings| Value::Array(Array::from_strings(strings))),
        (any_scalar_type(), vec(any::<u64>(), 0..20)).prop_map(|(kind, all)| {
            let values: Vec<Value> = all.into_iter().map(|bits| scalar(kind, bits)).collect();
            Value::Array(Array::from_values(kind, &values).unwrap())
        }),
    ]
}

fn any_metadata() -> impl Strategy<Value = Metadata> {
    vec(("[a-z][a-z0-9_.]{0,20}", any_value()), 0..12).prop_map(|entries| {
        let mut metadata = Metadata::new("any");
        for (key, value) in entries.into_iter().filter(|(key, _)| key != "general.alignment") {
            metadata.set(key, value);
        }
        metadata
    })
}

/// Types, rows of one to three blocks, and a seed for the data.
fn any_tensors() -> impl Strategy<Value = Vec<(GgmlType, u64, Vec<u64>, u8)>> {
    let ty = (0..GgmlType::ALL.len()).prop_map(|at| GgmlType::ALL[at]);
    vec((ty, 1..4u64, vec(1..4u64, 0..4), any::<u8>()), 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn written_is_read(metadata in any_metadata(), tensors in any_tensors(), alignment in 0..3u32, aligned: bool) {
        let mut metadata = metadata;
        if aligned {
            metadata.set("general.alignment", Value::U32(8 << (4 * alignment)));
        }
        let tensors: Vec<(TensorSpec, Vec<u8>)> = tensors.into_iter().enumerate().map(|(at, (ty, blocks, rest, seed))| {
            let block = ty.block().unwrap();
            let mut dims = vec![blocks * block.elements as u64];
            dims.extend(rest);
            let len = dims[1..].iter().product::<u64>() * blocks * block.bytes as u64;
            let data = (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect();
            (TensorSpec { name: format!("t{at}"), dims, ty }, data)
        }).collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.gguf");
        let specs = tensors.iter().map(|(spec, _)| spec.clone()).collect();
        let mut writer = GgufWriter::create(&path, metadata.clone(), specs).unwrap();
        for (spec, data) in &tensors {
            writer.write_tensor(&spec.name, data).unwrap();
        }
        let size = writer.finish().unwrap();
        let file = GgufFile::open(&path, &Limits::default()).unwrap();
        prop_assert_eq!(file.file_len(), size);
        prop_assert_eq!(file.metadata(), &metadata);
        prop_assert_eq!(file.tensors().len(), tensors.len());
        for (info, (spec, data)) in file.tensors().iter().zip(&tensors) {
            prop_assert_eq!(&TensorSpec::from(info), spec);
            prop_assert_eq!(file.tensor_bytes(info).unwrap(), &data[..]);
            prop_assert!(file.tensor_f32(info).is_ok());
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..300), entries in 0..4u64, tensors in 0..4u64) {
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        file.extend(tensors.to_le_bytes());
        file.extend(entries.to_le_bytes());
        file.extend(bytes);
        let _ = GgufFile::from_bytes("any", file, &Limits::default());
    }

    #[test]
    fn arbitrary_blocks_dequantize(at in 0..GgmlType::ALL.len(), seed: u64, count in 0..3usize) {
        let ty = GgmlType::ALL[at];
        let block = ty.block().unwrap();
        let bytes: Vec<u8> = (0..count * block.bytes)
            .map(|i| (seed.rotate_left(i as u32 % 61).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
            .collect();
        let mut out = vec![0.0; count * block.elements];
        prop_assert!(wsic::gguf::dequantize(ty, &bytes, &mut out).is_ok());
    }
}

/// The crate gguf-rs, an independent reader, sees the same names, shapes, offsets, sizes and scalar metadata. It
/// is asked only about types whose sizes it knows.
#[test]
fn a_foreign_reader_agrees() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f.gguf");
    let mut metadata = Metadata::new("f");
    metadata.set("general.architecture", "llama".into());
    metadata.set("llama.block_count", Value::U32(7));
    metadata.set("llama.epsilon", Value::F32(0.5));
    metadata.set("flag", Value::Bool(true));
    metadata.set("negative", Value::I64(-5));
    metadata.set("words", Value::Array(Array::from_strings(["x", "yz"])));
    let specs: Vec<TensorSpec> = [
        GgmlType::F32,
        GgmlType::F16,
        GgmlType::Q4_0,
        GgmlType::Q4_1,
        GgmlType::Q5_0,
        GgmlType::Q5_1,
        GgmlType::Q8_0,
        GgmlType::Q2_K,
        GgmlType::Q3_K,
        GgmlType::Q4_K,
        GgmlType::Q5_K,
        GgmlType::Q6_K,
    ]
    .into_iter()
    .map(|ty| TensorSpec { name: format!("w.{ty}"), dims: vec![256, 3], ty })
    .collect();
    let mut writer = GgufWriter::create(&path, metadata, specs.clone()).unwrap();
    for spec in &specs {
        writer.write_tensor(&spec.name, &vec![1; spec.ty.row_bytes(256).unwrap() as usize * 3]).unwrap();
    }
    writer.finish().unwrap();

    let file = GgufFile::open(&path, &Limits::default()).unwrap();
    let foreign = gguf_rs::get_gguf_container(path.to_str().unwrap()).unwrap().decode().unwrap();
    assert_eq!(foreign.get_version(), "v3");
    assert_eq!(foreign.num_kv(), 6);
    assert_eq!(foreign.metadata()["general.architecture"], "llama");
    assert_eq!(foreign.metadata()["llama.block_count"], 7);
    assert_eq!(foreign.metadata()["llama.epsilon"], 0.5);
    assert_eq!(foreign.metadata()["flag"], true);
    assert_eq!(foreign.metadata()["negative"], -5);
    assert_eq!(foreign.metadata()["words"].as_array().unwrap().len(), 2);
    assert_eq!(foreign.tensors().len(), specs.len());
    assert_eq!(foreign.data_offset(), file.data_start());
    for (theirs, ours) in foreign.tensors().iter().zip(file.tensors()) {
        assert_eq!(theirs.name, ours.name);
        assert_eq!(theirs.kind, ours.ty.id());
        assert_eq!(theirs.shape, ours.dims);
        assert_eq!(theirs.offset, ours.offset);
        assert_eq!(theirs.size, ours.byte_len);
    }
}
