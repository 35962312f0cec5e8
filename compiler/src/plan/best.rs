//! The greatest values of every row of an output, found where the output is, so that a sampler that needs only the best
//! need not have all of them copied.
//!
//! What enters is a laid-out plan; what leaves is the plan with [`Best`] entries and the kernels they launch. An output
//! over the tokens of a sequence that grows, with one more axis, has them; its name and meaning play no part. The axis is
//! cut into parts that are searched side by side, then the parts' winners are searched. Both searches prefer the lower
//! place among equals, parts lie in order, and the winners of a part in the order of the search, so that the whole
//! prefers it too.

use crate::cost::Role;
use crate::kernel::{
    AxisRef, Body, Expr, ExprRef, Exprs, KernelAxis, KernelExtent, KernelSpec, Operand, OperandRef, Store, TopK,
};
use llmc_artifact::plan::{Arg, Best, Buffer, Launch, Plan, Storage};
use llmc_artifact::{Dim, Format, ScalarOp, SeqId, Type, Value};

/// How many of the greatest values can be asked for: the greatest alone, and as many as samplers usually keep.
const COUNTS: [u64; 2] = [1, 40];
/// The most elements of a part.
const PART: u64 = 1024;
/// Parts of this many elements, or a multiple, are preferred.
const WHOLE: u64 = 128;

/// Adds the searches for every output that can have them.
pub fn add(plan: &mut Plan, kernels: &mut Vec<KernelSpec>) {
    for output in 0..plan.outputs.len() {
        let Some(shape) = Shape::of(plan, output) else { continue };
        let mut counts = COUNTS.map(|count| count.min(shape.length)).to_vec();
        counts.dedup();
        for count in counts {
            let best = Search { shape, output, count, part: part_length(shape.length) }.add(plan, kernels);
            plan.best.push(best);
        }
    }
}

/// An output as a search sees it.
#[derive(Clone, Copy)]
struct Shape {
    /// Its buffer.
    buffer: u32,
    /// The length of its axis of tokens.
    rows: Dim,
    /// The same as an axis.
    extent: KernelExtent,
    /// The length of the other axis.
    length: u64,
}

impl Shape {
    fn of(plan: &Plan, output: usize) -> Option<Shape> {
        let buffer = plan.outputs[output].buffer;
        let &[rows, Dim::Const(length)] = plan.buffers[buffer as usize].dims.as_slice() else { return None };
        let grows = |s: SeqId| plan.seqs[s.0 as usize].appendable.is_ok() && length > 0;
        let extent = match rows {
            Dim::Picked(s) if grows(s) => KernelExtent::Picked(s),
            Dim::Rows(s) if grows(s) => KernelExtent::Rows(s),
            Dim::Picked(_) | Dim::Rows(_) => return None,
            Dim::Const(_)
            | Dim::Blocks(_)
            | Dim::Tokens(_)
            | Dim::Pages(_)
            | Dim::Sequences
            | Dim::Parts(..)
            | Dim::Tiles(..) => return None,
        };
        Some(Shape { buffer, rows, extent, length })
    }
}

/// Elements of a part: all of a short axis, else what cuts it evenly, else what leaves the last part shorter.
fn part_length(length: u64) -> u64 {
    if length <= PART {
        return length;
    }
    let even = (1..=PART / WHOLE).rev().map(|n| n * WHOLE).find(|n| length.is_multiple_of(*n));
    even.unwrap_or(PART / 2)
}

/// One search.
struct Search {
    shape: Shape,
    output: usize,
    count: u64,
    part: u64,
}

impl Search {
    fn parts(&self) -> u64 {
        self.shape.length.div_ceil(self.part)
    }

    /// Winners of all parts.
    fn candidates(&self) -> u64 {
        self.parts() * self.count
    }

    fn add(&self, plan: &mut Plan, kernels: &mut Vec<KernelSpec>) -> Best {
        let mut buffer = |what: &str, format, length| {
            let name = format!("{} of the best {}: {what}", plan.outputs[self.output].name, self.count);
            let slot = plan.buffers.iter().map(|b| b.slot + 1).max().unwrap_or(0);
            plan.buffers.push(Buffer { name, format, dims: vec![self.shape.rows, Dim::Const(length)], slot });
            plan.buffers.len() as u32 - 1
        };
        let all = self.candidates();
        let within = buffer("places in parts", Format::I32, all);
        let (at, value) = (buffer("candidates", Format::I32, all), buffer("their values", Format::F32, all));
        let chosen = buffer("chosen", Format::I32, self.count);
        let (places, values) = (buffer("places", Format::I32, self.count), buffer("values", Format::F32, self.count));
        let logits = self.shape.buffer;
        let mut launch = |spec: KernelSpec, args: &[u32]| {
            kernels.push(spec);
            Launch { kernel: kernels.len() as u32 - 1, args: args.iter().map(|b| Arg::Buffer(*b)).collect() }
        };
        let launches = vec![
            launch(self.search_parts(), &[logits, within]),
            launch(self.candidates_of_parts(), &[logits, within, at, value]),
            launch(self.search_candidates(), &[value, chosen]),
            launch(self.winners(), &[logits, at, chosen, places, values]),
        ];
        Best { output: self.output as u32, count: self.count as u32, launches, places, values }
    }

