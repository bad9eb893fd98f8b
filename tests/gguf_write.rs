//! Writing: what is read back, byte identity, temporary files, split models.

use std::path::Path;

use wsic::gguf::{
    group_by_size, shard_path, Array, GgmlType, GgufFile, GgufModel, GgufModelWriter, GgufWriter, Limits,
    Metadata, TensorSpec, Value, ValueType,
};

fn spec(name: &str, dims: &[u64], ty: GgmlType) -> TensorSpec {
    TensorSpec { name: name.into(), dims: dims.to_vec(), ty }
}

/// A payload of our type as far as the container looks at it.
fn payload(len: usize) -> Vec<u8> {
    let mut bytes = vec![0xa5; len];
    bytes[..4].copy_from_slice(b"WSIC");
    bytes[4..8].copy_from_slice(&[1, 0, 0, 0]);
    bytes[8..16].copy_from_slice(&(len as u64).to_le_bytes());
    bytes
}

fn every_kind_of_value() -> Metadata {
    let mut metadata = Metadata::new("test");
    metadata.set("general.architecture", "llama".into());
    metadata.set("a.u8", Value::U8(200));
    metadata.set("a.i8", Value::I8(-100));
    metadata.set("a.u16", Value::U16(60000));
    metadata.set("a.i16", Value::I16(-30000));
    metadata.set("a.u32", Value::U32(4_000_000_000));
    metadata.set("a.i32", Value::I32(-2_000_000_000));
    metadata.set("a.f32", Value::F32(f32::from_bits(0x7fc1_2345)));
    metadata.set("a.bool", Value::Bool(true));
    metadata.set("a.string", Value::String(vec![0xff, 0, 0xc3, 0x28]));
    metadata.set("a.u64", Value::U64(u64::MAX));
    metadata.set("a.i64", Value::I64(i64::MIN));
    metadata.set("a.f64", Value::F64(f64::from_bits(0xfff8_0000_dead_beef)));
    metadata.set("a.strings", Value::Array(Array::from_strings(["a", "", "ü"])));
    metadata.set("a.empty", Value::Array(Array::from_strings::<&str>([])));
    let floats = [Value::F32(1.5), Value::F32(f32::NEG_INFINITY)];
    metadata.set("a.floats", Value::Array(Array::from_values(ValueType::F32, &floats).unwrap()));
    metadata.set("lengths", Value::Array(Array::from_u64(&[0, 0])));
    metadata
}

fn write(path: &Path, metadata: Metadata, tensors: &[(TensorSpec, Vec<u8>)]) -> u64 {
    let specs = tensors.iter().map(|(spec, _)| spec.clone()).collect();
    let mut writer = GgufWriter::create(path, metadata, specs).unwrap();
    for (spec, bytes) in tensors {
        writer.begin_tensor(&spec.name).unwrap();
        bytes.chunks(7).for_each(|chunk| writer.append(chunk).unwrap());
        assert_eq!(writer.end_tensor().unwrap(), bytes.len() as u64);
    }
    writer.finish().unwrap()
}

fn tensors() -> Vec<(TensorSpec, Vec<u8>)> {
    vec![
        (spec("token_embd.weight", &[32, 3], GgmlType::Q8_0), (0..102).collect()),
        (spec("blk.0.w", &[64, 10], GgmlType::Wsic), payload(77)),
        (spec("scalar", &[], GgmlType::F32), vec![0, 0, 128, 63]),
        (spec("blk.0.x", &[2, 1, 3, 2], GgmlType::F16), vec![7; 24]),
    ]
}

#[test]
fn reads_back_what_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.gguf");
    let metadata = every_kind_of_value();
    let size = write(&path, metadata.clone(), &tensors());
    let file = GgufFile::open(&path, &Limits::default()).unwrap();
    assert_eq!((file.version(), file.alignment(), file.file_len()), (3, 32, size));
    assert_eq!(file.metadata(), &metadata);
    assert_eq!(size % 32, 0);
    let mut end = 0;
    for (info, (spec, bytes)) in file.tensors().iter().zip(&tensors()) {
        assert_eq!(&TensorSpec::from(info), spec);
        assert_eq!(info.offset, end, "no gaps");
        assert_eq!(file.tensor_bytes(info).unwrap(), bytes);
        end = (info.offset + info.byte_len).next_multiple_of(32);
    }
    assert_eq!(file.data_start() + end, size);
    assert_eq!(file.tensor_f32(file.tensor("scalar").unwrap()).unwrap(), [1.0]);
    let error = file.tensor_f32(file.tensor("blk.0.w").unwrap()).unwrap_err().to_string();
    assert!(error.contains("blk.0.w") && error.contains("WSIC") && error.contains("a.gguf"), "{error}");
    let meta = file.metadata();
    assert_eq!(meta.u32("a.u8").unwrap(), 200);
    assert_eq!(meta.u64("a.u64").unwrap(), u64::MAX);
    assert_eq!(meta.i64("a.i32").unwrap(), -2_000_000_000);
    assert!(meta.u32("a.i8").unwrap_err().to_string().contains("a.i8"));
    assert!(meta.str("a.string").is_err());
    assert_eq!(meta.bytes("a.string").unwrap(), [0xff, 0, 0xc3, 0x28]);
    assert_eq!(meta.strings("a.strings").unwrap().collect::<Vec<_>>(), [&b"a"[..], b"", "ü".as_bytes()]);
    assert_eq!(meta.f32_array("a.floats").unwrap(), [1.5, f32::NEG_INFINITY]);
    assert_eq!(meta.integer_array::<usize>("lengths").unwrap(), [0, 0]);
    assert!(meta.optional("absent", Metadata::u32).unwrap().is_none());
    assert!(meta.u32("absent").unwrap_err().to_string().contains("absent"));
}

