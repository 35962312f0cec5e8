//! Every command's arguments, as clap reads them.

use clap::{Args, Parser, Subcommand, ValueEnum};
#[cfg(feature = "compiler")]
use llmc_artifact::Format;
use std::path::PathBuf;

/// Compiles model texts to fused kernels and runs them.
#[derive(Parser, Debug)]
#[command(name = "llmc", version, about, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Compile a model into one artifact file.
    #[cfg(feature = "compiler")]
    Build(BuildArgs),
    /// Continue a prompt, streaming the text.
    Run(RunArgs),
    /// Talk turn by turn.
    Chat(ChatArgs),
    /// Compute the outputs for given tokens: logits, perplexity.
    Eval(EvalArgs),
    /// Measure tokens per second the way the field does: pp (prompt) and tg (generation).
    Bench(BenchArgs),
    /// Show what a stage of the compiler made.
    #[cfg(feature = "compiler")]
    Inspect(InspectArgs),
    /// Show the laws by which the compiler turns a model's equations into kernels.
    #[cfg(feature = "compiler")]
    Explain(ExplainArgs),
    /// Report everything that is wrong with a model text.
    Check(CheckArgs),
    /// Rewrite a model text in the one layout.
    Fmt(FmtArgs),
    /// Execute a kernel of a PTX file on the processor, check it and count what it does.
    Sim(SimArgs),
}

/// What names a model.
#[derive(Args, Debug, Clone)]
pub struct ModelArgs {
    /// A model text (.llm), an artifact (.llmc), a GGUF file, or a Hugging Face folder.
    pub model: PathBuf,
    /// The checkpoint of a model text: a GGUF file or a Hugging Face folder.
    #[arg(long, value_name = "FILE_OR_FOLDER")]
    pub weights: Option<PathBuf>,
    /// A folder of further model texts to choose from by architecture.
    #[arg(long, value_name = "FOLDER")]
    pub models: Option<PathBuf>,
    /// Check the packed weights of an artifact against their hash before anything is computed.
    #[arg(long)]
    pub verify: bool,
    /// Compile without this law of the optimizer (repeatable); `llmc explain --list-rules` lists them.
    #[cfg(feature = "compiler")]
    #[arg(long, value_name = "NAME")]
    pub disable_rule: Vec<String>,
    /// What costs are measured by: generic (the default), sm_80, sm_90a, h200, host (read from this machine and
    /// measured), or a file. A build for GPUs alone takes the first of them.
    #[cfg(feature = "compiler")]
    #[arg(long, value_name = "NAME_OR_FILE")]
    pub machine: Option<String>,
    /// How activations are stored for products with plain weights, and what computed factors of cached keys and values are
    /// rounded to. With 16 bits a GPU multiplies them in one instruction; each is then rounded, on every device alike.
    #[cfg(feature = "compiler")]
    #[arg(long, value_enum, default_value_t = Activations::F32)]
    pub activations: Activations,
}

/// Storage of activations.
#[cfg(feature = "compiler")]
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activations {
    /// 32 bits: nothing is rounded.
    F32,
    /// Binary16: 11 digits, magnitudes from 6e-8 to 65504.
    F16,
    /// Bfloat16: 8 digits, every magnitude.
    Bf16,
}

#[cfg(feature = "compiler")]
impl Activations {
    /// The storage format.
    pub fn format(self) -> Format {
        match self {
            Activations::F32 => Format::F32,
            Activations::F16 => Format::F16,
            Activations::Bf16 => Format::BF16,
        }
    }
}

/// Where a model runs.
#[derive(Args, Debug, Clone)]
pub struct DeviceArgs {
    /// The device that computes.
    #[arg(long, value_enum, default_value_t = DeviceName::Cpu)]
    pub device: DeviceName,
    /// Worker threads of the cpu device; all processors when not given.
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
}

/// The devices.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceName {
    /// The host's processor.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
    /// A simulator of one, which checks every access; slow.
    Sim,
}

