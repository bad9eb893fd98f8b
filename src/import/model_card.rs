//! The front matter of a model card: the block between `---` lines at the start of README.md.

use std::collections::BTreeMap;

/// Top-level keys with a text or a list of texts. Anything deeper is left out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ModelCard {
    values: BTreeMap<String, Vec<String>>,
    /// Keys whose value is a list.
    lists: Vec<String>,
}

impl ModelCard {
    /// Reads the part of YAML that model cards use: `key: text`, `key: [a, b]`, and `key:` with lines `- text`.
    pub fn parse(text: &str) -> Self {
        let mut card = Self::default();
        let mut lines = text.lines();
        if lines.next().map(str::trim_end) != Some("---") {
            return card;
        }
        let mut current: Option<String> = None;
        for line in lines.take_while(|line| line.trim_end() != "---") {
            let line = line.replace('\t', "  ");
            let content = line.trim();
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            if let Some(item) =
                content.strip_prefix('-').filter(|rest| rest.is_empty() || rest.starts_with(' '))
            {
                if let (Some(key), Some(item)) = (&current, scalar(item)) {
                    if !is_mapping(&item) {
                        card.values.entry(key.clone()).or_default().push(item);
                    }
                }
                continue;
            }
            if line.starts_with(' ') {
                continue;
            }
            current = None;
            let Some((key, value)) = content.split_once(':') else { continue };
            let (key, value) = (key.trim().to_owned(), value.trim());
            if let Some(list) = value.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                let items = list.split(',').filter_map(scalar).collect();
                card.lists.push(key.clone());
                card.values.insert(key, items);
            } else if let Some(text) = scalar(value) {
                // Folded and literal blocks are not followed.
                if !matches!(text.as_str(), "|" | ">" | "|-" | ">-") {
                    card.values.insert(key, vec![text]);
                }
            } else {
                card.lists.push(key.clone());
                current = Some(key);
            }
        }
        card
    }

    /// A single text.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.values.get(key).map(Vec::as_slice) {
            Some([text]) if !self.lists.iter().any(|list| list == key) => Some(text),
            _ => None,
        }
    }

    /// The texts of a list, or the one text; `None` if the key is absent or empty.
    pub fn texts(&self, key: &str) -> Option<&[String]> {
        self.values.get(key).map(Vec::as_slice).filter(|texts| !texts.is_empty())
    }
}

/// A plain or quoted text; `None` if there is nothing or null.
fn scalar(text: &str) -> Option<String> {
    let text = text.trim();
    for quote in ['"', '\''] {
        if let Some(inner) = text.strip_prefix(quote).and_then(|rest| rest.split_once(quote)) {
            return Some(inner.0.to_owned());
        }
    }
    let text = text.split_once(" #").map_or(text, |(before, _)| before.trim_end());
    (!matches!(text, "" | "null" | "~" | "Null" | "NULL") && !text.starts_with('#')).then(|| text.to_owned())
}

/// Whether a list's item starts a mapping (`name: …`): too deep.
fn is_mapping(item: &str) -> bool {
    item.split_once(": ").is_some_and(|(key, _)| !key.contains(' ')) || item.ends_with(':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_cards_use() {
        let card = ModelCard::parse(
            "---\nlicense: apache-2.0\nlanguage:\n- en\n- \"no\"\ntags: [a, 'b c', d]\nmodel-index:\n  - name: x\n    \
             results: 1\nempty:\nbase_model: org/Name-7B # note\n---\nlicense: other\n",
        );
        assert_eq!(card.text("license"), Some("apache-2.0"));
        assert_eq!(card.texts("language"), Some(&["en".to_owned(), "no".to_owned()][..]));
        assert_eq!(card.texts("tags"), Some(&["a".to_owned(), "b c".to_owned(), "d".to_owned()][..]));
        assert_eq!(card.text("base_model"), Some("org/Name-7B"));
        assert_eq!((card.texts("empty"), card.texts("model-index"), card.text("tags")), (None, None, None));
        assert_eq!(ModelCard::parse("# Title\n---\nlicense: x\n---\n"), ModelCard::default());
        assert_eq!(ModelCard::parse(""), ModelCard::default());
    }
}
