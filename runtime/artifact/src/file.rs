//! The artifact: a compiled model, in memory or as one file.
//!
//! ```text
//! preamble  64 bytes: magic, version, where the header is, its blake3 hash
//! sections  code of each target, then packed weights, each aligned to 64 bytes
//! header    JSON: plan, targets, the model's text and sizes, tokenizer, where each section is and its blake3 hash
//! ```
//!
//! The header comes last so that weights of any size are written in one pass. Opening verifies the hashes of the
//! header and of the code; weights stay in the file, memory-mapped, and are verified only on request.

use crate::checkpoint::TensorData;
use crate::error::{ArtifactCode, ArtifactError};
use crate::mapping::MappedFile;
use crate::plan::{PackedWeight, Plan, TargetCode};
use crate::recipe::eval::packed;
use crate::scalar::Value;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// First bytes of every artifact. The line ends show a copy that was made as text.
const MAGIC: [u8; 8] = *b"llmc\r\n\x1a\n";
/// Grows whenever files, plans or the interface of kernels change their meaning.
const VERSION: u32 = 4;
/// Bytes of the preamble.
const PREAMBLE: usize = 64;
/// Alignment of sections in the file, for vector loads from the map.
const ALIGN: u64 = 64;

/// A compiled model.
#[derive(Clone, Debug, Default)]
pub struct Artifact {
    /// What is allocated and launched.
    pub plan: Plan,
    /// Code for each target.
    pub targets: Vec<TargetCode>,
    /// The model's text, for people.
    pub text: String,
    /// The model's sizes by their names in the text.
    pub sizes: Vec<(String, Value)>,
    /// A tokenizer's data as JSON, if the checkpoint had one.
    pub tokenizer: Option<String>,
    /// Packed weights.
    pub weights: Weights,
}

/// Where the packed weights of an artifact are.
#[derive(Clone, Debug, Default)]
pub enum Weights {
    /// Given when the model is loaded, and packed then.
    #[default]
    Absent,
    /// In the artifact's file.
    Embedded(EmbeddedWeights),
}

/// Weights in an artifact's file, memory-mapped.
#[derive(Clone, Debug)]
pub struct EmbeddedWeights {
    file: Arc<MappedFile>,
    sections: Arc<[Section]>,
}

/// Bytes of one weight in a mapped file; keeps the map alive.
#[derive(Clone, Debug)]
pub struct MappedBytes {
    file: Arc<MappedFile>,
    range: Range<usize>,
}

impl std::ops::Deref for MappedBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.file[self.range.clone()]
    }
}

impl EmbeddedWeights {
    /// The packed bytes of a weight of the plan, aligned to 64 bytes.
    ///
    /// # Panics
    /// When the plan has no such weight.
    pub fn bytes(&self, weight: usize) -> MappedBytes {
        MappedBytes { file: self.file.clone(), range: self.sections[weight].range() }
    }
}

/// Bytes of the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Section {
    offset: u64,
    length: u64,
    /// Hexadecimal.
    blake3: String,
}

impl Section {
    /// # Panics
    /// When it was not checked against the file.
    fn range(&self) -> Range<usize> {
        self.offset as usize..(self.offset + self.length) as usize
    }

    /// The section's bytes, if the file has them and they are aligned.
    fn bytes<'a>(&self, file: &'a [u8], part: &str) -> Result<&'a [u8], ArtifactError> {
        let end = self.offset.checked_add(self.length).filter(|end| *end <= file.len() as u64);
        if end.is_none() || !self.offset.is_multiple_of(ALIGN) {
            let found = format!("bytes {} + {} of a file of {}", self.offset, self.length, file.len());
            return Err(ArtifactError::new(ArtifactCode::Truncated, part, found, "a section inside the file"));
        }
        Ok(&file[self.range()])
    }

    fn verify(&self, bytes: &[u8], code: ArtifactCode, part: &str) -> Result<(), ArtifactError> {
        let found = blake3::hash(bytes).to_hex();
        if found.as_str() == self.blake3 {
            return Ok(());
        }
        Err(ArtifactError::new(code, part, format_args!("hash {found}"), &self.blake3))
    }
}

