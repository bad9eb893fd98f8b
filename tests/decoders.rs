//! The decoders of `spec/decoder`, which were written from the text: all vectors, generated matrices against the
//! library bit for bit, and the same verdict on damaged payloads.
//!
//! Needs a C compiler (`CC`, else `cc`), and Python 3 with numpy: `WSIC_TEST_PYTHON`, else `python3`, else with `CI=true`
//! a virtual environment below `target/`. What is absent is skipped with a message, but never if `CI=true`.

mod common;

use common::forge::{payload, write_side, Class, Entry, Plan, Table};
use common::mutate::mutate;
use common::{matrix, Random, Recipe};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use wsic::payload::encode::{encode, EncodeOptions};
use wsic::payload::{Geometry, Limits, Payload, PayloadError, QuantizedMatrix, ScaleKind, Trellis};

/// Small enough that no damaged payload is a large matrix.
const LIMITS: Limits = Limits { rows: 2048, columns: 512, matrices: 64, rows_and_columns: 8192 };
const LIMITS_ARGUMENT: &str = "2048,512,64,8192";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("spec/decoder")
}

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("spec/vectors")
}

fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true")
}

fn runs(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

/// Runs a command that has to succeed; its standard output.
fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{text}{errors}", output.status);
    text
}

/// Reports something that is not installed; `None`, so that the caller returns.
fn absent<T>(what: &str) -> Option<T> {
    assert!(!in_ci(), "{what}, and CI=true");
    eprintln!("skipped: {what}");
    None
}

/// Compiles a program of the folder; the same one only once in a test run.
fn compile(source: &str, name: &str, flags: &[&str]) -> Option<PathBuf> {
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    if !runs(Command::new(&compiler).arg("--version")) {
        return absent(&format!("no C compiler `{compiler}`"));
    }
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let strict =
        ["-std=c99", "-D_POSIX_C_SOURCE=200809L", "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Werror"];
    let mut command = Command::new(&compiler);
    output(command.args(strict).args(flags).arg(folder().join(source)).arg("-o").arg(&program));
    Some(program)
}

fn c_decoder() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    PROGRAM.get_or_init(|| compile("test_vectors.c", "test_vectors", &["-O2"])).as_deref()
}

/// The same with the sanitizers, where the compiler has them; else without.
fn checked_c_decoder() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| {
        let flags = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
        let probe = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sanitizer_probe");
        let source = probe.with_extension("c");
        std::fs::write(&source, "int main(void) { return 0; }\n").unwrap();
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
        let linked = runs(Command::new(compiler).args(flags).arg(&source).arg("-o").arg(&probe));
        if linked && runs(&mut Command::new(&probe)) {
            compile("test_vectors.c", "test_vectors_checked", &flags)
        } else {
            eprintln!("without sanitizers: the C compiler has none");
            c_decoder().map(Path::to_path_buf)
        }
    });
    program.as_deref()
}

fn python() -> Option<&'static Path> {
    static PYTHON: OnceLock<Option<PathBuf>> = OnceLock::new();
    let has_numpy = |python: &Path| runs(Command::new(python).args(["-c", "import numpy"]));
    let python = PYTHON.get_or_init(|| {
        if let Ok(given) = std::env::var("WSIC_TEST_PYTHON") {
            let given = PathBuf::from(given);
            assert!(has_numpy(&given), "WSIC_TEST_PYTHON={} cannot import numpy", given.display());
            return Some(given);
        }
        if has_numpy(Path::new("python3")) {
            return Some("python3".into());
        }
        let environment = Path::new(env!("CARGO_TARGET_TMPDIR")).join("decoder_python");
        let inside = environment.join("bin/python");
        if has_numpy(&inside) {
            return Some(inside);
        }
        if !in_ci() {
            return absent("no python3 with numpy (set WSIC_TEST_PYTHON to one)");
        }
        output(Command::new("python3").args(["-m", "venv"]).arg(&environment));
        output(Command::new(&inside).args(["-m", "pip", "install", "--quiet", "numpy"]));
        Some(inside)
    });
    python.as_deref()
}

fn wsic_py(python: &Path) -> Command {
    let mut command = Command::new(python);
    command.arg("-B").arg(folder().join("wsic.py"));
    command
}

/// The last line says that every vector of the manifest passed.
fn assert_all_passed(text: &str) {
    let manifest = std::fs::read_to_string(vectors().join("manifest.tsv")).unwrap();
    let wanted = format!("{} passed, 0 failed", manifest.lines().count() - 1);
    assert_eq!(text.lines().last(), Some(wanted.as_str()), "{text}");
}

