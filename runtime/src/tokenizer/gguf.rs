//! A tokenizer.json from a GGUF file's metadata.

use super::TokenizerData;
use crate::error::{FileCode, FileError};
use crate::weights::CheckpointFile;
use crate::weights::gguf::GgufFile;
use llmc_artifact::{Checkpoint, ConfigValue};
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// Ends of an answer that files forget to name.
const TURN_ENDS: [&str; 6] = ["<|im_end|>", "<|eot_id|>", "<|eot|>", "<end_of_turn>", "<|endoftext|>", "<|end|>"];

/// Token types in `tokenizer.ggml.token_type`.
const CONTROL: f64 = 3.0;
const USER_DEFINED: f64 = 4.0;

/// One step of splitting a text before its pieces are merged.
enum Split {
    /// Each digit alone.
    Digits,
    /// Each match of the expression alone.
    Pattern(&'static str),
    /// GPT-2's expression.
    Words,
}

/// How a family of byte-level tokenizers splits: a row of [`FAMILIES`].
struct Family {
    /// Names in `tokenizer.ggml.pre`.
    names: &'static [&'static str],
    splits: &'static [Split],
    /// Whether a piece that is a token as it stands is not merged up from bytes.
    whole_first: bool,
    /// Whether texts are normalised to NFC.
    nfc: bool,
    /// Whether a text begins with the BOS token when the file does not say.
    bos: bool,
}

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

static FAMILIES: &[Family] = &[
    Family {
        names: &["gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "modern-bert"],
        splits: &[Split::Words],
        whole_first: false,
        nfc: false,
        bos: false,
    },
    Family {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"],
        splits: &[Split::Digits, Split::Words],
        whole_first: false,
        nfc: false,
        bos: false,
    },
    Family {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "lfm2"],
        splits: &[Split::Pattern(LLAMA3)],
        whole_first: true,
        nfc: false,
        bos: true,
    },
    Family {
        names: &["dbrx", "smaug-bpe", "chatglm-bpe", "glm4"],
        splits: &[Split::Pattern(LLAMA3)],
        whole_first: false,
        nfc: false,
        bos: false,
    },
    Family {
        names: &["qwen2", "deepseek-r1-qwen", "stablelm2", "hunyuan", "megrez"],
        splits: &[Split::Pattern(QWEN2)],
        whole_first: false,
        nfc: true,
        bos: false,
    },
    Family { names: &["qwen35"], splits: &[Split::Pattern(QWEN35)], whole_first: false, nfc: false, bos: false },
    Family {
        // What files say that name no family.
        names: &["default"],
        splits: &[
            Split::Pattern(r"[\p{P}\$\+<=>\^~\|]+"),
            Split::Words,
            Split::Pattern(r"\p{N}+"),
            Split::Pattern("[0-9][0-9][0-9]"),
        ],
        whole_first: false,
        nfc: false,
        bos: false,
    },
];

/// The file's tokenizer; `None` when it has none.
pub(crate) fn read(file: &GgufFile) -> Result<Option<TokenizerData>, FileError> {
    let Some(ConfigValue::Text(model)) = file.config("tokenizer.ggml.model") else { return Ok(None) };
    let v = Vocabulary::read(file)?;
    let (mut json, bos_default) = match model.as_str() {
        "gpt2" => byte_level(file, &v)?,
        "llama" => (sentence_piece(file, &v)?, true),
        other => {
            return Err(error(file, "tokenizer.ggml.model")
                .found(format!("`{other}`"))
                .expected("`gpt2` (byte-level BPE) or `llama` (SentencePiece BPE)"));
        }
    };
    let bos = token_id(file, &v, "tokenizer.ggml.bos_token_id")?;
    let eos = token_id(file, &v, "tokenizer.ggml.eos_token_id")?;
    let add_bos = flag(file, "tokenizer.ggml.add_bos_token").unwrap_or(bos_default);
    let add_eos = flag(file, "tokenizer.ggml.add_eos_token").unwrap_or(false);
    json["added_tokens"] = v.added_tokens();
    json["post_processor"] = template(&v, bos.filter(|_| add_bos), eos.filter(|_| add_eos));
    let chat_template = text(file, "tokenizer.chat_template");
    Ok(Some(TokenizerData { json: json.to_string(), bos, eos: ends(file, &v, eos)?, chat_template }))
}

