use super::*;
use crate::weights::CheckpointFile;
use crate::weights::gguf::GgufFile;
use crate::weights::write::{GgufWriter, MetaValue};
use proptest::prelude::*;

fn texts(list: &[&str]) -> MetaValue {
    MetaValue::Texts(list.iter().map(|s| s.to_string()).collect())
}

/// Every byte as a token of a byte-level vocabulary, in the order of GPT-2's table.
fn byte_tokens() -> Vec<String> {
    let printable = |b: &u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let own = (0..=255u8).filter(printable).map(|b| (b as char).to_string());
    let others = (0..68).map(|i| char::from_u32(0x100 + i).unwrap().to_string());
    own.chain(others).collect()
}

/// A byte-level vocabulary with a few merges, a control token and the given splitting.
fn byte_level(pre: &str) -> GgufWriter {
    let mut tokens = byte_tokens();
    tokens.extend(["th", "the", "Ġthe", "ĠĠ", "12", "<|end|>"].map(String::from));
    let kinds = tokens.iter().map(|t| if t == "<|end|>" { 3 } else { 1 }).collect();
    let eos = tokens.len() as u32 - 1;
    GgufWriter::new("llama")
        .meta("tokenizer.ggml.model", MetaValue::Text("gpt2".into()))
        .meta("tokenizer.ggml.pre", MetaValue::Text(pre.into()))
        .meta("tokenizer.ggml.tokens", MetaValue::Texts(tokens))
        .meta("tokenizer.ggml.token_type", MetaValue::I32s(kinds))
        .meta("tokenizer.ggml.merges", texts(&["t h", "th e", "Ġ the", "Ġ Ġ", "1 2"]))
        .meta("tokenizer.ggml.eos_token_id", MetaValue::U32(eos))
}

fn build(w: GgufWriter) -> Result<Tokenizer, FileError> {
    GgufFile::from_bytes("test", w.finish()).unwrap().tokenizer()
}

fn names(t: &Tokenizer, text: &str) -> Vec<String> {
    t.encode(text, false).unwrap().iter().map(|i| t.name(*i).unwrap()).collect()
}

#[test]
fn merges_and_splits_follow_the_family() {
    let gpt2 = build(byte_level("gpt-2")).unwrap();
    assert_eq!(names(&gpt2, "the  the12<|end|>"), ["the", "Ġ", "Ġthe", "12", "<|end|>"]);
    let smollm = build(byte_level("smollm")).unwrap();
    assert_eq!(names(&smollm, "12"), ["1", "2"]);
    // A digit cuts the text before words are looked for, so both spaces belong together.
    assert_eq!(names(&smollm, "a  1"), ["a", "ĠĠ", "1"]);
    assert_eq!(names(&gpt2, "a  1"), ["a", "Ġ", "Ġ", "1"]);
}

#[test]
fn ends_are_the_named_one_and_control_tokens() {
    let t = build(byte_level("gpt-2")).unwrap();
    let end = t.id("<|end|>").unwrap();
    assert_eq!(t.data().eos, [end]);
    assert!(t.is_end(end) && !t.is_end(0));
    assert_eq!(t.vocabulary(), 262);
}

#[test]
fn a_bos_is_added_to_a_whole_text_only() {
    let t = build(byte_level("llama-bpe").meta("tokenizer.ggml.bos_token_id", MetaValue::U32(261))).unwrap();
    assert_eq!(t.encode("a", true).unwrap().len(), 2);
    assert_eq!(t.encode("a", false).unwrap().len(), 1);
}

/// SentencePiece: the scores decide what merges first.
fn sentence_piece() -> GgufWriter {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    tokens.extend((0..=255).map(|b| format!("<0x{b:02X}>")));
    tokens.extend(["▁", "a", "b", "c", "ab", "bc", "▁a"].map(String::from));
    let mut scores = vec![0.0; tokens.len() - 7];
    scores.extend([-10.0, -10.0, -10.0, -10.0, -3.0, -2.0, -1.0]);
    let kinds = (0..tokens.len()).map(|i| [2, 3, 3].get(i).copied().unwrap_or(if i < 259 { 6 } else { 1 })).collect();
    GgufWriter::new("llama")
        .meta("tokenizer.ggml.model", MetaValue::Text("llama".into()))
        .meta("tokenizer.ggml.tokens", MetaValue::Texts(tokens))
        .meta("tokenizer.ggml.scores", MetaValue::F32s(scores))
        .meta("tokenizer.ggml.token_type", MetaValue::I32s(kinds))
        .meta("tokenizer.ggml.bos_token_id", MetaValue::U32(1))
        .meta("tokenizer.ggml.eos_token_id", MetaValue::U32(2))
        .meta("tokenizer.ggml.unknown_token_id", MetaValue::U32(0))
}