/// The JSON header as it is written.
#[derive(Serialize)]
struct HeaderRef<'a> {
    plan: &'a Plan,
    targets: &'a [TargetCode],
    text: &'a str,
    sizes: &'a [(String, Value)],
    tokenizer: Option<&'a str>,
    code: &'a [Section],
    weights: Option<&'a [Section]>,
}

/// The JSON header as it is read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    plan: Plan,
    targets: Vec<TargetCode>,
    text: String,
    sizes: Vec<(String, Value)>,
    tokenizer: Option<String>,
    code: Vec<Section>,
    weights: Option<Vec<Section>>,
}

/// Gives the packed bytes of the plan's weights, in order, when an artifact is written: the weight's number, the
/// weight, and a sink for its bytes.
pub type WeightSource<'a> =
    dyn FnMut(usize, &PackedWeight, &mut dyn Write) -> Result<(), Box<dyn std::error::Error + Send + Sync>> + 'a;

impl Artifact {
    /// Opens an artifact's file: verifies plan and code, maps the weights.
    ///
    /// # Errors
    /// Every fault that the file can have, before anything is allocated that the file does not account for.
    pub fn open(path: impl AsRef<Path>) -> Result<Artifact, ArtifactError> {
        let path = path.as_ref();
        Artifact::open_unnamed(path).map_err(|e| e.in_file(path))
    }

    fn open_unnamed(path: &Path) -> Result<Artifact, ArtifactError> {
        let file = MappedFile::open(path)
            .map_err(|e| ArtifactError::new(ArtifactCode::Unreadable, "", e, "a readable file"))?;
        let header = read_header(&file)?;
        let mut targets = header.targets;
        header.plan.validate(&targets)?;
        if header.code.len() != targets.len() {
            let found = format!("{} sections", header.code.len());
            return Err(ArtifactError::new(ArtifactCode::InvalidPlan, "code", found, targets.len()));
        }
        for (target, section) in targets.iter_mut().zip(&header.code) {
            let part = format!("code for {}", target.target);
            // Copied first, so that what is verified is what is run.
            target.code = section.bytes(&file, &part)?.to_vec();
            section.verify(&target.code, ArtifactCode::Damaged, &part)?;
        }
        let weights = match header.weights {
            None => Weights::Absent,
            Some(sections) => {
                check_weight_sections(&header.plan, &sections, &file)?;
                Weights::Embedded(EmbeddedWeights { file: Arc::new(file), sections: sections.into() })
            }
        };
        let Header { plan, text, sizes, tokenizer, .. } = header;
        Ok(Artifact { plan, targets, text, sizes, tokenizer, weights })
    }

    /// Whether a file begins as an artifact does; false when it cannot be read.
    pub fn is_artifact(path: &Path) -> bool {
        let mut start = [0; MAGIC.len()];
        File::open(path).and_then(|mut f| io::Read::read_exact(&mut f, &mut start)).is_ok() && start == MAGIC
    }

    /// Verifies the hash of every embedded weight; reads all of them.
    ///
    /// # Errors
    /// [`ArtifactCode::WeightsDamaged`] with the first weight that is.
    pub fn verify_weights(&self) -> Result<(), ArtifactError> {
        let Weights::Embedded(embedded) = &self.weights else { return Ok(()) };
        for (i, weight) in self.plan.weights.iter().enumerate() {
            let part = format!("weight `{}`", weight.name);
            embedded.sections[i].verify(&embedded.bytes(i), ArtifactCode::WeightsDamaged, &part)?;
        }
        Ok(())
    }

    /// Writes the artifact's file, aside first and renamed when complete. `pack` gives the weights to embed; without
    /// it, weights that are embedded already are written again.
    ///
    /// # Errors
    /// [`ArtifactCode::Unwritable`], or what `pack` says.
    pub fn write(&self, path: impl AsRef<Path>, pack: Option<&mut WeightSource>) -> Result<(), ArtifactError> {
        let path = path.as_ref();
        self.plan.validate(&self.targets).map_err(|e| e.in_file(path))?;
        let mut aside = path.as_os_str().to_owned();
        aside.push(format!(".{}.partial", std::process::id()));
        let aside = Path::new(&aside);
        let written = self.write_aside(aside, pack).and_then(|()| std::fs::rename(aside, path));
        if written.is_err() {
            let _ = std::fs::remove_file(aside); // the first error is the one to tell
        }
        written.map_err(|e| ArtifactError::new(ArtifactCode::Unwritable, "", e, "a writable place").in_file(path))
    }

