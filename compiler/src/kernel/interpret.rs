//! What a KernelSpec means, slowly: every point of every axis in turn, in f64.
//!
//! Compiled kernels answer to it in tests. It reads and writes the same bytes as they do, through the same tables, and
//! shares no code with them.

use super::{
    AxisRef, Body, Contract, Dot, Expr, ExprRef, KernelExtent, KernelSpec, OperandRef, ResultRef, Store, Stream, TopK,
    Visit,
};
use llmc_artifact::plan::{PAGE_TOKENS, PANEL_LANES, PageDim, Storage, Table};
use llmc_artifact::{DType, Dim, Format, SeqId, Type, Value};
use std::collections::BTreeMap;

/// What a launch binds: bytes per operand, entries per table, the step's lengths.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// One buffer per operand; a cache's is all of its pages.
    pub operands: Vec<Vec<u8>>,
    /// Entries of each table.
    pub tables: BTreeMap<Table, Vec<i32>>,
    /// Lengths of the step.
    pub dims: BTreeMap<Dim, u64>,
}

impl Memory {
    /// A length.
    pub fn dim(&self, dim: Dim) -> u64 {
        match dim {
            Dim::Const(n) => n,
            Dim::Tiles(..) => dim.at(self.dim(dim.base())),
            other => self.dims[&other],
        }
    }
}

/// Runs a kernel.
///
/// # Panics
/// When the spec is not well formed or a buffer is too small: the interpreter is for tests.
pub fn interpret(spec: &KernelSpec, memory: &mut Memory) {
    let mut run = Run { spec, memory, blocks: BTreeMap::new() };
    match &spec.body {
        Body::Map { axes, stores } => {
            for at in run.points(&Point::new(spec), axes) {
                run.store_all(stores, &at, &|r, _| panic!("map reads result {}", r.0));
            }
        }
        Body::Contract(c) => run.contract(c),
        Body::Stream(s) => run.stream(s),
        Body::TopK(t) => run.top_k(t),
    }
    run.write_blocks();
}

/// For every fold of a stream over keys, the first key of each block of so many that is visited, blocks at multiples.
pub fn visited(spec: &KernelSpec, memory: &mut Memory, block: i64) -> Vec<Vec<i64>> {
    let Body::Stream(s) = &spec.body else { return Vec::new() };
    let run = Run { spec, memory, blocks: BTreeMap::new() };
    let of_fold = |at: Point| {
        let range = run.range(s.over[0], &at);
        let bases = (range.start / block * block..range.end).step_by(block as usize);
        let seen = |base: &i64| {
            let keys = ((*base).max(range.start), (base + block).min(range.end) - 1);
            s.visit.is_none_or(|v| run.is_visited(&v, &at, keys))
        };
        bases.filter(seen).collect()
    };
    run.points(&Point::new(spec), &s.parallel).into_iter().map(of_fold).collect()
}

/// Where each axis stands.
#[derive(Clone, Debug)]
struct Point(Vec<Option<i64>>);

impl Point {
    fn new(spec: &KernelSpec) -> Point {
        Point(vec![None; spec.axes.len()])
    }

    fn at(&self, axis: AxisRef) -> i64 {
        self.0[axis.0 as usize].expect("an axis outside its loop")
    }

    fn with(&self, axis: AxisRef, i: i64) -> Point {
        let mut p = self.clone();
        p.0[axis.0 as usize] = Some(i);
        p
    }
}

type ResultOf<'a> = dyn Fn(ResultRef, &Point) -> Value + 'a;

struct Run<'a> {
    spec: &'a KernelSpec,
    memory: &'a mut Memory,
    /// Values stored to block formats, by element: quantised at the end.
    blocks: BTreeMap<usize, BTreeMap<usize, f32>>,
}

