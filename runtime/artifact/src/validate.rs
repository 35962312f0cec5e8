//! Whether a plan is whole: every index in range, every size sensible, every target the same kernels.
//!
//! A plan is read from a file, so nothing about it is known. After [`Plan::validate`] the runtime indexes freely and
//! computes sizes that do not depend on a step without asking again. What code does with its operands is not
//! checked: an artifact is a program.

use crate::dim::{Dim, SeqId};
use crate::dtype::Type;
use crate::error::{ArtifactCode, ArtifactError};
use crate::format::Format;
use crate::plan::{
    Arg, Best, Buffer, Cache, KernelInfo, Launch, PAGE_TOKENS, PackedWeight, PageDim, Plan, PlanInput, PlanOutput,
    Storage, TargetCode,
};
use crate::scalar::Value;
use std::fmt::Display;

/// The most bytes that one weight, one page or one row of a buffer may have: sums of them cannot overflow.
const MAX_BYTES: u64 = 1 << 44;
/// The most bytes of scratch memory that one worker or thread block may ask for.
const MAX_SCRATCH: u64 = 1 << 30;
/// The most threads of a block.
const MAX_THREADS: u32 = 1024;

type Checked = Result<(), ArtifactError>;

fn check(holds: bool, part: impl Display, found: impl Display, expected: impl Display) -> Checked {
    if holds { Ok(()) } else { Err(ArtifactError::new(ArtifactCode::InvalidPlan, part, found, expected)) }
}

fn check_index(index: u32, len: usize, part: impl Display, what: &str) -> Checked {
    check((index as usize) < len, part, format_args!("{what} {index}"), format_args!("one of the {len} of the plan"))
}

impl Plan {
    /// Whether the plan and the targets' kernels fit together; see the module's head.
    ///
    /// # Errors
    /// [`ArtifactCode::InvalidPlan`] with the first part that does not fit.
    pub fn validate(&self, targets: &[TargetCode]) -> Checked {
        check(
            !self.seqs.is_empty() && self.seqs.len() <= u8::MAX as usize,
            "sequences",
            self.seqs.len(),
            "between 1 and 255",
        )?;
        self.buffers.iter().try_for_each(|b| self.check_buffer(b))?;
        self.weights.iter().try_for_each(check_weight)?;
        let total = self.weights.iter().try_fold(0u64, |n, w| n.checked_add(w.bytes()));
        check(total.is_some_and(|n| n <= MAX_BYTES), "weights", "more bytes than any memory has", "fewer")?;
        self.caches.iter().try_for_each(|c| self.check_cache(c))?;
        self.inputs.iter().try_for_each(|i| self.check_input(i))?;
        self.outputs.iter().try_for_each(|o| self.check_output(o))?;
        targets.iter().try_for_each(|t| self.check_target(t))?;
        let kernels = targets.first().map(|t| t.kernels.as_slice());
        for (role, plan) in [("prefill", &self.prefill), ("decode", &self.decode)] {
            self.check_launches(role, &plan.launches, kernels)?;
        }
        for (at, best) in self.best.iter().enumerate() {
            let part = format!("search {at}");
            self.check_best(best, &part)?;
            self.check_launches(&part, &best.launches, kernels)?;
        }
        targets.iter().try_for_each(|t| check_same_kernels(t, kernels.unwrap_or(&[])))
    }

    fn check_seq(&self, seq: SeqId, part: impl Display) -> Checked {
        check_index(seq.0 as u32, self.seqs.len(), part, "sequence")
    }

    fn check_dim(&self, dim: Dim, part: impl Display) -> Checked {
        match dim {
            Dim::Const(n) => check(n <= MAX_BYTES, part, n, "a length that memory can hold"),
            Dim::Rows(s) | Dim::Picked(s) | Dim::Blocks(s) | Dim::Tokens(s) | Dim::Pages(s) => self.check_seq(s, part),
            Dim::Sequences => Ok(()),
            Dim::Parts(s, n) => {
                check(n > 0, &part, "parts of no token", "at least one")?;
                self.check_seq(s, part)
            }
            Dim::Tiles(s, each, n) => {
                check(each > 0 && n > 0, &part, "tiles of no row", "at least one")?;
                self.check_seq(s, part)
            }
        }
    }