#[test]
fn sentence_piece_merges_by_score_and_falls_back_to_bytes() {
    let t = build(sentence_piece()).unwrap();
    assert_eq!(names(&t, "abc"), ["▁a", "bc"]);
    assert_eq!(names(&t, "é"), ["▁", "<0xC3>", "<0xA9>"]);
    assert_eq!(t.encode("a", true).unwrap()[0], 1);
    for text in ["abc é\n a", " a", "  ", ""] {
        assert_eq!(t.decode(&t.encode(text, true).unwrap()), text);
    }
}

#[test]
fn what_cannot_be_used_is_told() {
    let code = |w: GgufWriter| build(w).err().map_or("none", |e| e.code());
    assert_eq!(code(GgufWriter::new("llama")), "E0610");
    assert_eq!(code(byte_level("a-family-of-its-own")), "E0611");
    let other = |m: &str| GgufWriter::new("llama").meta("tokenizer.ggml.model", MetaValue::Text(m.into()));
    assert_eq!(code(other("bert")), "E0611");
    assert_eq!(code(other("gpt2")), "E0611");
    assert_eq!(code(other("llama").meta("tokenizer.ggml.tokens", texts(&["a"]))), "E0611");
    assert_eq!(code(byte_level("gpt-2").meta("tokenizer.ggml.bos_token_id", MetaValue::U32(9999))), "E0611");
    let merges = GgufWriter::new("llama")
        .meta("tokenizer.ggml.model", MetaValue::Text("gpt2".into()))
        .meta("tokenizer.ggml.tokens", texts(&["a", "b"]))
        .meta("tokenizer.ggml.merges", texts(&["a b"]));
    assert_eq!(code(merges), "E0611", "a merge whose result is no token");
}

#[test]
fn the_stored_form_is_the_tokenizer() {
    let t = build(byte_level("smollm")).unwrap();
    let stored = serde_json::to_string(t.data()).unwrap();
    let again = Tokenizer::new(Path::new(""), serde_json::from_str(&stored).unwrap()).unwrap();
    let text = "the 12  the é\n";
    assert_eq!(t.encode(text, true).unwrap(), again.encode(text, true).unwrap());
}

#[test]
fn padding_of_the_file_is_ignored() {
    let mut data = build(byte_level("gpt-2")).unwrap().data().clone();
    let mut json: serde_json::Value = serde_json::from_str(&data.json).unwrap();
    json["padding"] = serde_json::json!({"strategy": {"Fixed": 4_000_000_000u64}, "direction": "Right",
        "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "a"});
    data.json = json.to_string();
    let t = Tokenizer::new(Path::new(""), data).unwrap();
    assert_eq!(t.encode("the", true).unwrap().len(), 1);
}

#[test]
fn a_panic_of_the_library_is_an_error() {
    // A table of normalised characters that is no table: the library panics on it.
    let json = r#"{"model": {"type": "BPE", "vocab": {}, "merges": []}, "normalizer": {"type": "Precompiled",
        "precompiled_charsmap": "AAAA"}, "added_tokens": []}"#;
    let data = TokenizerData { json: json.into(), ..TokenizerData::default() };
    assert_eq!(Tokenizer::new(Path::new(""), data).err().unwrap().code, FileCode::Tokenizer);
}

/// A folder with a one-tensor checkpoint, the tokenizer of `byte_level`, and these other files.
fn hf_folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &[u8]| std::fs::write(dir.path().join(name), text).unwrap();
    put("config.json", br#"{"model_type": "llama", "bos_token_id": 3, "eos_token_id": 4}"#);
    let header = br#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    put("model.safetensors", &[&(header.len() as u64).to_le_bytes()[..], header, &[0; 4]].concat());
    put("tokenizer.json", build(byte_level("smollm")).unwrap().data().json.as_bytes());
    files.iter().for_each(|(name, text)| put(name, text.as_bytes()));
    dir
}