struct Vocabulary<'a> {
    tokens: Vec<&'a str>,
    kinds: Vec<f64>,
}

impl<'a> Vocabulary<'a> {
    fn read(file: &'a GgufFile) -> Result<Vocabulary<'a>, FileError> {
        let tokens = strings(file, "tokenizer.ggml.tokens")?;
        let kinds: Vec<f64> = match file.numbers("tokenizer.ggml.token_type") {
            Some(kinds) => kinds.collect(),
            None => vec![1.0; tokens.len()],
        };
        if kinds.len() != tokens.len() || u32::try_from(tokens.len()).is_err() {
            return Err(error(file, "tokenizer.ggml.token_type")
                .found(format!("{} types for {} tokens", kinds.len(), tokens.len()))
                .expected("one for each token"));
        }
        Ok(Vocabulary { tokens, kinds })
    }

    /// Token to number, as tokenizer.json has it. Of tokens spelled alike the first counts.
    fn to_json(&self) -> Value {
        let mut map = Map::new();
        for (i, t) in self.tokens.iter().enumerate() {
            map.entry(*t).or_insert(json!(i));
        }
        Value::Object(map)
    }

    fn added_tokens(&self) -> Value {
        let added = self.tokens.iter().zip(&self.kinds).enumerate();
        added
            .filter(|(_, (t, kind))| (**kind == CONTROL || **kind == USER_DEFINED) && !t.is_empty())
            .map(|(i, (t, kind))| {
                json!({"id": i, "content": t, "single_word": false, "lstrip": false, "rstrip": false,
                       "normalized": false, "special": *kind == CONTROL})
            })
            .collect()
    }
}

/// Byte-level BPE, and whether its family begins texts with the BOS token.
fn byte_level(file: &GgufFile, v: &Vocabulary) -> Result<(Value, bool), FileError> {
    let name = text(file, "tokenizer.ggml.pre").unwrap_or_else(|| "default".into());
    let Some(family) = FAMILIES.iter().find(|f| f.names.contains(&name.as_str())) else {
        let known: Vec<_> = FAMILIES.iter().flat_map(|f| f.names).copied().collect();
        return Err(error(file, "tokenizer.ggml.pre")
            .found(format!("`{name}`"))
            .expected(format!("one of {}", known.join(", ")))
            .help("use the checkpoint's Hugging Face folder, whose tokenizer.json spells its rules out"));
    };
    let merges = strings(file, "tokenizer.ggml.merges")?;
    let json = json!({
        "version": "1.0",
        "normalizer": family.nfc.then(|| json!({"type": "NFC"})),
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": split_steps(family)},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": v.to_json(), "merges": merges, "ignore_merges": family.whole_first},
    });
    Ok((json, family.bos))
}

/// The steps as tokenizer.json has them; the last one spells bytes as characters.
fn split_steps(family: &Family) -> Vec<Value> {
    let level =
        |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    let mut steps: Vec<Value> = Vec::new();
    for (i, split) in family.splits.iter().enumerate() {
        let last = i + 1 == family.splits.len();
        match split {
            Split::Digits => steps.push(json!({"type": "Digits", "individual_digits": true})),
            Split::Pattern(p) => steps.push(isolated(p)),
            Split::Words if last => return [steps, vec![level(true)]].concat(),
            Split::Words => steps.push(isolated(GPT2)),
        }
    }
    steps.push(level(false));
    steps
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

fn isolated(pattern: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
}

/// SentencePiece BPE: merges follow from the scores.
fn sentence_piece(file: &GgufFile, v: &Vocabulary) -> Result<Value, FileError> {
    let scores: Vec<f64> = match file.numbers("tokenizer.ggml.scores") {
        Some(s) => s.collect(),
        None => {
            return Err(error(file, "tokenizer.ggml.scores").found("no such list").expected("a score for each token"));
        }
    };
    if scores.len() != v.tokens.len() {
        return Err(error(file, "tokenizer.ggml.scores")
            .found(format!("{} scores for {} tokens", scores.len(), v.tokens.len()))
            .expected("one for each token"));
    }
    let prefix = flag(file, "tokenizer.ggml.add_space_prefix").unwrap_or(true);
    let mut normalizers = vec![json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})];
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let unknown = token_id(file, v, "tokenizer.ggml.unknown_token_id")?.map(|i| v.tokens[i as usize]);
    Ok(json!({
        "version": "1.0",
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": null,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {"type": "BPE", "vocab": v.to_json(), "merges": merges_of(v, &scores), "unk_token": unknown,
                  "fuse_unk": true, "byte_fallback": true},
    }))
}