    /// Writes the artifact's file with weights that are packed from a checkpoint's tensors, one at a time.
    ///
    /// # Errors
    /// As [`Artifact::write`], and weights that are missing or of other shapes.
    pub fn write_packed(&self, path: impl AsRef<Path>, data: &dyn TensorData) -> Result<(), ArtifactError> {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        let mut pack = |_: usize, weight: &PackedWeight, sink: &mut dyn Write| {
            let bytes = packed(weight, data, threads).map_err(|e| format!("weight `{}`: {e}", weight.name))?;
            weight.recipe.tensors.iter().flat_map(|t| &t.names).for_each(|name| data.release(name));
            Ok(sink.write_all(&bytes)?)
        };
        self.write(path, Some(&mut pack))
    }

    fn write_aside(&self, path: &Path, pack: Option<&mut WeightSource>) -> io::Result<()> {
        let mut out = SectionWriter { file: BufWriter::with_capacity(1 << 20, File::create(path)?), at: 0 };
        out.file.write_all(&[0; PREAMBLE])?;
        out.at = PREAMBLE as u64;
        let mut code = Vec::new();
        for target in &self.targets {
            code.push(out.section(|w| w.write_all(&target.code))?);
        }
        let weights = self.write_weights(&mut out, pack)?;
        let header = serde_json::to_vec(&HeaderRef {
            plan: &self.plan,
            targets: &self.targets,
            text: &self.text,
            sizes: &self.sizes,
            tokenizer: self.tokenizer.as_deref(),
            code: &code,
            weights: weights.as_deref(),
        })?;
        let section = out.section(|w| w.write_all(&header))?;
        let mut file = out.file.into_inner().map_err(|e| e.into_error())?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&preamble(&section, &blake3::hash(&header)))?;
        file.sync_all()
    }

    fn write_weights(
        &self,
        out: &mut SectionWriter,
        pack: Option<&mut WeightSource>,
    ) -> io::Result<Option<Vec<Section>>> {
        let mut embedded;
        let pack: &mut WeightSource = match (pack, &self.weights) {
            (Some(pack), _) => pack,
            (None, Weights::Absent) => return Ok(None),
            (None, Weights::Embedded(e)) => {
                embedded = |i: usize, _: &PackedWeight, w: &mut dyn Write| Ok(w.write_all(&e.bytes(i))?);
                &mut embedded
            }
        };
        let mut sections = Vec::new();
        for (i, weight) in self.plan.weights.iter().enumerate() {
            let section = out.section(|w| pack(i, weight, w).map_err(io::Error::other))?;
            if section.length != weight.bytes() {
                let (found, want) = (section.length, weight.bytes());
                return Err(io::Error::other(format!("weight `{}` is {found} bytes, not {want}", weight.name)));
            }
            sections.push(section);
        }
        Ok(Some(sections))
    }
}

/// The preamble of a file whose header is `section`.
fn preamble(section: &Section, hash: &blake3::Hash) -> [u8; PREAMBLE] {
    let mut bytes = [0; PREAMBLE];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[16..24].copy_from_slice(&section.offset.to_le_bytes());
    bytes[24..32].copy_from_slice(&section.length.to_le_bytes());
    bytes[32..].copy_from_slice(hash.as_bytes());
    bytes
}

fn read_header(file: &[u8]) -> Result<Header, ArtifactError> {
    if !file.starts_with(&MAGIC) {
        let found = format!("`{}`", file[..file.len().min(8)].escape_ascii());
        return Err(ArtifactError::new(
            ArtifactCode::NotAnArtifact,
            "",
            found,
            format_args!("`{}`", MAGIC.escape_ascii()),
        ));
    }
    if file.len() < PREAMBLE {
        return Err(ArtifactError::new(
            ArtifactCode::Truncated,
            "preamble",
            format_args!("{} bytes", file.len()),
            PREAMBLE,
        ));
    }
    let word = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().expect("eight bytes of a whole preamble"));
    if word(8) != VERSION as u64 {
        let (found, wanted) = (format_args!("version {}", word(8)), format_args!("version {VERSION}"));
        return Err(ArtifactError::new(ArtifactCode::Version, "", found, wanted));
    }
    let section = Section { offset: word(16), length: word(24), blake3: String::new() };
    let header = section.bytes(file, "header")?;
    let hash = blake3::hash(header);
    if hash.as_bytes()[..] != file[32..PREAMBLE] {
        return Err(ArtifactError::new(
            ArtifactCode::Damaged,
            "header",
            format_args!("hash {hash}"),
            "the hash it was written with",
        ));
    }
    serde_json::from_slice(header).map_err(|e| ArtifactError::new(ArtifactCode::Malformed, "header", e, "a plan"))
}

