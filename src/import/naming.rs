//! `general.*` metadata: what the model is called, by whom, how large, and how to sample from it.

use std::path::Path;

use serde_json::Value as Json;

use super::config::Config;
use super::error::ImportError;
use super::files::Files;
use super::model_card::ModelCard;
use super::tensor::ImportedTensor;
use crate::gguf::{Array, Metadata, Value};

/// The parts of a name such as `org/Base-7B-Instruct-v0.2`.
#[derive(Debug, Default, PartialEq, Eq)]
struct NameParts {
    name: Option<String>,
    organization: Option<String>,
    base: Option<String>,
    fine_tune: Option<String>,
    version: Option<String>,
    size: Option<String>,
}

/// What one word of a name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Unknown,
    Base,
    Size,
    FineTune,
    Version,
    Encoding,
}

/// Writes `general.sampling.*` from generation_config.json, and names from the model card, config.json and the
/// folder's own name.
pub(super) fn describe(
    files: Files<'_>,
    config: &Config,
    tensors: &[ImportedTensor],
    metadata: &mut Metadata,
) -> Result<(), ImportError> {
    // Many folders come with a broken one; it only holds suggestions.
    if let Ok(Some(generation)) = files.object("generation_config.json") {
        sampling(&generation, metadata);
    }
    let card = ModelCard::parse(&files.text("README.md")?.unwrap_or_default());
    let parameters = count_parameters(tensors);
    let full = std::path::absolute(files.folder).unwrap_or_else(|_| files.folder.to_owned());
    let folder = full.file_name().map(|name| name.to_string_lossy().into_owned());
    let configured = config.text("_name_or_path").filter(|name| name.matches('/').count() <= 1);
    let sources: Vec<NameParts> = [configured, folder.as_deref()]
        .into_iter()
        .flatten()
        .map(|id| split_name(id, parameters.total))
        .collect();
    let from_names = |part: fn(&NameParts) -> &Option<String>| {
        sources.iter().find_map(|source| part(source).as_deref()).map(str::to_owned)
    };
    let from_card = |keys: &[&str]| keys.iter().find_map(|key| card.text(key)).map(str::to_owned);
    let title = |text: Option<String>| text.map(|text| title(&text));
    let mut set = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            metadata.set(format!("general.{key}"), value.as_str().into());
        }
    };
    let name = from_card(&["name", "model_name"]).or_else(|| title(from_names(|parts| &parts.name)));
    set("name", name.or(folder).or_else(|| Some("model".into())));
    set("author", from_card(&["author", "model_author", "model_creator"]));
    set("version", from_card(&["version", "model_version"]).or_else(|| from_names(|parts| &parts.version)));
    let organization = from_card(&["organization", "model_organization"]);
    set("organization", organization.or_else(|| title(from_names(|parts| &parts.organization))));
    set(
        "finetune",
        from_card(&["finetune", "model_finetune"]).or_else(|| from_names(|parts| &parts.fine_tune)),
    );
    let base = from_card(&["basename", "model_basename", "model_type"]);
    set("basename", base.or_else(|| from_names(|parts| &parts.base)));
    set("description", from_card(&["description", "model_description"]));
    let size = from_card(&["size_label", "model_size_label"]).or_else(|| from_names(|parts| &parts.size));
    set("size_label", size.or_else(|| Some(parameters.label())));
    set("license", card.texts("license").map(|texts| texts.join(",")));
    set("license.name", from_card(&["license_name"]));
    set("license.link", from_card(&["license_link"]));
    set("source.url", from_card(&["url", "model_url"]));
    set("source.doi", from_card(&["doi", "model_doi"]));
    set("source.repo_url", from_card(&["repo_url", "model_repo_url"]));
    for (kind, keys) in [
        ("base_model", &["base_model", "base_models", "base_model_sources"][..]),
        ("dataset", &["datasets", "dataset", "dataset_sources"]),
    ] {
        if let Some(ids) = keys.iter().find_map(|key| card.texts(key)) {
            ancestors(kind, ids, parameters.total, metadata);
        }
    }
    for (key, sources) in [("tags", ["tags", "pipeline_tag"]), ("languages", ["languages", "language"])] {
        let all: Vec<&String> = sources.iter().filter_map(|source| card.texts(source)).flatten().collect();
        if !all.is_empty() {
            metadata.set(format!("general.{key}"), Value::Array(Array::from_strings(all)));
        }
    }
    Ok(())
}