#[test]
fn the_c_decoder_passes_all_vectors() {
    let Some(program) = c_decoder() else { return };
    assert_all_passed(&output(Command::new(program).arg("vectors").arg(vectors())));
}

#[test]
fn the_c_decoder_passes_all_vectors_under_sanitizers() {
    let Some(program) = checked_c_decoder() else { return };
    assert_all_passed(&output(Command::new(program).arg("vectors").arg(vectors())));
}

/// Section 6 forbids fused multiplications and additions; the source has to prevent them, not a flag.
#[test]
fn the_c_decoder_passes_all_vectors_where_compilers_may_fuse() {
    let fma = if cfg!(target_arch = "x86_64") { "-mfma" } else { "-O3" };
    if cfg!(target_arch = "x86_64") && !has_fma() {
        eprintln!("skipped: this processor has no fused operations");
        return;
    }
    let flags = ["-std=gnu99", "-O3", "-ffp-contract=fast", fma];
    let Some(program) = compile("test_vectors.c", "test_vectors_fused", &flags) else { return };
    assert_all_passed(&output(Command::new(program).arg("vectors").arg(vectors())));
}

fn has_fma() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("fma");
    #[cfg(not(target_arch = "x86_64"))]
    true
}

#[test]
fn the_python_decoder_passes_all_vectors() {
    let Some(python) = python() else { return };
    assert_all_passed(&output(wsic_py(python).arg("vectors").arg(vectors())));
}

/// Vectors of a temporary folder where one weight, one verdict or one result is wrong are counted as failed: the
/// runners are not blind.
#[test]
fn the_runners_notice_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("valid")).unwrap();
    let copy = |name: &str| std::fs::copy(vectors().join(name), folder.path().join(name)).unwrap();
    copy("valid/odd-k4.wsic");
    copy("valid/worked-example.wsic");
    copy("valid/one-row.wsic");
    copy("valid/one-row.expected");
    let manifest =
        "path\tdecoder\tverifier\tabout\nvalid/odd-k4.wsic\tok\tok\t\nvalid/worked-example.wsic\tok\t\
                    bad-table\t\nvalid/one-row.wsic\tok\tok\t\n";
    std::fs::write(folder.path().join("manifest.tsv"), manifest).unwrap();
    let expected = std::fs::read_to_string(vectors().join("expected.tsv")).unwrap();
    let kept: Vec<String> = expected
        .lines()
        .filter(|line| {
            ["path", "valid/odd-k4.", "valid/worked", "valid/one-row."].iter().any(|p| line.starts_with(p))
        })
        .map(|line| line.replace("DC1CA20C", "DC1CA20D") + "\n")
        .collect();
    assert_eq!(kept.len(), 4);
    std::fs::write(folder.path().join("expected.tsv"), kept.concat()).unwrap();
    let file = folder.path().join("valid/one-row.expected");
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let mut commands = Vec::new();
    commands.extend(c_decoder().map(Command::new));
    commands.extend(python().map(wsic_py));
    for command in &mut commands {
        let done = command.arg("vectors").arg(folder.path()).output().unwrap();
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        assert_eq!(text.lines().last(), Some("0 passed, 3 failed"), "{text}");
        assert!(!done.status.success());
    }
}

/// `standard_tables.h` holds the numbers of `standard-tables.txt` and `standard-pair-tables.txt`.
#[test]
fn the_compiled_tables_are_those_of_the_text() {
    let header = std::fs::read_to_string(folder().join("standard_tables.h")).unwrap();
    let list = |name: &str| -> Vec<u32> {
        let start = header.find(name).expect(name);
        let body = &header[start..];
        let body = &body[body.find('{').unwrap() + 1..body.find('}').unwrap()];
        body.split(',').map(str::trim).filter(|n| !n.is_empty()).map(|n| n.parse().unwrap()).collect()
    };
    let (starts, bytes) = (list("uint16_t wsic_standard_start["), list("uint8_t wsic_standard_bytes["));
    let mut wanted = Vec::new();
    for (identifier, &start) in starts[..252].iter().enumerate() {
        assert_eq!(start, wanted.len() as u32);
        let table = common::forge::standard(identifier as u32);
        wanted.push(table.raw_bits);
        for q in 0..2 {
            wanted.extend([table.smallest[q] as u32 & 255, table.runs[q].len() as u32]);
            wanted.extend(table.runs[q].iter().flat_map(|&(symbol, length)| [symbol, length]));
        }
    }
    assert_eq!(starts.len(), 253);
    assert!(bytes == wanted && starts[252] as usize == bytes.len());
    let (starts, bytes) =
        (list("uint16_t wsic_standard_pair_start["), list("uint8_t wsic_standard_pair_bytes["));
    let text = std::fs::read_to_string(folder().join("../standard-pair-tables.txt")).unwrap();
    let mut wanted = Vec::new();
    for (line, &start) in text.lines().filter(|line| !line.starts_with('#')).zip(&starts) {
        assert_eq!(start, wanted.len() as u32);
        let numbers = line.split([' ', ':', '/']).filter(|number| !number.is_empty());
        wanted.extend(numbers.map(|number| number.parse::<i32>().unwrap() as u32 & 255));
    }
    assert_eq!(starts.len(), 105);
    assert!(bytes == wanted && starts[104] as usize == bytes.len());
    if runs(Command::new("python3").arg("--version")) {
        output(Command::new("python3").arg("-B").arg(folder().join("make_tables.py")).arg("--check"));
    }
}

