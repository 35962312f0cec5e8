//! What sm_90a adds: mbarriers, bulk copies that they count, products of four warps, and registers that change hands.
//!
//! Copies and products reach shared memory by a way of their own: what a thread stored is seen by them only after its
//! [`Emitter::show_to_units`]. An mbarrier's phases are told apart by their parity, as who waits knows how many went by.

use super::{CHUNK, Emitter, Mma, Ty, Val, WARP, built};
use inkwell::AddressSpace;
use inkwell::attributes::{Attribute, AttributeLoc};
use inkwell::types::BasicTypeEnum;
use inkwell::values::ValueKind;
use llmc_artifact::tensor::Turns;

/// Threads of a warpgroup.
pub const WARPGROUP: u32 = 4 * WARP;
/// Bytes of a row of a matrix in shared memory, of eight chunks that take turns.
pub const SPAN: u32 = 128;
/// Bytes of an mbarrier.
pub const MBARRIER: u64 = 8;
/// What rows in turns start at multiples of: eight rows.
pub const TURNS: u32 = 8 * SPAN;

/// The address space of shared memory of a cluster of blocks, of which ours is one.
const CLUSTER: u16 = 7;
/// Rows of a product of four warps.
pub const GROUP_ROWS: u32 = 64;

impl<'c> Emitter<'c> {
    /// Makes an mbarrier whose phases end after so many arrivals and the bytes that are announced. Threads that use it meet the
    /// one that makes it, after [`Emitter::show_mbarriers`].
    pub fn mbarrier(&self, at: Val<'c>, arrivals: u32) {
        self.target_intrinsic("llvm.nvvm.mbarrier.init.shared", &[at, self.int32(arrivals as i32)]);
    }

    /// Shows the mbarriers that this thread made to copies.
    pub fn show_mbarriers(&self) {
        self.target_intrinsic("llvm.nvvm.fence.mbarrier_init.release.cluster", &[]);
    }

    /// Shows what this thread stored in shared memory to copies and products that are started after it.
    pub fn show_to_units(&self) {
        self.target_intrinsic("llvm.nvvm.fence.proxy.async.shared_cta", &[]);
    }

    /// Arrives at an mbarrier.
    pub fn arrive(&self, mbarrier: Val<'c>) {
        self.target_intrinsic("llvm.nvvm.mbarrier.arrive.shared", &[mbarrier]);
    }

    /// Arrives, and announces bytes that copies bring in this phase.
    pub fn arrive_expecting(&self, mbarrier: Val<'c>, bytes: Val<'c>) {
        self.target_intrinsic("llvm.nvvm.mbarrier.arrive.expect.tx.scope.cta.space.cta", &[mbarrier, bytes]);
    }

    /// Waits for the end of the phase of this parity, an `i32`; before the first one ends, that of parity 1 is over.
    pub fn wait_phase(&self, mbarrier: Val<'c>, parity: Val<'c>) {
        const NAME: &str = "llvm.nvvm.mbarrier.try.wait.parity.scope.cta.space.cta";
        self.while_each(&[], |_| self.not(self.target_intrinsic(NAME, &[mbarrier, parity])), |_| Vec::new());
        // The intrinsic speaks of the mbarrier alone: no load may pass it.
        self.assembly("", "~{memory}", &[], &[]);
    }

    /// Starts a copy of `bytes` (an `i32`; like the addresses a multiple of 16) from global to shared memory that the
    /// mbarrier counts.
    pub fn copy_bulk(&self, to: Val<'c>, from: Val<'c>, bytes: Val<'c>, mbarrier: Val<'c>) {
        let space = self.context.ptr_type(AddressSpace::from(CLUSTER));
        let to = Val(built(self.builder.build_address_space_cast(to.pointer(), space, "")).into());
        let (none, no) = (self.zero(Ty::I16, 1), self.bool(false));
        let args = [to, mbarrier, from, bytes, none, self.int(0), no, no];
        self.target_intrinsic("llvm.nvvm.cp.async.bulk.global.to.shared.cluster", &args);
    }

