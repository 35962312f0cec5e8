//! From a module to text, assembly and object code.

use super::Emitter;
use inkwell::OptimizationLevel;
use inkwell::passes::PassBuilderOptions;
use inkwell::targets::{CodeModel, FileType, InitializationConfig, RelocMode, Target, TargetMachine, TargetTriple};

/// Which form of the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// LLVM's text after optimisation.
    Llvm,
    /// Assembly: PTX for a GPU.
    Assembly,
    /// An object file.
    Object,
}

/// A processor that LLVM generates code for.
pub struct Machine {
    machine: TargetMachine,
}

impl Machine {
    /// The machine of a triple, processor name and feature list (`+avx2,+fma`).
    ///
    /// # Errors
    /// When LLVM was built without the target or does not know the processor.
    pub fn new(triple: &str, cpu: &str, features: &str) -> Result<Machine, String> {
        Target::initialize_x86(&InitializationConfig::default());
        Target::initialize_nvptx(&InitializationConfig::default());
        let triple = TargetTriple::create(triple);
        let target = Target::from_triple(&triple).map_err(|e| e.to_string())?;
        let level = OptimizationLevel::Default;
        target
            .create_target_machine(&triple, cpu, features, level, RelocMode::PIC, CodeModel::Default)
            .map(|machine| Machine { machine })
            .ok_or_else(|| format!("LLVM cannot generate code for {cpu} with {features}"))
    }

    /// The host's triple, processor name and features.
    pub fn host() -> (String, String, String) {
        let triple = TargetMachine::get_default_triple();
        let text = |s: inkwell::support::LLVMString| s.to_string_lossy().into_owned();
        (
            triple.as_str().to_string_lossy().into_owned(),
            text(TargetMachine::get_host_cpu_name()),
            text(TargetMachine::get_host_cpu_features()),
        )
    }

    /// Optimises the module, once, in place. Loops are as the families wrote them: LLVM neither vectorises nor
    /// unrolls by its own lights, which keeps code small and its order of additions ours.
    ///
    /// # Errors
    /// LLVM's message when the module is malformed: a defect of the emitter.
    pub fn optimise(&self, emitter: &Emitter) -> Result<(), String> {
        let module = emitter.module();
        module.set_triple(&self.machine.get_triple());
        module.set_data_layout(&self.machine.get_target_data().get_data_layout());
        module.verify().map_err(|e| e.to_string())?;
        let options = PassBuilderOptions::create();
        options.set_loop_vectorization(false);
        options.set_loop_slp_vectorization(false);
        options.set_loop_unrolling(true);
        module.run_passes("default<O2>", &self.machine, options).map_err(|e| e.to_string())
    }

    /// The module's code.
    ///
    /// # Errors
    /// LLVM's message.
    pub fn emit(&self, emitter: &Emitter, stage: Stage) -> Result<Vec<u8>, String> {
        let file = match stage {
            Stage::Llvm => return Ok(emitter.module().print_to_string().to_string().into_bytes()),
            Stage::Assembly => FileType::Assembly,
            Stage::Object => FileType::Object,
        };
        let buffer = self.machine.write_to_memory_buffer(emitter.module(), file).map_err(|e| e.to_string())?;
        let bytes = buffer.as_slice();
        // Text comes with the zero that ends a C string.
        let text = if stage == Stage::Assembly { bytes.strip_suffix(&[0]) } else { None };
        Ok(text.unwrap_or(bytes).to_vec())
    }
}
