//! Byte-level byte pair encoding (`tokenizer.ggml.model` = "gpt2").

use std::collections::HashSet;

use tokenizers::models::bpe::{Merges, Vocab, BPE};
use tokenizers::Model as _;

use super::pretokenizer::PreTokenizer;
use super::vocabulary::Vocabulary;
use crate::gguf::Metadata;
use crate::model::error::ModelError;

/// First code point that stands for a byte which is no printable Latin-1 character.
const SUBSTITUTES: u32 = 0x100;

/// Whether byte-level texts show this byte as the character of the same code.
fn is_shown(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff)
}

/// Both directions of GPT-2's printable form of bytes.
#[derive(Debug)]
struct ByteText {
    to_char: [char; 256],
    /// Byte of each code point below 512, if it stands for one.
    to_byte: [Option<u8>; 512],
}

impl ByteText {
    fn new() -> Self {
        let mut table = Self { to_char: ['\0'; 256], to_byte: [None; 512] };
        let mut substitute = SUBSTITUTES;
        for (byte, slot) in (0..=255u8).zip(table.to_char.iter_mut()) {
            let code = if is_shown(byte) {
                u32::from(byte)
            } else {
                substitute += 1;
                substitute - 1
            };
            *slot = char::from_u32(code).unwrap_or('\0');
            if let Some(back) = table.to_byte.get_mut(code as usize) {
                *back = Some(byte);
            }
        }
        table
    }

    fn show(&self, bytes: &[u8]) -> String {
        bytes.iter().filter_map(|&byte| self.to_char.get(usize::from(byte))).collect()
    }

    /// Bytes of a shown text; characters that stand for no byte stay as they are.
    fn bytes(&self, shown: &str, out: &mut Vec<u8>) {
        for character in shown.chars() {
            match self.to_byte.get(character as usize).copied().flatten() {
                Some(byte) => out.push(byte),
                None => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
    }
}

/// A byte-level BPE tokenizer without its special tokens.
pub struct BytePairs {
    model: BPE,
    words: PreTokenizer,
    byte_text: ByteText,
    /// Whether each byte is a token by itself.
    known: Vec<bool>,
}

impl std::fmt::Debug for BytePairs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BytePairs").field("words", &self.words).finish_non_exhaustive()
    }
}

impl BytePairs {
    /// Reads the merges. Returns a warning if some name tokens that do not exist; these are left out.
    pub fn new(
        metadata: &Metadata,
        vocabulary: &Vocabulary,
        words: PreTokenizer,
    ) -> Result<(Self, Option<String>), ModelError> {
        const MERGES: &str = "tokenizer.ggml.merges";
        let mut merges: Merges = Vec::new();
        let mut seen = HashSet::new();
        let mut left_out = 0usize;
        for (rank, merge) in metadata.strings(MERGES)?.enumerate() {
            // Both halves are shown text, which holds no space.
            let halves = std::str::from_utf8(merge).ok().and_then(|merge| {
                let at = merge.char_indices().skip(1).find(|&(_, c)| c == ' ')?.0;
                Some((merge.get(..at)?, merge.get(at + 1..)?))
            });
            let Some((left, right)) = halves else {
                return Err(ModelError::metadata(
                    MERGES,
                    "two texts with a space between",
                    format!("{:?} as merge {rank}", String::from_utf8_lossy(merge)),
                ));
            };
            let known = |text: &str| vocabulary.find(text).is_some();
            if !known(left) || !known(right) || !known(&format!("{left}{right}")) {
                left_out += 1;
            } else if seen.insert((left.to_owned(), right.to_owned())) {
                merges.push((left.to_owned(), right.to_owned()));
            }
        }
        let tokens: Vocab = vocabulary.texts().map(str::to_owned).zip(0..).collect();
        let model = BPE::builder()
            .vocab_and_merges(tokens, merges)
            .ignore_merges(words.whole_words)
            .build()
            .map_err(|error| ModelError::Tokenizer(format!("byte pair encoding: {error}")))?;
        let warning = (left_out > 0)
            .then(|| format!("{left_out} merges (tokenizer.ggml.merges) name no token and are left out"));
        let byte_text = ByteText::new();
        let known =
            byte_text.to_char.iter().map(|c| vocabulary.find(c.encode_utf8(&mut [0; 4])).is_some()).collect();
        Ok((Self { model, words, byte_text, known }, warning))
    }

    /// Appends the tokens of a text without special tokens.
    pub fn encode(&self, text: &str, out: &mut Vec<u32>) -> Result<(), ModelError> {
        let is_unknown = |byte: &u8| self.known.get(usize::from(*byte)) == Some(&false);
        for word in self.words.words(text) {
            // A byte without a token is dropped, and what stood around it does not merge.
            for part in word.as_bytes().split(is_unknown) {
                let tokens = self
                    .model
                    .tokenize(&self.byte_text.show(part))
                    .map_err(|error| ModelError::Tokenizer(format!("byte pair encoding: {error}")))?;
                out.extend(tokens.iter().map(|token| token.id));
            }
        }
        Ok(())
    }

    /// Appends the bytes that a token's stored text stands for.
    pub fn decode(&self, text: &str, out: &mut Vec<u8>) {
        self.byte_text.bytes(text, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_the_printable_form() {
        let table = ByteText::new();
        assert_eq!(table.show(b" a\n"), "\u{120}a\u{10a}");
        let mut distinct = HashSet::new();
        for byte in 0..=255u8 {
            let shown = table.to_char[usize::from(byte)];
            assert!(distinct.insert(shown));
            let mut back = Vec::new();
            table.bytes(&shown.to_string(), &mut back);
            assert_eq!(back, [byte]);
        }
        let mut foreign = Vec::new();
        table.bytes("\u{2581}x", &mut foreign);
        assert_eq!(foreign, "\u{2581}x".as_bytes());
    }
}
