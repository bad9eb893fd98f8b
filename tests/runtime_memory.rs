//! A model that runs keeps no floats of its weights: memory allocated, counted by the allocator.

mod model_support;

use model_support::{tokens, Tiny, TinyModel};
use std::alloc::{GlobalAlloc, Layout, System};
use std::ops::ControlFlow;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use wsic::runtime::{RunOptions, Sampling, TextModel};

struct Counting;

static USED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        USED.fetch_add(layout.size(), Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        USED.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn no_floats_of_the_weights_are_kept() {
    let tiny = Tiny {
        layers: 2,
        width: 256,
        feed_forward: 1024,
        heads: 4,
        kv_heads: 4,
        head_width: 64,
        vocabulary: 2048,
        tied: false,
        ..Tiny::LLAMA
    };
    let folder = tempfile::tempdir().unwrap();
    TinyModel::new(tiny, 5).write(&folder.path().join("model.gguf"));
    std::fs::write(folder.path().join("text.txt"), "abcdefgh".repeat(100)).unwrap();
    let convert = ["convert", "model.gguf", "-o", "small.gguf", "--bpw", "3", "--method", "rtn", "-q"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_wsic"));
    command.current_dir(folder.path()).args(convert).args(["--calibration", "text.txt"]);
    // The embedding stays an ordinary tensor: it is not kept as floats either.
    assert!(command.args(["--tensor", "token_embd=q8_0"]).status().unwrap().success());
    let floats = std::fs::metadata(folder.path().join("model.gguf")).unwrap().len() as usize;

    let before = USED.load(Relaxed);
    let used = || USED.load(Relaxed).saturating_sub(before);
    let model = TextModel::open(folder.path().join("small.gguf"), &RunOptions::default()).unwrap();
    let prompt = tokens(20, tiny.vocabulary, 1);
    let mut session = model.session(64).unwrap();
    let kept = used();
    let mut generate = || {
        session.clear();
        session.generate(&prompt, 30, Sampling::default(), |_| ControlFlow::Continue(())).unwrap();
        used()
    };
    // Threads keep what they need for themselves, the workspaces of matrix products, from when they first get work: the
    // level may rise a few times, but not with every text.
    let levels: Vec<usize> = (0..8).map(|_| generate()).collect();
    println!("weights as floats {floats} bytes; kept {kept}; after each text {levels:?}");
    assert!(kept < floats / 4, "kept {kept} of {floats}");
    let mut highest = levels[0];
    let mut rises = 0;
    for &level in &levels {
        rises += usize::from(level > highest + (64 << 10));
        highest = highest.max(level);
    }
    assert!(rises <= 3, "{levels:?}");
}
