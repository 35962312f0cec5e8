use super::gguf::GgufFile;
use super::write::{GgufWriter, MetaValue};
use super::*;
use llmc_artifact::{ConfigValue, Format, TensorInfo};

/// A small file with every kind of metadata and four storage formats.
pub(super) fn sample() -> Vec<u8> {
    let ramp: Vec<f32> = (0..64).map(|i| i as f32 / 16.0 - 2.0).collect();
    GgufWriter::new("llama")
        .meta("llama.block_count", MetaValue::U32(2))
        .meta("llama.rope.freq_base", MetaValue::F32(10000.0))
        .meta("tokenizer.ggml.tokens", MetaValue::Texts(vec!["a".into(), "Ġb".into(), "".into()]))
        .meta("tokenizer.ggml.token_type", MetaValue::I32s(vec![1, 3, 1]))
        .meta("tokenizer.ggml.scores", MetaValue::F32s(vec![-1.0, 0.5]))
        .meta("tokenizer.ggml.add_bos_token", MetaValue::Bool(true))
        .meta("shift", MetaValue::I32(-5))
        .values("token_embd.weight", &[2, 32], Format::Q4_1, &ramp)
        .values("output.weight", &[2, 32], Format::Q8_0, &ramp)
        .values("output_norm.weight", &[3], Format::F32, &ramp[..3])
        .values("half.weight", &[2, 1, 2], Format::F16, &ramp[..4])
        .finish()
}

#[test]
fn a_written_file_reads_back() {
    let f = GgufFile::from_bytes("sample", sample()).unwrap();
    assert_eq!(f.architecture(), "llama");
    assert_eq!(f.config(".block_count"), Some(ConfigValue::Int(2)));
    assert_eq!(f.config("llama.rope.freq_base"), Some(ConfigValue::Real(10000.0)));
    assert_eq!(f.config("tokenizer.ggml.add_bos_token"), Some(ConfigValue::Bool(true)));
    assert_eq!(f.config("shift"), Some(ConfigValue::Int(-5)));
    assert_eq!(f.config(".absent"), None);
    assert_eq!(f.count("tokenizer.ggml.tokens"), Some(3));
    assert_eq!(f.count("shift"), None);
    let tokens: Vec<_> = f.strings("tokenizer.ggml.tokens").unwrap().map(Result::unwrap).collect();
    assert_eq!(tokens, ["a", "Ġb", ""]);
    assert_eq!(f.numbers("tokenizer.ggml.token_type").unwrap().collect::<Vec<_>>(), [1.0, 3.0, 1.0]);
    assert_eq!(f.tensor("half.weight"), Some(TensorInfo { shape: vec![2, 1, 2], format: Format::F16 }));
    assert_eq!(f.tensor_names(), ["token_embd.weight", "output.weight", "output_norm.weight", "half.weight"]);
    let norm = f.tensor_bytes("output_norm.weight").unwrap();
    assert_eq!(quantise::dequantise(Format::F32, norm), [-2.0, -1.9375, -1.875]);
    assert_eq!(f.tensor_bytes("token_embd.weight").unwrap().len(), 2 * 20);
    assert_eq!(f.config_keys().len(), 8);
}

/// The error's code after `change` was made to the sample.
fn code_after(change: impl FnOnce(&mut Vec<u8>)) -> &'static str {
    let mut bytes = sample();
    change(&mut bytes);
    GgufFile::from_bytes("sample", bytes).err().map_or("none", |e| e.code())
}

#[test]
fn each_damage_has_its_code() {
    let find = |needle: &str| {
        let bytes = sample();
        bytes.windows(needle.len()).position(|w| w == needle.as_bytes()).unwrap() + needle.len()
    };
    // After a tensor's name: rank (u32), dimensions (u64 each), type (u32), offset (u64).
    let norm = find("output_norm.weight");
    let put = |at: usize, value: u64, n: usize| {
        move |b: &mut Vec<u8>| b[at..at + n].copy_from_slice(&value.to_le_bytes()[..n])
    };
    assert_eq!(code_after(|b| b[0] = b'X'), "E0602");
    assert_eq!(code_after(put(4, 1, 4)), "E0605", "version 1");
    assert_eq!(code_after(put(4, 3 << 24, 4)), "E0605", "big-endian");
    assert_eq!(code_after(put(8, u64::MAX, 8)), "E0603", "tensor count");
    assert_eq!(code_after(put(16, 1 << 40, 8)), "E0603", "key count");
    assert_eq!(code_after(put(norm, 9, 4)), "E0604", "rank");
    assert_eq!(code_after(put(norm + 4, 0, 8)), "E0604", "empty dimension");
    assert_eq!(code_after(put(norm + 4, u64::MAX, 8)), "E0604", "elements overflow");
    assert_eq!(code_after(put(norm + 4, 1 << 40, 8)), "E0603", "tensor beyond the end");
    assert_eq!(code_after(put(norm + 12, 12, 4)), "E0605", "Q4_K");
    assert_eq!(code_after(put(norm + 12, 77, 4)), "E0604", "no format");
    assert_eq!(code_after(put(norm + 16, 33, 8)), "E0606", "misaligned");
    assert_eq!(code_after(put(norm + 16, 0, 8)), "E0606", "over another tensor");
    assert_eq!(code_after(put(norm + 16, u64::MAX - 31, 8)), "E0603", "offset overflows");
    assert_eq!(code_after(put(find("tokenizer.ggml.tokens") + 4, 9, 4)), "E0604", "list of lists");
    assert_eq!(code_after(put(find("tokenizer.ggml.scores") + 8, 1 << 62, 8)), "E0603", "list length");
    assert_eq!(code_after(|b| b.truncate(b.len() - 40)), "E0603");
    assert_eq!(code_after(|_| ()), "none");
}

