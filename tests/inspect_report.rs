//! `wsic inspect --report`: what the page says, and that a browser shows it without an error.
//!
//! The second needs a headless Chromium: `chromium`, `chromium-headless-shell` or `google-chrome` on the path, or the
//! program that `WSIC_CHROMIUM` names; it is skipped without one.

mod model_support;

use assert_cmd::Command;
use model_support::{add_tokenizer, Tiny, TinyModel};
use predicates::prelude::*;
use std::path::{Path, PathBuf};
use wsic::gguf::{GgufFile, Limits};

const TINY: Tiny = Tiny { width: 64, feed_forward: 160, head_width: 16, vocabulary: 96, ..Tiny::LLAMA };

struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    /// A converted model `small.gguf`, the log of the conversion, and the page of both.
    fn new() -> Self {
        let bench = Self { folder: tempfile::tempdir().unwrap() };
        let mut model = TinyModel::new(TINY, 5);
        add_tokenizer(&mut model.metadata, TINY.vocabulary);
        model.write(&bench.path("model.gguf"));
        std::fs::write(bench.path("text.txt"), "abcdefgh &<>".repeat(500)).unwrap();
        let convert = ["convert", "model.gguf", "-o", "small.gguf", "--bpw", "3", "--log", "log.json", "-q"];
        bench.wsic(&[&convert[..], &["--calibration", "text.txt"]].concat()).success();
        bench.wsic(&["inspect", "small.gguf", "--report", "page.html", "--log", "log.json"]).success();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn wsic(&self, arguments: &[&str]) -> assert_cmd::assert::Assert {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wsic"));
        command.current_dir(self.folder.path()).args(arguments).assert()
    }

    fn page(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }
}

/// Whether every element that is opened is closed, in order.
fn balanced(page: &str) -> Result<(), String> {
    const EMPTY: [&str; 3] = ["meta", "link", "!DOCTYPE"];
    let mut open = Vec::new();
    for part in page.split('<').skip(1) {
        let tag = part.split('>').next().unwrap();
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap();
        if tag.starts_with('/') {
            if open.pop() != Some(name) {
                return Err(format!("</{name}> closes nothing"));
            }
        } else if !tag.ends_with('/') && !EMPTY.contains(&name) {
            open.push(name);
        }
    }
    open.is_empty().then_some(()).ok_or(format!("left open: {open:?}"))
}

#[test]
fn the_page_needs_nothing_else_and_says_everything() {
    let bench = Bench::new();
    let page = bench.page("page.html");
    balanced(&page).unwrap();
    for outside in ["<script", "src=", "url(", "@import", "href=\"http", "<img", "<iframe", "javascript"] {
        assert!(!page.contains(outside), "{outside}");
    }
    let addresses = page.matches("http").count();
    assert_eq!(
        addresses,
        page.matches("xmlns=\"http://www.w3.org/2000/svg\"").count(),
        "no address but SVG's name"
    );

    let file = GgufFile::open(bench.path("small.gguf"), &Limits::default()).unwrap();
    for tensor in file.tensors() {
        assert!(page.contains(&format!("<tr><td>{}</td>", tensor.name)), "{}", tensor.name);
    }
    let report = bench.wsic(&["inspect", "small.gguf", "--json"]).success().get_output().stdout.clone();
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    let bits = report["totals"]["wsic_bits_per_weight"].as_f64().unwrap();
    assert!(page.contains(&format!("<dd>{bits:.4}</dd>")));
    for (key, value) in report["provenance"].as_object().unwrap() {
        let text = value.as_str().map_or_else(|| value.to_string(), |text| text.replace('&', "&amp;"));
        assert!(page.contains(&format!("<tr><td>{key}</td><td>{text}</td></tr>")), "{key}");
    }
    for name in [
        "Provenance",
        "Size by tensor type",
        "Bits per layer",
        "Bits per tensor",
        "Rate over columns",
        "Steps over columns",
        "Water level of each tensor",
        "Histogram of escapes",
        "All tensors",
    ] {
        assert!(page.contains(&format!("<h2>{name}</h2>")), "{name}");
    }
    // Seven kinds of tensors in each of two layers, and the embedding: bars, cells and curves.
    let layers = TINY.layers;
    assert!(page.matches("class=\"column\"").count() > layers);
    assert_eq!(page.matches("class=\"cell\"").count(), 2 * 7 * layers, "bits and water levels");
    assert_eq!(page.matches("class=\"curve\"").count(), 2 * 8, "rates and steps");

    bench.wsic(&["inspect", "small.gguf", "--report", "short.html"]).success().stdout("");
    assert!(bench.page("short.html").contains("<code>--log</code>"));
    // Models without WSIC tensors have sizes only.
    bench.wsic(&["inspect", "model.gguf", "--report", "plain.html", "-q"]).success().stderr("");
    let plain = bench.page("plain.html");
    balanced(&plain).unwrap();
    assert!(plain.contains("Size by tensor type") && !plain.contains("Rate over columns"));
    bench
        .wsic(&["inspect", "small.gguf", "--report", "x.html", "--log", "text.txt"])
        .failure()
        .code(1)
        .stderr(predicate::str::contains("text.txt"));
    bench.wsic(&["inspect", "small.gguf", "--log", "log.json"]).failure().code(2);
}

