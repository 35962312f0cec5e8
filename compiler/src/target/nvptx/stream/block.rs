//! One block of keys folded into the states of a tile's rows.
//!
//! A lane has two rows and, of every eight keys, a pair: its elements. Dots are sums of matrices whose columns are keys; the
//! bodies are evaluated element by element; a state without axes is folded over a lane's elements, over the groups of keys
//! and over the four lanes that share a row, in that order; the factors of a product are the left factor of a second matrix product.

use super::fold::{Tile, eights};
use super::left::{Left, LeftRows};
use super::plan::{COLUMNS, GROUPS, Kind, ROWS};
use super::right::{Depth, RightTile};
use super::rows::Sight;
use super::{combine, constant, kept_as};
use crate::kernel::{AxisRef, ExprRef, ResultRef, State};
use crate::llvm::{Cmp, Emitter, GROUP_ROWS, GroupLeft, GroupProduct, Lane, Mma, Precision, Results, Scope, Ty, Val};
use crate::target::nvptx::tuning::Units;
use llmc_artifact::{DType, Type};
use std::cell::{Cell, RefCell};

/// A block of keys in shared memory.
pub struct Right<'p, 'c> {
    /// Right factors of the dots.
    pub dots: Vec<RightTile<'p, 'c>>,
    /// Right factors of the products.
    pub products: Vec<RightTile<'p, 'c>>,
}

/// Shared memory of a tile.
pub struct Memory<'c> {
    /// Left factors of the dots.
    pub left: Vec<LeftRows<'c>>,
    /// Left factors of the products, where warps share rows.
    pub factors: Vec<LeftRows<'c>>,
    /// For each state without axes, what each lane has of each group of keys, where warps share rows.
    pub parts: Vec<Option<Val<'c>>>,
    /// For each state without axes, its values in the end.
    pub scalars: Vec<Option<Val<'c>>>,
    /// What right factors take, for the products' sums in the end.
    pub room: Val<'c>,
    /// Bytes at its beginning that nobody reads any more once a thread has folded the last block.
    pub spent: u64,
}