    fn draft(&self, what: &str) -> Draft {
        let name = format!("best_{}_{}_{what}", self.output, self.count);
        let mut draft =
            Draft { name, axes: Vec::new(), operands: Vec::new(), exprs: Exprs::default(), rows: self.shape.rows };
        draft.axes.push(KernelAxis { name: "row".into(), extent: self.shape.extent });
        draft
    }

    /// The value at a place, as it is ordered: NaN like minus infinity. Beyond the end NaN, which a search takes last.
    fn ordered(&self, d: &mut Draft, logits: OperandRef, at: ExprRef) -> ExprRef {
        let (end, last) = (d.int(self.shape.length), d.int(self.shape.length - 1));
        let whole = self.shape.length.is_multiple_of(self.part);
        let there = if whole { at } else { d.map(ScalarOp::Min, [at, last], Type::Int) };
        let value = d.load(logits, there, Type::Real);
        let least = d.real(f64::NEG_INFINITY);
        let value = d.map(ScalarOp::Max, [value, least], Type::Real);
        if whole {
            return value;
        }
        let (inside, none) = (d.map(ScalarOp::Lt, [at, end], Type::Bool), d.real(f64::NAN));
        d.map(ScalarOp::Where, [inside, value, none], Type::Real)
    }

    fn search_parts(&self) -> KernelSpec {
        let mut d = self.draft("parts");
        let (part, axis) = (d.axis("part", self.parts()), d.axis("within", self.part));
        let rank = d.axis("rank", self.count);
        let (logits, to) =
            (d.read("values", Format::F32, self.shape.length), d.write("within", Format::I32, self.candidates()));
        let (first, offset) = (d.scaled(part, self.part), d.at(axis));
        let at = d.map(ScalarOp::Add, [first, offset], Type::Int);
        let value = self.ordered(&mut d, logits, at);
        let (first, offset) = (d.scaled(part, self.count), d.at(rank));
        let place = d.map(ScalarOp::Add, [first, offset], Type::Int);
        let index = vec![d.row(), place];
        d.finish(Body::TopK(TopK { parallel: vec![ROW, part], axis, rank, value, operand: to, index }))
    }

    fn candidates_of_parts(&self) -> KernelSpec {
        let mut d = self.draft("candidates");
        let axis = d.axis("candidate", self.candidates());
        let logits = d.read("values", Format::F32, self.shape.length);
        let within = d.read("within", Format::I32, self.candidates());
        let places = d.write("candidates", Format::I32, self.candidates());
        let values = d.write("candidate_values", Format::F32, self.candidates());
        let (here, count, part) = (d.at(axis), d.int(self.count), d.int(self.part));
        let number = d.map(ScalarOp::FloorDiv, [here, count], Type::Int);
        let first = d.map(ScalarOp::Mul, [number, part], Type::Int);
        let offset = d.load(within, here, Type::Int);
        let at = d.map(ScalarOp::Add, [first, offset], Type::Int);
        let value = self.ordered(&mut d, logits, at);
        let index = vec![d.row(), here];
        let stores =
            vec![Store { operand: places, index: index.clone(), value: at }, Store { operand: values, index, value }];
        d.finish(Body::Map { axes: vec![ROW, axis], stores })
    }

    fn search_candidates(&self) -> KernelSpec {
        let mut d = self.draft("choose");
        let (axis, rank) = (d.axis("candidate", self.candidates()), d.axis("rank", self.count));
        let values = d.read("candidate_values", Format::F32, self.candidates());
        let to = d.write("chosen", Format::I32, self.count);
        let here = d.at(axis);
        let value = d.load(values, here, Type::Real);
        let index = vec![d.row(), d.at(rank)];
        d.finish(Body::TopK(TopK { parallel: vec![ROW], axis, rank, value, operand: to, index }))
    }