    fn check_buffer(&self, b: &Buffer) -> Checked {
        let part = format!("buffer `{}`", b.name);
        b.dims.iter().try_for_each(|d| self.check_dim(*d, &part))?;
        check_blocks(b.format, b.dims.last().and_then(|d| d.as_const()), &part)?;
        let row = Storage::Dense { dims: b.dims.clone() }.bytes(b.format, |d| d.as_const().unwrap_or(1));
        // A block format's constant last dimension makes any other number of rows whole blocks too.
        check_size(row, &part)?;
        check((b.slot as usize) < self.buffers.len(), &part, format_args!("slot {}", b.slot), "at most one a buffer")
    }

    fn check_cache(&self, c: &Cache) -> Checked {
        let part = format!("cache `{}`", c.name);
        let Storage::Paged { seq, page } = &c.storage else {
            return check(false, &part, "a storage without pages", "pages");
        };
        self.check_seq(*seq, &part)?;
        check(c.window != Some(0), &part, "a window of no tokens", "at least 1")?;
        let innermost = page.last().map(|d| d.length());
        check_blocks(c.format, innermost, &part)?;
        check_size(c.storage.bytes(c.format, |d| d.as_const().unwrap_or(1)), &part)?;
        let mut slots: Vec<(u32, u32)> = Vec::new();
        for d in page {
            if let PageDim::Slot { count, step } = d {
                slots.push((*step, *count));
            }
        }
        slots.sort_unstable();
        let covered = slots.iter().try_fold(1u32, |n, (step, count)| (*step == n).then(|| n.checked_mul(*count))?);
        check(
            covered == Some(PAGE_TOKENS),
            &part,
            format_args!("slots {slots:?} (step, count)"),
            format_args!("each of {PAGE_TOKENS} tokens in a place of its own"),
        )
    }

    fn check_input(&self, i: &PlanInput) -> Checked {
        let part = format!("input `{}`", i.name);
        check_index(i.buffer, self.buffers.len(), &part, "buffer")?;
        let b = &self.buffers[i.buffer as usize];
        let format = match i.ty {
            Type::Real => Format::F32,
            Type::Int | Type::Bool => Format::I32,
        };
        check(b.format == format, &part, b.format, format_args!("{format} for {}", i.ty))?;
        let (first, rest) = (b.dims.first(), b.dims.get(1..).unwrap_or(&[]));
        let shaped = matches!(first, None | Some(Dim::Const(_) | Dim::Rows(_))) && all_const(rest);
        check(shaped, &part, dims_text(&b.dims), "constant dimensions, after a sequence's rows if over tokens")?;
        if let Some(bound) = i.bound {
            check(bound <= i32::MAX as u64 + 1, &part, format_args!("bound {bound}"), "a 32-bit integer")?;
        }
        let Some(default) = i.default else { return Ok(()) };
        check(default.ty() == i.ty, &part, format_args!("a default of type {}", default.ty()), i.ty)?;
        match default {
            Value::Int(n) => {
                let inside = i32::try_from(n).is_ok() && i.bound.is_none_or(|b| (0..b as i64).contains(&n));
                check(inside, &part, format_args!("default {n}"), "a value in the input's bounds")
            }
            Value::Real(_) | Value::Bool(_) => Ok(()),
        }
    }

    fn check_output(&self, o: &PlanOutput) -> Checked {
        let part = format!("output `{}`", o.name);
        check_index(o.buffer, self.buffers.len(), &part, "buffer")?;
        let b = &self.buffers[o.buffer as usize];
        check(b.format == Format::F32, &part, b.format, Format::F32)?;
        let (first, rest) = (b.dims.first(), b.dims.get(1..).unwrap_or(&[]));
        let first = matches!(first, None | Some(Dim::Const(_) | Dim::Picked(_) | Dim::Rows(_) | Dim::Sequences));
        let wanted = "constant dimensions, after a sequence's rows if over tokens, or after the sequences";
        check(first && all_const(rest), &part, dims_text(&b.dims), wanted)
    }