/// A state's values in a lane's registers.
#[derive(Clone)]
pub enum Held<'c> {
    /// Of its two rows; the four lanes of a row have the same.
    Scalar([Val<'c>; 2]),
    /// Sums of the warp's columns, eight by eight.
    Product(Vec<[Val<'c>; 4]>),
}

impl<'c> Held<'c> {
    /// The values before the first key.
    pub fn start(tile: &Tile<'_, '_, 'c>) -> Vec<Held<'c>> {
        let (e, stream) = (tile.entry.emitter, tile.stream);
        let states = stream.states.iter().zip(&tile.plan.states);
        let start = states.map(|(state, kind)| match kind {
            Kind::Scalar => Held::Scalar([initial(e, state); 2]),
            Kind::Product { pages, .. } => {
                Held::Product(vec![[initial(e, state); 4]; eights(tile.shape, pages.width) as usize])
            }
        });
        start.collect()
    }

    /// All of them in one list.
    pub fn flat(all: &[Held<'c>]) -> Vec<Val<'c>> {
        let values = all.iter().flat_map(|h| match h {
            Held::Scalar(values) => values.to_vec(),
            Held::Product(sums) => sums.concat(),
        });
        values.collect()
    }

    /// From that list.
    pub fn of(tile: &Tile<'_, '_, 'c>, flat: &[Val<'c>]) -> Vec<Held<'c>> {
        let mut rest = flat.iter().copied();
        let mut next = || rest.next().expect("emission: as many values as the states have");
        let kinds = tile.plan.states.iter();
        let held = kinds.map(|kind| match kind {
            Kind::Scalar => Held::Scalar([next(), next()]),
            Kind::Product { pages, .. } => {
                let sums = 0..eights(tile.shape, pages.width);
                Held::Product(sums.map(|_| [next(), next(), next(), next()]).collect())
            }
        });
        held.collect()
    }
}

fn initial<'c>(e: &Emitter<'c>, state: &State) -> Val<'c> {
    let value = constant(e, kept_as(state.init.ty()), state.init);
    if state.init.ty() == Type::Bool { e.compare(Cmp::Ne, value, e.like_int(value, 0)) } else { value }
}

/// A block of keys.
pub struct Block<'b, 't, 'e, 'c> {
    tile: &'b Tile<'t, 'e, 'c>,
    memory: &'b Memory<'c>,
    right: &'b Right<'t, 'c>,
    rows: &'b [(Scope<'e, 'c>, Sight<'c>); 2],
    /// Of each eight of this warp's keys, this lane's two, `i32`s: a word holds one, and there are many.
    keys: Vec<[Val<'c>; 2]>,
    end: Val<'c>,
    /// Whether a row looks at any key of the block: otherwise its states stay as they are.
    active: [Val<'c>; 2],
    frame: Frame<'c>,
}

/// What bodies and repairs read.
struct Frame<'c> {
    dots: RefCell<Vec<Vec<[Val<'c>; 4]>>>,
    held: RefCell<Vec<Held<'c>>>,
    old: RefCell<Vec<Option<[Val<'c>; 2]>>>,
    /// The element at hand: its eight of keys and its place there.
    element: Cell<(usize, usize)>,
    row: Cell<usize>,
    number_of_dots: usize,
}

impl<'c> Results<'c> for Frame<'c> {
    fn result(&self, _: &Scope<'_, 'c>, result: ResultRef, moved: &[(AxisRef, Lane<'c>)]) -> Lane<'c> {
        assert!(moved.is_empty(), "emission: a result of a fold read elsewhere");
        let Some(state) = (result.0 as usize).checked_sub(self.number_of_dots) else {
            let (eight, i) = self.element.get();
            return Lane::uniform(self.dots.borrow()[result.0 as usize][eight][i]);
        };
        match &self.held.borrow()[state] {
            Held::Scalar(values) => Lane::uniform(values[self.row.get()]),
            Held::Product(_) => panic!("emission: a fold reads a product's sums"),
        }
    }

    fn old(&self, _: &Scope<'_, 'c>, result: ResultRef) -> Lane<'c> {
        let old = self.old.borrow()[result.0 as usize - self.number_of_dots];
        Lane::uniform(old.expect("emission: a repair reads an earlier state")[self.row.get()])
    }
}

impl<'b, 't, 'e, 'c> Block<'b, 't, 'e, 'c> {
    /// The block of keys from `base` on; no key from `end` on counts.
    pub fn new(
        tile: &'b Tile<'t, 'e, 'c>,
        (memory, right): (&'b Memory<'c>, &'b Right<'t, 'c>),
        rows: &'b [(Scope<'e, 'c>, Sight<'c>); 2],
        (base, end): (Val<'c>, Val<'c>),
        held: Vec<Held<'c>>,
    ) -> Block<'b, 't, 'e, 'c> {
        let e = tile.entry.emitter;
        let share = tile.shape.keys / tile.shape.sharers();
        let first = e.add(e.mul(tile.place.share, e.int(share as i64)), e.mul(tile.place.pair, e.int(2)));
        let short = e.trunc(base, Ty::I32);
        let first = e.add(short, e.trunc(first, Ty::I32));
        let key = |j: u64, i: u64| e.add(first, e.int32((COLUMNS * j + i) as i32));
        let keys = (0..share / COLUMNS).map(|j| [0, 1].map(|i| key(j, i))).collect();
        let end = e.trunc(end, Ty::I32);
        let after = e.add(short, e.int32(tile.shape.keys as i32));
        let active = [0, 1].map(|r| {
            let sight = &rows[r].1;
            e.and(e.compare(Cmp::Lt, short, sight.end), e.compare(Cmp::Gt, after, sight.begin))
        });
        let old = RefCell::new(vec![None; held.len()]);
        let (dots, held) = (RefCell::default(), RefCell::new(held));
        let (element, row) = (Cell::new((0, 0)), Cell::new(0));
        let frame = Frame { dots, held, old, element, row, number_of_dots: tile.stream.dots.len() };
        Block { tile, memory, right, rows, keys, end, active, frame }
    }

    /// The states after the block.
    pub fn into_held(self) -> Vec<Held<'c>> {
        self.frame.held.into_inner()
    }

    /// The dots at this lane's elements.
    pub fn dots(&self) {
        let (e, place) = (self.tile.entry.emitter, self.tile.place);
        let share = self.tile.shape.keys / self.tile.shape.sharers();
        let first = e.mul(place.share, e.int(share as i64));
        for ((pages, left), right) in self.tile.plan.dots.iter().zip(&self.memory.left).zip(&self.right.dots) {
            if self.tile.units == Units::Warpgroups {
                let first = e.and(place.row, e.int(-(GROUP_ROWS as i64)));
                let factors = left.described(e, first, pages.width.div_ceil(ROWS));
                let factors: Vec<_> = factors.into_iter().map(GroupLeft::Described).collect();
                let zero = vec![[e.f32(0.0); 4]; self.keys.len()];
                let sums = self.multiply_together(&factors, right, Depth::Columns, &zero);
                self.frame.dots.borrow_mut().push(sums);
                continue;
            }
            let own = left.lane_place(e, place);
            let lane = right.lane_place(e, Depth::Columns, first);
            let mut sums = vec![[e.f32(0.0); 4]; self.keys.len()];
            for deep in 0..pages.width.div_ceil(ROWS) {
                let factor = left.fragment(e, own, 2 * deep);
                self.multiply(&factor, right, Depth::Columns, (lane, deep), &mut sums);
            }
            self.frame.dots.borrow_mut().push(sums);
        }
    }

    /// Adds the product with 16 of the depth to sums of eights of columns.
    fn multiply(
        &self,
        left: &Left<'c>,
        right: &RightTile<'_, 'c>,
        depth: Depth,
        (lane, deep): (Val<'c>, u64),
        sums: &mut [[Val<'c>; 4]],
    ) {
        let e = self.tile.entry.emitter;
        for (n, pair) in sums.chunks_mut(2).enumerate() {
            let fragments = right.fragments(e, depth, lane, deep, 2 * n as u64, pair.len() as u64);
            for (sum, fragment) in pair.iter_mut().zip(fragments) {
                *sum = left.multiply(e, right.pages().dtype, fragment, *sum);
            }
        }
    }

    /// Adds products by fours of warps: of each 16 of the depth the left factor.
    fn multiply_together(
        &self,
        factors: &[GroupLeft<'c>],
        right: &RightTile<'_, 'c>,
        depth: Depth,
        sums: &[[Val<'c>; 4]],
    ) -> Vec<[Val<'c>; 4]> {
        let e = self.tile.entry.emitter;
        let (columns_side_by_side, described) = right.described(e, depth, factors.len() as u64);
        let (columns, kind) = (COLUMNS as u32 * sums.len() as u32, right.pages().dtype);
        let kind = if kind == DType::BF16 { Mma::BF16 } else { Mma::F16 };
        let pairs: Vec<_> = factors.iter().copied().zip(described).collect();
        let product = GroupProduct { kind, columns, columns_side_by_side };
        let found = e.multiply_group(product, &sums.concat(), &pairs);
        found.chunks(4).map(|s| [s[0], s[1], s[2], s[3]]).collect()
    }

    /// The states, one after another.
    pub fn states(&self) {
        let e = self.tile.entry.emitter;
        let keys: Vec<[Val; 2]> =
            self.keys.iter().map(|pair| pair.map(|k| e.min(k, e.sub(self.end, e.int32(1))))).collect();
        let at = |r: usize, j: usize, i: usize| {
            let key = Lane::uniform(e.sext(keys[j][i], Ty::I64));
            let scope = self.rows[r].0.bind(self.tile.plan.key, key);
            scope.with_results(&self.frame)
        };
        // One scope an element, so that states share what they have in common.
        let elements: Vec<Vec<Scope>> =
            (0..keys.len()).map(|j| (0..4).map(|n| at(n / 2, j, n % 2)).collect()).collect();
        let counts: Vec<Vec<Val>> =
            self.keys.iter().map(|pair| (0..4).map(|n| self.counts(n / 2, pair[n % 2])).collect()).collect();
        let evaluate = |f: &dyn Fn(&Scope<'_, 'c>) -> Val<'c>, nothing: Val<'c>| -> Vec<[Val<'c>; 4]> {
            let one = |j: usize, n: usize| {
                self.frame.element.set((j, n));
                self.frame.row.set(n / 2);
                e.select(counts[j][n], f(&elements[j][n]), nothing)
            };
            (0..keys.len()).map(|j| [0, 1, 2, 3].map(|n| one(j, n))).collect()
        };
        let mut product = 0;
        for (i, (state, kind)) in self.tile.stream.states.iter().zip(&self.tile.plan.states).enumerate() {
            match kind {
                Kind::Scalar => {
                    let ty = state.init.ty();
                    let nothing = initial(e, &State { init: state.op.identity(ty), ..state.clone() });
                    let values = evaluate(&|scope| body(scope, ty, state.body), nothing);
                    self.scalar(i, state, &values);
                }
                Kind::Product { factors, .. } => {
                    let values = evaluate(
                        &|scope| {
                            let all = factors.iter().map(|f| scope.real(*f).value);
                            all.reduce(|a, b| e.mul(a, b)).unwrap_or(e.f32(1.0))
                        },
                        e.f32(0.0),
                    );
                    self.product(i, state, product, &values);
                    product += 1;
                }
            }
        }
    }

    /// Whether a row looks at a key.
    fn counts(&self, row: usize, key: Val<'c>) -> Val<'c> {
        let e = self.tile.entry.emitter;
        let sight = &self.rows[row].1;
        e.and(e.compare(Cmp::Ge, key, sight.begin), e.compare(Cmp::Lt, key, sight.end))
    }

    /// A state without axes.
    fn scalar(&self, i: usize, state: &State, values: &[[Val<'c>; 4]]) {
        let e = self.tile.entry.emitter;
        let join = |a: Val<'c>, b: Val<'c>| combine(e, state.op, a, b);
        let group = values.len() / (GROUPS / self.tile.shape.sharers()) as usize;
        let part = |r: usize, of: &[[Val<'c>; 4]]| {
            let all = of.iter().flat_map(|x| [x[2 * r], x[2 * r + 1]]);
            all.reduce(join).expect("emission: a group has keys")
        };
        let parts = [0, 1].map(|r| values.chunks(group).map(|of| part(r, of)).collect::<Vec<_>>());
        let parts = match self.memory.parts[i] {
            Some(array) => self.exchange_parts(array, self.tile.kept_type(state.body), &parts),
            None => parts,
        };
        let folded = [0, 1].map(|r| {
            let own = parts[r].iter().copied().reduce(join).expect("emission: a block has groups");
            e.fold_warp(own, 4, join)
        });
        let Held::Scalar(old) = self.frame.held.borrow()[i].clone() else { panic!("emission: a state without axes") };
        let next = [0, 1].map(|r| {
            let repair = self.repair(state, r);
            join(repair.apply(e, old[r], initial(e, state)), folded[r])
        });
        self.frame.old.borrow_mut()[i] = Some(old);
        self.frame.held.borrow_mut()[i] = Held::Scalar(next);
    }

    /// What the lanes of all warps that share the rows have of every group.
    fn exchange_parts(&self, array: Val<'c>, ty: Ty, parts: &[Vec<Val<'c>>; 2]) -> [Vec<Val<'c>>; 2] {
        let (e, place, shape) = (self.tile.entry.emitter, self.tile.place, self.tile.shape);
        let at = |group: Val<'c>, r: usize| {
            let row = e.add(place.row, e.add(place.group, e.int(8 * r as i64)));
            let row = e.add(e.mul(group, e.int(shape.rows() as i64)), row);
            e.element(array, ty, e.add(e.mul(row, e.int(4)), place.pair))
        };
        let first = e.mul(place.share, e.int(parts[0].len() as i64));
        for (r, own) in parts.iter().enumerate() {
            for (g, value) in own.iter().enumerate() {
                let value = if ty == Ty::I8 { e.zext(*value, Ty::I8) } else { *value };
                e.store(at(e.add(first, e.int(g as i64)), r), value);
            }
        }
        e.barrier();
        [0, 1].map(|r| {
            let all = (0..GROUPS as i64).map(|g| e.load(ty, 1, at(e.int(g), r)));
            all.map(|v| if ty == Ty::I8 { e.compare(Cmp::Ne, v, e.like_int(v, 0)) } else { v }).collect()
        })
    }

    /// A state with axes: its sums repaired, then the second product.
    fn product(&self, i: usize, state: &State, number: usize, values: &[[Val<'c>; 4]]) {
        let (e, place) = (self.tile.entry.emitter, self.tile.place);
        let Held::Product(mut sums) = self.frame.held.borrow()[i].clone() else {
            panic!("emission: a state with axes")
        };
        let repairs = [0, 1].map(|r| self.repair(state, r));
        for sum in &mut sums {
            *sum = [0, 1, 2, 3].map(|n| repairs[n / 2].apply(e, sum[n], initial(e, state)));
        }
        let right = &self.right.products[number];
        if self.tile.units == Units::Warpgroups {
            let of = |x: &[[Val<'c>; 4]]| {
                GroupLeft::Registers(Left::of(e, right.pages().precision(), [x[0], x[1]]).halves())
            };
            let factors: Vec<_> = values.chunks(2).map(of).collect();
            let sums = self.multiply_together(&factors, right, Depth::Keys, &sums);
            self.frame.held.borrow_mut()[i] = Held::Product(sums);
            return;
        }
        let columns = e.mul(place.share, e.int((8 * sums.len()) as i64));
        let lane = right.lane_place(e, Depth::Keys, columns);
        let row = e.add(place.row, place.group);
        let own = self.memory.factors.get(number).map(|shared| {
            let share = self.tile.shape.keys / self.tile.shape.sharers();
            let first = e.add(e.mul(place.share, e.int(share as i64)), e.mul(place.pair, e.int(2)));
            for (j, x) in values.iter().enumerate() {
                let column = e.add(first, e.int((COLUMNS as usize * j) as i64));
                shared.store(e, row, column, [x[0], x[1]]);
                shared.store(e, e.add(row, e.int(8)), column, [x[2], x[3]]);
            }
            e.barrier();
            (shared, shared.lane_place(e, place))
        });
        for deep in 0..self.tile.shape.keys / ROWS {
            let factor = match own {
                Some((shared, at)) => shared.fragment(e, at, 2 * deep),
                None => {
                    Left::of(e, right.pages().precision(), [values[2 * deep as usize], values[2 * deep as usize + 1]])
                }
            };
            self.multiply(&factor, right, Depth::Keys, (lane, deep), &mut sums);
        }
        self.frame.held.borrow_mut()[i] = Held::Product(sums);
    }

    /// A state's repair at a row, now that earlier states have taken the block in.
    fn repair(&self, state: &State, r: usize) -> Repaired<'c> {
        let e = self.tile.entry.emitter;
        self.frame.row.set(r);
        let scope = self.rows[r].0.with_results(&self.frame);
        let active = self.active[r];
        let only = |x: ExprRef, still: f64| e.select(active, scope.real(x).value, e.f32(still));
        Repaired {
            keep: state.repair.keep.map(|k| e.or(e.not(active), scope.value(k, Precision::Single).value)),
            shift: state.repair.shift.map(|s| only(s, 0.0)),
            scale: state.repair.scale.map(|s| only(s, 1.0)),
        }
    }
}

/// A repair's values at a row.
struct Repaired<'c> {
    keep: Option<Val<'c>>,
    shift: Option<Val<'c>>,
    scale: Option<Val<'c>>,
}

impl<'c> Repaired<'c> {
    fn apply(&self, e: &Emitter<'c>, running: Val<'c>, initial: Val<'c>) -> Val<'c> {
        let running = self.keep.map_or(running, |k| e.select(k, running, initial));
        let running = self.shift.map_or(running, |s| e.add(running, s));
        self.scale.map_or(running, |s| e.mul(running, s))
    }
}

/// A body's value, truth values as such.
fn body<'c>(scope: &Scope<'_, 'c>, ty: Type, expr: ExprRef) -> Val<'c> {
    match ty {
        Type::Real => scope.real(expr).value,
        Type::Int | Type::Bool => scope.value(expr, Precision::Single).value,
    }
}