    fn winners(&self) -> KernelSpec {
        let mut d = self.draft("winners");
        let rank = d.axis("rank", self.count);
        let logits = d.read("values", Format::F32, self.shape.length);
        let candidates = d.read("candidates", Format::I32, self.candidates());
        let chosen = d.read("chosen", Format::I32, self.count);
        let places = d.write("places", Format::I32, self.count);
        let values = d.write("best_values", Format::F32, self.count);
        let here = d.at(rank);
        let candidate = d.load(chosen, here, Type::Int);
        let place = d.load(candidates, candidate, Type::Int);
        let value = d.load(logits, place, Type::Real);
        let index = vec![d.row(), here];
        let stores = vec![
            Store { operand: places, index: index.clone(), value: place },
            Store { operand: values, index, value },
        ];
        d.finish(Body::Map { axes: vec![ROW, rank], stores })
    }
}

/// The axis of tokens, the first of every kernel here.
const ROW: AxisRef = AxisRef(0);

/// A kernel being written.
struct Draft {
    name: String,
    axes: Vec<KernelAxis>,
    operands: Vec<Operand>,
    exprs: Exprs,
    rows: Dim,
}

impl Draft {
    fn axis(&mut self, name: &str, length: u64) -> AxisRef {
        self.axes.push(KernelAxis { name: name.into(), extent: KernelExtent::Const(length) });
        AxisRef(self.axes.len() as u16 - 1)
    }

    fn operand(&mut self, name: &str, write: bool, format: Format, length: u64) -> OperandRef {
        let storage = Storage::Dense { dims: vec![self.rows, Dim::Const(length)] };
        self.operands.push(Operand { name: name.into(), write, format, storage });
        OperandRef(self.operands.len() as u16 - 1)
    }

    fn read(&mut self, name: &str, format: Format, length: u64) -> OperandRef {
        self.operand(name, false, format, length)
    }

    fn write(&mut self, name: &str, format: Format, length: u64) -> OperandRef {
        self.operand(name, true, format, length)
    }

    fn int(&mut self, n: u64) -> ExprRef {
        self.exprs.add(Expr::Const(Value::Int(n as i64)), Type::Int)
    }

    fn real(&mut self, x: f64) -> ExprRef {
        self.exprs.add(Expr::Const(Value::Real(x)), Type::Real)
    }

    fn at(&mut self, axis: AxisRef) -> ExprRef {
        self.exprs.add(Expr::Axis(axis), Type::Int)
    }

    fn row(&mut self) -> ExprRef {
        self.at(ROW)
    }

    fn scaled(&mut self, axis: AxisRef, by: u64) -> ExprRef {
        let (at, by) = (self.at(axis), self.int(by));
        self.map(ScalarOp::Mul, [at, by], Type::Int)
    }

    fn map<const N: usize>(&mut self, op: ScalarOp, args: [ExprRef; N], ty: Type) -> ExprRef {
        self.exprs.add(Expr::Map(op, args.to_vec()), ty)
    }

    /// An element of this row.
    fn load(&mut self, operand: OperandRef, at: ExprRef, ty: Type) -> ExprRef {
        let index = vec![self.row(), at];
        self.exprs.add(Expr::Load { operand, index }, ty)
    }