fn check_weight_sections(plan: &Plan, sections: &[Section], file: &[u8]) -> Result<(), ArtifactError> {
    if sections.len() != plan.weights.len() {
        let found = format!("{} sections", sections.len());
        return Err(ArtifactError::new(ArtifactCode::InvalidPlan, "weights", found, plan.weights.len()));
    }
    for (weight, section) in plan.weights.iter().zip(sections) {
        let part = format!("weight `{}`", weight.name);
        section.bytes(file, &part)?;
        if section.length != weight.bytes() {
            let found = format!("{} bytes", section.length);
            return Err(ArtifactError::new(ArtifactCode::InvalidPlan, part, found, weight.bytes()));
        }
    }
    Ok(())
}

/// Writes sections one after another, aligned and hashed.
struct SectionWriter {
    file: BufWriter<File>,
    at: u64,
}

impl SectionWriter {
    fn section(&mut self, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<Section> {
        let offset = self.at.next_multiple_of(ALIGN);
        self.file.write_all(&[0; ALIGN as usize][..(offset - self.at) as usize])?;
        let mut sink = HashingSink { file: &mut self.file, hasher: blake3::Hasher::new(), length: 0 };
        fill(&mut sink)?;
        let section = Section { offset, length: sink.length, blake3: sink.hasher.finalize().to_hex().to_string() };
        self.at = offset + section.length;
        Ok(section)
    }
}

struct HashingSink<'a> {
    file: &'a mut BufWriter<File>,
    hasher: blake3::Hasher,
    length: u64,
}

