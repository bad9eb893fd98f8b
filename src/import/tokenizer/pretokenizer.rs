//! Which rule cuts text into words before merging: the value of `tokenizer.ggml.pre`.
//!
//! Runtimes know rules by name, folders hold them as expressions. As everywhere, the name is found by what the
//! tokenizer does to a fixed text: the ids it gives are hashed and looked up. A tokenizer that is not in the list is
//! recognised by its expressions.

use std::panic::{catch_unwind, AssertUnwindSafe};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::json::TokenizerJson;
use crate::import::error::ImportError;

/// The text whose ids tell tokenizers apart; every character counts.
const PROBE: &str = concat!(
    "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n",
    "\u{1f680} (normal) \u{1f636}\u{200d}\u{1f32b}\u{fe0f} (multiple emojis concatenated) \u{2705} \u{1f999}\u{1f999} ",
    "3 33 333 3333 33333 333333 3333333 33333333 3.3 3..3 3...3 ",
    "\u{1780}\u{17b6}\u{1793}\u{17cb}\u{178f}\u{17c2}\u{1796}\u{17b7}\u{179f}\u{17c1}\u{179f}\u{17a2}\u{17b6}\u{1785}",
    "\u{1f601} ?\u{6211}\u{60f3}\u{5728}apple\u{5de5}\u{4f5c}1314151\u{5929}\u{ff5e} ------======= ",
    "\u{43d}\u{435}\u{449}\u{43e} \u{43d}\u{430} \u{411}\u{44a}\u{43b}\u{433}\u{430}\u{440}\u{441}\u{43a}\u{438} ",
    "''''''```````\"\"\"\"......!!!!!!?????? ",
    "I've been 'told he's there, 'RE you sure? 'M not sure I'll make it, 'D you like some tea? We'Ve a'lL",
);

/// Lines of a name and a hash.
const FINGERPRINTS: &str = include_str!("fingerprints.txt");

/// The end of the expressions that cl100k introduced: punctuation, line ends, spaces.
macro_rules! cl100k {
    ($number:literal) => {
        concat!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|",
            $number,
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
    };
}

/// Words cut where lower case turns into upper case, with `$suffix` after a word.
macro_rules! case_split {
    ($suffix:literal, $number:literal) => {
        concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
            $suffix,
            r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
            $suffix,
            "|",
            $number,
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
    };
}

