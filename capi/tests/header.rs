//! `include/wsic.h` is what cbindgen makes from the source. `WSIC_WRITE_HEADER=1 cargo test -p wsic-capi --test header`
//! writes it.

use std::path::{Path, PathBuf};

const FILES: [&str; 6] = ["lib", "status", "isa", "tensor", "product", "rows"];

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn committed() -> PathBuf {
    folder().join("../include/wsic.h")
}

/// What follows "# Safety" in a comment repeats, for Rust, what the C header says at its top.
fn without_safety_sections(header: &str) -> String {
    let mut text = String::new();
    let mut skipping = false;
    for line in header.lines() {
        if line.trim() == "* # Safety" {
            skipping = true;
            // The empty line of the comment before it.
            let kept = text.trim_end_matches('\n').trim_end_matches(" *").len();
            text.truncate(kept);
        }
        skipping &= line.trim() != "*/";
        if !skipping {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

fn generated() -> String {
    let config = cbindgen::Config::from_file(folder().join("cbindgen.toml")).unwrap();
    let builder = cbindgen::Builder::new().with_config(config).with_src(folder().join("src/lib.rs"));
    let mut text = Vec::new();
    builder.generate().unwrap().write(&mut text);
    without_safety_sections(&String::from_utf8(text).unwrap())
}

#[test]
fn the_committed_header_is_up_to_date() {
    let header = generated();
    if std::env::var_os("WSIC_WRITE_HEADER").is_some() {
        std::fs::create_dir_all(committed().parent().unwrap()).unwrap();
        std::fs::write(committed(), &header).unwrap();
    }
    let stored = std::fs::read_to_string(committed()).unwrap_or_default();
    assert!(stored == header, "include/wsic.h is out of date: run this test with WSIC_WRITE_HEADER=1");
}

#[test]
fn every_exported_function_is_declared() {
    let header = generated();
    let mut count = 0;
    for file in FILES {
        let source = std::fs::read_to_string(folder().join("src").join(file).with_extension("rs")).unwrap();
        for part in source.split("extern \"C\" fn ").skip(1) {
            let name = part.split('(').next().unwrap();
            assert!(name.starts_with("wsic_"), "{name}");
            assert!(header.contains(&format!("{name}(")), "{name}");
            count += 1;
        }
    }
    assert_eq!(count, 27);
}
