//! The common chat formats, recognised by the marks in a model's chat template.

/// A way of writing turns of a conversation as text with control tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChatFormat {
    /// `<|im_start|>role … <|im_end|>` (ChatML: Qwen, SmolLM2 and others).
    ChatMl,
    /// `<|start_header_id|>role<|end_header_id|> … <|eot_id|>` (Llama 3).
    Llama3,
    /// `<start_of_turn>role … <end_of_turn>` (Gemma).
    Gemma,
    /// `<|role|> … <|end|>` (Phi-3).
    Phi3,
    /// `<|role|> …` with the end of text after each turn (Zephyr, TinyLlama).
    Zephyr,
    /// `[INST] … [/INST]` (Llama 2, Mistral).
    Instruction,
}

impl ChatFormat {
    /// Recognises the format from the text of `tokenizer.chat_template`; `None` for formats not known here.
    pub fn recognise(template: &str) -> Option<Self> {
        let marks = [
            ("<|im_start|>", Self::ChatMl),
            ("<|start_header_id|>", Self::Llama3),
            ("<start_of_turn>", Self::Gemma),
            ("<|end|>", Self::Phi3),
            ("<|user|>", Self::Zephyr),
            ("[INST]", Self::Instruction),
        ];
        marks.into_iter().find(|(mark, _)| template.contains(mark)).map(|(_, format)| format)
    }

    /// A user's turn and the start of the model's answer. Control tokens are in the text: encode it with
    /// `parse_special`. The start token of the sequence is not included.
    pub fn question(self, user: &str) -> String {
        match self {
            Self::ChatMl => format!("<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"),
            Self::Llama3 => format!(
                "<|start_header_id|>user<|end_header_id|>\n\n{user}<|eot_id|><|start_header_id|>assistant\
                 <|end_header_id|>\n\n"
            ),
            Self::Gemma => format!("<start_of_turn>user\n{user}<end_of_turn>\n<start_of_turn>model\n"),
            Self::Phi3 => format!("<|user|>\n{user}<|end|>\n<|assistant|>\n"),
            Self::Zephyr => format!("<|user|>\n{user}</s>\n<|assistant|>\n"),
            Self::Instruction => format!("[INST] {user} [/INST]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_recognised_by_their_marks() {
        let cases = [
            ("{{'<|im_start|>' + message['role']}}", Some(ChatFormat::ChatMl)),
            ("{{'<|start_header_id|>' + message['role'] + '<|end_header_id|>'}}", Some(ChatFormat::Llama3)),
            ("{{'<start_of_turn>' + role}}", Some(ChatFormat::Gemma)),
            ("{{'<|user|>' + content + '<|end|>'}}", Some(ChatFormat::Phi3)),
            ("{{'<|user|>' + content + eos_token}}", Some(ChatFormat::Zephyr)),
            ("{{'[INST] ' + content + ' [/INST]'}}", Some(ChatFormat::Instruction)),
            ("{{ content }}", None),
        ];
        for (template, format) in cases {
            assert_eq!(ChatFormat::recognise(template), format, "{template}");
        }
        for format in cases.into_iter().filter_map(|(_, format)| format) {
            assert!(format.question("why?").contains("why?"));
        }
    }
}
