//! Tokens as pieces of valid UTF-8: a character may be spread over several tokens.

/// Collects bytes and gives them out as soon as they are whole characters.
#[derive(Clone, Debug, Default)]
pub struct Pieces {
    pending: Vec<u8>,
}

impl Pieces {
    /// Adds bytes; returns the text that is complete. Bytes that cannot be part of any character become U+FFFD.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        let mut used = 0;
        for chunk in self.pending.utf8_chunks() {
            text.push_str(chunk.valid());
            used += chunk.valid().len();
            if chunk.invalid().is_empty() {
                continue;
            }
            let last = used + chunk.invalid().len() == self.pending.len();
            // A character cut off at the end waits for its other bytes.
            let cut = std::str::from_utf8(chunk.invalid()).is_err_and(|error| error.error_len().is_none());
            if !last || !cut {
                text.push(char::REPLACEMENT_CHARACTER);
                used += chunk.invalid().len();
            }
        }
        self.pending.drain(..used);
        text
    }

    /// What is left at the end: empty, or one U+FFFD for a character that was never completed.
    pub fn finish(&mut self) -> String {
        let rest = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_put_together() {
        let text = "aé漢😀\u{fffd}b";
        for width in 1..=5 {
            let mut pieces = Pieces::default();
            let parts: Vec<String> = text.as_bytes().chunks(width).map(|bytes| pieces.push(bytes)).collect();
            assert_eq!(parts.concat() + &pieces.finish(), text);
        }
    }

    #[test]
    fn other_bytes_are_replaced() {
        let mut pieces = Pieces::default();
        assert_eq!(pieces.push(b"a\xffb\xe6"), "a\u{fffd}b");
        assert_eq!(pieces.push(b"\xbc"), "");
        assert_eq!(pieces.push(b"c\xf0\x9f"), "\u{fffd}c");
        assert_eq!(pieces.finish(), "\u{fffd}");
        assert_eq!(pieces.finish(), "");
    }
}