/// Steps of a rule as [`steps`] writes them; whether words that are tokens are not rebuilt from merges; the name.
const RULES: [(&[&str], Option<bool>, &str); 9] = [
    (&["bytes+words"], None, "gpt-2"),
    (&["digits", "bytes+words"], None, "smollm"),
    (&[cl100k!(r"\p{N}{1,3}"), "bytes"], Some(true), "llama-bpe"),
    (&[cl100k!(r"\p{N}{1,3}"), "bytes"], Some(false), "dbrx"),
    (&[cl100k!(r"\p{N}"), "bytes"], None, "qwen2"),
    (&[case_split!("", r"\p{N}"), "bytes"], None, "tekken"),
    (&[case_split!(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?", r"\p{N}{1,3}"), "bytes"], None, "gpt-4o"),
    (&["[0-9][0-9][0-9]", "bytes+words"], None, "falcon3"),
    (
        &["'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+", "bytes"],
        None,
        "gpt-2",
    ),
];

/// The name of a tokenizer's rule, and a note if it was recognised by its expressions alone.
pub(super) fn identify(json: &TokenizerJson) -> Result<(String, Option<String>), ImportError> {
    if let Some(name) = by_fingerprint(json) {
        return Ok((name.to_owned(), None));
    }
    let steps = steps(json);
    let whole_words = json.model().get("ignore_merges").and_then(Value::as_bool).unwrap_or(false);
    let rule = RULES
        .iter()
        .find(|(rule, whole, _)| steps == *rule && whole.is_none_or(|whole| whole == whole_words));
    match rule {
        Some((_, _, name)) => {
            let note = format!(
                "the tokenizer is not one that llama.cpp lists; its pre-tokenizer is recognised by its expressions \
                 as `{name}`"
            );
            Ok(((*name).to_owned(), Some(note)))
        }
        None => {
            let found = format!("a rule that is not known here: {}", steps.join(" then "));
            let expected = "the pre-tokenizer of a known model; name it with the option `pre_tokenizer`";
            Err(ImportError::value(json.path(), "pre_tokenizer", expected, found))
        }
    }
}

/// The name by the ids of the probe: with the special tokens that the tokenizer adds, without them, and with a start
/// token before them, which classes may add on top of the file.
fn by_fingerprint(json: &TokenizerJson) -> Option<&'static str> {
    // The crate is given a file from elsewhere; should it panic, the tokenizer is not a known one.
    let encodings = catch_unwind(AssertUnwindSafe(|| {
        let mut tokenizer = tokenizers::Tokenizer::from_bytes(json.bytes()).ok()?;
        tokenizer.with_truncation(None).ok()?;
        tokenizer.with_padding(None);
        let encode = |special| tokenizer.encode(PROBE, special).ok().map(|found| found.get_ids().to_vec());
        Some((encode(true)?, encode(false)?))
    }));
    let (full, bare) = encodings.ok()??;
    if let Some(name) = look_up(&full).or_else(|| look_up(&bare)) {
        return Some(name);
    }
    json.added().iter().filter(|token| token.special).find_map(|token| {
        let mut ids = vec![token.id];
        ids.extend_from_slice(&bare);
        look_up(&ids)
    })
}

fn look_up(ids: &[u32]) -> Option<&'static str> {
    let texts: Vec<String> = ids.iter().map(u32::to_string).collect();
    let hash = Sha256::digest(format!("[{}]", texts.join(", ")));
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    let lines = FINGERPRINTS.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_once(' '))
        .find(|(_, known)| known.trim() == hash)
        .map(|(name, _)| name)
}

/// The rule as a list of expressions, "digits" (each digit a word), "bytes" and "bytes+words" (the expression of
/// GPT-2, built into the byte level).
fn steps(json: &TokenizerJson) -> Vec<String> {
    let Some(rule) = json.root().get("pre_tokenizer") else { return Vec::new() };
    let single = std::slice::from_ref(rule);
    let list = rule.get("pretokenizers").and_then(Value::as_array).map_or(single, Vec::as_slice);
    list.iter().map(step).collect()
}

fn step(rule: &Value) -> String {
    let kind = rule.get("type").and_then(Value::as_str).unwrap_or("nothing");
    let flag = |key: &str| rule.get(key).and_then(Value::as_bool);
    match kind {
        "Split" if flag("invert") != Some(true) => {
            let pattern = rule.get("pattern");
            let text = pattern.and_then(|pattern| pattern.get("Regex").or_else(|| pattern.get("String")));
            text.and_then(Value::as_str).unwrap_or("Split").to_owned()
        }
        "ByteLevel" if flag("add_prefix_space") != Some(true) => {
            if flag("use_regex").unwrap_or(true) { "bytes+words" } else { "bytes" }.to_owned()
        }
        "Digits" if flag("individual_digits") == Some(true) => "digits".to_owned(),
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probe_and_fingerprints_are_whole() {
        assert_eq!(PROBE.chars().count(), 350);
        let lines: Vec<&str> = FINGERPRINTS.lines().filter(|line| !line.starts_with('#')).collect();
        assert!(lines.len() > 80);
        for line in lines {
            let (name, hash) = line.split_once(' ').expect("two words");
            let hash = hash.trim();
            assert!(
                !name.is_empty() && hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit()),
                "{line}"
            );
        }
    }

    #[test]
    fn ids_are_written_as_a_list() {
        // The hash of "[1, 2]" is in no list.
        assert_eq!(look_up(&[1, 2]), None);
        let hash = Sha256::digest(b"[1, 2]");
        assert_eq!(
            hash.iter().take(4).map(|b| format!("{b:02x}")).collect::<String>(),
            "3a316d6d".to_owned()
        );
    }
}