/// `llmc build`.
#[derive(Args, Debug)]
pub struct BuildArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Targets, separated by commas: cpu, cpu:native, cpu:v2, cpu:v3, cpu:v4, sm_80.
    #[arg(long, value_delimiter = ',', default_value = "cpu")]
    pub target: Vec<String>,
    /// The artifact to write; by default the model's name with `.llmc`.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Leave the weights out of the artifact; they are then given when it runs.
    #[arg(long)]
    pub without_weights: bool,
}

/// How the next token is chosen.
#[derive(Args, Debug, Clone)]
pub struct SamplingArgs {
    /// 0 takes the most likely token; larger values take more chances.
    #[arg(long, default_value_t = 0.0)]
    pub temperature: f32,
    /// Only the K most likely tokens.
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,
    /// Only the most likely tokens that together have this probability.
    #[arg(long, value_name = "P")]
    pub top_p: Option<f32>,
    /// Only tokens at least this share as likely as the most likely one.
    #[arg(long, value_name = "P")]
    pub min_p: Option<f32>,
    /// Divides the scores of tokens that already occurred.
    #[arg(long, value_name = "R")]
    pub repeat_penalty: Option<f32>,
    /// The same seed gives the same tokens.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// `llmc run`.
#[derive(Args, Debug)]
pub struct RunArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The text to continue.
    #[arg(short, long)]
    pub prompt: String,
    /// Stop after this many tokens.
    #[arg(short = 'n', long, default_value_t = 256)]
    pub max_tokens: usize,
    /// Sampling.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Follow the B likeliest continuations and print the best one when it is done, instead of sampling.
    #[arg(long, value_name = "B", conflicts_with = "temperature")]
    pub beams: Option<usize>,
    /// Device.
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Take the prompt as it is: no chat template.
    #[arg(long)]
    pub raw: bool,
    /// Print one JSON object with the text, the tokens and the timings instead of streaming.
    #[arg(long)]
    pub json: bool,
}

/// `llmc chat`.
#[derive(Args, Debug)]
pub struct ChatArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// What the model is told before the first turn.
    #[arg(long)]
    pub system: Option<String>,
    /// Stop a turn after this many tokens.
    #[arg(short = 'n', long, default_value_t = 512)]
    pub max_tokens: usize,
    /// Sampling.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Device.
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// `llmc eval`.
#[derive(Args, Debug)]
pub struct EvalArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Token numbers, separated by commas.
    #[arg(long, value_delimiter = ',', required_unless_present = "text_file", conflicts_with = "text_file")]
    pub tokens: Vec<u32>,
    /// A text that the model's tokenizer turns into tokens.
    #[arg(long, value_name = "FILE")]
    pub text_file: Option<PathBuf>,
    /// For a model of two sequences: the tokens of the one whose outputs are asked for; --tokens is then the other one.
    #[arg(long, value_delimiter = ',')]
    pub decoder_tokens: Vec<u32>,
    /// Write the outputs here, f32: `logits` is [tokens, vocab].
    #[arg(long, value_name = "FILE.safetensors")]
    pub logits: Option<PathBuf>,
    /// Print the perplexity of the tokens.
    #[arg(long)]
    pub perplexity: bool,
    /// Feed the first N tokens as a prompt and the rest one at a time, as generation does.
    #[arg(long, value_name = "N")]
    pub prompt_tokens: Option<usize>,
    /// Device.
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `llmc bench`.
#[derive(Args, Debug)]
pub struct BenchArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Prompt tokens (pp); 0 skips.
    #[arg(long, default_value_t = 512)]
    pub prefill: usize,
    /// Generated tokens (tg); 0 skips.
    #[arg(long, default_value_t = 128)]
    pub decode: usize,
    /// Tokens already in the cache when measuring starts.
    #[arg(long, default_value_t = 0)]
    pub depth: usize,
    /// Repetitions; medians are printed.
    #[arg(long, default_value_t = 3)]
    pub repeat: usize,
    /// Device.
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// The stages that can be looked at, in the order in which they run.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The syntax tree.
    Ast,
    /// The graph after elaboration.
    Graph,
    /// The normal form.
    Normal,
    /// After the laws: the cheapest form; with a value, its class with all of its forms.
    Egraph,
    /// Kernels as groups of values.
    Fused,
    /// Kernel specifications.
    Kernels,
    /// Buffers, caches, weights and launches.
    Plan,
    /// LLVM's intermediate representation.
    Llvm,
    /// PTX.
    Ptx,
    /// Host assembly.
    Asm,
}