/// The four lists of each matrix as `spec/vectors/README.md` defines them, by the library.
fn decode(bytes: &[u8], limits: &Limits, verify: bool) -> Result<Vec<u8>, PayloadError> {
    let payload = Payload::open(bytes, limits)?;
    let mut lists = Vec::new();
    for matrix in payload.matrices() {
        let mut weights = Vec::new();
        lists.extend(matrix.stream_inputs().iter().flat_map(|input| input.to_le_bytes()));
        lists.extend(matrix.stream_scales().iter().flat_map(|scale| scale.to_le_bytes()));
        for tile in 0..matrix.geometry().tiles(matrix.rows()) {
            let rows = matrix.geometry().rows_in_tile(matrix.rows(), tile);
            if tile < matrix.tile_count() {
                if verify {
                    matrix.verify_tile(tile)?;
                }
                let mut integers = vec![0; rows * matrix.stream_length()];
                matrix.decode_tile(tile, &mut integers)?;
                lists.extend(integers.iter().flat_map(|m| m.to_le_bytes()));
            }
            let mut part = vec![0.0f32; rows * matrix.columns()];
            matrix.dequantize_tile(tile, &mut Vec::new(), &mut part)?;
            weights.extend(part.iter().flat_map(|weight| weight.to_le_bytes()));
        }
        lists.extend(weights);
    }
    Ok(lists)
}

/// Puts the payloads into files, has `command` (`... dump [options]`) decode them, and compares verdicts and bytes.
fn compare(mut command: Command, payloads: &[Vec<u8>], limits: &Limits, verify: bool) {
    let folder = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..payloads.len()).map(|index| format!("{index}.wsic")).collect();
    for (name, bytes) in names.iter().zip(payloads) {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    if verify {
        command.arg("--verify");
    }
    let text = output(command.current_dir(folder.path()).args(&names));
    assert_eq!(text.lines().count(), names.len(), "{text}");
    for ((line, name), bytes) in text.lines().zip(&names).zip(payloads) {
        let (found, wanted) = (line.split_once('\t').expect(line), decode(bytes, limits, verify));
        let verdict = wanted.as_ref().map_or_else(|e| e.kind().name(), |_| "ok");
        if found != (name, verdict) {
            let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("decoders_disagree.wsic");
            std::fs::write(&kept, bytes).unwrap();
            panic!("{command:?}: {found:?}, the library {verdict}; kept as {}", kept.display());
        }
        if let Ok(lists) = wanted {
            let decoded = std::fs::read(folder.path().join(name.clone() + ".decoded")).unwrap();
            assert!(decoded == lists, "{command:?}: {name} decodes to other integers or weights");
        }
    }
}

fn dump(mut command: Command) -> Command {
    command.arg("dump");
    command
}

