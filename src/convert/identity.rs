//! Opening the input, and what tells one model from another.

use super::error::ConvertError;
use super::options::{as_given, Calibration, Options, Target};
use super::progress::Progress;
use crate::gguf::GgmlType;
use crate::import::{self, Input};
use crate::quantize::Method;
use sha2::{Digest, Sha256};
use std::path::Path;
use std::sync::Arc;

/// Bytes looked at at both ends of each tensor.
const SAMPLE: usize = 4096;

/// Opens a model to convert; what is lost or guessed is said to the listener.
///
/// # Errors
/// Those of [`Input::open`], and models that hold tensors of our type already.
pub(super) fn open_input(
    path: &Path,
    pre_tokenizer: Option<&str>,
    progress: &dyn Progress,
) -> Result<Arc<Input>, ConvertError> {
    let options = import::Options { pre_tokenizer: pre_tokenizer.map(str::to_owned) };
    let input = Input::open(path, &import::Limits::default(), &options)?;
    if let Some(tensor) = input.specs().into_iter().find(|tensor| tensor.ty == GgmlType::Wsic) {
        return Err(ConvertError::Target(format!(
            "{}: tensor '{}' is already of type WSIC: convert the original model, or use `wsic unpack`",
            path.display(),
            tensor.name
        )));
    }
    input.warnings().iter().for_each(|warning| progress.warn(warning));
    Ok(Arc::new(input))
}

/// What identifies a model: a SHA-256 over its metadata, and name, dimensions, type and both ends of the data of each
/// tensor. Where the files lie and how they are split does not matter.
pub(super) fn identity(input: &Input) -> Result<String, ConvertError> {
    let mut hash = Sha256::new();
    let mut bytes = Vec::new();
    for (key, value) in input.joined_metadata().iter() {
        bytes.clear();
        bytes.extend_from_slice(key.as_bytes());
        bytes.push(0);
        value.encode(&mut bytes);
        hash.update(&bytes);
    }
    for tensor in input.specs() {
        hash.update(format!("{} {:?} {};", tensor.name, tensor.dims, tensor.ty));
        match input {
            Input::Gguf(model) => {
                let data = model.tensor_bytes(model.tensor(&tensor.name)?)?;
                hash.update(data.get(..SAMPLE).unwrap_or(data));
                hash.update(data.get(data.len().saturating_sub(SAMPLE)..).unwrap_or(data));
            }
            Input::Folder(folder) => {
                let Some(found) = folder.get_tensor(&tensor.name) else { continue };
                bytes.clear();
                for row in [0, tensor.rows().saturating_sub(1)] {
                    folder.append_rows(found, row..row + 1, tensor.ty, &mut bytes)?;
                }
                hash.update(&bytes);
            }
        }
    }
    Ok(hexadecimal(&hash.finalize()))
}

/// Lower-case hexadecimal digits.
pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Everything that finished parts depend on, one item a line, each as it would go on after "the conversion was begun".
/// `statistics` is the fingerprint of the statistics file, if the user gave one.
pub(super) fn fingerprint(identity: &str, options: &Options, statistics: Option<&str>) -> String {
    let given = |option: &str, value: Option<String>| match value {
        Some(value) => format!("with {option} {value}"),
        None => format!("without {option}"),
    };
    let switch = |option: &str, on: bool| format!("{} {option}", if on { "with" } else { "without" });
    let file = |option: &str, path: &Path| {
        let bytes = std::fs::read(path).unwrap_or_default();
        let hash = hexadecimal(&Sha256::digest(&bytes));
        format!("with {option} and a file of {} bytes (SHA-256 {hash})", bytes.len())
    };
    let overrides: Vec<String> = options
        .overrides
        .iter()
        .map(|rule| format!("--tensor '{}={}'", as_given(&rule.pattern), rule.choice))
        .collect();
    let lines = [
        format!("with wsic {}", env!("CARGO_PKG_VERSION")),
        format!("with the model of fingerprint {identity}"),
        match options.target {
            Target::LinearBits(bits) => format!("with --bpw {bits}"),
            Target::FileBits(bits) => format!("with --file-bpw {bits}"),
            Target::FileBytes(bytes) => format!("with --size {bytes}"),
        },
        given("--embedding-bpw", options.embedding_bits.map(|bits| bits.to_string())),
        match overrides.is_empty() {
            true => "without --tensor".to_owned(),
            false => format!("with {}", overrides.join(" ")),
        },
        match options.method {
            Method::WaterSic { rescale: false } => "with --method watersic and no rescalers".to_owned(),
            method => format!("with --method {}", method.name()),
        },
        switch("--no-loss-weights", !options.loss_weights),
        given("--shrinkage", options.shrinkage.map(|share| share.to_string())),
        format!("with --prefer {}", options.prefer.name()),
        switch("--no-drift", !options.drift),
        match &options.calibration {
            Calibration::Model => "without --calibration, --imatrix and --stats".to_owned(),
            Calibration::Text(path) => file("--calibration", path),
            Calibration::Importance(path) => file("--imatrix", path),
            Calibration::Statistics(_) => {
                format!("with --stats and statistics of fingerprint {}", statistics.unwrap_or_default())
            }
        },
        format!("with --calibration-tokens {}", options.calibration_tokens),
        format!("with --seed {}", options.seed),
    ];
    lines.join("\n") + "\n"
}

