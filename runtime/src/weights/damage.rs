//! Damaged files: whatever the damage, an answer or an error, quickly and in memory bounded by the file.

use super::gguf::GgufFile;
use super::tests::{folder, sample};
use super::*;
use proptest::prelude::*;

/// Everything one can ask of a checkpoint; a tensor's bytes must be what its shape and format say.
fn read_all(f: &dyn CheckpointFile) {
    for key in f.config_keys() {
        let _ = (f.config(&key), f.count(&key));
    }
    for name in f.tensor_names() {
        let info = f.tensor(&name).expect("a listed tensor exists");
        let bytes = f.tensor_bytes(&name).expect("a listed tensor has bytes");
        assert_eq!(info.format.bytes(info.shape.iter().product()), Some(bytes.len() as u64));
    }
}

fn read_gguf(bytes: Vec<u8>) {
    if let Ok(f) = GgufFile::from_bytes("damaged", bytes) {
        read_all(&f);
        for key in f.config_keys() {
            if let Some(strings) = f.strings(&key) {
                strings.count();
            }
            if let Some(numbers) = f.numbers(&key) {
                numbers.count();
            }
        }
    }
}

#[test]
fn every_truncation_of_a_gguf_is_an_error() {
    let whole = sample();
    let data_end = whole.len() - (32 - 8); // the last tensor's 8 bytes are padded to 32
    for n in 0..data_end {
        assert!(GgufFile::from_bytes("cut", whole[..n].to_vec()).is_err(), "cut to {n} of {data_end} bytes");
    }
    assert!(GgufFile::from_bytes("whole", whole[..data_end].to_vec()).is_ok());
}

#[test]
fn every_flipped_bit_of_a_gguf_is_survived() {
    let whole = sample();
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        read_gguf(bytes);
    }
}

proptest! {
    #[test]
    fn random_bytes_after_the_magic_are_survived(mut bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        bytes.splice(0..0, *b"GGUF\x03\0\0\0");
        read_gguf(bytes);
    }

    #[test]
    fn overwritten_bytes_are_survived(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = sample();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        read_gguf(bytes);
    }

    #[test]
    fn a_damaged_folder_is_survived(file in 0..4usize, cut in any::<Option<prop::sample::Index>>(), flip in any::<prop::sample::Index>(), bit in 0..8u32) {
        let dir = folder();
        let name = ["config.json", "model.safetensors.index.json", "one.safetensors", "two.safetensors"][file];
        let path = dir.path().join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        let at = flip.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        std::fs::write(&path, bytes).unwrap();
        if let Ok(f) = open(dir.path()) {
            read_all(&*f);
        }
    }
}