impl Run<'_> {
    fn table(&self, table: Table, i: i64) -> i64 {
        let entries = self.memory.tables.get(&table).unwrap_or_else(|| panic!("{table:?} is not bound"));
        entries[i as usize] as i64
    }

    fn seq(&self, axis: AxisRef) -> SeqId {
        match self.spec.axes[axis.0 as usize].extent {
            KernelExtent::Rows(s) | KernelExtent::Picked(s) | KernelExtent::Tokens(s) | KernelExtent::Sequences(s) => s,
            e => panic!("{e:?} has no tokens"),
        }
    }

    fn row(&self, axis: AxisRef, at: &Point) -> i64 {
        match self.spec.axes[axis.0 as usize].extent {
            KernelExtent::Picked(s) => self.table(Table::Picked(s), at.at(axis)),
            _ => at.at(axis),
        }
    }

    fn position(&self, axis: AxisRef, at: &Point) -> i64 {
        match self.spec.axes[axis.0 as usize].extent {
            KernelExtent::Tokens(s) => self.table(Table::TokenPositions(s), at.at(axis)),
            _ => self.table(Table::Positions(self.seq(axis)), self.row(axis, at)),
        }
    }

    fn sequence(&self, axis: AxisRef, at: &Point) -> i64 {
        match self.spec.axes[axis.0 as usize].extent {
            KernelExtent::Sequences(_) => at.at(axis),
            KernelExtent::Tokens(s) => self.table(Table::TokenSeq(s), at.at(axis)),
            _ => self.table(Table::RowSeq(self.seq(axis)), self.row(axis, at)),
        }
    }

    /// Indices that an axis runs over: of one that a fold takes in parts, those of the part.
    fn range(&self, axis: AxisRef, at: &Point) -> std::ops::Range<i64> {
        let whole = self.whole_range(axis, at);
        let Some((part, size)) = self.spec.cut(axis) else { return whole };
        let begin = at.at(part) * size as i64;
        whole.start.max(begin)..whole.end.min(begin + size as i64)
    }

    fn whole_range(&self, axis: AxisRef, at: &Point) -> std::ops::Range<i64> {
        match self.spec.axes[axis.0 as usize].extent {
            KernelExtent::Keys { seq, of, causal, window } => {
                let length = self.table(Table::Lengths(seq), self.sequence(of, at));
                let end = if causal { self.position(of, at) + 1 } else { length };
                let begin = window.map_or(0, |w| (self.position(of, at) + 1 - w as i64).max(0));
                begin..end
            }
            KernelExtent::Const(_)
            | KernelExtent::Rows(_)
            | KernelExtent::Picked(_)
            | KernelExtent::Tokens(_)
            | KernelExtent::Sequences(_) => 0..self.memory.dim(self.spec.dim(axis).expect("not keys")) as i64,
            KernelExtent::Parts { of, size } => {
                let (whole, size) = (self.whole_range(of, at), size as i64);
                whole.start / size..if whole.is_empty() { whole.start / size } else { (whole.end - 1) / size + 1 }
            }
        }
    }

    fn points(&self, from: &Point, axes: &[AxisRef]) -> Vec<Point> {
        let mut all = vec![from.clone()];
        for axis in axes {
            all = all.iter().flat_map(|p| self.range(*axis, p).map(|i| p.with(*axis, i))).collect();
        }
        all
    }

    /// The element's number, by the documentation of [`Storage`].
    fn element(&self, operand: OperandRef, index: &[ExprRef], at: &Point, results: &ResultOf) -> usize {
        let int = |e: ExprRef| self.int(e, at, results) as usize;
        match &self.spec.operands[operand.0 as usize].storage {
            Storage::Dense { dims } => dims.iter().zip(index).fold(0, |n, (d, i)| {
                let (length, i) = (self.memory.dim(*d) as usize, int(*i));
                assert!(i < length, "index {i} of a dimension of {length}");
                n * length + i
            }),
            // Only a label: panels are decoded by row and column.
            Storage::Panel { reduce, .. } => int(index[0]) * *reduce as usize + int(index[1]),
            Storage::Paged { seq, page } | Storage::Workspace { seq, page } => {
                let Expr::Axis(axis) = self.spec.exprs[index[0]] else { panic!("a cache wants an axis first") };
                let (position, sequence) = match self.spec.axes[axis.0 as usize].extent {
                    KernelExtent::Keys { of, .. } => (at.at(axis), self.sequence(of, at)),
                    _ => (self.position(axis, at), self.sequence(axis, at)),
                };
                let tokens = PAGE_TOKENS as i64;
                let number = match &self.spec.operands[operand.0 as usize].storage {
                    Storage::Workspace { .. } => self.table(Table::Bases(*seq), sequence) + position / tokens,
                    _ => {
                        let blocks = self.memory.dim(Dim::Blocks(*seq)) as i64;
                        self.table(Table::Blocks(*seq), sequence * blocks + position / tokens)
                    }
                } as usize;
                let slot = (position % tokens) as u32;
                let mut kept = index[1..].iter();
                page.iter().fold(number, |n, d| match *d {
                    PageDim::Axis(length) => n * length as usize + int(*kept.next().expect("an index per axis")),
                    PageDim::Slot { count, step } => n * count as usize + (slot / step % count) as usize,
                })
            }
        }
    }

    fn load(&self, operand: OperandRef, index: &[ExprRef], at: &Point, results: &ResultOf) -> f64 {
        let o = &self.spec.operands[operand.0 as usize];
        let bytes = &self.memory.operands[operand.0 as usize];
        let n = self.element(operand, index, at, results);
        if let Storage::Panel { reduce, .. } = o.storage {
            return panel_element(o.format, bytes, reduce as usize, n / reduce as usize, n % reduce as usize);
        }
        if o.format == Format::I32 {
            return i32::from_le_bytes(bytes[4 * n..4 * n + 4].try_into().expect("four bytes")) as f64;
        }
        let (block, size) = (o.format.block(), o.format.block_bytes());
        o.format.spec().decode(&bytes[n / block * size..][..size], n % block) as f64
    }

    fn int(&self, e: ExprRef, at: &Point, results: &ResultOf) -> i64 {
        match self.value(e, at, results) {
            Value::Int(n) => n,
            v => panic!("{v:?} as an index"),
        }
    }

    fn value(&self, e: ExprRef, at: &Point, results: &ResultOf) -> Value {
        let ty = self.spec.exprs.0[e.0 as usize].1;
        match &self.spec.exprs[e] {
            Expr::Const(v) => *v,
            Expr::Axis(a) => Value::Int(at.at(*a)),
            Expr::Position(a) => Value::Int(self.position(*a, at)),
            Expr::Row(a) => Value::Int(self.row(*a, at)),
            Expr::Sequence(a) => Value::Int(self.sequence(*a, at)),
            Expr::Length(a) => Value::Int(self.table(Table::Lengths(self.seq(*a)), self.sequence(*a, at))),
            Expr::Load { operand, index } => {
                let x = self.load(*operand, index, at, results);
                match ty {
                    Type::Real => Value::Real(x),
                    Type::Int => Value::Int(x as i64),
                    Type::Bool => Value::Bool(x != 0.0),
                }
            }
            Expr::Result { result, moved } => {
                let there = moved.iter().map(|(a, i)| (*a, self.int(*i, at, results)));
                let there = there.collect::<Vec<_>>().into_iter().fold(at.clone(), |p, (a, i)| p.with(a, i));
                results(*result, &there)
            }
            Expr::Old(r) => results(ResultRef(OLD | r.0), at),
            Expr::Rounded(dtype, x) => Value::Real(rounded(*dtype, self.value(*x, at, results).real())),
            Expr::Map(op, args) => {
                let args: Vec<Value> = args.iter().map(|a| self.value(*a, at, results)).collect();
                op.evaluate(&args)
            }
        }
    }

    fn store_all(&mut self, stores: &[Store], at: &Point, results: &ResultOf) {
        for s in stores {
            let value = self.value(s.value, at, results).real();
            let n = self.element(s.operand, &s.index, at, results);
            self.write(s.operand, n, value);
        }
    }

    fn write(&mut self, operand: OperandRef, n: usize, x: f64) {
        let format = self.spec.operands[operand.0 as usize].format;
        let Some(dtype) = format.plain() else {
            self.blocks.entry(operand.0 as usize).or_default().insert(n, x as f32);
            return;
        };
        let bytes = match dtype {
            DType::F32 => (x as f32).to_le_bytes().to_vec(),
            DType::F16 => half::f16::from_f32(x as f32).to_le_bytes().to_vec(),
            DType::BF16 => half::bf16::from_f32(x as f32).to_le_bytes().to_vec(),
            DType::I32 => (x as i32).to_le_bytes().to_vec(),
            DType::I8 => vec![x as i8 as u8],
            DType::U8 => vec![x as u8],
        };
        self.memory.operands[operand.0 as usize][n * bytes.len()..][..bytes.len()].copy_from_slice(&bytes);
    }

    fn write_blocks(&mut self) {
        for (operand, elements) in std::mem::take(&mut self.blocks) {
            let elements: Vec<(usize, f32)> = elements.into_iter().collect();
            for block in elements.chunks(32) {
                let d = block.iter().fold(0f32, |m, (_, x)| m.max(x.abs())) / 127.0;
                let quants: Vec<f32> =
                    block.iter().map(|(_, x)| if d > 0.0 { (x / d).round_ties_even() } else { 0.0 }).collect();
                let at = block[0].0 / 32 * Format::Act8.block_bytes();
                let out = &mut self.memory.operands[operand][at..];
                out[0..4].copy_from_slice(&d.to_le_bytes());
                out[4..8].copy_from_slice(&(d * quants.iter().sum::<f32>()).to_le_bytes());
                for (o, q) in out[8..40].iter_mut().zip(quants) {
                    *o = q as i8 as u8;
                }
            }
        }
    }

    fn contract(&mut self, c: &Contract) {
        let stats = c.stats.len();
        for row in self.points(&Point::new(self.spec), &[c.row]) {
            let none = |r: ResultRef, _: &Point| panic!("result {} inside a reduction", r.0);
            let inner = self.points(&row, &c.reduce);
            let folded: Vec<Value> = c
                .stats
                .iter()
                .map(|f| {
                    let ty = self.spec.exprs.0[f.body.0 as usize].1;
                    let bodies = inner.iter().map(|p| self.value(f.body, p, &none));
                    bodies.fold(f.op.identity(ty), |a, b| f.op.combine().evaluate(&[a, b]))
                })
                .collect();
            let input: Vec<f64> = (0..inner.len()).map(|i| self.input(c, &row, i, inner.len())).collect();
            for segment in &c.segments {
                let values: BTreeMap<(u16, Vec<i64>), f64> = segment
                    .products
                    .iter()
                    .flat_map(|r| {
                        let p = &c.products[r.0 as usize - stats];
                        let o = &self.spec.operands[p.weight.0 as usize];
                        let bytes = &self.memory.operands[p.weight.0 as usize];
                        let points = self.points(&row, &p.axes);
                        let input = &input;
                        points.into_iter().enumerate().map(move |(n, at)| {
                            let product = input.iter().enumerate();
                            let sum = product.map(|(i, x)| x * panel_element(o.format, bytes, input.len(), n, i)).sum();
                            ((r.0, p.axes.iter().map(|a| at.at(*a)).collect()), sum)
                        })
                    })
                    .collect();
                let results = |r: ResultRef, at: &Point| match folded.get(r.0 as usize) {
                    Some(v) => *v,
                    None => {
                        let axes = &c.products[r.0 as usize - stats].axes;
                        Value::Real(values[&(r.0, axes.iter().map(|a| at.at(*a)).collect())])
                    }
                };
                for at in self.points(&row, &segment.axes) {
                    self.store_all(&segment.stores, &at, &results);
                }
            }
        }
    }

    /// Element `i` of a contraction's input at a row.
    fn input(&self, c: &Contract, row: &Point, i: usize, reduce: usize) -> f64 {
        let o = &self.spec.operands[c.input.0 as usize];
        let at = match o.storage {
            Storage::Dense { ref dims } if matches!(dims[0], Dim::Picked(_)) => row.at(c.row),
            _ => self.row(c.row, row),
        };
        let n = at as usize * reduce + i;
        let (block, size) = (o.format.block(), o.format.block_bytes());
        let bytes = &self.memory.operands[c.input.0 as usize];
        o.format.spec().decode(&bytes[n / block * size..][..size], n % block) as f64
    }

    fn stream(&mut self, s: &Stream) {
        let dots = s.dots.len();
        for at in self.points(&Point::new(self.spec), &s.parallel) {
            // Each state's values over its own axes, in the order of their points.
            let key = |axes: &[AxisRef], p: &Point| axes.iter().map(|a| p.at(*a)).collect::<Vec<i64>>();
            let mut states: Vec<BTreeMap<Vec<i64>, Value>> = s
                .states
                .iter()
                .map(|st| self.points(&at, &st.axes).iter().map(|p| (key(&st.axes, p), st.init)).collect())
                .collect();
            for step in self.points(&at, &s.over) {
                if s.visit.is_some_and(|v| !self.is_visited(&v, &step, (step.at(s.over[0]), step.at(s.over[0])))) {
                    continue;
                }
                let old = states.clone();
                let dot: Vec<Value> = s.dots.iter().map(|d| self.dot(d, &step)).collect();
                for (i, st) in s.states.iter().enumerate() {
                    for p in self.points(&step, &st.axes) {
                        let read = |r: ResultRef, p: &Point| {
                            let (source, r) = if r.0 & OLD != 0 { (&old, r.0 & !OLD) } else { (&states, r.0) };
                            match dot.get(r as usize) {
                                Some(v) => *v,
                                None => source[r as usize - dots][&key(&s.states[r as usize - dots].axes, p)],
                            }
                        };
                        let mut value = states[i][&key(&st.axes, &p)];
                        if st.repair.keep.is_some_and(|k| self.value(k, &p, &read) == Value::Bool(false)) {
                            value = st.init;
                        }
                        if let Some(shift) = st.repair.shift {
                            value = Value::Real(value.real() + self.value(shift, &p, &read).real());
                        }
                        if let Some(scale) = st.repair.scale {
                            value = Value::Real(value.real() * self.value(scale, &p, &read).real());
                        }
                        let body = self.value(st.body, &p, &read);
                        let value = st.op.combine().evaluate(&[value, body]);
                        states[i].insert(key(&st.axes, &p), value);
                    }
                }
            }
            let results =
                |r: ResultRef, p: &Point| states[r.0 as usize - dots][&key(&s.states[r.0 as usize - dots].axes, p)];
            for p in self.points(&at, &s.finish_axes) {
                self.store_all(&s.finish, &p, &results);
            }
            for (state, store) in s.part.iter().flat_map(|part| s.states.iter().zip(&part.stores)) {
                for p in self.points(&at, &state.axes) {
                    self.store_all(std::slice::from_ref(store), &p, &results);
                }
            }
        }
    }

    /// Whether a block of keys, from the first to the last, is visited.
    fn is_visited(&self, v: &Visit, at: &Point, (first, last): (i64, i64)) -> bool {
        let none = |r: ResultRef, _: &Point| panic!("result {} in a condition on blocks", r.0);
        self.value(v.condition, &at.with(v.first, first).with(v.last, last), &none) == Value::Bool(true)
    }

    fn dot(&self, d: &Dot, at: &Point) -> Value {
        let none = |r: ResultRef, _: &Point| panic!("result {} inside a dot", r.0);
        let points = self.points(at, &d.reduce);
        let product = |p: &Point| self.value(d.left, p, &none).real() * self.value(d.right, p, &none).real();
        Value::Real(points.iter().map(product).sum())
    }

    fn top_k(&mut self, t: &TopK) {
        let none = |r: ResultRef, _: &Point| panic!("result {} inside a search", r.0);
        for at in self.points(&Point::new(self.spec), &t.parallel) {
            let mut all: Vec<(f64, i64)> = self
                .points(&at, &[t.axis])
                .iter()
                .map(|p| ((self.value(t.value, p, &none).real() as f32) as f64, p.at(t.axis)))
                .collect();
            // NaN last, larger first, ties to the lower index.
            all.sort_by(|a, b| {
                let order = b.0.partial_cmp(&a.0).unwrap_or_else(|| a.0.is_nan().cmp(&b.0.is_nan()));
                order.then(a.1.cmp(&b.1))
            });
            for p in self.points(&at, &[t.rank]) {
                let n = self.element(t.operand, &t.index, &p, &none);
                self.write(t.operand, n, all[p.at(t.rank) as usize].1 as f64);
            }
        }
    }
}

