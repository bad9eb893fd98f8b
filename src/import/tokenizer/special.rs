//! Special tokens, whether they are added to a text, and the chat template.

use serde_json::{Map, Value as Json};

use super::json::{TokenizerConfig, TokenizerJson};
use crate::gguf::{Array, Metadata, Value};
use crate::import::config::Config;
use crate::import::error::ImportError;
use crate::import::files::Files;

/// A kind of special token.
#[derive(Debug)]
pub(super) struct Kind {
    /// Name in Hugging Face files.
    pub token: &'static str,
    /// Key of its id in config.json.
    id: &'static str,
    /// Key of its id in ggml metadata.
    ggml: &'static str,
    /// Key of "is it added?" in both; empty if ggml has none.
    add: &'static str,
}

macro_rules! kinds {
    ($($name:literal, $ggml:literal, $add:literal;)*) => {
        [$(Kind {
            token: concat!($name, "_token"),
            id: concat!($name, "_token_id"),
            ggml: concat!("tokenizer.ggml.", $ggml, "_token_id"),
            add: $add,
        },)*]
    };
}

/// All kinds that are read, in the order in which they are written.
pub(super) const SPECIAL: [Kind; 9] = kinds! {
    "bos", "bos", "add_bos_token";
    "eos", "eos", "add_eos_token";
    "unk", "unknown", "";
    "sep", "seperator", "add_sep_token";
    "pad", "padding", "";
    "cls", "cls", "";
    "mask", "mask", "";
    "eot", "eot", "";
    "eom", "eom", "";
};

/// What the tokenizer's files say of special tokens.
struct Reader {
    /// `tokenizer_config.json`, with what the post-processor implies.
    values: Map<String, Json>,
    /// Whether kinds are added, by their key.
    add: Vec<(&'static str, bool)>,
    /// eot and eom count only where the post-processor moved an end token there.
    moved: Vec<&'static str>,
}

/// Writes ids, switches and template. Ids at or beyond `vocabulary` are left out.
pub(super) fn write(
    files: Files<'_>,
    json: Option<&TokenizerJson>,
    tokenizer: Option<&TokenizerConfig>,
    config: &Config,
    vocabulary: u32,
    metadata: &mut Metadata,
) -> Result<(), ImportError> {
    let values = tokenizer.map(|tokenizer| tokenizer.values.clone()).unwrap_or_default();
    let mut reader = Reader { values, add: Vec::new(), moved: Vec::new() };
    if let Some(json) = json {
        reader.read_post_processor(json);
    }
    for kind in SPECIAL.iter().filter(|kind| !kind.add.is_empty()) {
        if let Some(add) = reader.values.get(kind.add).and_then(Json::as_bool) {
            reader.set_add(kind.add, add, false);
        }
    }
    let wanted =
        |kind: &&Kind| !matches!(kind.token, "eot_token" | "eom_token") || reader.moved.contains(&kind.token);
    // First those whose token the tokenizer's files name, then those that only config.json knows.
    let named = |kind: &Kind| {
        let text = token_text(reader.values.get(kind.token)?)?;
        let added = json.map(TokenizerJson::added).unwrap_or_default();
        added.iter().find(|token| token.text == text).map(|token| token.id)
    };
    let configured =
        |kind: &Kind| config.get(kind.id).and_then(Json::as_u64).and_then(|id| u32::try_from(id).ok());
    let found = SPECIAL.iter().filter(wanted).map(|kind| (kind, named(kind)));
    let found: Vec<(&Kind, Option<u32>)> =
        found.chain(SPECIAL.iter().filter(wanted).map(|kind| (kind, configured(kind)))).collect();
    for (kind, id) in found {
        if let Some(id) = id.filter(|id| *id < vocabulary && !metadata.contains(kind.ggml)) {
            metadata.set(kind.ggml, Value::U32(id));
        }
    }
    for (key, add) in &reader.add {
        metadata.set(format!("tokenizer.ggml.{key}"), Value::Bool(*add));
    }
    match tokenizer {
        Some(_) => write_template(files, &reader.values, metadata),
        None => Ok(()),
    }
}

impl Reader {
    fn token(&self, key: &str) -> Option<String> {
        self.values.get(key).and_then(token_text).map(str::to_owned)
    }

    fn set_token(&mut self, key: &str, text: &str) {
        self.values.insert(key.into(), Json::String(text.into()));
    }

    /// Whether a kind of token is added. A later word counts only if it `overrides`.
    fn set_add(&mut self, key: &'static str, add: bool, overrides: bool) {
        match self.add.iter_mut().find(|(known, _)| *known == key) {
            Some(entry) if overrides => entry.1 = add,
            Some(_) => {}
            None => self.add.push((key, add)),
        }
    }

    /// What the steps after tokenization add.
    fn read_post_processor(&mut self, json: &TokenizerJson) {
        for (missing, other) in [("bos_token", "cls_token"), ("eos_token", "sep_token")] {
            if let (None, Some(text)) = (self.token(missing), self.token(other)) {
                self.set_token(missing, &text);
            }
        }
        let Some(processor) = json.root().get("post_processor").filter(|value| value.is_object()) else {
            return;
        };
        let single = std::slice::from_ref(processor);
        let steps = processor.get("processors").and_then(Json::as_array).map_or(single, Vec::as_slice);
        for step in steps {
            match step.get("type").and_then(Json::as_str) {
                Some("ByteLevel") => {
                    self.set_add("add_bos_token", false, false);
                    self.set_add("add_eos_token", false, false);
                }
                Some("RobertaProcessing") => {
                    for key in ["add_bos_token", "add_eos_token", "add_sep_token"] {
                        self.set_add(key, true, true);
                    }
                }
                Some("TemplateProcessing") => self.read_template(step),
                _ => {}
            }
        }
    }

