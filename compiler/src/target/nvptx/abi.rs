//! How a CUDA kernel receives its arguments: see [`llmc_artifact::plan::KernelInfo`].

use crate::kernel::KernelSpec;
use crate::kernel::abi::Abi;
use crate::llvm::{Args, Cmp, Emitter, Lane, Param, Scope, Ty, Val, WARP};
use llmc_artifact::Dim;
use std::cell::Cell;

/// Address space of operands and tables: global memory.
pub const GLOBAL: u16 = 1;

/// A kernel's function, open for its family to fill.
pub struct Entry<'a, 'c> {
    /// Builds the code.
    pub emitter: &'a Emitter<'c>,
    /// What is computed.
    pub spec: &'a KernelSpec,
    /// Operands, tables and lengths.
    pub args: &'a Args<'c>,
    /// The descriptions of the kernel's tensors.
    pub tensors: &'a [Val<'c>],
    /// The work item of this block.
    pub item: Val<'c>,
    /// Threads of a block that share its work.
    pub threads: u32,
    /// Threads beside them, numbered after them.
    pub helpers: u32,
    /// This thread.
    pub thread: Val<'c>,
    shared: Val<'c>,
    used: Cell<u64>,
    /// The most that was used at once.
    most: Cell<u64>,
}

/// Threads of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threads {
    /// Those that share its work.
    pub work: u32,
    /// Those that bring what the others work on.
    pub help: u32,
}

impl Threads {
    /// No thread helps others.
    pub const fn alike(work: u32) -> Threads {
        Threads { work, help: 0 }
    }

    const fn all(self) -> u32 {
        self.work + self.help
    }
}

/// How a family cut its work.
pub struct Work {
    /// Number of work items: the product.
    pub items: Vec<Dim>,
    /// Bytes of dynamic shared memory of each block.
    pub scratch: u64,
    /// Threads of a block.
    pub threads: u32,
}

/// Opens a kernel's function with so many descriptions of tensors, lets `family` fill it and closes it. The family gives its items; shared memory is what
/// it asked for.
pub fn kernel<'c>(
    emitter: &Emitter<'c>,
    spec: &KernelSpec,
    threads: Threads,
    tensors: usize,
    family: impl FnOnce(&Entry<'_, 'c>) -> Vec<Dim>,
) -> Work {
    let e = emitter;
    let abi = Abi::of(spec);
    let pointers = spec.operands.len() + abi.tables.len();
    let mut params = vec![Param::Pointer(GLOBAL); pointers + 1];
    params.extend(vec![Param::Tensor; tensors]);
    let (_, values) = e.begin_grid_kernel(&spec.name, &params, threads.all());
    let operands = values[..spec.operands.len()].to_vec();
    let tables = abi.tables.iter().map(|t| (*t, values[abi.table(*t)])).collect();
    let dims = abi.dims.iter().map(|d| {
        let place = e.offset(values[pointers], e.int(8 * abi.dim(*d) as i64));
        (*d, e.load(Ty::I64, 1, place))
    });
    let args = Args { operands, tables, dims: dims.collect() };
    let (item, thread, shared) = (e.block_index(), e.thread_index(), e.shared_memory());
    let (used, most) = (Cell::new(0), Cell::new(0));
    let (work, helpers) = (threads.work, threads.help);
    let tensors = &values[pointers + 1..];
    let entry = Entry { emitter, spec, args: &args, tensors, item, threads: work, helpers, thread, shared, used, most };
    let items = family(&entry);
    let scratch = entry.most.get();
    e.end_function();
    Work { items: if items.is_empty() { vec![Dim::Const(1)] } else { items }, scratch, threads: threads.all() }
}

impl<'a, 'c> Entry<'a, 'c> {
    /// The scope of the whole kernel: no axis bound.
    pub fn scope(&self) -> Scope<'a, 'c> {
        Scope::new(self.emitter, self.spec, self.args)
    }

    /// The block's index along each of these dimensions, row-major. A block beyond them returns: a grid is as large as a
    /// captured launch may ever need, and lengths are known only where it runs. Nothing that a length bounds is read
    /// before this.
    pub fn item_index(&self, scope: &Scope<'a, 'c>, dims: &[Dim]) -> Vec<Lane<'c>> {
        let e = self.emitter;
        if dims.iter().any(|d| d.as_const().is_none()) {
            let items = dims.iter().map(|d| scope.dim(*d)).reduce(|a, b| e.mul(a, b)).expect("one of them varies");
            e.leave_unless(e.compare(Cmp::Lt, self.item, items));
        }
        let mut rest = Lane::uniform(self.item);
        let mut index = Vec::with_capacity(dims.len());
        for (i, dim) in dims.iter().enumerate().rev() {
            let (outer, at) = e.lane_div_rem(rest, Lane::uniform(scope.dim(*dim)), 1);
            index.push(if i == 0 { rest } else { at });
            rest = outer;
        }
        index.reverse();
        index
    }

    /// An array that the block's threads share.
    pub fn shared(&self, ty: Ty, count: u64) -> Val<'c> {
        self.shared_aligned(ty, count, 16)
    }

    /// One that starts at a multiple of `align` bytes.
    pub fn shared_aligned(&self, ty: Ty, count: u64, align: u32) -> Val<'c> {
        self.emitter.align_shared_memory(align);
        let at = self.used.get().next_multiple_of(align as u64);
        let end = (at + ty.bytes() * count).next_multiple_of(16);
        self.used.set(end);
        self.most.set(self.most.get().max(end));
        self.emitter.offset(self.shared, self.emitter.int(at as i64))
    }

    /// Emits code whose shared arrays are free again after it; what uses them next comes after a barrier.
    pub fn alone(&self, code: impl FnOnce()) {
        let at = self.used.get();
        code();
        self.used.set(at);
    }

    /// Warps of a block that share its work.
    pub fn warps(&self) -> u32 {
        self.threads / WARP
    }

    /// Runs `body` for `0..count`, dealt out to the block's threads.
    pub fn for_each(&self, count: Val<'c>, body: impl FnOnce(Val<'c>)) {
        self.emitter.repeat(self.thread, count, self.threads as i64, body);
    }

    /// Folds one value of every thread, in an order that is always the same; every thread gets the result. `array` has room for
    /// a value of every warp, and is free again once the threads have met after this.
    pub fn fold_threads(
        &self,
        array: Val<'c>,
        value: Val<'c>,
        combine: impl Fn(Val<'c>, Val<'c>) -> Val<'c>,
    ) -> Val<'c> {
        let (e, ty) = (self.emitter, value.ty());
        let found = e.fold_warp(value, WARP, &combine);
        let leads = e.compare(Cmp::Eq, e.lane_index(), e.int32(0));
        e.when(leads, || e.store(e.element(array, ty, e.zext(e.warp_index(), Ty::I64)), found));
        e.barrier();
        let of_warp = |w: u32| e.load(ty, 1, e.element(array, ty, e.int(w as i64)));
        (1..self.warps()).fold(of_warp(0), |found, w| combine(found, of_warp(w)))
    }
}
