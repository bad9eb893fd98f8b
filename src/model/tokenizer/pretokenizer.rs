//! How byte-level BPE tokenizers cut text into words before merging (`tokenizer.ggml.pre`).

use tokenizers::utils::SysRegex;

use crate::model::error::ModelError;

/// The rule of GPT-2: contractions, words, numbers and punctuation with one space before, white space.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// Parts of the rule that cl100k introduced and later tokenizers share.
macro_rules! cl100k {
    ($number:literal) => {
        concat!(
            r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|",
            $number,
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
    };
}

/// Words split where case changes from lower to upper, with `$suffix` after a word.
macro_rules! case_split {
    ($suffix:literal, $number:literal) => {
        concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]*[\p{L}&&[^A-Z]]+",
            $suffix,
            r"|[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]+[\p{L}&&[^A-Z]]*",
            $suffix,
            "|",
            $number,
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
    };
}

/// What a value of `tokenizer.ggml.pre` means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rule {
    /// Names in files.
    names: &'static [&'static str],
    /// Expressions applied one after another, each to the pieces the one before left.
    expressions: &'static [&'static str],
    /// A word that is a token as it stands is not rebuilt from merges.
    whole_words: bool,
    /// Default of `add_bos_token`.
    add_bos: bool,
}

const RULES: &[Rule] = &[
    Rule {
        names: &["default"],
        expressions: &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
        whole_words: false,
        add_bos: false,
    },
    Rule {
        names: &[
            "gpt-2",
            "gpt2",
            "phi-2",
            "mpt",
            "olmo",
            "jais",
            "gigachat",
            "jina-es",
            "jina-de",
            "jina-v2-es",
            "jina-v2-de",
            "roberta-bpe",
            "trillion",
        ],
        expressions: &[GPT2],
        whole_words: false,
        add_bos: false,
    },
    Rule {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"],
        expressions: &[r"\p{N}", GPT2],
        whole_words: false,
        add_bos: false,
    },
    Rule {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1"],
        expressions: &[cl100k!(r"\p{N}{1,3}")],
        whole_words: true,
        add_bos: true,
    },
    Rule {
        names: &["dbrx", "smaug-bpe", "chatglm-bpe", "glm4", "seed-coder"],
        expressions: &[cl100k!(r"\p{N}{1,3}")],
        whole_words: false,
        add_bos: false,
    },
    Rule {
        names: &["qwen2", "stablelm2", "deepseek-r1-qwen", "megrez", "hunyuan"],
        expressions: &[cl100k!(r"\p{N}")],
        whole_words: false,
        add_bos: false,
    },
    Rule {
        names: &["tekken", "pixtral"],
        expressions: &[case_split!("", r"\p{N}")],
        whole_words: true,
        add_bos: true,
    },
    Rule {
        names: &["gpt-4o", "o200k", "llama4"],
        expressions: &[case_split!(
            r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?",
            r"\p{N}{1,3}"
        )],
        whole_words: false,
        add_bos: false,
    },
    Rule {
        names: &["falcon"],
        expressions: &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"],
        whole_words: false,
        add_bos: false,
    },
];

/// The expressions of one tokenizer, ready to use.
#[derive(Debug)]
pub struct PreTokenizer {
    expressions: Vec<SysRegex>,
    /// A word that is a token as it stands is not rebuilt from merges.
    pub whole_words: bool,
    /// Default of `add_bos_token`.
    pub add_bos: bool,
}

impl PreTokenizer {
    /// The rule of this name, and a warning if the name is missing or unknown and the default rule stands in.
    pub fn named(name: Option<&str>) -> Result<(Self, Option<String>), ModelError> {
        let found = name.and_then(|name| RULES.iter().find(|rule| rule.names.contains(&name)));
        let warning = match (name, found) {
            (_, Some(_)) => None,
            (Some(name), None) => Some(format!(
                "pre-tokenizer `{name}` (tokenizer.ggml.pre) is unknown: the default rule is used and token ids \
                 may differ from the model's own"
            )),
            (None, None) => Some(
                "the file names no pre-tokenizer (tokenizer.ggml.pre): the default rule is used and token ids \
                 may differ from the model's own"
                    .to_owned(),
            ),
        };
        let Some(rule) = found.or(RULES.first()) else {
            return Err(ModelError::Tokenizer("no pre-tokenizer rule".into()));
        };
        let compile = |expression: &&str| {
            SysRegex::new(expression).map_err(|error| {
                ModelError::Tokenizer(format!("pre-tokenizer expression {expression}: {error}"))
            })
        };
        let expressions = rule.expressions.iter().map(compile).collect::<Result<_, _>>()?;
        Ok((Self { expressions, whole_words: rule.whole_words, add_bos: rule.add_bos }, warning))
    }

    /// Cuts `text` into words: matches and the gaps between them, nothing dropped.
    pub fn words<'t>(&self, text: &'t str) -> Vec<&'t str> {
        let mut pieces = vec![text];
        for expression in &self.expressions {
            let mut cut = Vec::with_capacity(pieces.len() * 2);
            for piece in pieces {
                let mut done = 0;
                for (start, end) in expression.find_iter(piece) {
                    cut.extend(piece.get(done..start).filter(|gap| !gap.is_empty()));
                    cut.extend(piece.get(start..end).filter(|word| !word.is_empty()));
                    done = end;
                }
                cut.extend(piece.get(done..).filter(|rest| !rest.is_empty()));
            }
            pieces = cut;
        }
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words<'t>(name: &str, text: &'t str) -> Vec<&'t str> {
        let (rule, warning) = PreTokenizer::named(Some(name)).unwrap();
        assert_eq!(warning, None);
        rule.words(text)
    }

    #[test]
    fn rules_cut_numbers_contractions_and_space_in_their_ways() {
        let text = "I'll pay 1234  EUR.\n\n ok";
        let gpt2 = ["I", "'ll", " pay", " 1234", " ", " EUR", ".", "\n\n", " ok"];
        assert_eq!(words("gpt-2", text), gpt2);
        let single = ["I", "'ll", " pay", " ", "1", "2", "3", "4", " ", " EUR", ".", "\n\n", " ok"];
        assert_eq!(words("smollm", text), single);
        let llama = ["I", "'ll", " pay", " ", "123", "4", " ", " EUR", ".\n\n", " ok"];
        assert_eq!(words("llama-bpe", text), llama);
        let qwen = ["I", "'ll", " pay", " ", "1", "2", "3", "4", " ", " EUR", ".\n\n", " ok"];
        assert_eq!(words("qwen2", text), qwen);
        assert_eq!(words("default", "a=12345"), ["a", "=", "123", "45"]);
        assert_eq!(words("tekken", "HTTPServer aB"), ["HTTPServer", " a", "B"]);
        assert_eq!(words("gpt-4o", "It's"), ["It's"]);
    }

    #[test]
    fn nothing_is_lost_by_any_rule() {
        let text = " \u{2003}a\u{301}b'S 42½٣ \r\n\t<|x|>//\u{1f469}\u{200d}\u{1f467}Straße\u{0}  ";
        for rule in RULES {
            for name in rule.names {
                assert_eq!(words(name, text).concat(), text, "{name}");
                assert!(words(name, "").is_empty());
            }
        }
    }

    #[test]
    fn unknown_rules_are_warned_of() {
        assert!(PreTokenizer::named(Some("nonsense")).unwrap().1.unwrap().contains("`nonsense`"));
        assert!(PreTokenizer::named(None).unwrap().1.unwrap().contains("names no pre-tokenizer"));
    }
}