fn hf_data(files: &[(&str, &str)]) -> Result<TokenizerData, FileError> {
    let dir = hf_folder(files);
    crate::weights::open(dir.path()).unwrap().tokenizer_data().map(|d| d.expect("the folder has a tokenizer"))
}

#[test]
fn a_folder_names_its_special_tokens_in_several_files() {
    let data = hf_data(&[]).unwrap();
    assert_eq!((data.bos, &data.eos[..], data.chat_template), (Some(3), &[4][..], None));
    let settings = r#"{"bos_token": "a", "eos_token": {"content": "<|end|>"}, "chat_template": "from settings"}"#;
    let generation = r#"{"eos_token_id": [7, 4]}"#;
    let data = hf_data(&[("tokenizer_config.json", settings), ("generation_config.json", generation)]).unwrap();
    // `a` is the 65th printable byte, `<|end|>` the last token.
    assert_eq!((data.bos, &data.eos[..]), (Some(64), &[261, 7, 4][..]));
    assert_eq!(data.chat_template.as_deref(), Some("from settings"));
    let data = hf_data(&[("tokenizer_config.json", settings), ("chat_template.jinja", "its own file")]).unwrap();
    assert_eq!(data.chat_template.as_deref(), Some("its own file"));
    let named = r#"{"chat_template": [{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}]}"#;
    assert_eq!(hf_data(&[("tokenizer_config.json", named)]).unwrap().chat_template.as_deref(), Some("d"));
}

#[test]
fn a_folder_with_a_damaged_tokenizer_says_so() {
    let deep = "[".repeat(1 << 20);
    for broken in ["", "{", "[1]", "{\"model\": 1}", &deep] {
        let dir = hf_folder(&[("tokenizer.json", broken)]);
        let read = crate::weights::open(dir.path()).unwrap().tokenizer();
        let error = read.err().unwrap_or_else(|| panic!("{} is read", &broken[..broken.len().min(20)]));
        assert!(["E0609", "E0611"].contains(&error.code()), "{error}");
    }
    assert_eq!(hf_data(&[("tokenizer_config.json", "{")]).err().unwrap().code(), "E0609");
}

#[test]
fn a_word_piece_tokenizer_works() {
    let json = r###"{"version": "1.0", "added_tokens": [{"id": 0, "content": "[CLS]", "single_word": false,
        "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}}], "pair": [],
            "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [0], "tokens": ["[CLS]"]}}},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": {"[CLS]": 0, "[UNK]": 1, "un": 2, "##do": 3, "it": 4}}}"###;
    let t = Tokenizer::new(Path::new(""), TokenizerData { json: json.into(), ..Default::default() }).unwrap();
    assert_eq!(t.encode("Undo it x", true).unwrap(), [0, 2, 3, 4, 1]);
    assert_eq!(t.decode(&[0, 2, 3, 4]), "undo it");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_text_comes_back(text in "\\PC{0,30}[ \\n]{0,3}[0-9a-z]{0,5}") {
        let t = build(byte_level("smollm")).unwrap();
        prop_assert_eq!(t.decode(&t.encode(&text, true).unwrap()), text);
    }

    /// Token by token makes what the library makes of the whole list, also where bytes are no characters.
    #[test]
    fn streams_agree_with_the_library(tokens in prop::collection::vec(0..262u32, 0..40)) {
        let t = build(byte_level("smollm")).unwrap();
        prop_assert_eq!(t.decode(&tokens), t.inner.decode(&tokens, true).unwrap());
    }

    #[test]
    fn a_damaged_description_is_survived(cut in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut data = build(byte_level("smollm")).unwrap().data().clone();
        let mut json = data.json.into_bytes();
        let flip = at.index(json.len());
        json[flip] = byte;
        if byte.is_multiple_of(2) {
            json.truncate(cut.index(json.len()));
        }
        data.json = String::from_utf8_lossy(&json).into_owned();
        if let Ok(t) = Tokenizer::new(Path::new(""), data) {
            let _ = t.encode("the 12 é", true).map(|ids| t.decode(&ids));
        }
    }
}
