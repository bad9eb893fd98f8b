//! `wsic bench kernels` from outside, on a tiny matrix.

use assert_cmd::Command;
use predicates::prelude::*;
use std::collections::HashSet;

fn wsic(arguments: &[&str]) -> assert_cmd::assert::Assert {
    Command::new(env!("CARGO_BIN_EXE_wsic")).args(arguments).assert()
}

const TINY: [&str; 8] = ["bench", "kernels", "--shape", "128x96", "--time", "0.001", "--batch", "3"];

#[test]
fn json_lists_every_operation_on_every_instruction_set() {
    let output = wsic(&[&TINY[..], &["--json", "--threads", "2"]].concat()).success();
    let rows: serde_json::Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    let rows = rows.as_array().unwrap();
    let available: HashSet<&str> = wsic::kernels::Isa::all_available().map(|isa| isa.name()).collect();
    let mut seen = HashSet::new();
    for row in rows {
        let text = |key: &str| row[key].as_str().unwrap();
        assert!(["scalar", "avx2", "avx512"].contains(&text("isa")), "{row}");
        assert!(text("variant").starts_with(text("isa")) && available.contains(text("variant")), "{row}");
        assert_eq!((row["rows"].as_u64(), row["cols"].as_u64()), (Some(128), Some(96)));
        assert_eq!(row["bits"].as_f64(), Some(2.1));
        assert!(row["gweights_per_s"].as_f64().unwrap() > 0.0, "{row}");
        let (threads, batch) = match text("op") {
            "decode" | "matvec" => (2, 1),
            "matmul" => (2, 3),
            "get_rows" => (1, 3),
            other => panic!("{other}"),
        };
        assert_eq!((row["threads"].as_u64(), row["batch"].as_u64()), (Some(threads), Some(batch)), "{row}");
        seen.insert((text("variant"), text("op"), row["cold"].as_bool().unwrap()));
    }
    assert_eq!((seen.len(), rows.len()), (6 * available.len(), 6 * available.len()));
}

#[test]
fn a_table_of_what_was_asked_for() {
    wsic(&[&TINY[..], &["--isa", "scalar", "--op", "matvec,open", "--threads", "1"]].concat())
        .success()
        .stdout(predicate::str::contains("Gweights/s").and(predicate::str::contains("128 x 96")))
        .stdout(predicate::str::contains("open").and(predicate::str::contains("get_rows").not()));
}

#[test]
fn wrong_arguments_are_refused() {
    for (option, value) in
        [("--shape", "12"), ("--shape", "0x4"), ("--bits", "99"), ("--isa", "sse9"), ("--op", "add")]
    {
        wsic(&["bench", "kernels", option, value]).code(2).stderr(predicate::str::contains(value));
    }
}