/// A real as an element of this type holds it.
fn rounded(dtype: DType, x: f64) -> f64 {
    match dtype {
        DType::F32 => x as f32 as f64,
        DType::F16 => half::f16::from_f64(x).to_f64(),
        DType::BF16 => half::bf16::from_f64(x).to_f64(),
        DType::I32 | DType::I8 | DType::U8 => panic!("a real rounded to {dtype:?}"),
    }
}

/// Marks a result as its value before the step.
const OLD: u16 = 1 << 15;

/// An element of a weight in panels, by the documentation of [`Storage::Panel`].
fn panel_element(format: Format, bytes: &[u8], reduce: usize, row: usize, column: usize) -> f64 {
    let (spec, lanes) = (format.spec(), PANEL_LANES as usize);
    let size = format.block_bytes();
    let panel = &bytes[row / lanes * lanes * (reduce / spec.block * size)..];
    let stored = &panel[column / spec.block * size * lanes..];
    let mut block = vec![0u8; size];
    let mut at = 0;
    for field in spec.fields {
        let length = field.lanes.bytes(field.count);
        let group = length.min(4);
        for (g, out) in block[at..at + length].chunks_mut(group).enumerate() {
            let from = at * lanes + g * group * lanes + row % lanes * group;
            out.copy_from_slice(&stored[from..from + out.len()]);
        }
        at += length;
    }
    spec.decode(&block, column % spec.block) as f64
}