#[test]
fn rates_and_escapes_agree_with_the_file() {
    let bench = Bench::new();
    let report = bench.wsic(&["inspect", "small.gguf", "--json"]).success().get_output().stdout.clone();
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    for tensor in report["tensors"].as_array().unwrap().iter().filter(|tensor| tensor["type"] == "WSIC") {
        let payload = &tensor["payload"];
        let number = |value: &serde_json::Value| value.as_f64().unwrap();
        let (mut bits, mut columns) = (0.0, 0.0);
        for class in payload["classes"].as_array().unwrap() {
            bits += number(&class["bits"]) * number(&class["columns"]);
            columns += number(&class["columns"]);
        }
        let width = number(&tensor["dims"][0]);
        assert_eq!(columns, width + number(&payload["extra_columns"]) - number(&payload["dead_columns"]));
        // Headers, states and escapes come on top of the classes' rate; tiny matrices have much of them.
        let coded =
            number(&tensor["bytes"]) - number(&payload["header_bytes"]) - number(&payload["escape_bytes"]);
        let stored = coded * 8.0 / number(&tensor["dims"][1]) / columns;
        assert!(stored > 0.8 * bits / columns, "{}: {stored} {}", tensor["name"], bits / columns);
        let sizes = payload["escape_sizes"].as_array().unwrap();
        assert_eq!(
            sizes.iter().map(|size| size.as_u64().unwrap()).sum::<u64>(),
            payload["escapes"].as_u64().unwrap()
        );
        let steps = &payload["column_steps"];
        assert!(0.0 < number(&steps["least"]) && number(&steps["least"]) <= number(&steps["median"]));
        assert!(number(&steps["median"]) <= number(&steps["most"]));
    }
}

#[test]
fn bars_are_for_terminals_or_on_request() {
    let bench = Bench::new();
    let plain = bench.wsic(&["inspect", "small.gguf"]).success();
    plain.stdout(predicate::str::contains("█").not().and(predicate::str::contains("bits/weight")));
    let bars = bench.wsic(&["inspect", "small.gguf", "--bars"]).success();
    bars.stdout(predicate::str::contains("█").and(predicate::str::contains("layer  bits/weight")));
}

/// A headless Chromium, if there is one.
fn chromium() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("WSIC_CHROMIUM") {
        return Some(named.into());
    }
    let names = ["chromium", "chromium-headless-shell", "google-chrome", "chromium-browser"];
    let path = std::env::var_os("PATH")?;
    let found =
        names.iter().flat_map(|name| std::env::split_paths(&path).map(move |folder| folder.join(name)));
    found.into_iter().find(|program| program.is_file())
}