/// The models or data sets that this one comes from.
fn ancestors(kind: &str, ids: &[String], parameters: u64, metadata: &mut Metadata) {
    metadata.set(format!("general.{kind}.count"), Value::U32(ids.len() as u32));
    for (number, id) in ids.iter().enumerate() {
        let hub = ["https://huggingface.co/", "http://huggingface.co/"];
        let address = ["https://", "http://", "ssh://"].iter().any(|scheme| id.starts_with(scheme));
        let path =
            hub.iter().find_map(|hub| id.strip_prefix(hub)).filter(|path| path.matches('/').count() == 1);
        let parts = match (address, path) {
            (true, Some(path)) => split_name(path, parameters),
            (true, None) => NameParts::default(),
            (false, _) => split_name(id, parameters),
        };
        let repository = match (&parts.organization, &parts.name) {
            _ if address => Some(id.clone()),
            (Some(organization), Some(name)) => Some(format!("{}{organization}/{name}", hub[0])),
            _ => None,
        };
        for (key, value) in [
            ("name", parts.name.as_deref().map(title)),
            ("version", parts.version),
            ("organization", parts.organization.as_deref().map(title)),
            ("repo_url", repository),
        ] {
            if let Some(value) = value {
                metadata.set(format!("general.{kind}.{number}.{key}"), value.as_str().into());
            }
        }
    }
}

/// `general.sampling.*`.
fn sampling(generation: &serde_json::Map<String, Json>, metadata: &mut Metadata) {
    let number = |keys: &[&str]| keys.iter().find_map(|key| generation.get(*key)?.as_f64()).map(|v| v as f32);
    let integer = |key: &str| generation.get(key)?.as_i64().and_then(|v| i32::try_from(v).ok());
    let float = |keys: &[&str]| number(keys).filter(|v| v.is_finite()).map(Value::F32);
    let text = generation.get("sequence").and_then(Json::as_str).map(Value::from);
    for (key, value) in [
        ("sequence", text),
        ("top_k", integer("top_k").map(Value::I32)),
        ("top_p", float(&["top_p"])),
        ("min_p", float(&["min_p"])),
        ("xtc_probability", float(&["xtc_probability"])),
        ("xtc_threshold", float(&["xtc_threshold"])),
        ("temp", float(&["temperature"])),
        ("penalty_last_n", integer("penalty_last_n").map(Value::I32)),
        ("penalty_repeat", float(&["penalty_repeat", "repetition_penalty"])),
        ("mirostat", integer("mirostat").map(Value::I32)),
        ("mirostat_tau", float(&["mirostat_tau"])),
        ("mirostat_eta", float(&["mirostat_eta"])),
    ] {
        if let Some(value) = value {
            metadata.set(format!("general.sampling.{key}"), value);
        }
    }
}

/// Sizes for the label.
#[derive(Clone, Copy, Debug, Default)]
struct Parameters {
    total: u64,
    /// Outside of experts.
    shared: u64,
    /// Of one expert of each layer.
    expert: u64,
    experts: u64,
}

fn count_parameters(tensors: &[ImportedTensor]) -> Parameters {
    let mut found = Parameters::default();
    let mut stacks = 0;
    for tensor in tensors {
        let elements = tensor.elements();
        found.total = found.total.saturating_add(elements);
        match tensor.spec.dims.as_slice() {
            [_, _, experts] if tensor.spec.name.contains("_exps.") => {
                found.expert = found.expert.saturating_add(elements / (*experts).max(1));
                found.experts = found.experts.saturating_add(*experts);
                stacks += 1;
            }
            _ => found.shared = found.shared.saturating_add(elements),
        }
    }
    found.experts = found.experts.checked_div(stacks).unwrap_or(0);
    found
}

impl Parameters {
    /// "135M", "1.2B", "8x7.2B": at least two digits.
    fn label(&self) -> String {
        match self.experts {
            0 => rounded(self.total),
            experts => format!("{experts}x{}", rounded(self.shared.saturating_add(self.expert))),
        }
    }
}

fn rounded(parameters: u64) -> String {
    let parameters = parameters as f64;
    let (scaled, unit) = match parameters {
        p if p > 1e12 => (p * 1e-12, "T"),
        p if p > 1e9 => (p * 1e-9, "B"),
        p if p > 1e6 => (p * 1e-6, "M"),
        p => (p * 1e-3, "K"),
    };
    let whole = scaled.round_ties_even();
    let digits = if whole == 0.0 { 0 } else { format!("{whole:.0}").len() };
    format!("{scaled:.*}{unit}", 2usize.saturating_sub(digits))
}

