//! A device that interprets kernels from their specs, slowly and in f64: no target's code takes part.

use llmc_artifact::Dim;
use llmc_artifact::plan::KernelInfo;
use llmc_compiler::kernel::interpret::{Memory as Bound, interpret};
use llmc_compiler::kernel::{Abi, KernelExtent, KernelSpec, Verified};
use llmc_runtime::RunError;
use llmc_runtime::device::{Bytes, Calls, Device, Memory};

/// The device, with the kernels of a plan.
pub struct Interpreted {
    specs: Vec<KernelSpec>,
    kernels: Vec<KernelInfo>,
    memory: Vec<Vec<u8>>,
}

impl Interpreted {
    /// For these kernels.
    pub fn new(kernels: &[Verified<KernelSpec>]) -> Interpreted {
        let specs: Vec<KernelSpec> = kernels.iter().map(|k| (**k).clone()).collect();
        let kernels = specs.iter().map(|s| Abi::of(s).info(s, rows(s), 0, 1)).collect();
        Interpreted { specs, kernels, memory: Vec::new() }
    }

    fn bytes(&mut self, memory: Memory) -> &mut Vec<u8> {
        &mut self.memory[memory.number() as usize]
    }
}

/// The lengths of a kernel's rows: with none of them there is nothing to do.
fn rows(spec: &KernelSpec) -> Vec<Dim> {
    let row = spec.axes.iter().find_map(|a| match a.extent {
        KernelExtent::Rows(s) => Some(Dim::Rows(s)),
        KernelExtent::Picked(s) => Some(Dim::Picked(s)),
        KernelExtent::Tokens(s) => Some(Dim::Tokens(s)),
        KernelExtent::Const(_)
        | KernelExtent::Sequences(_)
        | KernelExtent::Keys { .. }
        | KernelExtent::Parts { .. } => None,
    });
    row.into_iter().collect()
}

impl Device for Interpreted {
    fn describe(&self) -> String {
        "the interpreter of kernels".to_owned()
    }

    fn kernels(&self) -> &[KernelInfo] {
        &self.kernels
    }

    fn free_memory(&self) -> u64 {
        1 << 30
    }

    fn allocate(&mut self, bytes: u64) -> Result<Memory, RunError> {
        self.memory.push(vec![0; bytes as usize]);
        Ok(Memory::new(self.memory.len() as u32 - 1))
    }

    fn import(&mut self, bytes: Bytes) -> Result<Memory, RunError> {
        self.memory.push(bytes.to_vec());
        Ok(Memory::new(self.memory.len() as u32 - 1))
    }

    fn release(&mut self, memory: Memory) {
        *self.bytes(memory) = Vec::new();
    }

    fn write(&mut self, to: Memory, offset: u64, bytes: &[u8]) -> Result<(), RunError> {
        self.bytes(to)[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn read(&mut self, from: Memory, offset: u64, bytes: &mut [u8]) -> Result<(), RunError> {
        bytes.copy_from_slice(&self.bytes(from)[offset as usize..][..bytes.len()]);
        Ok(())
    }

    fn copy(&mut self, from: (Memory, u64), to: (Memory, u64), bytes: u64) -> Result<(), RunError> {
        let moved = self.bytes(from.0)[from.1 as usize..][..bytes as usize].to_vec();
        self.write(to.0, to.1, &moved)
    }

    fn run(&mut self, calls: &Calls) -> Result<(), RunError> {
        for call in &calls.calls {
            let (spec, info) = (&self.specs[call.kernel as usize], &self.kernels[call.kernel as usize]);
            let pointers = &calls.pointers[call.pointers.clone()];
            let (operands, tables) = pointers.split_at(spec.operands.len());
            let bytes = |m: &Memory| self.memory[m.number() as usize].clone();
            let mut bound = Bound {
                operands: operands.iter().map(bytes).collect(),
                tables: info.tables.iter().zip(tables).map(|(t, m)| (*t, entries(&bytes(m)))).collect(),
                dims: info.dims.iter().zip(&calls.dims[call.dims.clone()]).map(|(d, n)| (*d, *n as u64)).collect(),
            };
            interpret(spec, &mut bound);
            let written = spec.operands.iter().zip(operands).zip(bound.operands).filter(|((o, _), _)| o.write);
            for ((_, memory), bytes) in written {
                self.memory[memory.number() as usize] = bytes;
            }
        }
        Ok(())
    }
}

fn entries(bytes: &[u8]) -> Vec<i32> {
    bytes.chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().expect("four bytes"))).collect()
}