    fn check_target(&self, t: &TargetCode) -> Checked {
        for k in &t.kernels {
            let part = format!("kernel `{}` of {}", k.symbol, t.target);
            let symbol = k.symbol.bytes().all(|c| c.is_ascii_alphanumeric() || b"_$.".contains(&c));
            check(symbol && !k.symbol.is_empty(), &part, "a name", "one that an assembler takes")?;
            k.dims.iter().chain(&k.items).try_for_each(|d| self.check_dim(*d, &part))?;
            let unknown = k.items.iter().find(|d| d.as_const().is_none() && !k.dims.contains(&d.base()));
            check(unknown.is_none(), &part, "work items by a length that it does not ask for", "one of its lengths")?;
            k.tables.iter().try_for_each(|table| self.check_seq(table.seq(), &part))?;
            check(k.scratch <= MAX_SCRATCH, &part, format_args!("{} bytes of scratch", k.scratch), MAX_SCRATCH)?;
            check((1..=MAX_THREADS).contains(&k.threads), &part, format_args!("{} threads", k.threads), "1 to 1024")?;
            k.tensor_maps.iter().try_for_each(|tensor| {
                check_index(tensor.operand, k.operands as usize, &part, "a tensor of operand")?;
                tensor.fault().map_or(Ok(()), |(found, expected)| check(false, &part, found, expected))
            })?;
        }
        Ok(())
    }

    fn check_best(&self, best: &Best, part: &str) -> Checked {
        check_index(best.output, self.outputs.len(), part, "output")?;
        let output = &self.buffers[self.outputs[best.output as usize].buffer as usize];
        let rows = match output.dims.as_slice() {
            [rows @ (Dim::Picked(_) | Dim::Rows(_)), Dim::Const(n)] if *n >= best.count as u64 => *rows,
            _ => return check(false, part, dims_text(&output.dims), "rows of a sequence with as many values or more"),
        };
        for (buffer, format) in [(best.places, Format::I32), (best.values, Format::F32)] {
            check_index(buffer, self.buffers.len(), part, "buffer")?;
            let b = &self.buffers[buffer as usize];
            let dims = [rows, Dim::Const(best.count as u64)];
            let found = format!("{} {}", b.format, dims_text(&b.dims));
            check(b.format == format && b.dims == dims, part, found, format_args!("{format} {}", dims_text(&dims)))?;
        }
        Ok(())
    }

    fn check_launches(&self, role: &str, launches: &[Launch], kernels: Option<&[KernelInfo]>) -> Checked {
        for (at, launch) in launches.iter().enumerate() {
            let part = format!("launch {at} of {role}");
            if let Some(kernels) = kernels {
                check_index(launch.kernel, kernels.len(), &part, "kernel")?;
                let want = kernels[launch.kernel as usize].operands as usize;
                check(launch.args.len() == want, &part, format_args!("{} operands", launch.args.len()), want)?;
            }
            launch.args.iter().try_for_each(|arg| match *arg {
                Arg::Buffer(i) => check_index(i, self.buffers.len(), &part, "buffer"),
                Arg::Weight(i) => check_index(i, self.weights.len(), &part, "weight"),
                Arg::Cache(i) => check_index(i, self.caches.len(), &part, "cache"),
            })?;
        }
        Ok(())
    }
}