/// Writes a file again from what was read of it.
fn copy(from: &Path, to: &Path) {
    let file = GgufFile::open(from, &Limits::default()).unwrap();
    let specs = file.tensors().iter().map(TensorSpec::from).collect();
    let mut writer = GgufWriter::create(to, file.metadata().clone(), specs).unwrap();
    writer.set_version(file.version()).unwrap();
    for tensor in file.tensors() {
        writer.write_tensor(&tensor.name, file.tensor_bytes(tensor).unwrap()).unwrap();
    }
    assert_eq!(writer.finish().unwrap(), file.file_len());
}

#[test]
fn a_copy_is_identical() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a.gguf"), folder.path().join("b.gguf"));
    for alignment in [None, Some(8), Some(4096)] {
        let mut metadata = every_kind_of_value();
        if let Some(alignment) = alignment {
            metadata.set("general.alignment", Value::U32(alignment));
        }
        write(&a, metadata, &tensors());
        copy(&a, &b);
        assert_eq!(std::fs::read(&a).unwrap(), std::fs::read(&b).unwrap());
    }
    if let Some(real) = std::env::var_os("WSIC_TEST_GGUF") {
        copy(Path::new(&real), &b);
        assert!(std::fs::read(real).unwrap() == std::fs::read(&b).unwrap());
    } else {
        eprintln!("real file skipped: set WSIC_TEST_GGUF to a GGUF file");
    }
}

#[test]
fn unfinished_files_vanish_and_old_ones_stay() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.gguf");
    std::fs::write(&path, "old").unwrap();
    let mut writer = GgufWriter::create(
        &path,
        Metadata::new(""),
        vec![spec("a", &[4], GgmlType::F32), spec("b", &[1], GgmlType::I8)],
    )
    .unwrap();
    writer.write_tensor("a", &[0; 16]).unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    let error = writer.finish().unwrap_err().to_string();
    assert!(error.contains("`b`"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
}

#[test]
fn refuses_wrong_data_and_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.gguf");
    let specs = vec![spec("a", &[4], GgmlType::F32), spec("b", &[64, 2], GgmlType::Wsic)];
    let new = || GgufWriter::create(&path, every_kind_of_value(), specs.clone()).unwrap();
    let says = |result: Result<(), _>, words: &str| {
        let error: wsic::gguf::GgufError = result.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    };
    says(new().write_tensor("b", &[]), "`a`, the next in order");
    says(new().write_tensor("a", &[0; 15]), "16 bytes");
    says(new().append(&[1]), "begin_tensor() before");
    let mut writer = new();
    writer.write_tensor("a", &[0; 16]).unwrap();
    says(writer.write_tensor("b", &[0; 40]), "WSIC");
    let mut writer = new();
    writer.write_tensor("a", &[0; 16]).unwrap();
    let mut bytes = payload(40);
    bytes.push(0);
    says(writer.write_tensor("b", &bytes), "expected 40 bytes, found 41 bytes");
    says(new().set_version(1), "2 or 3");
    says(new().replace_metadata("absent", Value::U8(0)), "absent");
    says(new().replace_metadata("a.u8", Value::U16(0)), "same size");
    says(new().finish().map(|_| ()), "`a`");
}

#[test]
fn refuses_what_no_file_can_hold() {
    let refused = |metadata: Metadata, specs: Vec<TensorSpec>| {
        GgufWriter::create("/nonexistent/folder/a.gguf", metadata, specs).unwrap_err().to_string()
    };
    let none = || Metadata::new("");
    let error = refused(none(), vec![spec(&"x".repeat(64), &[1], GgmlType::F32)]);
    assert!(error.contains("less than 64 bytes"), "{error}");
    let error = refused(none(), vec![spec("a", &[1], GgmlType::F32), spec("a", &[1], GgmlType::F32)]);
    assert!(error.contains("second time"), "{error}");
    let error = refused(none(), vec![spec("a", &[1; 5], GgmlType::F32)]);
    assert!(error.contains("at most 4 dimensions"), "{error}");
    let error = refused(none(), vec![spec("a", &[1 << 32, 1 << 31], GgmlType::F32)]);
    assert!(error.contains("below 2^63"), "{error}");
    let error = refused(none(), vec![spec("a", &[33], GgmlType::Q4_0)]);
    assert!(error.contains("whole blocks"), "{error}");
    let mut metadata = none();
    metadata.set("general.alignment", Value::U64(32));
    let error = refused(metadata, vec![]);
    assert!(error.contains("UINT32"), "{error}");
    let error = refused(none(), vec![]);
    assert!(error.contains("/nonexistent/folder"), "{error}");
}

