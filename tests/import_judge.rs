//! Folders of every architecture against llama.cpp's converter, and against transformers run beside a foreign engine.
//!
//! Needs, and is skipped without, in the environment: `WSIC_JUDGE_PYTHON`, a Python with torch, transformers,
//! accelerate, sentencepiece, gguf and llama-cpp-python (or ik-llama-cpp-python), and `WSIC_JUDGE_LLAMA_CPP`, a folder with
//! llama.cpp's convert_hf_to_gguf.py and gguf-py (the source distribution of llama-cpp-python has it under
//! vendor/llama.cpp). With `WSIC_JUDGE_GGUF`, an F16 GGUF file of SmolLM2, that model is compared as well, and lends
//! its tokenizer to the others.

use std::path::{Path, PathBuf};
use std::process::Command;
use wsic::gguf::GgmlType;
use wsic::import::{write_plain, Folder, Limits};

fn script(python: &str, name: &str, arguments: &[&Path]) -> bool {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/judge").join(name);
    let status = Command::new(python).arg(path).args(arguments).env("PYTHONDONTWRITEBYTECODE", "1").status();
    status.expect("the judge's Python must start").success()
}

fn variable(name: &str) -> Option<String> {
    let value = std::env::var(name).ok().filter(|value| !value.is_empty());
    if value.is_none() {
        eprintln!("skipped: {name} is not set");
    }
    value
}

#[test]
fn folders_are_what_others_make_of_them() {
    let (Some(python), Some(llama_cpp), Some(gguf)) =
        (variable("WSIC_JUDGE_PYTHON"), variable("WSIC_JUDGE_LLAMA_CPP"), variable("WSIC_JUDGE_GGUF"))
    else {
        return;
    };
    let work = tempfile::tempdir().unwrap();
    let (smol, small) = (work.path().join("smol"), work.path().join("small"));
    assert!(
        script(&python, "import_smol.py", &[Path::new(&gguf), &smol]),
        "making the folder of the true model"
    );
    assert!(script(&python, "import_folders.py", &[&small, &smol]), "making the small folders");
    let mut folders: Vec<PathBuf> = std::fs::read_dir(&small)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    folders.sort();
    assert!(folders.len() >= 12, "{folders:?}");
    folders.push(smol);
    let mut failed = Vec::new();
    for path in folders {
        let folder = Folder::open(&path, &Limits::default()).unwrap_or_else(|error| panic!("{error}"));
        let native = folder.native_type();
        let file = work.path().join("plain.gguf");
        write_plain(&folder, native, &file, &mut |_| {}).unwrap();
        let outtype = PathBuf::from(native.name().unwrap().to_lowercase());
        // What is rebuilt from merges is deliberately not what that converter does (it has no scores).
        let rebuilt = path.ends_with("mistral-merges");
        if !rebuilt
            && !script(&python, "import_reference.py", &[Path::new(&llama_cpp), &path, &outtype, &file])
        {
            failed.push(format!("{}: reference", path.display()));
        }
        write_plain(&folder, GgmlType::F32, &file, &mut |_| {}).unwrap();
        if !script(&python, "import_logits.py", &[&path, &file]) {
            failed.push(format!("{}: ids or logits", path.display()));
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
