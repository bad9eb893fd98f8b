//! Tokenizers of tiny vocabularies, worked out by hand.

use wsic::gguf::{Array, Metadata, Value, ValueType};
use wsic::model::tokenizer::{partition, ChatFormat, Fragment, TokenKind, Tokenizer};
use wsic::model::ModelError;

fn integers(values: &[i32]) -> Value {
    let values: Vec<Value> = values.iter().map(|&v| Value::I32(v)).collect();
    Value::Array(Array::from_values(ValueType::I32, &values).unwrap())
}

fn floats(values: &[f32]) -> Value {
    let values: Vec<Value> = values.iter().map(|&v| Value::F32(v)).collect();
    Value::Array(Array::from_values(ValueType::F32, &values).unwrap())
}

/// Byte pairs over a, b, c and the space, with a control token, an added text and a longer one.
fn byte_pairs() -> Metadata {
    let tokens = ["a", "b", "c", "Ġ", "ab", "Ġab", "abc", "bc", "<end>", "<mark>", "<mark>>", "Ċ", "Ã", "¤"];
    let mut metadata = Metadata::new("tiny.gguf");
    metadata.set("tokenizer.ggml.model", Value::from("gpt2"));
    metadata.set("tokenizer.ggml.pre", Value::from("gpt-2"));
    metadata.set("tokenizer.ggml.tokens", Value::Array(Array::from_strings(tokens)));
    metadata.set("tokenizer.ggml.token_type", integers(&[1, 1, 1, 1, 1, 1, 1, 1, 3, 4, 4, 1, 1, 1]));
    metadata.set("tokenizer.ggml.merges", Value::Array(Array::from_strings(["b c", "a b", "Ġ ab", "ab c"])));
    metadata.set("tokenizer.ggml.eos_token_id", Value::U32(8));
    metadata
}

#[test]
fn byte_pairs_merge_by_rank() {
    let tokenizer = Tokenizer::from_metadata(&byte_pairs()).unwrap();
    assert!(tokenizer.warnings().is_empty());
    let encode = |text| tokenizer.encode(text, true).unwrap();
    // "b c" ranks before "a b", so abc is a + bc although abc is a token.
    assert_eq!(encode("abc"), [0, 7]);
    assert_eq!(encode("ab ab"), [4, 5]);
    assert_eq!(encode("aab"), [0, 4]);
    assert_eq!(encode("a\nb"), [0, 11, 1]);
    assert_eq!(encode("ä"), [12, 13]);
    assert!(encode("").is_empty());
    // Bytes without a token are dropped, as there is nothing to put for them.
    assert_eq!(encode("axb"), [0, 1]);
    assert_eq!(tokenizer.decode(&[4, 5, 11, 12, 13]), "ab ab\nä".as_bytes());
    // Half a character is half a character.
    assert_eq!(tokenizer.decode(&[12]), [0xc3]);
    assert_eq!(tokenizer.decode(&[99]), b"");
}

#[test]
fn whole_words_need_no_merges_where_the_rule_says_so() {
    let mut metadata = byte_pairs();
    metadata.set("tokenizer.ggml.pre", Value::from("llama-bpe"));
    let tokenizer = Tokenizer::from_metadata(&metadata).unwrap();
    assert_eq!(tokenizer.encode("abc", false).unwrap(), [6]);
    assert_eq!(tokenizer.encode("abcb", false).unwrap(), [0, 7, 1]);
}

#[test]
fn special_tokens_are_cut_out_first() {
    let tokenizer = Tokenizer::from_metadata(&byte_pairs()).unwrap();
    let vocabulary = tokenizer.vocabulary();
    assert_eq!(vocabulary.kind(8), TokenKind::Control);
    assert!(vocabulary.ends_generation(8) && !vocabulary.ends_generation(9));
    // Added texts always, control tokens on request, the longest first.
    let with = |text, special| tokenizer.encode_with(text, false, special).unwrap();
    assert_eq!(with("a<mark>b<mark>><end>", true), [0, 9, 1, 10, 8]);
    assert_eq!(with("a<mark>b<mark>>", false), [0, 9, 1, 10]);
    assert!(with("<END>", false).is_empty(), "no letter of it is a token");
    assert_eq!(tokenizer.piece(8, true), b"<end>");
    assert_eq!(tokenizer.piece(8, false), b"");
    assert_eq!(tokenizer.piece(9, false), b"<mark>");
    let cut = partition(vocabulary, &[10, 9, 8], "x<mark><mark>>y", true);
    assert_eq!(cut, [Fragment::Text("x"), Fragment::Token(9), Fragment::Token(10), Fragment::Text("y")]);
}

#[test]
fn start_and_end_tokens_follow_the_metadata() {
    let mut metadata = byte_pairs();
    let encode = |metadata: &Metadata| Tokenizer::from_metadata(metadata).unwrap().encode("a", true).unwrap();
    metadata.set("tokenizer.ggml.bos_token_id", Value::U32(11));
    assert_eq!(encode(&metadata), [0]);
    metadata.set("tokenizer.ggml.add_eos_token", Value::Bool(true));
    assert_eq!(encode(&metadata), [0, 8]);
    metadata.set("tokenizer.ggml.pre", Value::from("llama-bpe"));
    assert_eq!(encode(&metadata), [11, 0, 8]);
    metadata.set("tokenizer.ggml.add_bos_token", Value::Bool(false));
    assert_eq!(encode(&metadata), [0, 8]);
    metadata.set("tokenizer.ggml.add_bos_token", Value::Bool(true));
    metadata.set("tokenizer.ggml.bos_token_id", Value::U32(999));
    assert_eq!(encode(&metadata), [0, 8], "a start token beyond the vocabulary is none");
}