#[test]
fn names_must_differ() {
    let twice = |w: GgufWriter| w.values("x", &[1], Format::F32, &[1.0]);
    let e = GgufFile::from_bytes("", twice(twice(GgufWriter::new("a"))).finish()).err().unwrap();
    assert_eq!(e.code, FileCode::Duplicate);
    let w = GgufWriter::new("a").meta("k", MetaValue::U32(1)).meta("k", MetaValue::U32(1));
    assert_eq!(GgufFile::from_bytes("", w.finish()).err().unwrap().code, FileCode::Duplicate);
}

/// Writes a folder with two shards; returns its path's guard.
pub(super) fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    put(
        "config.json",
        r#"{"model_type": "llama", "rope": {"theta": 1e4, "type": "default"}, "sizes": [1, 2], "absent": null, "layers": 2}"#,
    );
    put(
        "model.safetensors.index.json",
        r#"{"weight_map": {"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"}}"#,
    );
    std::fs::write(dir.path().join("one.safetensors"), shard(&["a", "b"])).unwrap();
    std::fs::write(dir.path().join("two.safetensors"), shard(&["c"])).unwrap();
    dir
}

fn shard(names: &[&str]) -> Vec<u8> {
    let data: Vec<u8> = (0..6u8).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let view = || ::safetensors::tensor::TensorView::new(::safetensors::Dtype::F32, vec![2, 3], &data).unwrap();
    ::safetensors::serialize(names.iter().map(|n| (*n, view())), None).unwrap()
}

#[test]
fn a_folder_in_shards_reads() {
    let dir = folder();
    let f = open(dir.path()).unwrap();
    assert_eq!((f.kind().keyword(), f.architecture()), ("hf", "llama"));
    assert_eq!(f.config("rope.theta"), Some(ConfigValue::Real(1e4)));
    assert_eq!(f.config("rope"), None);
    assert_eq!(f.config("absent"), None);
    assert_eq!(f.count("sizes"), Some(2));
    assert_eq!(f.config_keys(), ["model_type", "rope.theta", "rope.type", "sizes", "layers"]);
    assert_eq!(f.tensor("c"), Some(TensorInfo { shape: vec![2, 3], format: Format::F32 }));
    assert_eq!(quantise::dequantise(Format::F32, f.tensor_bytes("b").unwrap()), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
}

#[test]
fn a_broken_folder_says_what_is_missing() {
    let code = |change: &dyn Fn(&Path)| {
        let dir = folder();
        change(dir.path());
        open(dir.path()).err().map_or("none", |e| e.code())
    };
    let put = |name: &'static str, text: &'static str| move |d: &Path| std::fs::write(d.join(name), text).unwrap();
    assert_eq!(code(&|d| std::fs::remove_file(d.join("config.json")).unwrap()), "E0608");
    assert_eq!(code(&|d| std::fs::remove_file(d.join("two.safetensors")).unwrap()), "E0608");
    assert_eq!(code(&|d| std::fs::write(d.join("one.safetensors"), shard(&["a"])).unwrap()), "E0608");
    assert_eq!(code(&|d| std::fs::write(d.join("one.safetensors"), shard(&["a", "b", "c"])).unwrap()), "E0607");
    assert_eq!(code(&put("config.json", "{\"model_type\": 3}")), "E0604");
    assert_eq!(code(&put("config.json", "{\"model_type\":")), "E0609");
    assert_eq!(code(&put("model.safetensors.index.json", "{\"weight_map\": {\"a\": \"../x\"}}")), "E0604");
    assert_eq!(code(&|d| std::fs::write(d.join("config.json"), "[".repeat(1 << 20)).unwrap()), "E0609");
    assert_eq!(code(&|_| ()), "none");
}

#[test]
fn a_hostile_safetensors_header_is_refused() {
    let code = |header: &str| {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend([0; 8]);
        super::safetensors::index(Path::new("x"), &bytes).err().map_or("none", |e| e.code())
    };
    assert_eq!(code(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#), "none");
    assert_eq!(code(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#), "E0604");
    assert_eq!(code(r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#), "E0604");
    assert_eq!(code(r#"{"a":{"dtype":"F8","shape":[2],"data_offsets":[0,8]}}"#), "E0605");
    assert_eq!(code(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,18446744073709551608]}}"#), "E0603");
    assert_eq!(code(r#"{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}"#), "E0604");
    let twice = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    assert_eq!(code(twice), "E0606");
    assert_eq!(code(&twice.replace("\"b\"", "\"a\"")), "E0607");
    assert_eq!(code(&"[".repeat(1 << 20)), "E0609");
}

#[test]
fn what_is_no_checkpoint_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("notes.txt");
    std::fs::write(&file, "GG").unwrap();
    assert_eq!(open(&file).err().unwrap().code, FileCode::UnknownKind);
    assert_eq!(open(&dir.path().join("nowhere")).err().unwrap().code, FileCode::Unreadable);
    std::fs::write(&file, "GGUF").unwrap();
    assert_eq!(open(&file).err().unwrap().code, FileCode::Truncated);
    assert_eq!(open(Path::new("/dev/null")).err().unwrap().code, FileCode::UnknownKind);
}