    /// Starts a copy of a box of a tensor to shared memory, at a multiple of 128 bytes, that the mbarrier counts as all its bytes. The
    /// box begins at these coordinates, `i32`s, innermost first; what of it is outside the tensor becomes zeros.
    pub fn copy_box(&self, to: Val<'c>, tensor: Val<'c>, coordinates: &[Val<'c>], mbarrier: Val<'c>) {
        let space = self.context.ptr_type(AddressSpace::from(CLUSTER));
        let to = Val(built(self.builder.build_address_space_cast(to.pointer(), space, "")).into());
        let (none, no) = (self.zero(Ty::I16, 1), self.bool(false));
        let mut args = vec![to, mbarrier, tensor];
        args.extend_from_slice(coordinates);
        // One block and not several of a cluster, no policy of caches.
        args.extend([none, self.int(0), no, no, self.int32(0)]);
        self.target_intrinsic(&format!("llvm.nvvm.cp.async.bulk.tensor.g2s.tile.{}d", coordinates.len()), &args);
    }

    /// Gives up registers of this warpgroup's threads beyond `keep`, a multiple of 8.
    pub fn give_registers(&self, keep: u32) {
        self.target_intrinsic("llvm.nvvm.setmaxnreg.dec.sync.aligned.u32", &[self.int32(keep as i32)]);
    }

    /// Waits for registers that others gave up, until this warpgroup's threads have so many.
    pub fn take_registers(&self, count: u32) {
        self.target_intrinsic("llvm.nvvm.setmaxnreg.inc.sync.aligned.u32", &[self.int32(count as i32)]);
    }

    /// Describes a matrix in shared memory for products: rows along the sum, of as many bytes as take turns, one after another from
    /// a multiple of eight of them (see [`Emitter::swizzled`]).
    pub fn describe_rows(&self, start: Val<'c>, turns: Turns) -> Described<'c> {
        self.describe(start, 1, turns)
    }

    /// Describes a matrix of which a row is a step of the sum: as many columns side by side as take turns, the next ones from `next`
    /// bytes on.
    pub fn describe_columns(&self, start: Val<'c>, turns: Turns, next: u32) -> Described<'c> {
        self.describe(start, next >> 4, turns)
    }

    fn describe(&self, start: Val<'c>, leading: u32, turns: Turns) -> Described<'c> {
        let (code, stride): (u64, u64) = match turns {
            Turns::None => panic!("emission: a matrix whose chunks take no turns"),
            Turns::Of128 => (1, 8 * 128),
            Turns::Of64 => (2, 8 * 64),
            Turns::Of32 => (3, 8 * 32),
        };
        let address = Val(built(self.builder.build_ptr_to_int(start.pointer(), self.context.i64_type(), "")).into());
        let field = self.and(self.lshr(address, self.int(4)), self.int(0x3fff));
        let word = self.or(field, self.int((code << 62 | (leading as u64) << 16 | (stride >> 4) << 32) as i64));
        Described { word, further: 0 }
    }

    /// Adds to `sums`, those of 64 rows and [`GroupProduct::columns`] columns, one product for each pair of `A` and a described
    /// `B`; four warps together. Waits for the result: nothing is under way after it.
    ///
    /// # Panics
    /// For a kind that is not of two bytes.
    pub fn multiply_group(
        &self,
        kind: GroupProduct,
        sums: &[Val<'c>],
        pairs: &[(GroupLeft<'c>, Described<'c>)],
    ) -> Vec<Val<'c>> {
        let ty = match kind.kind {
            Mma::F16 => "f16",
            Mma::BF16 => "bf16",
            Mma::TF32 | Mma::S8 => panic!("emission: four warps multiply {:?}", kind.kind),
        };
        let (n, count) = (kind.columns, sums.len());
        assert_eq!(count as u32, n / 2, "emission: sums of {n} columns");
        let list = |from: usize, count: usize| {
            let names: Vec<String> = (from..from + count).map(|i| format!("${i}")).collect();
            format!("{{{}}}", names.join(", "))
        };
        let d = list(0, count);
        // After the results come the sums, which share their registers, then what the products read, each value once: a description
        // and those a little further are one.
        let mut given: Vec<Val<'c>> = Vec::new();
        let mut place = |value: Val<'c>| {
            let at = given.iter().position(|g| *g == value).unwrap_or_else(|| {
                given.push(value);
                given.len() - 1
            });
            2 * count + at
        };
        let transposed = u32::from(kind.columns_side_by_side);
        let mut one = |(a, b): &(GroupLeft<'c>, Described<'c>)| {
            let mut described =
                |d: &Described<'c>, name: &str| format!("add.s64 {name}, ${}, {};", place(d.word), d.further >> 4);
            let b = described(b, "b");
            let (before, a, turned) = match a {
                GroupLeft::Registers(all) => {
                    let all = all.map(|v| format!("${}", place(v)));
                    (String::new(), format!("{{{}}}", all.join(", ")), "")
                }
                GroupLeft::Described(a) => (described(a, "a"), "a".to_string(), "0, "),
            };
            format!(
                "{b} {before} wgmma.mma_async.sync.aligned.m64n{n}k16.f32.{ty}.{ty} {d}, {a}, b, p, 1, 1, \
                 {turned}{transposed};"
            )
        };
        let products: Vec<String> = pairs.iter().map(&mut one).collect();
        let text = format!(
            "{{ .reg .pred p; .reg .b64 a, b; setp.eq.b32 p, 0, 0; wgmma.fence.sync.aligned; {} \
             wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0; }}",
            products.join(" ")
        );
        let mut constraints: Vec<String> = vec!["=f".into(); count];
        constraints.extend((0..count).map(|i| i.to_string()));
        constraints.extend(given.iter().map(|v| if v.ty() == Ty::I64 { "l".into() } else { "r".into() }));
        constraints.push("~{memory}".into());
        let args: Vec<Val> = sums.iter().chain(&given).copied().collect();
        self.assembly(&text, &constraints.join(","), &vec![Ty::F32; count], &args)
    }

    /// Assembly that all threads of a warp run together; its results.
    pub(super) fn assembly(&self, text: &str, constraints: &str, results: &[Ty], args: &[Val<'c>]) -> Vec<Val<'c>> {
        let types: Vec<_> = args.iter().map(|v| v.0.get_type().into()).collect();
        let parts: Vec<BasicTypeEnum> = results.iter().map(|ty| self.scalar_type(*ty)).collect();
        let ty = match parts.as_slice() {
            [] => self.context.void_type().fn_type(&types, false),
            all => inkwell::types::BasicType::fn_type(&self.context.struct_type(all, false), &types, false),
        };
        let (text, constraints) = (text.to_string(), constraints.to_string());
        let code = self.context.create_inline_asm(ty, text, constraints, true, false, None, false);
        let args: Vec<_> = args.iter().map(|v| v.0.into()).collect();
        let call = built(self.builder.build_indirect_call(ty, code, &args, ""));
        let convergent = Attribute::get_named_enum_kind_id("convergent");
        call.add_attribute(AttributeLoc::Function, self.context.create_enum_attribute(convergent, 0));
        match call.try_as_basic_value() {
            ValueKind::Basic(all) => (0..results.len() as u32)
                .map(|i| Val(built(self.builder.build_extract_value(all.into_struct_value(), i, ""))))
                .collect(),
            ValueKind::Instruction(_) => Vec::new(),
        }
    }
}

/// What describes a matrix in shared memory, or a part of it further on.
#[derive(Clone, Copy, Debug)]
pub struct Described<'c> {
    word: Val<'c>,
    /// Bytes.
    further: u64,
}

impl<'c> Described<'c> {
    /// From so many bytes further on, a multiple of 16.
    pub fn further(self, bytes: u64) -> Described<'c> {
        assert!(bytes.is_multiple_of(CHUNK as u64), "emission: a matrix {bytes} bytes further");
        Described { further: self.further + bytes, ..self }
    }
}

/// `A` of a product of four warps: 64 rows and 16 columns.
#[derive(Clone, Copy, Debug)]
pub enum GroupLeft<'c> {
    /// Of each warp 16 rows, as [`Mma`] has them.
    Registers([Val<'c>; 4]),
    /// Rows in shared memory: see [`Emitter::describe_rows`].
    Described(Described<'c>),
}

/// A product of four warps: sums in binary32, of this many columns, a multiple of 8 up to 256.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupProduct {
    /// The type of `A` and `B`: of two bytes.
    pub kind: Mma,
    /// Columns of `B`.
    pub columns: u32,
    /// Whether elements of `B` that lie side by side are columns ([`Emitter::describe_columns`]) and not steps of the sum.
    pub columns_side_by_side: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llvm::Cmp;
    use crate::llvm::testing::sim::{run_block_for, words};
    use llmc_artifact::DType;

    const COLUMNS: u32 = 72;
    const DEPTH: u32 = 64;

    /// Small whole numbers, exact in every type.
    fn number(i: u32, j: u32) -> f32 {
        ((i * 5 + j * 3) % 7) as f32 - 3.0
    }

    fn halves(dtype: DType, count: u32, x: impl Fn(u32) -> f32) -> Vec<u8> {
        let one = |x: f32| match dtype {
            DType::F16 => half::f16::from_f32(x).to_le_bytes(),
            _ => half::bf16::from_f32(x).to_le_bytes(),
        };
        (0..count).flat_map(|i| one(x(i))).collect()
    }

    /// `A [64, 64]` in registers times `B [72, 64]`, or `B [64, 128]` whose columns lie side by side, brought by bulk copies of a
    /// row each into unswizzled places, then put in turns by the threads.
    #[test]
    fn four_warps_multiply_what_bulk_copies_bring() {
        for (dtype, kind, side) in
            [(DType::F16, Mma::F16, false), (DType::BF16, Mma::BF16, false), (DType::BF16, Mma::BF16, true)]
        {
            let columns = if side { 128 } else { COLUMNS };
            let a = halves(dtype, 64 * DEPTH, |i| number(i / DEPTH, i % DEPTH));
            let b = halves(dtype, columns * DEPTH, |i| match side {
                false => number(i / DEPTH + 3, i % DEPTH),
                true => number(i % columns + 3, i / columns),
            });
            let bytes = columns * DEPTH * 2;
            let out = vec![0; 4 * 64 * columns as usize];
            let (out, counters) = run_block_for("sm_90a", (128, 2 * bytes + 16), &[a, b, out], |e, p| {
                let (shared, thread) = (e.shared_memory(), e.thread_index32());
                e.align_shared_memory(TURNS);
                let at = |bytes: u32| e.offset(shared, e.int(bytes as i64));
                let (turned, mbarrier) = (at(bytes), at(2 * bytes));
                e.when(e.compare(Cmp::Eq, thread, e.int32(0)), || {
                    e.mbarrier(mbarrier, 1);
                    e.show_mbarriers();
                    e.arrive_expecting(mbarrier, e.int32(bytes as i32));
                    e.copy_bulk(shared, p[1], e.int32(bytes as i32), mbarrier);
                });
                e.barrier();
                e.wait_phase(mbarrier, e.int32(0));
                // Chunk c of a line of the image goes to its turn; lines of columns come in halves of 64.
                e.for_each(e.thread_index(), e.int((bytes / CHUNK) as i64), 128, &[], |i, _| {
                    let v = e.load_chunk(e.offset(shared, e.mul(i, e.int(CHUNK as i64))));
                    let (row, chunk) = match side {
                        false => (e.lshr(i, e.int(3)), e.and(i, e.int(7))),
                        true => {
                            let half = e.and(e.lshr(i, e.int(3)), e.int(1));
                            (e.add(e.lshr(i, e.int(4)), e.mul(half, e.int(DEPTH as i64))), e.and(i, e.int(7)))
                        }
                    };
                    let place = e.add(e.mul(row, e.int(8)), e.swizzled(row, chunk, 8));
                    e.store_chunk(e.offset(turned, e.mul(place, e.int(CHUNK as i64))), v);
                    Vec::new()
                });
                e.show_to_units();
                e.barrier();
                let lane = e.zext(e.lane_index(), Ty::I64);
                let (g, t) = (e.lshr(lane, e.int(2)), e.and(lane, e.int(3)));
                let row = e.add(e.mul(e.zext(e.warp_index(), Ty::I64), e.int(16)), g);
                let pairs: Vec<_> = (0..DEPTH as i64 / 16)
                    .map(|s| {
                        let word = |below: i64, from: i64| {
                            let row = e.mul(e.add(row, e.int(below)), e.int(DEPTH as i64 / 2));
                            e.load(Ty::I32, 1, e.element(p[0], Ty::I32, e.add(e.add(row, t), e.int(8 * s + from))))
                        };
                        let b = match side {
                            false => e.describe_rows(turned, Turns::Of128).further(32 * s as u64),
                            true => {
                                let all = e.describe_columns(turned, Turns::Of128, DEPTH * SPAN);
                                all.further(16 * s as u64 * SPAN as u64)
                            }
                        };
                        (GroupLeft::Registers([word(0, 0), word(8, 0), word(0, 4), word(8, 4)]), b)
                    })
                    .collect();
                let product = GroupProduct { kind, columns, columns_side_by_side: side };
                let zero = vec![e.f32(0.0); columns as usize / 2];
                let once = e.multiply_group(product, &zero, &pairs);
                let d = e.multiply_group(product, &once, &pairs);
                for (i, d) in d.into_iter().enumerate() {
                    let (i, column) = (i as i64, e.mul(t, e.int(2)));
                    let row = e.mul(e.add(row, e.int(i / 2 % 2 * 8)), e.int(columns as i64));
                    let at = e.add(e.add(row, column), e.int(i / 4 * 8 + i % 2));
                    e.store(e.element(p[2], Ty::F32, at), d);
                }
            });
            assert_eq!(counters.async_bytes, bytes as u64);
            assert_eq!(counters.matrix_flops, 2 * 2 * (64 * columns * DEPTH) as u64);
            let want = |i: u32| (0..DEPTH).map(|k| number(i / columns, k) * number(i % columns + 3, k)).sum::<f32>();
            let want: Vec<u32> = (0..64 * columns).map(|i| (2.0 * want(i)).to_bits()).collect();
            assert_eq!(words(&out[2]), want, "{dtype:?}, columns side by side: {side}");
        }
    }
}
