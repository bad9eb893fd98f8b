//! Model folders: config.json, safetensors files and their index, tokenizers and the small files beside them. Opened
//! as the converter does, then every tensor is read. The mutator starts from small valid folders and damages them
//! through their JSON (see `folders`).
#![no_main]

#[path = "../../tests/common/mod.rs"]
mod common;
mod folders;
mod guard;
#[path = "../../tests/import_support/mod.rs"]
mod import_support;
mod scratch_file;

use common::Random;
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock};
use wsic::gguf::GgmlType;
use wsic::import::{Folder, Limits};

/// The folder, and the files that are in it.
static FOLDER: OnceLock<(PathBuf, Mutex<Vec<usize>>)> = OnceLock::new();

fn read(bytes: &[u8]) {
    let (path, present) = FOLDER.get_or_init(|| (scratch_file::folder("checkpoint"), Mutex::new(Vec::new())));
    let mut present = present.lock().expect("not poisoned");
    for name in present.drain(..) {
        let _ = std::fs::remove_file(path.join(folders::NAMES[name]));
    }
    let files = folders::read(bytes);
    for (name, bytes) in &files {
        std::fs::write(path.join(folders::NAMES[*name]), bytes).expect("room for a file");
        present.push(*name);
    }
    // A JSON value takes 32 bytes or more for each two of the text, twice while a list grows.
    let most = (1 << 20) + 256 * bytes.len();
    let Ok(folder) = guard::within(most, || Folder::open(path, &Limits::default())) else { return };
    for (_, value) in folder.metadata().iter() {
        let _ = value.summary();
    }
    for tensor in folder.tensors() {
        let elements = tensor.elements() as usize;
        // What is not computed from the configuration is in the files.
        assert!(elements <= 8 * bytes.len() + (1 << 16), "{} with {elements} elements", tensor.spec.name);
        let mut out = vec![f32::from_bits(0x7DEA_DBEE); elements];
        if folder.read_f32(tensor, 0..tensor.rows(), &mut out).is_ok() {
            assert!(out.iter().all(|value| value.to_bits() != 0x7DEA_DBEE), "a weight was not written");
        }
        for ty in [GgmlType::F32, GgmlType::F16, GgmlType::BF16, GgmlType::Q8_0] {
            let _ = folder.append_rows(tensor, 0..tensor.rows(), ty, &mut Vec::new());
        }
        folder.release(tensor);
    }
}

fuzz_target!(|bytes: &[u8]| guard::in_time(5000, || read(bytes)));

fuzz_mutator!(|data: &mut [u8], size: usize, most: usize, seed: u32| {
    let mut random = Random(u64::from(seed) << 1 | 1);
    random.next();
    let files = match random.below(if size < 64 { 1 } else { 40 }) {
        0 => folders::fresh(&mut random),
        1 | 2 => return fuzzer_mutate(data, size, most),
        _ => {
            let mut files = folders::read(&data[..size]);
            folders::change(&mut files, &mut random);
            files
        }
    };
    let changed = folders::write(&files);
    if changed.len() > most {
        return size;
    }
    data[..changed.len()].copy_from_slice(&changed);
    changed.len()
});