    fn finish(self, body: Body) -> KernelSpec {
        let Draft { name, axes, operands, exprs, .. } = self;
        KernelSpec { name, role: Role::Prefill, axes, operands, exprs, body }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::interpret::{Memory, interpret};
    use crate::kernel::verify;
    use crate::llvm::testing::check_kernels;
    use llmc_artifact::plan::{PlanOutput, Sequence};
    use std::collections::BTreeMap;

    const T: SeqId = SeqId(0);

    fn plan_of(length: u64) -> Plan {
        let dims = vec![Dim::Picked(T), Dim::Const(length)];
        Plan {
            seqs: vec![Sequence { name: "t".into(), bound: None, appendable: Ok(()) }],
            outputs: vec![PlanOutput { name: "y".into(), buffer: 0 }],
            buffers: vec![Buffer { name: "y".into(), format: Format::F32, dims, slot: 0 }],
            ..Plan::default()
        }
    }

    /// What the order says: greater first, NaN like minus infinity, the lower place of equals.
    fn sorted(row: &[f32], count: usize) -> Vec<i32> {
        let key = |i: &usize| if row[*i].is_nan() { f32::NEG_INFINITY } else { row[*i] + 0.0 };
        let mut all: Vec<usize> = (0..row.len()).collect();
        all.sort_by(|a, b| key(b).total_cmp(&key(a)).then(a.cmp(b)));
        all.into_iter().take(count).map(|i| i as i32).collect()
    }

    /// Rows with ties within and across parts, infinities, NaN and both zeros.
    fn rows(length: usize) -> Vec<Vec<f32>> {
        let odd = [f32::NAN, f32::NEG_INFINITY, f32::INFINITY, -0.0, 0.0, 3.0, 3.0, -7.5];
        let mixed = (0..length).map(|i| odd[i * 31 % 8 * (i % 3) % 8]).collect();
        let few = (0..length).map(|i| ((i * 7919) % 13) as f32 - 6.0).collect();
        let rising = (0..length).map(|i| i as f32 * 0.5 - 100.0).collect();
        let mut hidden = vec![f32::NAN; length];
        hidden[length - 1] = f32::NEG_INFINITY;
        vec![mixed, few, rising, hidden, vec![f32::NAN; length]]
    }

    #[test]
    fn winners_are_those_of_the_order_whatever_the_length() {
        for length in [1u64, 2, 39, 64, 1024, 1025, 1200, 2048, 5000] {
            let (mut plan, mut kernels) = (plan_of(length), Vec::new());
            add(&mut plan, &mut kernels);
            let counts: Vec<_> = plan.best.iter().map(|b| b.count as u64).collect();
            assert_eq!(counts, if length == 1 { vec![1] } else { vec![1, 40.min(length)] });
            let rows = rows(length as usize);
            let mut cases = Vec::new();
            for best in &plan.best {
                let mut bytes: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
                bytes.insert(0, rows.iter().flatten().flat_map(|x| x.to_le_bytes()).collect());
                for launch in &best.launches {
                    let spec = verify(kernels[launch.kernel as usize].clone()).unwrap_or_else(|e| panic!("{e}"));
                    let buffer = |a: &Arg| if let Arg::Buffer(b) = a { *b } else { panic!("buffers only") };
                    let of = |b: u32| {
                        let dims = &plan.buffers[b as usize].dims;
                        let size = 4 * rows.len() * dims[1].as_const().expect("constant") as usize;
                        bytes.get(&b).cloned().unwrap_or_else(|| vec![0; size])
                    };
                    let mut memory = Memory {
                        operands: launch.args.iter().map(|a| of(buffer(a))).collect(),
                        dims: BTreeMap::from([(Dim::Picked(T), rows.len() as u64)]),
                        tables: BTreeMap::from([(llmc_artifact::plan::Table::Picked(T), vec![0, 1, 2, 3, 4])]),
                    };
                    cases.push((spec.clone(), memory.clone()));
                    interpret(&spec, &mut memory);
                    launch.args.iter().zip(memory.operands).for_each(|(a, m)| drop(bytes.insert(buffer(a), m)));
                }
                let found: Vec<i32> =
                    bytes[&best.places].chunks(4).map(|b| i32::from_le_bytes(b.try_into().expect("four"))).collect();
                let want: Vec<i32> = rows.iter().flat_map(|r| sorted(r, best.count as usize)).collect();
                assert_eq!(found, want, "{} of {length}", best.count);
                let values = bytes[&best.values].chunks(4).map(|b| u32::from_le_bytes(b.try_into().expect("four")));
                let count = best.count as usize;
                let there = want.iter().enumerate().map(|(i, at)| rows[i / count][*at as usize].to_bits());
                assert!(values.eq(there), "{count} of {length}: other values");
            }
            check_kernels(&cases, 0.0);
        }
    }

    #[test]
    fn only_rows_of_a_sequence_that_grows_are_searched() {
        let count = |change: fn(&mut Plan)| {
            let (mut plan, mut kernels) = (plan_of(100), Vec::new());
            change(&mut plan);
            add(&mut plan, &mut kernels);
            plan.best.len()
        };
        assert_eq!(count(|_| ()), 2);
        assert_eq!(count(|p| p.buffers[0].dims[0] = Dim::Rows(T)), 2);
        assert_eq!(count(|p| p.buffers[0].dims[0] = Dim::Sequences), 0);
        assert_eq!(count(|p| p.buffers[0].dims.truncate(1)), 0);
        assert_eq!(count(|p| p.buffers[0].dims.push(Dim::Const(3))), 0);
        assert_eq!(count(|p| p.seqs[0].appendable = Err("it sees ahead".into())), 0);
    }

    #[test]
    fn long_axes_are_cut_evenly_where_they_can_be() {
        let cuts = [64u64, 1024, 49_152, 128_256, 32_000, 50_257].map(|n| (n, part_length(n)));
        assert_eq!(cuts, [(64, 64), (1024, 1024), (49_152, 1024), (128_256, 768), (32_000, 640), (50_257, 512)]);
    }
}