#[test]
fn metadata_of_the_end_is_patched_in() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.gguf");
    let mut writer =
        GgufWriter::create(&path, every_kind_of_value(), vec![spec("a", &[64, 2], GgmlType::Wsic)]).unwrap();
    writer.write_tensor("a", &payload(100)).unwrap();
    writer.replace_metadata("lengths", Value::Array(Array::from_u64(&[100, 1]))).unwrap();
    writer.finish().unwrap();
    let file = GgufFile::open(&path, &Limits::default()).unwrap();
    assert_eq!(file.metadata().integer_array::<u64>("lengths").unwrap(), [100, 1]);
}

#[test]
fn metadata_keeps_its_order() {
    let mut metadata = every_kind_of_value();
    let before: Vec<String> = metadata.iter().map(|(key, _)| key.to_owned()).collect();
    metadata.set("a.u8", Value::U8(1));
    assert_eq!(metadata.remove("a.i8"), Some(Value::I8(-100)));
    assert_eq!(metadata.remove("a.i8"), None);
    metadata.set("new", Value::U8(2));
    let mut expected: Vec<String> = before.into_iter().filter(|key| key != "a.i8").collect();
    expected.push("new".into());
    assert_eq!(metadata.iter().map(|(key, _)| key.to_owned()).collect::<Vec<_>>(), expected);
    for key in expected {
        assert!(metadata.get(&key).is_some(), "{key}");
    }
    assert_eq!(metadata.get("a.bool"), Some(&Value::Bool(true)));
}

#[test]
fn split_models_are_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let all = tensors();
    let specs: Vec<_> = all.iter().map(|(spec, _)| spec.clone()).collect();
    let groups =
        group_by_size(specs.clone(), 100, |spec| all.iter().find(|t| &t.0 == spec).unwrap().1.len() as u64);
    assert_eq!(groups.iter().map(Vec::len).collect::<Vec<_>>(), [1, 2, 1]);
    let mut writer = GgufModelWriter::create(&path, &every_kind_of_value(), groups).unwrap();
    for (spec, bytes) in &all {
        writer.write_tensor(&spec.name, bytes).unwrap();
    }
    writer.finish().unwrap();
    let first = shard_path(&path, 0, 3);
    assert!(first.ends_with("m-00001-of-00003.gguf"));
    assert!(!path.exists());

    let model = GgufModel::open(&first, &Limits::default()).unwrap();
    assert_eq!(model.files().len(), 3);
    assert_eq!(model.tensor_count(), 4);
    assert_eq!(model.tensors().map(TensorSpec::from).collect::<Vec<_>>(), specs);
    for (spec, bytes) in &all {
        assert_eq!(model.tensor_bytes(model.tensor(&spec.name).unwrap()).unwrap(), bytes);
    }
    assert_eq!(model.joined_metadata(), every_kind_of_value());
    assert_eq!(model.metadata().u32("split.count").unwrap(), 3);
    assert_eq!(model.tensor_f32(model.tensor("scalar").unwrap()).unwrap(), [1.0]);

    // Not the first file; a file missing; a file of another model.
    let error = GgufModel::open(shard_path(&path, 1, 3), &Limits::default()).unwrap_err().to_string();
    assert!(error.contains("the first of 3 files"), "{error}");
    let second = std::fs::read(shard_path(&path, 1, 3)).unwrap();
    std::fs::write(shard_path(&path, 2, 3), &second).unwrap();
    let error = GgufModel::open(&first, &Limits::default()).unwrap_err().to_string();
    assert!(error.contains("split.no"), "{error}");
    std::fs::remove_file(shard_path(&path, 2, 3)).unwrap();
    let error = GgufModel::open(&first, &Limits::default()).unwrap_err().to_string();
    assert!(error.contains("m-00003-of-00003.gguf"), "{error}");

    // Joined again into one file.
    let mut writer = GgufModelWriter::create(&path, model.metadata(), vec![specs]).unwrap();
    for (spec, bytes) in &all {
        writer.write_tensor(&spec.name, bytes).unwrap();
    }
    writer.finish().unwrap();
    let joined = GgufModel::open(&path, &Limits::default()).unwrap();
    assert_eq!(joined.metadata(), &every_kind_of_value());
}
