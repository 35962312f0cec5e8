//! From a command's arguments to a model on a device.

use super::args::{DeviceArgs, DeviceName, ModelArgs, SamplingArgs};
use llmc::{DeviceKind, Engine, EngineOptions, Error, Loaded, SampleOptions};

/// Opens an artifact, or compiles a text or a checkpoint for the device in memory.
#[cfg(feature = "compiler")]
pub fn load(args: &ModelArgs, device: &DeviceArgs) -> Result<Loaded, Error> {
    let target = match device.device {
        DeviceName::Cpu => "cpu",
        DeviceName::Cuda | DeviceName::Sim => "sm_80",
    };
    // A device that is not there is told before anything is compiled for it.
    llmc_runtime::device::check(kind(device))?;
    let options = llmc::CompileOptions {
        weights: args.weights.clone(),
        targets: vec![target.to_owned()],
        models: args.models.clone(),
        laws: llmc::laws_without(&args.disable_rule)?,
        machine: llmc::machine(args.machine.as_deref(), &[target.to_owned()])?,
        activations: args.activations.format(),
    };
    verified(llmc::compile(&args.model, &options)?, args)
}

/// Opens an artifact.
#[cfg(not(feature = "compiler"))]
pub fn load(args: &ModelArgs, device: &DeviceArgs) -> Result<Loaded, Error> {
    use llmc::source::Source;
    llmc_runtime::device::check(kind(device))?;
    match Source::open(&args.model, args.weights.as_deref(), None)? {
        Source::Artifact(artifact) => {
            let checkpoint = args.weights.as_deref().map(llmc_runtime::weights::open).transpose()?;
            verified(Loaded { artifact: *artifact, checkpoint }, args)
        }
        Source::Text(text, _) => Err(Error::Io(format!(
            "{}: this llmc was built without its compiler and runs artifacts only\n  help: compile it with `llmc build` where the compiler is",
            text.name
        ))),
    }
}

fn verified(loaded: Loaded, args: &ModelArgs) -> Result<Loaded, Error> {
    if args.verify {
        loaded.artifact.verify_weights()?;
    }
    Ok(loaded)
}

/// The model on its device.
pub fn engine(loaded: &Loaded, device: &DeviceArgs) -> Result<Engine, Error> {
    loaded.engine(&EngineOptions { device: kind(device), ..EngineOptions::default() })
}

fn kind(device: &DeviceArgs) -> DeviceKind {
    match device.device {
        DeviceName::Cpu => DeviceKind::Cpu { threads: device.threads },
        DeviceName::Cuda => DeviceKind::Cuda { ordinal: 0 },
        DeviceName::Sim => DeviceKind::Sim,
    }
}

/// Sampling as the runtime takes it.
pub fn sampling(args: &SamplingArgs) -> SampleOptions {
    let none = SampleOptions::default();
    SampleOptions {
        temperature: args.temperature,
        top_k: args.top_k.unwrap_or(none.top_k),
        top_p: args.top_p.unwrap_or(none.top_p),
        min_p: args.min_p.unwrap_or(none.min_p),
        repeat_penalty: args.repeat_penalty.unwrap_or(none.repeat_penalty),
        seed: args.seed,
        ..none
    }
}
