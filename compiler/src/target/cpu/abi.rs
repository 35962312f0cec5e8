//! How a CPU kernel receives its arguments: see [`llmc_artifact::plan::KernelInfo`].

use crate::kernel::KernelSpec;
use crate::kernel::abi::Abi;
use crate::llvm::{Args, Emitter, Lane, Param, Scope, Ty, Val};
use llmc_artifact::Dim;

/// A kernel's function, open for its family to fill.
pub struct Entry<'a, 'c> {
    /// Builds the code.
    pub emitter: &'a Emitter<'c>,
    /// What is computed.
    pub spec: &'a KernelSpec,
    /// Operands, tables and lengths.
    pub args: &'a Args<'c>,
    /// The first work item.
    pub begin: Val<'c>,
    /// One past the last work item.
    pub end: Val<'c>,
    /// Memory of this worker, [`Work::scratch`] bytes, aligned to 64.
    pub scratch: Val<'c>,
}

/// How a family cut its work.
pub struct Work {
    /// Number of work items: the product.
    pub items: Vec<Dim>,
    /// Bytes of scratch for each worker.
    pub scratch: u64,
}

/// Opens a kernel's function, lets `family` fill it and closes it.
pub fn kernel<'c>(emitter: &Emitter<'c>, spec: &KernelSpec, family: impl FnOnce(&Entry<'_, 'c>) -> Work) -> Work {
    let e = emitter;
    let abi = Abi::of(spec);
    let pointer = Param::Pointer(0);
    let (_, params) = e.begin_function(&spec.name, &[pointer, pointer, Param::Int, Param::Int, pointer]);
    let nth_pointer = |i: usize| e.load_pointer(e.offset(params[0], e.int(8 * i as i64)));
    let operands = (0..spec.operands.len()).map(nth_pointer).collect();
    let tables = abi.tables.iter().map(|t| (*t, nth_pointer(abi.table(*t)))).collect();
    let dims = abi.dims.iter().map(|d| {
        let place = e.offset(params[1], e.int(8 * abi.dim(*d) as i64));
        (*d, e.load(Ty::I64, 1, place))
    });
    let args = Args { operands, tables, dims: dims.collect() };
    let entry = Entry { emitter, spec, args: &args, begin: params[2], end: params[3], scratch: params[4] };
    let work = family(&entry);
    e.end_function();
    work
}

impl<'a, 'c> Entry<'a, 'c> {
    /// The scope of the whole kernel: no axis bound.
    pub fn scope(&self) -> Scope<'a, 'c> {
        Scope::new(self.emitter, self.spec, self.args)
    }

    /// Runs `body` for every work item of this call, with the item's index along each of `dims`, row-major.
    pub fn for_each_item(&self, scope: &Scope<'a, 'c>, dims: &[Dim], body: impl FnOnce(&[Lane<'c>])) {
        let e = self.emitter;
        e.repeat(self.begin, self.end, 1, |item| {
            let mut rest = Lane::uniform(item);
            let mut index: Vec<Lane> = Vec::with_capacity(dims.len());
            for dim in dims.iter().skip(1).rev() {
                let (outer, i) = e.lane_div_rem(rest, Lane::uniform(scope.dim(*dim)), 1);
                index.push(i);
                rest = outer;
            }
            if !dims.is_empty() {
                index.push(rest);
            }
            index.reverse();
            body(&index);
        });
    }
}