    /// A template `[first] A [last]` for one text, and one for pairs.
    fn read_template(&mut self, step: &Json) {
        let list = |key: &str| step.get(key).and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default();
        let (single, pair) = (list("single"), list("pair"));
        let (mut first, mut last) = (None, None);
        if let [start, .., end] = single {
            first = special_of(start);
            last = special_of(end);
        }
        if let Some(first) = first {
            let known = [self.token("bos_token"), self.token("cls_token")];
            if !known.iter().flatten().any(|text| text == first) {
                for (key, known) in ["bos_token", "cls_token"].into_iter().zip(&known) {
                    if known.is_none() {
                        self.set_token(key, first);
                    }
                }
            }
            let known = [self.token("bos_token"), self.token("cls_token")];
            self.set_add("add_bos_token", known.iter().flatten().any(|text| text == first), true);
        }
        if let Some(last) = last {
            if let Some(end) = self.token("eos_token").filter(|end| end != last) {
                // The token that ends a turn, while another ends the text.
                if let Some(free) =
                    ["eot_token", "eom_token"].into_iter().find(|key| !self.moved.contains(key))
                {
                    self.moved.push(free);
                    self.set_token(free, &end);
                }
            }
            self.set_token("eos_token", last);
            self.set_add("add_eos_token", true, true);
        }
        self.read_pair(pair, first, last);
    }

    /// Whether a separator stands between the texts of a pair: `[first] A [separator] [separator] B [last]`.
    fn read_pair(&mut self, mut pair: &[Json], first: Option<&str>, last: Option<&str>) {
        if let (Some(first), [start, rest @ ..]) = (first, pair) {
            if special_of(start) == Some(first) {
                pair = rest;
            }
        }
        if let (Some(last), [rest @ .., end]) = (last, pair) {
            if special_of(end) == Some(last) {
                pair = rest;
            }
        }
        let sequence = |item: &Json| item.pointer("/Sequence/id").and_then(Json::as_str).map(str::to_owned);
        let [start, middle @ .., end] = pair else { return };
        if sequence(start).as_deref() != Some("A")
            || sequence(end).as_deref() != Some("B")
            || middle.is_empty()
        {
            return;
        }
        let separators = [self.token("sep_token"), self.token("eos_token")];
        let separates = |item: Option<&Json>| {
            let special = item.and_then(special_of);
            special.is_some_and(|special| separators.iter().flatten().any(|text| text == special))
        };
        let doubled = middle.len() == 2 && separates(middle.get(1));
        let add = (separates(middle.first()) && last.is_none()) || doubled;
        self.set_add("add_sep_token", add, true);
        if let (true, None, Some(end)) = (add, self.token("sep_token"), self.token("eos_token")) {
            self.set_token("sep_token", &end);
        }
    }
}

/// The special token of a template's item.
fn special_of(item: &Json) -> Option<&str> {
    item.pointer("/SpecialToken/id").and_then(Json::as_str).filter(|text| !text.is_empty())
}

/// A token given as a text or as an object.
fn token_text(value: &Json) -> Option<&str> {
    let text = match value {
        Json::String(text) => Some(text.as_str()),
        Json::Object(token) => token.get("content").and_then(Json::as_str),
        _ => None,
    };
    text.filter(|text| !text.is_empty())
}

/// The chat template: of `tokenizer_config.json`, `chat_template.jinja` or `chat_template.json`. Several are a list of
/// names and texts.
fn write_template(
    files: Files<'_>,
    values: &Map<String, Json>,
    metadata: &mut Metadata,
) -> Result<(), ImportError> {
    const KEY: &str = "tokenizer.chat_template";
    let template = match values.get("chat_template").filter(|value| !value.is_null()).cloned() {
        Some(template) => Some(template),
        None => match files.text("chat_template.jinja")? {
            Some(text) => Some(Json::String(text)),
            None => {
                let file = files.object("chat_template.json")?;
                file.and_then(|mut file| file.remove("chat_template"))
            }
        },
    };
    match template {
        Some(Json::String(text)) => metadata.set(KEY, text.as_str().into()),
        Some(Json::Array(list)) => {
            let mut names: Vec<String> = Vec::new();
            let mut default = None;
            for choice in &list {
                let text = |key| choice.get(key).and_then(Json::as_str);
                let (Some(name), Some(template)) = (text("name"), text("template")) else { continue };
                let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
                let name: String = name.chars().map(plain).collect();
                if name == "default" {
                    default = Some(template);
                } else if !name.is_empty() {
                    metadata.set(format!("{KEY}.{name}"), template.into());
                    if !names.contains(&name) {
                        names.push(name);
                    }
                }
            }
            if !names.is_empty() {
                metadata.set("tokenizer.chat_templates", Value::Array(Array::from_strings(&names)));
            }
            if let Some(template) = default {
                metadata.set(KEY, template.into());
            }
        }
        _ => {}
    }
    Ok(())
}