/// How a stage is shown.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// The stage's text form.
    Text,
    /// Data.
    Json,
    /// A drawing for Graphviz.
    Dot,
    /// One page that unfolds.
    Html,
}

/// `llmc inspect`.
#[derive(Args, Debug)]
pub struct InspectArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Only this value, by its name in the text or `block/value`; for the stages normal, egraph and fused.
    pub value: Option<String>,
    /// Which stage.
    #[arg(long, value_enum, default_value_t = Stage::Fused)]
    pub stage: Stage,
    /// The target of the later stages.
    #[arg(long, default_value = "cpu")]
    pub target: String,
    /// How: every stage has a text, most have more.
    #[arg(long, value_enum, default_value_t = View::Text)]
    pub format: View,
}

/// `llmc explain`.
#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// A model text (.llm), an artifact (.llmc), a GGUF file, or a Hugging Face folder.
    #[arg(required_unless_present = "list_rules")]
    pub model: Option<PathBuf>,
    /// A value by its name in the text, or `block/value`; without one, every kernel in a line.
    pub value: Option<String>,
    /// The checkpoint of a model text: a GGUF file or a Hugging Face folder.
    #[arg(long, value_name = "FILE_OR_FOLDER")]
    pub weights: Option<PathBuf>,
    /// A folder of further model texts to choose from by architecture.
    #[arg(long, value_name = "FOLDER")]
    pub models: Option<PathBuf>,
    /// Only what kept the value from being fused into its readers, or makes it a cache.
    #[arg(long, requires = "value")]
    pub why_not: bool,
    /// Spell everything out: no letters for what both sides of a step share, no lines cut.
    #[arg(long, requires = "value")]
    pub full: bool,
    /// Print JSON.
    #[arg(long, requires = "value")]
    pub json: bool,
    /// What costs are measured by: as for `llmc build`.
    #[arg(long, value_name = "NAME_OR_FILE")]
    pub machine: Option<String>,
    /// Compile without this law of the optimizer (repeatable).
    #[arg(long, value_name = "NAME")]
    pub disable_rule: Vec<String>,
    /// List every law of the optimizer: name, stage, equation, condition and what it is for.
    #[arg(long)]
    pub list_rules: bool,
}

/// `llmc check`.
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// A model text.
    pub model: PathBuf,
    /// Check against this checkpoint: every tensor read, every shape right.
    #[arg(long, value_name = "FILE_OR_FOLDER")]
    pub weights: Option<PathBuf>,
    /// Print diagnostics as a JSON array.
    #[arg(long)]
    pub json: bool,
}

/// `llmc fmt`.
#[derive(Args, Debug)]
pub struct FmtArgs {
    /// Model texts.
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// Change nothing; fail if a file is not in the one layout.
    #[arg(long)]
    pub check: bool,
}

/// `llmc sim`.
#[derive(Args, Debug)]
pub struct SimArgs {
    /// A PTX text.
    pub file: PathBuf,
    /// The kernel; not needed where there is one.
    #[arg(long, value_name = "NAME")]
    pub kernel: Option<String>,
    /// Blocks along x, y and z.
    #[arg(long, value_name = "X,Y,Z", value_delimiter = ',', default_value = "1")]
    pub grid: Vec<u32>,
    /// Threads of a block along x, y and z.
    #[arg(long, value_name = "X,Y,Z", value_delimiter = ',', default_value = "32")]
    pub block: Vec<u32>,
    /// Bytes of dynamic shared memory.
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    pub shared: u32,
    /// In which turns warps run.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Instructions of warps after which the kernel is given up; the start of each warp counts as 64.
    #[arg(long, value_name = "N", default_value_t = 1 << 28)]
    pub limit: u64,
    /// A value for every parameter: `7`, `f32:1.5`, `f32[1024]` (never written), `f32[1024]=0.5`, `=iota`, `=random`, `=@FILE`.
    #[arg(long, value_name = "VALUE", num_args = 1..)]
    pub args: Vec<String>,
    /// Print the first N elements of every buffer afterwards.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub show: usize,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}