fn check_weight(w: &PackedWeight) -> Checked {
    let part = format!("weight `{}`", w.name);
    match &w.storage {
        Storage::Dense { dims } => {
            check(all_const(dims), &part, dims_text(dims), "lengths that no step changes")?;
            check_blocks(w.format, dims.last().and_then(|d| d.as_const()), &part)?;
        }
        Storage::Panel { reduce, .. } => check_blocks(w.format, Some(*reduce), &part)?,
        Storage::Paged { .. } | Storage::Workspace { .. } => check(false, &part, "pages", "dense or panels")?,
    }
    check_size(w.storage.bytes(w.format, |d| d.as_const().unwrap_or(1)), &part)
}

fn check_same_kernels(t: &TargetCode, first: &[KernelInfo]) -> Checked {
    let part = format!("target {}", t.target);
    check(t.kernels.len() == first.len(), &part, format_args!("{} kernels", t.kernels.len()), first.len())?;
    for (k, f) in t.kernels.iter().zip(first) {
        let part = format!("kernel `{}` of {}", k.symbol, t.target);
        check(k.operands == f.operands, &part, format_args!("{} operands", k.operands), f.operands)?;
    }
    Ok(())
}

/// A block format needs whole blocks along a constant innermost dimension.
fn check_blocks(format: Format, innermost: Option<u64>, part: &str) -> Checked {
    let block = format.block() as u64;
    let whole = block == 1 || innermost.is_some_and(|n| n.is_multiple_of(block));
    let found = innermost.map_or_else(|| "a length known only in a step".to_string(), |n| n.to_string());
    check(whole, part, format_args!("innermost dimension {found}"), format_args!("whole {format} blocks of {block}"))
}

fn check_size(bytes: Option<u64>, part: &str) -> Checked {
    check(bytes.is_some_and(|b| b <= MAX_BYTES), part, "a size that no memory has", "a smaller one")
}

fn all_const(dims: &[Dim]) -> bool {
    dims.iter().all(|d| d.as_const().is_some())
}