/// Pieces of scores, with byte tokens for all bytes.
fn pieces() -> Metadata {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>", "▁", "a", "b", "c", "ab", "bc", "▁ab", "cc", "▁a"]
        .map(String::from)
        .to_vec();
    let mut kinds = vec![2, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1];
    let mut scores = vec![0.0, 0.0, 0.0, -9.0, -9.0, -9.0, -9.0, -2.0, -1.0, -3.0, -1.0, -8.0];
    for byte in 0..=255 {
        tokens.push(format!("<0x{byte:02X}>"));
        kinds.push(6);
        scores.push(0.0);
    }
    let mut metadata = Metadata::new("pieces.gguf");
    metadata.set("tokenizer.ggml.model", Value::from("llama"));
    metadata.set("tokenizer.ggml.tokens", Value::Array(Array::from_strings(&tokens)));
    metadata.set("tokenizer.ggml.token_type", integers(&kinds));
    metadata.set("tokenizer.ggml.scores", floats(&scores));
    metadata.set("tokenizer.ggml.bos_token_id", Value::U32(1));
    metadata.set("tokenizer.ggml.eos_token_id", Value::U32(2));
    metadata.set("tokenizer.ggml.unknown_token_id", Value::U32(0));
    metadata
}

#[test]
fn pieces_join_by_score() {
    let tokenizer = Tokenizer::from_metadata(&pieces()).unwrap();
    let encode = |text| tokenizer.encode(text, false).unwrap();
    // ▁abc: bc (-1) joins before ab (-2); then ▁a.
    assert_eq!(encode("abc"), [11, 8]);
    assert_eq!(encode("ab"), [9]);
    // Three equal pairs: the leftmost first.
    assert_eq!(encode("ccc"), [3, 10, 6]);
    assert_eq!(encode("a b"), [11, 3, 5]);
    assert_eq!(encode("é"), [3, 12 + 0xc3, 12 + 0xa9]);
    assert!(encode("").is_empty());
    assert_eq!(tokenizer.encode("ab", true).unwrap(), [1, 9]);
    assert_eq!(tokenizer.decode(&encode("a bé\nab")), "a bé\nab".as_bytes());
    // After a special token the text starts with a space again.
    assert_eq!(tokenizer.encode_with("ab</s>ab", false, true).unwrap(), [9, 2, 9]);
    assert_eq!(tokenizer.piece(3, false), b" ");
    assert_eq!(tokenizer.piece(12 + 0xff, false), [0xff]);

    let mut bare = pieces();
    bare.set("tokenizer.ggml.add_space_prefix", Value::Bool(false));
    let bare = Tokenizer::from_metadata(&bare).unwrap();
    assert_eq!(bare.encode("ab ab", false).unwrap(), [7, 9]);
    assert_eq!(bare.decode(&[9]), b" ab");
}

#[test]
fn long_runs_are_tokenized_in_reasonable_time() {
    let tokenizer = Tokenizer::from_metadata(&pieces()).unwrap();
    let text = "abc ".repeat(50_000);
    let tokens = tokenizer.encode(&text, false).unwrap();
    assert_eq!(tokenizer.decode(&tokens), text.as_bytes());
    let tokenizer = Tokenizer::from_metadata(&byte_pairs()).unwrap();
    let text = " ".repeat(100_000);
    assert_eq!(tokenizer.encode(&text, false).unwrap().len(), 100_000);
}

#[test]
fn chat_formats_come_from_the_template() {
    let mut metadata = byte_pairs();
    assert_eq!(Tokenizer::from_metadata(&metadata).unwrap().chat(), None);
    metadata.set("tokenizer.chat_template", Value::from("{{ '<|im_start|>' + role }}"));
    assert_eq!(Tokenizer::from_metadata(&metadata).unwrap().chat(), Some(ChatFormat::ChatMl));
}

#[test]
fn contradictory_tables_are_errors_or_warnings() {
    let with = |key: &str, value: Value| {
        let mut metadata = byte_pairs();
        metadata.set(key, value);
        Tokenizer::from_metadata(&metadata)
    };
    let error = |key: &str, value: Value| with(key, value).unwrap_err().to_string();
    assert!(error("tokenizer.ggml.model", Value::from("bert")).contains("\"bert\""));
    assert!(error("tokenizer.ggml.token_type", integers(&[1, 2])).contains("14 elements"));
    assert!(error("tokenizer.ggml.scores", floats(&[1.0])).contains("14 elements"));
    assert!(error("tokenizer.ggml.tokens", Value::from("a")).contains("ARRAY"));
    let none: [&str; 0] = [];
    assert!(error("tokenizer.ggml.tokens", Value::Array(Array::from_strings(none))).contains("1 to 2^32-2"));
    let latin = Value::Array(Array::from_strings([b"\xe4".as_slice()]));
    assert!(error("tokenizer.ggml.tokens", latin).contains("UTF-8"));
    let merges = |list: &[&str]| Value::Array(Array::from_strings(list));
    assert!(error("tokenizer.ggml.merges", merges(&["ab"])).contains("merge 0"));
    let lenient = with("tokenizer.ggml.merges", merges(&["a b", "a x", "c a"])).unwrap();
    assert!(lenient.warnings()[0].contains("2 merges"));
    assert_eq!(lenient.encode("ab", false).unwrap(), [4]);
    let unknown = with("tokenizer.ggml.pre", Value::from("someday")).unwrap();
    assert!(unknown.warnings()[0].contains("someday"));
    assert!(matches!(
        Tokenizer::from_metadata(&Metadata::new("empty.gguf")),
        Err(ModelError::Container(error)) if error.to_string().contains("tokenizer.ggml.model")
    ));
}
