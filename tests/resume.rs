//! Conversions that are killed at random moments, once or several times, go on and give the file of an undisturbed one.

mod model_support;

use model_support::{add_tokenizer, Tiny, TinyModel};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use wsic::model::Random;

const TINY: Tiny = Tiny { width: 96, feed_forward: 256, head_width: 24, vocabulary: 200, ..Tiny::LLAMA };
/// Conversions that are disturbed.
const ROUNDS: usize = 8;

fn wsic(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wsic"));
    command.current_dir(folder).args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

#[test]
fn killed_at_random_moments() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut model = TinyModel::new(TINY, 5);
    add_tokenizer(&mut model.metadata, TINY.vocabulary);
    model.write(&folder.join("model.gguf"));
    let mut random = Random::new(3, 1);
    let text: String = (0..12_000).map(|_| char::from(b'!' + (random.unit() * 90.0) as u8)).collect();
    std::fs::write(folder.join("text.txt"), text).unwrap();
    let arguments = |output: &'static str| {
        ["convert", "model.gguf", "-o", output, "--bpw", "2.7", "--calibration", "text.txt", "-q"]
    };
    let start = Instant::now();
    assert!(wsic(folder, &arguments("whole.gguf")).status().unwrap().success());
    let whole = std::fs::read(folder.join("whole.gguf")).unwrap();
    let duration = start.elapsed().as_secs_f64();
    let resume = [&arguments("part.gguf")[..], &["--resume"]].concat();
    let mut kills = 0;
    for round in 0..ROUNDS {
        // Every third conversion is killed a second and a third time while it goes on.
        for attempt in 0..(if round % 3 == 2 { 3 } else { 1 }) {
            let more: &[&str] = if attempt == 0 { &arguments("part.gguf") } else { &resume };
            let mut child = wsic(folder, more).spawn().unwrap();
            std::thread::sleep(Duration::from_secs_f64(random.unit() * duration));
            kills += usize::from(child.try_wait().unwrap().is_none());
            child.kill().unwrap();
            child.wait().unwrap();
            // Whatever the moment: the output is whole or not there.
            if let Ok(found) = std::fs::read(folder.join("part.gguf")) {
                assert!(found == whole, "round {round}: a file under the output's name is complete");
            }
        }
        if round % 4 == 3 {
            damage_a_part(&folder.join("part.gguf.partial"), &mut random);
        }
        assert!(wsic(folder, &resume).status().unwrap().success(), "round {round}");
        let part = std::fs::read(folder.join("part.gguf")).unwrap();
        assert!(part == whole, "round {round}: another file");
        std::fs::remove_file(folder.join("part.gguf")).unwrap();
        assert!(!folder.join("part.gguf.partial").exists());
    }
    assert!(kills > ROUNDS / 3, "only {kills} conversions were still running when they were killed");
}

/// Cuts one finished part short, as a power failure may.
fn damage_a_part(partial: &Path, random: &mut Random) {
    let Ok(entries) = std::fs::read_dir(partial) else { return };
    let mut parts: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "payload"))
        .collect();
    parts.sort();
    let chosen = parts.get((random.unit() * parts.len() as f64) as usize);
    if let Some(path) = chosen {
        let bytes = std::fs::read(path).unwrap();
        std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    }
}