fn dims_text(dims: &[Dim]) -> String {
    let parts: Vec<String> = dims.iter().map(Dim::to_string).collect();
    format!("[{}]", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::tests::sample;
    use crate::tensor::{TensorMap, Turns};

    /// Breaks the sample artifact, expects a refusal that names the part.
    fn refuses(part: &str, change: impl FnOnce(&mut Plan, &mut Vec<TargetCode>)) {
        let mut a = sample();
        change(&mut a.plan, &mut a.targets);
        let error = a.plan.validate(&a.targets).expect_err(part);
        assert_eq!(error.code, ArtifactCode::InvalidPlan);
        assert!(error.part.contains(part), "{error}");
    }

    #[test]
    fn the_sample_is_valid() {
        let a = sample();
        a.plan.validate(&a.targets).unwrap();
        a.plan.validate(&[]).unwrap();
    }

    #[test]
    fn indices_out_of_range_are_refused() {
        refuses("launch 0 of prefill", |p, _| p.prefill.launches[0].kernel = 7);
        refuses("launch 0 of decode", |p, _| p.decode.launches[0].args[0] = Arg::Weight(9));
        refuses("launch 0 of decode", |p, _| p.decode.launches[0].args[0] = Arg::Cache(9));
        refuses("launch 0 of decode", |p, _| p.decode.launches[0].args[0] = Arg::Buffer(9));
        refuses("launch 0 of prefill", |p, _| p.prefill.launches[0].args.truncate(1));
        refuses("input `tokens`", |p, _| p.inputs[0].buffer = 99);
        refuses("output `logits`", |p, _| p.outputs[0].buffer = 99);
        refuses("buffer `x`", |p, _| p.buffers[1].dims[0] = Dim::Rows(SeqId(3)));
        refuses("buffer `x`", |p, _| p.buffers[1].slot = 1000);
        refuses("kernel `k0`", |_, t| t[0].kernels[0].items = vec![Dim::Blocks(SeqId(1))]);
        refuses("kernel `k0`", |_, t| t[0].kernels[0].items = vec![Dim::Parts(SeqId(1), 64)]);
        refuses("buffer `x`", |p, _| p.buffers[1].dims[0] = Dim::Parts(SeqId(0), 0));
        refuses("kernel `k0`", |_, t| t[0].kernels[0].items = vec![Dim::Tiles(SeqId(1), 1, 64)]);
        refuses("kernel `k0`", |_, t| t[0].kernels[0].items = vec![Dim::Tiles(SeqId(0), 1, 0)]);
        refuses("sequences", |p, _| p.seqs.clear());
    }

    #[test]
    fn searches_must_be_of_an_output_s_rows() {
        let search = |change: fn(&mut Best)| {
            move |p: &mut Plan, _: &mut Vec<TargetCode>| {
                let output = p.outputs[0].buffer as usize;
                let dims = vec![p.buffers[output].dims[0], Dim::Const(1)];
                let first = p.buffers.len() as u32;
                for (name, format) in [("places", Format::I32), ("values", Format::F32)] {
                    p.buffers.push(Buffer { name: name.into(), format, dims: dims.clone(), slot: 0 });
                }
                let mut best = Best { output: 0, count: 1, launches: vec![], places: first, values: first + 1 };
                change(&mut best);
                p.best = vec![best];
            }
        };
        let mut a = sample();
        search(|_| ())(&mut a.plan, &mut a.targets);
        a.plan.validate(&a.targets).unwrap();
        refuses("search 0", search(|b| b.output = 9));
        refuses("search 0", search(|b| b.count = 2));
        refuses("search 0", search(|b| b.count = u32::MAX));
        refuses("search 0", search(|b| (b.places, b.values) = (b.values, b.places)));
        refuses("search 0", search(|b| b.places = 99));
        refuses("launch 0 of search 0", search(|b| b.launches = vec![Launch { kernel: 9, args: vec![] }]));
    }

    #[test]
    fn impossible_sizes_are_refused() {
        refuses("weight `w`", |p, _| p.weights[0].storage = Storage::Panel { rows: u64::MAX, reduce: 2 });
        refuses("weight `w`", |p, _| p.weights[0].storage = Storage::Dense { dims: vec![Dim::Rows(SeqId(0))] });
        refuses("buffer `x`", |p, _| p.buffers[1].dims.extend([Dim::Const(1 << 40), Dim::Const(1 << 40)]));
        refuses("buffer `x`", |p, _| p.buffers[1].format = Format::Act8);
        refuses("kernel `k0`", |_, t| t[0].kernels[0].scratch = u64::MAX);
        refuses("kernel `k0`", |_, t| t[0].kernels[0].threads = 0);
        let map = TensorMap { operand: 0, element: 2, sizes: vec![64], tile: vec![64, 8], turns: Turns::Of128 };
        let mut good = sample();
        good.targets[0].kernels[0].tensor_maps = vec![map.clone()];
        assert_eq!(good.plan.validate(&good.targets), Ok(()));
        refuses("kernel `k0`", |_, t| t[0].kernels[0].tensor_maps = vec![TensorMap { operand: 9, ..map.clone() }]);
        refuses("kernel `k0`", |_, t| t[0].kernels[0].tensor_maps = vec![TensorMap { sizes: vec![3], ..map.clone() }]);
        refuses("kernel `a b`", |_, t| t[0].kernels[0].symbol = "a b".into());
    }

    #[test]
    fn a_page_must_hold_every_token_once() {
        for page in [
            vec![PageDim::Slot { count: 32, step: 1 }],
            vec![PageDim::Slot { count: 8, step: 1 }, PageDim::Slot { count: 8, step: 1 }],
            vec![PageDim::Slot { count: 64, step: 0 }],
            vec![PageDim::Axis(64)],
        ] {
            refuses("cache `k`", |p, _| p.caches[0].storage = Storage::Paged { seq: SeqId(0), page });
        }
    }

    #[test]
    fn defaults_must_be_values_of_the_input() {
        refuses("input `tokens`", |p, _| p.inputs[0].default = Some(Value::Int(10)));
        refuses("input `tokens`", |p, _| p.inputs[0].default = Some(Value::Real(1.0)));
    }
}