impl Write for HashingSink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::dim::{Dim, SeqId};
    use crate::dtype::Type;
    use crate::format::Format;
    use crate::plan::*;
    use proptest::prelude::*;

    const T: SeqId = SeqId(0);

    /// A small artifact with something in every part.
    pub(crate) fn sample() -> Artifact {
        let buffer =
            |name: &str, format, dims: &[Dim], slot| Buffer { name: name.into(), format, dims: dims.into(), slot };
        let launch = Launch { kernel: 0, args: vec![Arg::Weight(0), Arg::Buffer(0), Arg::Cache(0), Arg::Buffer(2)] };
        let plan = Plan {
            model: "sample".into(),
            seqs: vec![Sequence { name: "t".into(), bound: Some(100), appendable: Ok(()) }],
            inputs: vec![PlanInput { name: "tokens".into(), ty: Type::Int, bound: Some(10), default: None, buffer: 0 }],
            outputs: vec![PlanOutput { name: "logits".into(), buffer: 2 }],
            weights: vec![PackedWeight {
                name: "w".into(),
                format: Format::F32,
                storage: Storage::Panel { rows: 10, reduce: 3 },
                recipe: Default::default(),
            }],
            buffers: vec![
                buffer("tokens", Format::I32, &[Dim::Rows(T)], 0),
                buffer("x", Format::F32, &[Dim::Rows(T), Dim::Const(3)], 1),
                buffer("logits", Format::F32, &[Dim::Picked(T), Dim::Const(10)], 2),
            ],
            caches: vec![Cache {
                name: "k".into(),
                format: Format::F16,
                storage: Storage::Paged {
                    seq: T,
                    page: vec![
                        PageDim::Slot { count: 4, step: 16 },
                        PageDim::Axis(3),
                        PageDim::Slot { count: 16, step: 1 },
                    ],
                },
                window: None,
            }],
            prefill: RolePlan { launches: vec![launch.clone()] },
            decode: RolePlan { launches: vec![launch] },
            best: vec![],
        };
        let kernel = KernelInfo {
            symbol: "k0".into(),
            operands: 4,
            tables: vec![Table::Positions(T), Table::Blocks(T)],
            dims: vec![Dim::Rows(T)],
            items: vec![Dim::Rows(T), Dim::Const(2)],
            scratch: 256,
            threads: 1,
            tensor_maps: vec![],
        };
        let target = TargetCode {
            target: "cpu:v2".into(),
            features: vec![],
            kernels: vec![kernel],
            code: (0..300u32).map(|i| (i * 7) as u8).collect(),
        };
        Artifact {
            plan,
            targets: vec![target],
            text: "model sample {}".into(),
            sizes: vec![("eps".into(), Value::Real(1e-5)), ("vocab".into(), Value::Int(10))],
            tokenizer: Some("{}".into()),
            weights: Weights::Absent,
        }
    }

    fn weight_bytes() -> Vec<u8> {
        (0..16 * 3 * 4).map(|i| (i * 31 + 5) as u8).collect()
    }

    fn write_sample(path: &Path) {
        let mut pack = |_: usize, _: &PackedWeight, w: &mut dyn Write| Ok(w.write_all(&weight_bytes())?);
        sample().write(path, Some(&mut pack)).unwrap();
    }

    fn same(a: &Artifact, b: &Artifact) -> bool {
        a.plan == b.plan
            && a.targets == b.targets
            && (&a.text, &a.sizes, &a.tokenizer) == (&b.text, &b.sizes, &b.tokenizer)
    }

    #[test]
    fn a_written_artifact_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sample.llmc");
        write_sample(&path);
        assert!(Artifact::is_artifact(&path));
        let back = Artifact::open(&path).unwrap();
        assert!(same(&back, &sample()));
        back.verify_weights().unwrap();
        let Weights::Embedded(w) = &back.weights else { panic!("no weights") };
        assert_eq!(w.bytes(0).to_vec(), weight_bytes());
        assert!((w.bytes(0).as_ptr() as usize).is_multiple_of(64));
        let again = dir.path().join("again.llmc");
        back.write(&again, None).unwrap();
        assert_eq!(std::fs::read(&again).unwrap(), std::fs::read(&path).unwrap());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left aside");
    }

    /// A checkpoint with one tensor.
    struct OneTensor(Vec<u8>);

    impl TensorData for OneTensor {
        fn tensor_bytes(&self, name: &str) -> Option<&[u8]> {
            (name == "w.file").then_some(&self.0[..])
        }
    }

    #[test]
    fn weights_are_packed_as_they_are_written() {
        use crate::TensorInfo;
        use crate::recipe::{Recipe, RecipeOp, RecipeTensor};
        let mut artifact = sample();
        artifact.plan.weights[0].recipe = Recipe {
            axes: vec![("n".into(), 10), ("m".into(), 3)],
            tensors: vec![RecipeTensor {
                names: vec!["w.file".into()],
                info: TensorInfo { shape: vec![10, 3], format: Format::F32 },
            }],
            nodes: vec![RecipeOp::Axis(0), RecipeOp::Axis(1), RecipeOp::Load { tensor: 0, index: vec![0, 1] }],
            root: 2,
            order: vec![0, 1],
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sample.llmc");
        let file: Vec<u8> = (0..30).flat_map(|i| (i as f32).to_le_bytes()).collect();
        artifact.write_packed(&path, &OneTensor(file)).unwrap();
        let Weights::Embedded(w) = Artifact::open(&path).unwrap().weights else { panic!("no weights") };
        let bytes = w.bytes(0);
        let value = |at: usize| f32::from_le_bytes(bytes[at * 4..][..4].try_into().unwrap());
        // One panel of 16 rows, column after column, the last six rows zero.
        assert_eq!((value(0), value(1), value(9), value(10)), (0.0, 3.0, 27.0, 0.0));
        assert_eq!((value(16), value(32 + 9)), (1.0, 29.0));

        let error = artifact.write_packed(&path, &OneTensor(vec![0; 7])).unwrap_err();
        assert!(error.to_string().contains("weight `w`"), "{error}");
    }

    #[test]
    fn weights_may_be_absent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sample.llmc");
        sample().write(&path, None).unwrap();
        let back = Artifact::open(&path).unwrap();
        assert!(same(&back, &sample()) && matches!(back.weights, Weights::Absent));
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sample.llmc");
        write_sample(&path);
        let old = std::fs::read(&path).unwrap();
        let mut short = |_: usize, _: &PackedWeight, w: &mut dyn Write| Ok(w.write_all(b"short")?);
        let error = sample().write(&path, Some(&mut short)).unwrap_err();
        assert_eq!(error.code(), "E0709");
        assert!(error.to_string().contains("5 bytes, not 192"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), old);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn faults_have_their_codes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sample.llmc");
        let code = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            Artifact::open(&path).unwrap_err().code()
        };
        write_sample(&path);
        let good = std::fs::read(&path).unwrap();
        assert_eq!(code(b""), "E0702");
        assert_eq!(code(b"GGUF\x03\0\0\0"), "E0702");
        assert_eq!(code(&good[..40]), "E0704");
        assert_eq!(code(&good[..good.len() - 1]), "E0704");
        let changed = |at: usize| {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            bytes
        };
        assert_eq!(code(&changed(8)), "E0703");
        assert_eq!(code(&changed(64)), "E0705", "code");
        assert_eq!(code(&changed(good.len() - 1)), "E0705", "header");
        let weights_end = u64::from_le_bytes(good[16..24].try_into().unwrap()) as usize;
        std::fs::write(&path, changed(weights_end - 1)).unwrap();
        assert_eq!(Artifact::open(&path).unwrap().verify_weights().unwrap_err().code(), "E0708");
        let mut other = good[..64].to_vec();
        other.extend(br#"{"plan":"none"}"#);
        other[16..24].copy_from_slice(&64u64.to_le_bytes());
        other[24..32].copy_from_slice(&15u64.to_le_bytes());
        let hash = blake3::hash(&other[64..]);
        other[32..64].copy_from_slice(hash.as_bytes());
        assert_eq!(code(&other), "E0706");
        assert_eq!(Artifact::open(dir.path().join("none")).unwrap_err().code(), "E0701");
        assert_eq!(sample().write(dir.path().join("no/where"), None).unwrap_err().code(), "E0709");
    }

    /// Versions that were and that will be, whatever else is in the file.
    #[test]
    fn files_of_other_versions_say_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sample.llmc");
        write_sample(&path);
        for version in (0..VERSION).chain([VERSION + 1]) {
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[8..12].copy_from_slice(&version.to_le_bytes());
            std::fs::write(&path, bytes).unwrap();
            let said = Artifact::open(&path).unwrap_err().to_string();
            assert!(said.starts_with("E0703") && said.contains("sample.llmc"), "{said}");
            assert!(said.contains(&format!("found: version {version}\n  expected: version {VERSION}\n")), "{said}");
            assert!(said.contains("with this llmc"), "{said}");
        }
    }

    proptest! {
        /// Any cut and any flipped bit is an error, or changes nothing that is read.
        #[test]
        fn damage_is_found(cut in any::<prop::sample::Index>(), flip in any::<prop::sample::Index>(), bit in 0..8u8) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("sample.llmc");
            write_sample(&path);
            let good = std::fs::read(&path).unwrap();

            std::fs::write(&path, &good[..cut.index(good.len())]).unwrap();
            prop_assert!(Artifact::open(&path).is_err());

            let mut bytes = good.clone();
            let at = flip.index(good.len());
            bytes[at] ^= 1 << bit;
            std::fs::write(&path, &bytes).unwrap();
            let opened = Artifact::open(&path).and_then(|a| a.verify_weights().map(|()| a));
            if let Ok(a) = opened {
                let gap = PREAMBLE + 300..(PREAMBLE + 300).next_multiple_of(64);
                prop_assert!(gap.contains(&at), "flipped bit {bit} of byte {at} was not found");
                prop_assert!(same(&a, &sample()));
            }
        }

        /// A header that says anything at all, with a right hash, is refused or understood, never worse.
        #[test]
        fn hostile_headers_are_refused(flip in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("sample.llmc");
            write_sample(&path);
            let mut bytes = std::fs::read(&path).unwrap();
            let at = u64::from_le_bytes(bytes[16..24].try_into().unwrap()) as usize;
            let length = bytes.len() - at;
            bytes[at + flip.index(length)] = byte;
            let hash = blake3::hash(&bytes[at..]);
            bytes[32..64].copy_from_slice(hash.as_bytes());
            std::fs::write(&path, &bytes).unwrap();
            if let Ok(a) = Artifact::open(&path) {
                prop_assert!(a.plan.validate(&a.targets).is_ok());
            }
        }
    }
}