/// Matrices of every geometry, without and with each trellis, with all kinds of scales, dead and extra columns, experts.
fn generated() -> Vec<Vec<u8>> {
    let mut random = Random(0xDEC0DE);
    let mut payloads = Vec::new();
    for case in 0..48 {
        let width = [4, 16, 64][case % 3];
        let recipe = Recipe {
            rows: 1 + random.below(500),
            columns: 1 + random.below(150),
            geometry: Geometry::new(width, [1, 7, 64, 256][case % 4]).unwrap(),
            trellis: match case % 5 {
                0 => Trellis::Scalar,
                1 | 3 => Trellis::EightState,
                _ => Trellis::Pairs,
            },
            deviation: (random.unit() * 9.0 - 2.0).exp2(),
            spread: random.unit() * 2.0,
        };
        let mut matrices: Vec<QuantizedMatrix> =
            (0..1 + case % 7 / 4).map(|_| matrix(&recipe, &mut random)).collect();
        for source in &mut matrices {
            if case % 4 == 1 {
                source.column_scale_kind = ScaleKind::Half;
                source
                    .stream
                    .iter_mut()
                    .for_each(|c| c.scale = 0x0400 + random.below(0x7800 - 0x0400) as u16);
            }
            source.row_scales = match case % 3 {
                0 => None,
                1 => {
                    Some((ScaleKind::Log8, (0..recipe.rows).map(|_| 90 + random.below(70) as u16).collect()))
                }
                _ => Some((
                    ScaleKind::Half,
                    (0..recipe.rows).map(|_| 0x3000 + random.below(0x2000) as u16).collect(),
                )),
            };
            let mut index = 0;
            source.stream.retain(|_| {
                index += 1;
                index % 9 != 4 && case % 12 != 11
            });
            for copy in 0..source.stream.len() / 4 {
                let mut extra = source.stream[copy * 3].clone();
                extra.integers = common::column(&recipe, recipe.deviation * 3.0, &mut random);
                source.stream.push(extra);
            }
            if let Some(column) = source.stream.first_mut() {
                column.integers = common::column(&recipe, 20_000.0, &mut random);
            }
        }
        payloads.push(encode(&matrices, &EncodeOptions::default()).unwrap());
    }
    payloads
}

/// Small matrices with the trellis of pairs, within `LIMITS`.
fn small_pairs() -> Vec<Vec<u8>> {
    let mut random = Random(0x9A125);
    let payload = |case: usize| {
        let recipe = Recipe {
            rows: 1 + random.below(60),
            columns: 1 + random.below(60),
            geometry: Geometry::new([4, 16, 64][case % 3], [1, 3, 8, 33][case % 4]).unwrap(),
            trellis: Trellis::Pairs,
            deviation: (random.unit() * 5.0 - 2.0).exp2(),
            spread: random.unit(),
        };
        encode(&[matrix(&recipe, &mut random)], &EncodeOptions::default()).unwrap()
    };
    (0..24).map(payload).collect()
}

#[test]
fn generated_matrices_decode_to_the_same_bits() {
    let payloads = generated();
    if let Some(program) = checked_c_decoder() {
        compare(dump(Command::new(program)), &payloads, &Limits::default(), true);
    }
    if let Some(program) = c_decoder() {
        compare(dump(Command::new(program)), &payloads, &Limits::default(), false);
    }
    if let Some(python) = python() {
        compare(dump(wsic_py(python)), &payloads, &Limits::default(), true);
    }
}

/// Damaged vectors and generated payloads of pairs: the same class of refusal, or the same integers and weights.
fn damaged(command: impl Fn() -> Command, seed: u64, rounds: usize) {
    let rounds = std::env::var("WSIC_DECODER_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(rounds);
    let mut paths: Vec<_> =
        std::fs::read_dir(vectors().join("valid")).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "wsic"));
    paths.sort();
    let mut seeds: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    seeds.extend(small_pairs());
    let mut random = Random(seed);
    let mut left = rounds;
    while left > 0 {
        let count = left.min(500);
        left -= count;
        let payloads: Vec<Vec<u8>> = (0..count)
            .map(|_| {
                let (bytes, spare) = (random.below(seeds.len()), random.below(seeds.len()));
                mutate(&seeds[bytes], &seeds[spare], &mut random)
            })
            .collect();
        let mut command = dump(command());
        command.args(["--limits", LIMITS_ARGUMENT]);
        compare(command, &payloads, &LIMITS, random.below(4) == 0);
    }
}

#[test]
fn the_c_decoder_agrees_on_damaged_payloads() {
    let Some(program) = checked_c_decoder() else { return };
    damaged(|| Command::new(program), 0xC, 6_000);
}

#[test]
fn the_python_decoder_agrees_on_damaged_payloads() {
    let Some(python) = python() else { return };
    damaged(|| wsic_py(python), 0xB17E, 1_500);
}

/// A matrix without trellis whose inline table has `runs` runs.
fn scalar_with_runs(runs: u32) -> Plan {
    let list = (0..runs).map(|i| (i % 3, if i + 1 < runs { 7 } else { 256 - 7 * (runs - 1) })).collect();
    let table = Table { raw_bits: 0, smallest: [-1, -1], runs: [list, Vec::new()] };
    Plan {
        rows: 4,
        columns: 1,
        width: 4,
        steps: 2,
        trellis: 0,
        column_kind: 0,
        row_kind: 0,
        tensor_scale: 1.0,
        classes: vec![Class::Inline(table)],
        first: vec![Entry { input: 0, class: 0, scale: 0, integers: vec![-2, 0, 2, 0] }],
        extra: vec![],
        row_scales: vec![],
    }
}

