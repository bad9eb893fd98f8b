//! Byte-level byte pair encoding (`tokenizer.ggml.model` = "gpt2").

use std::cmp::Reverse;

use super::join::join;
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

/// Two neighbouring tokens that become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Merge {
    left: u32,
    right: u32,
    /// The lowest goes first.
    rank: u32,
    joined: u32,
}

/// A byte-level BPE tokenizer without its special tokens.
#[derive(Debug)]
pub struct BytePairs {
    /// In order of the pairs, each pair once.
    merges: Vec<Merge>,
    words: PreTokenizer,
    byte_text: ByteText,
    /// Whether each byte is a token by itself.
    known: Vec<bool>,
}

impl BytePairs {
    /// Reads the merges. Returns a warning if some name tokens that do not exist; these are left out.
    pub fn new(
        metadata: &Metadata,
        vocabulary: &Vocabulary,
        words: PreTokenizer,
    ) -> Result<(Self, Option<String>), ModelError> {
        const MERGES: &str = "tokenizer.ggml.merges";
        let mut merges = Vec::new();
        let mut left_out = 0usize;
        let mut joined = String::new();
        for (rank, merge) in metadata.strings(MERGES)?.enumerate() {
            // Both halves are shown text, which holds no space.
            let halves = std::str::from_utf8(merge).ok().and_then(|merge| {
                let at = merge.char_indices().skip(1).find(|&(_, c)| c == ' ')?.0;
                Some((merge.get(..at)?, merge.get(at + 1..)?))
            });
            let (Some((left, right)), Ok(rank)) = (halves, u32::try_from(rank)) else {
                return Err(ModelError::metadata(
                    MERGES,
                    "two texts with a space between, less than 2^32 of them",
                    format!("{:?} as merge {rank}", String::from_utf8_lossy(merge)),
                ));
            };
            joined.clear();
            joined.push_str(left);
            joined.push_str(right);
            match (vocabulary.find(left), vocabulary.find(right), vocabulary.find(&joined)) {
                (Some(left), Some(right), Some(joined)) => merges.push(Merge { left, right, rank, joined }),
                _ => left_out += 1,
            }
        }
        merges.sort_unstable();
        merges.dedup_by_key(|merge| (merge.left, merge.right));
        merges.shrink_to_fit();
        let warning = (left_out > 0)
            .then(|| format!("{left_out} merges (tokenizer.ggml.merges) name no token and are left out"));
        let byte_text = ByteText::new();
        let known =
            byte_text.to_char.iter().map(|c| vocabulary.find(c.encode_utf8(&mut [0; 4])).is_some()).collect();
        Ok((Self { merges, words, byte_text, known }, warning))
    }

    fn merge(&self, left: u32, right: u32) -> Option<&Merge> {
        let at = self.merges.binary_search_by_key(&(left, right), |merge| (merge.left, merge.right));
        self.merges.get(at.ok()?)
    }

    /// Appends the tokens of a text without special tokens.
    pub fn encode(&self, vocabulary: &Vocabulary, text: &str, out: &mut Vec<u32>) {
        let is_unknown = |byte: &u8| self.known.get(usize::from(*byte)) == Some(&false);
        for word in self.words.words(text) {
            // A byte without a token is dropped, and what stood around it does not merge.
            for part in word.as_bytes().split(is_unknown) {
                self.encode_part(vocabulary, &self.byte_text.show(part), out);
            }
        }
    }

    /// Appends the tokens of a word in its printable form, each character of which is a token.
    fn encode_part(&self, vocabulary: &Vocabulary, shown: &str, out: &mut Vec<u32>) {
        if self.words.whole_words {
            if let Some(token) = vocabulary.find(shown) {
                return out.push(token);
            }
        }
        let pieces = join(
            shown,
            |character| vocabulary.find(character),
            |left, right| {
                let merge = self.merge(left.token?, right.token?)?;
                Some((Reverse(merge.rank), merge.joined))
            },
        );
        out.extend(pieces.filter_map(|piece| piece.token));
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
        let mut distinct = std::collections::HashSet::new();
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