/// Shows a page; returns the lines that its console printed.
fn show(chromium: &Path, page: &Path, picture: &Path, window: &str) -> Vec<String> {
    let output = std::process::Command::new(chromium)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"])
        .args(["--enable-logging=stderr", &format!("--window-size={window}")])
        .arg(format!("--user-data-dir={}", picture.with_extension("profile").display()))
        .arg(format!("--screenshot={}", picture.display()))
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && picture.exists(), "{}: {text}", output.status);
    text.lines().filter(|line| line.contains("CONSOLE")).map(str::to_owned).collect()
}

/// Width and height of a PNG.
fn size(picture: &[u8]) -> (u32, u32) {
    assert_eq!(&picture[..8], b"\x89PNG\r\n\x1a\n");
    let number = |at: usize| u32::from_be_bytes(picture[at..at + 4].try_into().unwrap());
    (number(16), number(20))
}

#[test]
fn a_browser_shows_the_page_without_errors() {
    let Some(chromium) = chromium() else {
        eprintln!(
            "skipped: no headless Chromium on the path (Debian: apt-get install chromium-headless-shell)"
        );
        return;
    };
    let bench = Bench::new();
    let write = |name: &str, body: &str| {
        std::fs::write(bench.path(name), format!("<!DOCTYPE html><title>x</title>{body}")).unwrap();
    };
    write("blank.html", "");
    write("wrong.html", "<script>console.error('as it should')</script>");
    let shown = |name: &str| {
        let picture = bench.path(name).with_extension("png");
        let messages = show(&chromium, &bench.path(name), &picture, "1000,3000");
        (messages, std::fs::read(picture).unwrap())
    };
    // An error would be noticed, and a page that stays white too.
    let (messages, _) = shown("wrong.html");
    assert!(messages.iter().any(|line| line.contains("as it should")), "{messages:?}");
    let (messages, blank) = shown("blank.html");
    assert!(messages.is_empty(), "{messages:?}");
    let (messages, picture) = shown("page.html");
    assert!(messages.is_empty(), "{messages:?}");
    assert_eq!(size(&picture), (1000, 3000));
    assert!(picture.len() > 10 * blank.len(), "{} and {} bytes", picture.len(), blank.len());
    if let Some(folder) = std::env::var_os("WSIC_KEEP_SCREENSHOT") {
        std::fs::write(Path::new(&folder).join("report.png"), &picture).unwrap();
    }
}

#[test]
fn a_narrow_window_scrolls_boxes_and_not_the_page() {
    let Some(chromium) = chromium() else {
        eprintln!("skipped: no headless Chromium on the path");
        return;
    };
    let bench = Bench::new();
    // The browser says how wide things are; the page itself has no scripts.
    let page = std::fs::read_to_string(bench.path("page.html")).unwrap();
    let script = "<script>const wide = document.documentElement.scrollWidth <= window.innerWidth ? 'fits' : 'overflows';\
                  const charts = [...document.querySelectorAll('svg.chart')].map(c => c.getBoundingClientRect().width);\
                  console.error(`page ${wide}, ${charts.length > 3 && Math.min(...charts) > 500 ? 'legible' : 'tiny'}`)</script>";
    let long = format!("<td>{}</td>", "0123456789abcdef".repeat(8));
    let narrow = page.replacen("</td></tr>", &format!("</td>{long}</tr>"), 1) + script;
    assert!(narrow.contains(&long));
    std::fs::write(bench.path("narrow.html"), narrow).unwrap();
    let picture = bench.path("narrow.png");
    let messages = show(&chromium, &bench.path("narrow.html"), &picture, "420,900");
    assert_eq!(size(&std::fs::read(&picture).unwrap()), (420, 900));
    assert!(messages.iter().any(|line| line.contains("page fits, legible")), "{messages:?}");
}