/// Cases that the text decides and no vector shows.
fn edges() -> Vec<(&'static str, Vec<u8>)> {
    let whole = |plan: &Plan| payload(plan.rows, plan.columns, &[plan.section().bytes()]);
    let with_side = |plan: &Plan, change: &dyn Fn(&mut Vec<u8>)| {
        let section = plan.section();
        let mut side = write_side(&section.side);
        change(&mut side);
        payload(plan.rows, plan.columns, &[section.bytes_with_side(&side)])
    };
    let mut wide = scalar_with_runs(32);
    wide.classes = vec![match &wide.classes[0] {
        Class::Inline(table) => Class::Inline(Table { raw_bits: 5, ..table.clone() }),
        _ => unreachable!(),
    }];
    let mut beyond = scalar_with_runs(32);
    beyond.first[0].scale = 255;
    beyond.tensor_scale = f32::from_bits(167 << 23 | 0x7F_FFFF);
    vec![
        ("ok", whole(&scalar_with_runs(32))),
        // Both lists count, although the second one is a copy.
        ("bad-table", whole(&scalar_with_runs(33))),
        // Rules come after the reading of the table, so a list that is cut is noticed first.
        ("bad-side-information", with_side(&scalar_with_runs(33), &|side| side.truncate(20))),
        ("bad-side-information", with_side(&wide, &|side| side.truncate(20))),
        ("ok", whole(&beyond)),
    ]
}

#[test]
fn edges_have_the_verdict_of_the_text() {
    let (verdicts, payloads): (Vec<&str>, Vec<Vec<u8>>) = edges().into_iter().unzip();
    for (index, (verdict, bytes)) in verdicts.iter().zip(&payloads).enumerate() {
        let found = decode(bytes, &Limits::default(), true).map_or_else(|e| e.kind().name(), |_| "ok");
        assert_eq!(found, *verdict, "case {index}");
    }
    if let Some(program) = checked_c_decoder() {
        compare(dump(Command::new(program)), &payloads, &Limits::default(), true);
    }
    if let Some(python) = python() {
        compare(dump(wsic_py(python)), &payloads, &Limits::default(), true);
    }
}

/// Damaged GGUF files: both decoders, which share nothing but the text, give the same verdict.
#[test]
fn both_decoders_agree_on_damaged_containers() {
    let (Some(program), Some(python)) = (checked_c_decoder(), python()) else { return };
    let mut seeds = Vec::new();
    for folder in ["valid", "invalid"] {
        let entries = std::fs::read_dir(vectors().join(folder)).unwrap().map(|entry| entry.unwrap().path());
        let single = |path: &PathBuf| !path.to_string_lossy().contains("split-");
        seeds.extend(entries.filter(|path| path.extension().is_some_and(|e| e == "gguf")).filter(single));
    }
    seeds.sort();
    let mut random = Random(0x66F6);
    let folder = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..800).map(|index| format!("{index}.gguf")).collect();
    for name in &names {
        let mut bytes = std::fs::read(&seeds[random.below(seeds.len())]).unwrap();
        bytes.resize(bytes.len().max(1), 0);
        for _ in 0..=random.below(3) {
            let at = random.below(bytes.len().min(640));
            match random.below(8) {
                0 => bytes.truncate(random.below(bytes.len()).max(1)),
                1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, random.next() as u8),
                3 | 4 => bytes[at] = [0, 1, 2, 4, 8, 9, 10, 32, 64, 255][random.below(10)],
                _ => bytes[at] ^= 1 << random.below(8),
            }
            bytes.resize(bytes.len().max(1), 0);
        }
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    for level in [&["dump"][..], &["dump", "--verify"]] {
        let verdicts =
            |mut command: Command| output(command.current_dir(folder.path()).args(level).args(&names));
        let (c, python) = (verdicts(Command::new(program)), verdicts(wsic_py(python)));
        assert!(
            c.contains("\tok\n") && c.contains("\tbad-container\n") && c.contains("\tmetadata-mismatch\n")
        );
        for (c, python) in c.lines().zip(python.lines()) {
            assert_eq!(c, python, "the C decoder, the Python decoder");
        }
        assert_eq!(c.lines().count(), names.len());
    }
}