/// Words with a capital at the start, except versions and words that hold capitals already.
fn title(text: &str) -> String {
    let text = text.trim().replace('-', " ");
    let words = text.split_whitespace().map(|word| {
        let cased = word.chars().any(char::is_alphabetic) && !word.chars().any(char::is_uppercase);
        let rest = word.strip_prefix('v').unwrap_or_default();
        let version = !rest.is_empty() && rest.split('.').all(is_digits);
        if !cased || version || word.starts_with(|c: char| c.is_ascii_digit()) {
            return word.to_owned();
        }
        // As in a title: a capital after every character that is no letter.
        let mut after_letter = false;
        let capital = |c: char| {
            let out: String = if after_letter { c.to_string() } else { c.to_uppercase().collect() };
            after_letter = c.is_alphabetic();
            out
        };
        word.chars().map(capital).collect()
    });
    words.collect::<Vec<String>>().join(" ")
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// `7`, `0.2`, `v1.0`, `iter3`.
fn is_version(word: &str) -> bool {
    let lower = word.to_ascii_lowercase();
    let number = lower.strip_prefix("iter").or_else(|| lower.strip_prefix('v')).unwrap_or(&lower);
    number.split('.').all(is_digits)
}

/// `Q4_K`, `iq2_xs`, `fp16`, `bf16`, `f32`.
fn is_encoding(word: &str) -> bool {
    let lower = word.to_ascii_lowercase();
    if let Some(rest) = lower.strip_prefix("iq").or_else(|| lower.strip_prefix('q')) {
        let mut parts = rest.split('_');
        let bits = parts.next().is_some_and(|bits| bits.len() == 1 && is_digits(bits));
        return bits && parts.all(|part| part.chars().count() == 1);
    }
    let float = lower.strip_prefix('b').unwrap_or(&lower);
    let Some(rest) = float.strip_prefix('f') else { return false };
    matches!(rest.strip_prefix('p').unwrap_or(rest), "16" | "32")
}

/// `7B`, `1.5b`, `8x7B`, `A3B`, `7b1` (of BLOOM), in its usual spelling, and the parameters it stands for; words such
/// as `mini` have none.
fn size_word(word: &str) -> Option<(String, Option<f64>)> {
    let lower = word.to_ascii_lowercase();
    if matches!(lower.as_str(), "small" | "mini" | "medium" | "large" | "xl" | "xxl") {
        return Some((word.to_owned(), None));
    }
    let mut spelled = word.replace('_', ".");
    let mut bytes = lower.replace('_', ".").into_bytes();
    // A digit after the unit is one after the point.
    if let Some((&digit, [start @ .., unit])) = bytes.split_last() {
        if digit.is_ascii_digit() && unit.is_ascii_alphabetic() {
            let moved =
                format!("{}.{}{}", String::from_utf8_lossy(start), char::from(digit), char::from(*unit));
            bytes = moved.clone().into_bytes();
            spelled = moved;
        }
    }
    let (&unit, number) = bytes.split_last()?;
    let exponent = 3 * (b"kmbt".iter().position(|known| *known == unit)? as i32 + 1);
    let number = std::str::from_utf8(number).ok()?;
    let plain = |text: &str| {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        is_digits(whole) && is_digits(fraction)
    };
    let mixture = number.strip_prefix('a').is_some_and(plain)
        || number.split_once('x').is_some_and(|(count, each)| is_digits(count) && plain(each));
    let value = match plain(number) {
        true => number.parse::<f64>().ok().map(|number| number * 10f64.powi(exponent)),
        false if mixture => None,
        false => return None,
    };
    if let Some(unit) = spelled.pop() {
        spelled.push(unit.to_ascii_uppercase());
    }
    Some((spelled, value))
}

/// Takes a name apart. A size that is far from the real number of parameters is no size (but a context length, say).
fn split_name(id: &str, parameters: u64) -> NameParts {
    if id.contains(' ') {
        return NameParts { name: Some(id.to_owned()), ..NameParts::default() };
    }
    let (organization, full) = match id.split_once('/') {
        Some((organization, full)) => (Some(organization), full),
        None => (None, id),
    };
    let organization =
        organization.filter(|text| !text.starts_with('.') && !text.is_empty()).map(str::to_owned);
    let mut words: Vec<(String, Word)> = Vec::new();
    for word in full.split('-').filter(|word| !word.is_empty()) {
        let first = words.is_empty();
        let named =
            ["chat", "instruct", "vision", "lora"].iter().any(|known| word.eq_ignore_ascii_case(known));
        words.push(if is_version(word) {
            (word.to_owned(), Word::Version)
        } else if is_encoding(word) {
            (word.to_ascii_uppercase(), Word::Encoding)
        } else if let Some((spelled, size)) = size_word(word).filter(|_| !first) {
            let far = size.is_some_and(|size| (size - parameters as f64).abs() > (7 * parameters / 8) as f64);
            match far && parameters != 0 {
                true => (spelled.to_ascii_lowercase(), Word::FineTune),
                false => (spelled, Word::Size),
            }
        } else if named && !first {
            (word.to_owned(), Word::FineTune)
        } else {
            (word.to_owned(), Word::Unknown)
        });
    }
    let numeric =
        |(word, kind): &(String, Word)| *kind == Word::Size && word.contains(|c: char| c.is_ascii_digit());
    if words.iter().any(numeric) {
        for (word, kind) in &mut words {
            if *kind == Word::Size && word.chars().all(char::is_alphabetic) {
                *kind = Word::Unknown;
            }
        }
    }
    // The base is what comes first: words, and versions between or after them except at its end.
    let base_len = words.iter().take_while(|(word, kind)| match kind {
        Word::Unknown => word.starts_with(char::is_alphabetic),
        Word::Version => true,
        _ => false,
    });
    let mut base_len = base_len.count();
    while base_len > 0 && words.get(base_len - 1).is_some_and(|(_, kind)| *kind == Word::Version) {
        // Only where a word comes before: a name may be a number.
        base_len -= 1;
    }
    for (at, (_, kind)) in words.iter_mut().enumerate() {
        if at < base_len {
            *kind = Word::Base;
        } else if *kind == Word::Unknown {
            *kind = Word::FineTune;
        }
    }
    let join = |wanted: Word| {
        let mut found: Vec<&str> = Vec::new();
        for (word, kind) in &words {
            if *kind == wanted && !(wanted == Word::Size && found.contains(&word.as_str())) {
                found.push(word);
            }
        }
        (!found.is_empty()).then(|| found.join("-"))
    };
    let (fine_tune, version, size) = (join(Word::FineTune), join(Word::Version), join(Word::Size));
    // A single word says nothing about what is base and what is not.
    let alone = fine_tune.is_none() && version.is_none() && size.is_none();
    let base = join(Word::Base).filter(|_| !alone);
    NameParts { name: Some(full.to_owned()), organization, base, fine_tune, version, size }
}

/// `general.type` of files that hold no model of their own, or that images go through.
pub fn refuse_foreign_kinds(path: &Path, metadata: &Metadata) -> Result<(), ImportError> {
    let text = |key| metadata.get(key).and_then(|_| metadata.str(key).ok());
    let (kind, architecture) = (text("general.type"), text("general.architecture"));
    let (what, hint) = match (kind, architecture) {
        (Some("adapter"), _) => ("a LoRA adapter", "merge it into its base model first"),
        (Some("mmproj"), _) | (_, Some("clip")) => {
            ("a projector for images or sound (mmproj)", "it is small and sensitive: use it as it is")
        }
        (Some("imatrix"), _) => ("an importance matrix in place of a model", "name it with --imatrix"),
        _ => return Ok(()),
    };
    Err(ImportError::unsupported(path, what, hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(id: &str, parameters: u64) -> [Option<String>; 6] {
        let NameParts { name, organization, base, fine_tune, version, size } = split_name(id, parameters);
        [name, organization, base, fine_tune, version, size]
    }

    fn expect(id: &str, parameters: u64, wanted: [&str; 6]) {
        let wanted = wanted.map(|text| (!text.is_empty()).then(|| text.to_owned()));
        assert_eq!(parts(id, parameters), wanted, "{id}");
    }

    #[test]
    fn names_come_apart() {
        expect(
            "Mistral-7B-Instruct-v0.2",
            7_000_000_000,
            ["Mistral-7B-Instruct-v0.2", "", "Mistral", "Instruct", "v0.2", "7B"],
        );
        expect(
            "meta-llama/Llama-3.2-1B",
            1_236_000_000,
            ["Llama-3.2-1B", "meta-llama", "Llama", "", "3.2", "1B"],
        );
        expect("Qwen/Qwen3-30B-A3B", 30_500_000_000, ["Qwen3-30B-A3B", "Qwen", "Qwen3", "", "", "30B-A3B"]);
        expect("smollm2-135M-8k", 134_515_008, ["smollm2-135M-8k", "", "smollm2", "8k", "", "135M"]);
        expect("bloom-7b1-bf16", 7_100_000_000, ["bloom-7b1-bf16", "", "bloom", "", "", "7.1B"]);
        expect("hf", 1000, ["hf", "", "", "", "", ""]);
        expect("a model of mine", 1000, ["a model of mine", "", "", "", "", ""]);
        expect("./x-7b", 7_000_000_000, ["x-7b", "", "x", "", "", "7B"]);
    }

    #[test]
    fn labels_have_two_digits() {
        for (count, label) in [
            (134_515_008, "135M"),
            (1_235_814_400, "1.2B"),
            (7_248_023_552, "7.2B"),
            (70_553_706_496, "71B"),
            (500, "0.50K"),
            (1_500_000, "1.5M"),
        ] {
            assert_eq!(rounded(count), label);
        }
        let mixture = Parameters { total: 0, shared: 1_600_000_000, expert: 5_600_000_000, experts: 8 };
        assert_eq!(mixture.label(), "8x7.2B");
    }

    #[test]
    fn titles() {
        assert_eq!(title("smollm2-135M-v0.2-8k-o'neil"), "Smollm2 135M v0.2 8k O'Neil");
    }
}