/// Every way to make a token of two others, best score first; equal scores by the parts' numbers.
fn merges_of(v: &Vocabulary, scores: &[f64]) -> Vec<(String, String)> {
    let ids: HashMap<&str, usize> = v.tokens.iter().enumerate().rev().map(|(i, t)| (*t, i)).collect();
    let mut merges = Vec::new();
    for (token, score) in v.tokens.iter().zip(scores) {
        // Longer names than any real token's would make this quadratic in the file's size.
        let cuts = token.char_indices().skip(1).take(256);
        for (left, right) in cuts.map(|(at, _)| token.split_at(at)) {
            if let (Some(l), Some(r)) = (ids.get(left), ids.get(right)) {
                merges.push((*score, *l, *r));
            }
        }
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    merges.into_iter().map(|(_, l, r)| (v.tokens[l].to_string(), v.tokens[r].to_string())).collect()
}

/// What begins and ends a whole text.
fn template(v: &Vocabulary, bos: Option<u32>, eos: Option<u32>) -> Value {
    if bos.is_none() && eos.is_none() {
        return Value::Null;
    }
    let special = |id: u32| json!({"SpecialToken": {"id": v.tokens[id as usize], "type_id": 0}});
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    let single: Vec<Value> = bos.map(special).into_iter().chain([text]).chain(eos.map(special)).collect();
    let mut specials = Map::new();
    for id in bos.into_iter().chain(eos) {
        let name = v.tokens[id as usize];
        specials.insert(name.into(), json!({"id": name, "ids": [id], "tokens": [name]}));
    }
    let pair = [single.clone(), vec![json!({"Sequence": {"id": "B", "type_id": 0}})]].concat();
    json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": specials})
}

/// The named end, the end of a turn, and control tokens that are spelled like one.
fn ends(file: &GgufFile, v: &Vocabulary, eos: Option<u32>) -> Result<Vec<u32>, FileError> {
    let mut ends: Vec<u32> = eos.into_iter().collect();
    ends.extend(token_id(file, v, "tokenizer.ggml.eot_token_id")?);
    let spelled = v.tokens.iter().zip(&v.kinds).enumerate();
    let spelled = spelled.filter(|(_, (t, kind))| **kind == CONTROL && TURN_ENDS.contains(*t));
    ends.extend(spelled.map(|(i, _)| i as u32));
    let mut seen = std::collections::HashSet::new();
    ends.retain(|e| seen.insert(*e));
    Ok(ends)
}

fn error(file: &GgufFile, key: &str) -> FileError {
    FileError::new(FileCode::Tokenizer, file.path(), format!("key `{key}`"))
}

fn strings<'a>(file: &'a GgufFile, key: &str) -> Result<Vec<&'a str>, FileError> {
    let list = file.strings(key).ok_or_else(|| error(file, key).found("no such list").expected("a list of strings"))?;
    list.collect::<Result<_, _>>().map_err(|_| error(file, key).found("a string that is not UTF-8").expected("text"))
}

fn text(file: &GgufFile, key: &str) -> Option<String> {
    match file.config(key)? {
        ConfigValue::Text(s) => Some(s),
        _ => None,
    }
}

fn flag(file: &GgufFile, key: &str) -> Option<bool> {
    match file.config(key)? {
        ConfigValue::Bool(b) => Some(b),
        _ => None,
    }
}

fn token_id(file: &GgufFile, v: &Vocabulary, key: &str) -> Result<Option<u32>, FileError> {
    match file.config(key) {
        None => Ok(None),
        Some(ConfigValue::Int(i)) if i >= 0 && (i as u64) < v.tokens.len() as u64 => Ok(Some(i as u32)),
        Some(ConfigValue::Int(i)) if i == -1 || i == u32::MAX as i64 => Ok(None), // how converters say "none"
        Some(found) => Err(error(file, key)
            .found(format!("{found:?}"))
            .expected(format!("the number of one of {} tokens", v.tokens.len()))),
    }
}