/// What a part of a model depends on besides.
pub(super) fn part_fingerprint(options: &Options) -> String {
    let only = options.only.as_ref().map(|pattern| format!("with --only '{}'", as_given(pattern)));
    let plan =
        options.steps.as_ref().map(|(_, steps)| format!("with --plan and steps of hash {}", steps.hash()));
    let only = only.unwrap_or_else(|| "without --only".to_owned());
    let plan = plan.unwrap_or_else(|| "without --plan".to_owned());
    format!("{only}\n{plan}\n")
}

/// The first lines of two fingerprints that differ.
pub(super) fn difference<'a>(old: &'a str, new: &'a str) -> (&'a str, &'a str) {
    let differs = old.lines().zip(new.lines()).find(|(old, new)| old != new);
    differs.unwrap_or(("with other settings", "with these"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::options::Prefer;

    /// What differs between a conversion and a changed one.
    fn differs(change: impl Fn(&mut Options)) -> (String, String) {
        let options = Options::new("in", "out", Target::LinearBits(2.5));
        let mut changed = options.clone();
        change(&mut changed);
        let text = |options: &Options| fingerprint("ab", options, None) + &part_fingerprint(options);
        let (old, new) = (text(&options), text(&changed));
        let (old, new) = difference(&old, &new);
        (old.to_owned(), new.to_owned())
    }

    #[test]
    fn differences_are_told_as_the_user_gave_them() {
        let expect = |found: (String, String), old: &str, new: &str| {
            assert_eq!((found.0.as_str(), found.1.as_str()), (old, new));
        };
        expect(differs(|o| o.target = Target::LinearBits(3.0)), "with --bpw 2.5", "with --bpw 3");
        expect(differs(|o| o.target = Target::FileBytes(5)), "with --bpw 2.5", "with --size 5");
        expect(differs(|o| o.drift = false), "without --no-drift", "with --no-drift");
        expect(differs(|o| o.shrinkage = Some(0.02)), "without --shrinkage", "with --shrinkage 0.02");
        expect(differs(|o| o.prefer = Prefer::Speed), "with --prefer balance", "with --prefer speed");
        expect(differs(|o| o.method = Method::Gptq), "with --method trellis", "with --method gptq");
        expect(differs(|o| o.seed = 7), "with --seed 0", "with --seed 7");
        let tensors = |o: &mut Options| {
            o.overrides = ["token_embd|output=keep", "ffn_down=gptq:3.5", "norm=q8_0"]
                .map(|s| s.parse().unwrap())
                .into();
        };
        let given =
            "with --tensor 'token_embd|output=keep' --tensor 'ffn_down=gptq:3.5' --tensor 'norm=q8_0'";
        expect(differs(tensors), "without --tensor", given);
        let only = |o: &mut Options| o.only = crate::convert::options::name_pattern("blk.0").ok();
        expect(differs(only), "without --only", "with --only 'blk.0'");
        let (old, new) = differs(|o| o.calibration = Calibration::Text("/no/such/text".into()));
        assert!(
            old.starts_with("without --calibration") && new.starts_with("with --calibration"),
            "{old} {new}"
        );
    }
}
