//! Forms under laws: constructors that carry out exactly the laws of a set, on forms without names.

use super::denote::{Form, Len, Shape};
use crate::normal::Literal;
use crate::rules::{Law, Laws};
use indexmap::IndexSet;
use llmc_artifact::{ReduceOp, ScalarOp, Value};
use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

/// More nodes than this and a form is given up.
const MOST: usize = 200_000;

/// The arena of forms, and the laws that they are equal under.
pub(super) struct Rewriter {
    laws: Laws,
    shapes: IndexSet<Shape>,
    /// How long the open axes are.
    pub(super) lengths: Vec<Len>,
    /// How long the model's axes are.
    pub(super) axes: Vec<Len>,
    heights: HashMap<Form, u32>,
    /// Literals that others are compared with.
    literals: Vec<f64>,
}

impl Rewriter {
    pub(super) fn new(laws: Laws, axes: Vec<Len>) -> Rewriter {
        Rewriter {
            laws,
            shapes: IndexSet::new(),
            lengths: Vec::new(),
            axes,
            heights: HashMap::new(),
            literals: Vec::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.shapes.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.shapes.len() > MOST
    }

    /// A new axis that is being bound.
    pub(super) fn open(&mut self, len: Len) -> u32 {
        self.lengths.push(len);
        self.lengths.len() as u32 - 1
    }

    /// A node as it is; operands without an order are sorted.
    pub(super) fn add(&mut self, mut shape: Shape) -> Form {
        match &mut shape {
            Shape::Product(xs) | Shape::Plus(xs) => xs.sort_unstable(),
            Shape::Map(op, xs) if self.laws.has(Law::Order) && commutes(*op) => xs.sort_unstable(),
            _ => {}
        }
        Form(self.shapes.insert_full(shape).0 as u32)
    }

    /// A literal. Where the set has laws of arithmetic, one that is nearly another is that: folded in another order,
    /// the last bits differ.
    pub(super) fn literal(&mut self, l: Literal) -> Form {
        let inexact = self.has(Law::Fold) || self.has(Law::Quotient);
        match l {
            Literal::Real(bits) if inexact => self.near(f64::from_bits(bits)),
            _ => self.add(Shape::Const(l)),
        }
    }

    fn near(&mut self, x: f64) -> Form {
        let alike = |y: &&f64| **y == x || (**y - x).abs() <= 1e-12 * x.abs();
        let known = self.literals.iter().find(alike).copied();
        if known.is_none() {
            self.literals.push(x);
        }
        self.real(known.unwrap_or(x))
    }

    pub(super) fn shape(&self, x: Form) -> &Shape {
        &self.shapes[x.0 as usize]
    }

    pub(super) fn real(&mut self, x: f64) -> Form {
        self.add(Shape::Const(Literal::Real(x.to_bits())))
    }

    pub(super) fn as_real(&self, x: Form) -> Option<f64> {
        match self.shape(x) {
            Shape::Const(Literal::Real(bits)) => Some(f64::from_bits(*bits)),
            _ => None,
        }
    }

    pub(super) fn has(&self, law: Law) -> bool {
        self.laws.has(law)
    }

    /// Whether nested sums and products of factors are one: what all laws of sum-products say together.
    fn splices(&self) -> bool {
        self.laws.on().any(nests_products)
    }

    /// Whether a law of the set multiplies sums out.
    fn distributes(&self) -> bool {
        [Law::Distribute, Law::Scale, Law::Stabilise, Law::Blocks].into_iter().any(|law| self.has(law))
    }

    // ---- arithmetic ------------------------------------------------------------------------------------

    pub(super) fn product(&mut self, xs: Vec<Form>) -> Form {
        let (mut flat, mut open) = (Vec::new(), Vec::new());
        let mut stack: Vec<Form> = xs.into_iter().rev().collect();
        while let Some(x) = stack.pop() {
            match self.shape(x).clone() {
                Shape::Product(ys) if self.splices() => stack.extend(ys),
                Shape::Fold(ReduceOp::Sum, height, lens, body) if self.splices() => {
                    let (news, body) = self.opened(height, &lens, body);
                    open.extend(news);
                    stack.push(body);
                }
                _ => flat.push(x),
            }
        }
        if !open.is_empty() {
            let body = self.product(flat);
            return self.fold(ReduceOp::Sum, open, body);
        }
        let flat = self.cancelled(flat);
        let flat = self.folded(flat, 1.0, |a, b| a * b);
        if let Some(expanded) = self.expanded(&flat) {
            return expanded;
        }
        match flat[..] {
            [] => self.real(1.0),
            [only] => only,
            _ => self.add(Shape::Product(flat)),
        }
    }

    pub(super) fn plus(&mut self, xs: Vec<Form>) -> Form {
        let mut flat = Vec::new();
        let mut stack: Vec<Form> = xs.into_iter().rev().collect();
        let splices = self.laws.on().any(nests_sums);
        while let Some(x) = stack.pop() {
            match self.shape(x).clone() {
                Shape::Plus(ys) if splices => stack.extend(ys),
                _ => flat.push(x),
            }
        }
        let flat = self.without_opposites(flat);
        let flat = self.folded(flat, 0.0, |a, b| a + b);
        match flat[..] {
            [] => self.real(0.0),
            [only] => only,
            _ => self.add(Shape::Plus(flat)),
        }
    }

    /// Literals folded to one, and a unit dropped, where these laws are among the set.
    fn folded(&mut self, xs: Vec<Form>, unit: f64, f: fn(f64, f64) -> f64) -> Vec<Form> {
        let literals: Vec<f64> = xs.iter().filter_map(|x| self.as_real(*x)).collect();
        let fold = self.has(Law::Fold) && literals.len() > 1;
        let number = literals.iter().copied().fold(unit, f);
        if literals.is_empty() || number.is_nan() && fold {
            return xs;
        }
        let keep = |s: &Self, x: &Form| match s.as_real(*x) {
            Some(c) => !(fold || s.has(Law::Unit) && c == unit),
            None => true,
        };
        let mut rest: Vec<Form> = xs.into_iter().filter(|x| keep(self, x)).collect();
        if fold && !(self.has(Law::Unit) && number == unit) {
            rest.push(self.near(number));
        }
        rest
    }

    /// A product over a sum as a sum of products, where a law of the set says so.
    fn expanded(&mut self, factors: &[Form]) -> Option<Form> {
        let minus = factors.len() == 2 && factors.iter().any(|x| self.as_real(*x) == Some(-1.0));
        if !(self.distributes() || self.has(Law::Difference) && minus) {
            return None;
        }
        let at = factors.iter().position(|x| matches!(self.shape(*x), Shape::Plus(_)))?;
        let Shape::Plus(parts) = self.shape(factors[at]).clone() else { return None };
        if self.is_full() {
            return None;
        }
        let mut sum = Vec::new();
        for part in parts {
            let mut all = factors.to_vec();
            all[at] = part;
            sum.push(self.product(all));
        }
        Some(self.plus(sum))
    }

    pub(super) fn map(&mut self, op: ScalarOp, xs: Vec<Form>) -> Form {
        if let Some(value) = self.evaluated(op, &xs) {
            return value;
        }
        if let Some(form) = self.by_powers(op, &xs) {
            return form;
        }
        match (op, &xs[..]) {
            (ScalarOp::Sub, [a, b]) if self.has(Law::Difference) && self.is_real(&xs) => {
                let (a, b) = (*a, *b);
                let minus = self.real(-1.0);
                let b = self.product(vec![minus, b]);
                self.plus(vec![a, b])
            }
            (ScalarOp::Neg, [a]) if self.has(Law::Difference) && self.is_real(&xs) => {
                let (a, minus) = (*a, self.real(-1.0));
                self.product(vec![minus, a])
            }
            (ScalarOp::Div, [a, b]) if self.has(Law::Quotient) => {
                let (a, b) = (*a, *b);
                let b = self.map(ScalarOp::Recip, vec![b]);
                self.product(vec![a, b])
            }
            (ScalarOp::Recip, [x]) if self.has(Law::Quotient) => self.recip(*x),
            (ScalarOp::Pow, [x, n]) if self.has(Law::Power) => self.power(*x, *n),
            (ScalarOp::Gt, [a, b]) if self.has(Law::Order) => self.map(ScalarOp::Lt, vec![*b, *a]),
            (ScalarOp::Ge, [a, b]) if self.has(Law::Order) => self.map(ScalarOp::Le, vec![*b, *a]),
            (ScalarOp::Not, [x]) if self.has(Law::Order) => self.not(*x),
            (ScalarOp::Add | ScalarOp::Mul, [a, b]) if self.has(Law::Unit) => {
                let unit = Shape::Const(Literal::Int(i64::from(op == ScalarOp::Mul)));
                match (*self.shape(*a) == unit, *self.shape(*b) == unit) {
                    (true, _) => *b,
                    (_, true) => *a,
                    _ => self.add(Shape::Map(op, xs)),
                }
            }
            (_, [a, b]) if self.has(Law::Choose) && idempotent(op) => self.both(op, *a, *b),
            (ScalarOp::Where, [c, a, b]) if self.has(Law::Choose) => match self.decided(*c) {
                Some(true) => *a,
                Some(false) => *b,
                None if a == b => *a,
                None => self.add(Shape::Map(op, xs)),
            },
            _ => self.add(Shape::Map(op, xs)),
        }
    }

    /// Whether the operands are real: where none shows its type, they are ints.
    fn is_real(&self, xs: &[Form]) -> bool {
        xs.iter().any(|x| self.real_typed(*x))
    }

    fn real_typed(&self, x: Form) -> bool {
        use llmc_artifact::scalar::Signature;
        match self.shape(x) {
            Shape::Const(l) => matches!(l, Literal::Real(_)),
            Shape::Axis(_) | Shape::Open(_) | Shape::Bound(..) | Shape::Length(_) | Shape::TopK(..) => false,
            // Leaves that are ints are read through `to_real` in real arithmetic: see `denote`.
            Shape::Leaf(..) => true,
            Shape::Product(_) | Shape::Plus(_) => true,
            Shape::Fold(_, _, _, body) => self.real_typed(*body),
            Shape::Map(op, ys) => match op.signature() {
                Signature::Real | Signature::Convert => true,
                Signature::Int | Signature::Round | Signature::Compare | Signature::Logic => false,
                Signature::Num => ys.iter().any(|y| self.real_typed(*y)),
                Signature::Select => ys[1..].iter().any(|y| self.real_typed(*y)),
            },
        }
    }

    /// An operation on literals: a number becomes a real by itself, the rest is the law of folding.
    fn evaluated(&mut self, op: ScalarOp, xs: &[Form]) -> Option<Form> {
        if !self.has(Law::Fold) && op != ScalarOp::ToReal {
            return None;
        }
        let values: Option<Vec<Value>> = xs
            .iter()
            .map(|x| match self.shape(*x) {
                Shape::Const(l) => Some(Value::from(*l)),
                _ => None,
            })
            .collect();
        let value = op.evaluate(&values?);
        (!value.real().is_nan()).then(|| self.literal(value.into()))
    }

    fn recip(&mut self, x: Form) -> Form {
        match self.shape(x).clone() {
            Shape::Map(ScalarOp::Recip, ys) => ys[0],
            Shape::Product(ys) => {
                let (literals, rest): (Vec<_>, Vec<_>) =
                    ys.into_iter().partition(|y| self.as_real(*y).is_some_and(|c| c != 0.0 && (1.0 / c).is_normal()));
                if literals.is_empty() {
                    return self.add(Shape::Map(ScalarOp::Recip, vec![x]));
                }
                let mut factors: Vec<_> = literals
                    .iter()
                    .map(|y| 1.0 / self.as_real(*y).expect("taken as literals"))
                    .collect::<Vec<_>>()
                    .into_iter()
                    .map(|c| self.near(c))
                    .collect();
                let rest = self.product(rest);
                factors.push(self.map(ScalarOp::Recip, vec![rest]));
                self.product(factors)
            }
            _ => self.add(Shape::Map(ScalarOp::Recip, vec![x])),
        }
    }

    fn power(&mut self, x: Form, n: Form) -> Form {
        match self.as_real(n) {
            Some(1.0) => x,
            Some(2.0) => self.product(vec![x, x]),
            Some(0.5) => self.map(ScalarOp::Sqrt, vec![x]),
            Some(-0.5) => {
                let root = self.map(ScalarOp::Sqrt, vec![x]);
                self.map(ScalarOp::Recip, vec![root])
            }
            Some(-1.0) => self.map(ScalarOp::Recip, vec![x]),
            _ => self.add(Shape::Map(ScalarOp::Pow, vec![x, n])),
        }
    }

    fn not(&mut self, x: Form) -> Form {
        match self.shape(x).clone() {
            Shape::Map(ScalarOp::Not, ys) => ys[0],
            Shape::Map(ScalarOp::Lt, ys) if !self.is_real(&ys) => self.map(ScalarOp::Le, vec![ys[1], ys[0]]),
            Shape::Map(ScalarOp::Le, ys) if !self.is_real(&ys) => self.map(ScalarOp::Lt, vec![ys[1], ys[0]]),
            _ => self.add(Shape::Map(ScalarOp::Not, vec![x])),
        }
    }

    fn both(&mut self, op: ScalarOp, a: Form, b: Form) -> Form {
        let unit = match op {
            ScalarOp::And => Some(true),
            ScalarOp::Or => Some(false),
            _ => None,
        };
        match unit {
            _ if a == b => a,
            Some(unit) if self.decided(a) == Some(unit) => b,
            Some(unit) if self.decided(b) == Some(unit) => a,
            _ => self.add(Shape::Map(op, vec![a, b])),
        }
    }

    // ---- reductions ------------------------------------------------------------------------------------

    /// A reduction of `body` over open axes.
    pub(super) fn fold(&mut self, op: ReduceOp, mut open: Vec<u32>, mut body: Form) -> Form {
        if let Shape::Fold(inner, height, lens, x) = self.shape(body).clone()
            && inner == op
            && (self.has(Law::Merge) || op == ReduceOp::Sum && self.splices())
        {
            let (news, x) = self.opened(height, &lens, x);
            open.extend(news);
            body = x;
        }
        if op == ReduceOp::Sum {
            if let Some(sum) = self.spread(&open, body) {
                return sum;
            }
            if let Some(read) = self.one_hot(&open, body) {
                return read;
            }
        }
        if self.has(Law::Length) {
            let unused: Vec<u32> = open.iter().copied().filter(|n| !self.mentions(body, *n)).collect();
            if !unused.is_empty() {
                open.retain(|n| !unused.contains(n));
                let inner = if open.is_empty() { body } else { self.fold(op, open, body) };
                return if op == ReduceOp::Sum { self.counted(inner, &unused) } else { inner };
            }
        }
        if open.is_empty() { body } else { self.close(op, open, body) }
    }

    /// What does not run with some axes, summed over them.
    fn counted(&mut self, x: Form, axes: &[u32]) -> Form {
        let real = self.real_typed(x);
        let mut all = vec![x];
        for n in axes {
            let len = match self.lengths[*n as usize] {
                Len::Const(n) => self.add(Shape::Const(Literal::Int(n as i64))),
                Len::Seq(s) => self.add(Shape::Length(s)),
            };
            all.push(if real { self.map(ScalarOp::ToReal, vec![len]) } else { len });
        }
        if real {
            return self.product(all);
        }
        all.sort_unstable();
        let first = all[0];
        all[1..].iter().fold(first, |a, b| self.map(ScalarOp::Mul, vec![a, *b]))
    }

    pub(super) fn factors(&self, body: Form) -> Vec<Form> {
        match self.shape(body) {
            Shape::Product(xs) => xs.clone(),
            _ => vec![body],
        }
    }

    /// A sum over a sum, or over a choice of several cases, as several sums.
    fn spread(&mut self, open: &[u32], body: Form) -> Option<Form> {
        let factors = self.factors(body);
        for (n, factor) in factors.iter().enumerate() {
            let parts = match self.shape(*factor).clone() {
                Shape::Plus(parts) if self.distributes() => parts,
                Shape::Map(ScalarOp::Where, xs) if self.has(Law::Cases) && self.nests(&xs) => self.cases(*factor),
                _ => continue,
            };
            let mut sums = Vec::new();
            for part in parts {
                let mut all = factors.clone();
                all[n] = part;
                let (fresh, all) = self.again(open, &all);
                let one = if all.len() == 1 { all[0] } else { self.product(all) };
                sums.push(self.fold(ReduceOp::Sum, fresh, one));
            }
            return Some(self.plus(sums));
        }
        None
    }

    /// Whether a choice has another choice beside zero where it does not hold.
    fn nests(&self, xs: &[Form]) -> bool {
        matches!(self.shape(xs[2]), Shape::Map(ScalarOp::Where, _))
    }

    /// `where(c, f, where(d, g, 0))` as `where(c, f, 0)` and `where(d, where(c, 0, g), 0)`.
    fn cases(&mut self, choice: Form) -> Vec<Form> {
        let zero = self.real(0.0);
        let (mut parts, mut before, mut rest) = (Vec::new(), Vec::new(), choice);
        while let Shape::Map(ScalarOp::Where, xs) = self.shape(rest).clone() {
            let alone = before.iter().fold(xs[1], |x, c| self.map(ScalarOp::Where, vec![*c, zero, x]));
            parts.push(self.map(ScalarOp::Where, vec![xs[0], alone, zero]));
            before.push(xs[0]);
            rest = xs[2];
        }
        parts
    }

    /// The same forms with new open axes.
    fn again(&mut self, open: &[u32], xs: &[Form]) -> (Vec<u32>, Vec<Form>) {
        let fresh: Vec<u32> = open.iter().map(|n| self.open(self.lengths[*n as usize])).collect();
        let to: Vec<(u32, Form)> = open.iter().zip(&fresh).map(|(a, b)| (*a, self.add(Shape::Open(*b)))).collect();
        let mut memo = HashMap::new();
        let xs = xs.iter().map(|x| self.substitute(*x, &to, &mut memo)).collect();
        (fresh, xs)
    }

    /// A sum that picks one index; read backwards, the table of a tally.
    fn one_hot(&mut self, open: &[u32], body: Form) -> Option<Form> {
        if !self.has(Law::OneHot) && !self.has(Law::Tally) {
            return None;
        }
        let factors = self.factors(body);
        for (n, factor) in factors.iter().enumerate() {
            let Shape::Map(ScalarOp::Where, xs) = self.shape(*factor).clone() else { continue };
            let Shape::Map(ScalarOp::Eq, ys) = self.shape(xs[0]).clone() else { continue };
            if !matches!(self.shape(xs[2]), Shape::Const(l) if Value::from(*l).real() == 0.0) {
                continue;
            }
            for (axis, at) in [(ys[0], ys[1]), (ys[1], ys[0])] {
                let Shape::Open(a) = *self.shape(axis) else { continue };
                let Len::Const(len) = self.lengths[a as usize] else { continue };
                let inside = self.bounds(at).is_some_and(|(low, high)| low >= 0 && high < len as i64);
                if !open.contains(&a) || !inside || self.mentions(at, a) {
                    continue;
                }
                let mut all = factors.clone();
                all[n] = xs[1];
                let mut memo = HashMap::new();
                let all: Vec<_> = all.iter().map(|x| self.substitute(*x, &[(a, at)], &mut memo)).collect();
                let rest: Vec<u32> = open.iter().copied().filter(|b| *b != a).collect();
                let one = if all.len() == 1 { all[0] } else { self.product(all) };
                return Some(if rest.is_empty() { one } else { self.fold(ReduceOp::Sum, rest, one) });
            }
        }
        None
    }

    /// A search.
    pub(super) fn topk(&mut self, open: u32, at: Form, body: Form) -> Form {
        let height = self.height(body) + 1;
        let bound = self.add(Shape::Bound(height, 0));
        let body = self.relabel(body, &mut HashMap::from([(self.open_form(open), bound)]));
        self.add(Shape::TopK(height, self.lengths[open as usize], at, body))
    }

    fn open_form(&self, n: u32) -> Form {
        let at = self.shapes.get_index_of(&Shape::Open(n));
        Form(at.map_or(u32::MAX, |i| i as u32))
    }

    /// A reduction whose open axes get numbers: first by how they occur, then as they come.
    fn close(&mut self, op: ReduceOp, open: Vec<u32>, body: Form) -> Form {
        let order = self.ordered(&open, body);
        let height = self.height(body) + 1;
        let mut to = HashMap::new();
        for (i, n) in order.iter().enumerate() {
            let bound = self.add(Shape::Bound(height, i as u32));
            to.insert(self.open_form(*n), bound);
        }
        let body = self.relabel(body, &mut to);
        let lens = order.iter().map(|n| self.lengths[*n as usize]).collect();
        self.add(Shape::Fold(op, height, lens, body))
    }

    /// Open axes by how they occur: colours are refined by those of the axes beside them. Of axes that still look
    /// alike one is told apart, which tells the others.
    fn ordered(&self, open: &[u32], body: Form) -> Vec<u32> {
        let count = |c: &HashMap<u32, u64>| c.values().collect::<HashSet<_>>().len();
        let mut colours: HashMap<u32, u64> = open.iter().map(|n| (*n, 0)).collect();
        while count(&colours) < open.len() {
            let before = count(&colours);
            colours = open.iter().map(|n| (*n, self.colour(body, *n, &colours))).collect();
            if count(&colours) == before {
                let alike = |n: &&u32| colours.values().filter(|c| **c == colours[*n]).count() > 1;
                let Some(told) = open.iter().filter(alike).min_by_key(|n| (self.lengths[**n as usize], colours[*n]))
                else {
                    break;
                };
                colours.insert(*told, colours[told].rotate_left(1) ^ 1);
            }
        }
        let mut order = open.to_vec();
        order.sort_by_key(|n| (self.lengths[*n as usize], colours[n], *n));
        order
    }

    /// New open axes for those of a reduction, and its body over them.
    pub(super) fn opened(&mut self, height: u32, lens: &[Len], body: Form) -> (Vec<u32>, Form) {
        let open: Vec<u32> = lens.iter().map(|l| self.open(*l)).collect();
        let mut to = HashMap::new();
        for (i, n) in open.iter().enumerate() {
            let (bound, open) = (self.add(Shape::Bound(height, i as u32)), self.add(Shape::Open(*n)));
            to.insert(bound, open);
        }
        let body = self.relabel(body, &mut to);
        (open, body)
    }

    // ---- walks -----------------------------------------------------------------------------------------

    fn operands(&self, x: Form) -> Vec<Form> {
        match self.shape(x) {
            Shape::Const(_) | Shape::Axis(_) | Shape::Open(_) | Shape::Bound(..) | Shape::Length(_) => vec![],
            Shape::Leaf(_, _, xs) | Shape::Product(xs) | Shape::Plus(xs) | Shape::Map(_, xs) => xs.clone(),
            Shape::Fold(.., body) => vec![*body],
            Shape::TopK(_, _, at, body) => vec![*at, *body],
        }
    }

    pub(super) fn mentions(&self, x: Form, open: u32) -> bool {
        let (mut stack, mut seen) = (vec![x], HashSet::new());
        while let Some(y) = stack.pop() {
            if *self.shape(y) == Shape::Open(open) {
                return true;
            }
            if seen.insert(y) {
                stack.extend(self.operands(y));
            }
        }
        false
    }

    /// The greatest height bound within.
    fn height(&mut self, x: Form) -> u32 {
        if let Some(h) = self.heights.get(&x) {
            return *h;
        }
        let below = self.operands(x).into_iter().map(|y| self.height(y)).max().unwrap_or(0);
        let height = match self.shape(x) {
            Shape::Fold(_, h, ..) | Shape::TopK(h, ..) => below.max(*h),
            _ => below,
        };
        self.heights.insert(x, height);
        height
    }

    /// How an open axis occurs, whatever the others and the order of operands.
    fn colour(&self, x: Form, open: u32, all: &HashMap<u32, u64>) -> u64 {
        self.colour_in(x, open, all, &mut HashMap::new())
    }

    fn colour_in(&self, x: Form, open: u32, all: &HashMap<u32, u64>, memo: &mut HashMap<Form, u64>) -> u64 {
        if let Some(done) = memo.get(&x) {
            return *done;
        }
        let mut hash = DefaultHasher::new();
        let mut below: Vec<u64> = self.operands(x).into_iter().map(|y| self.colour_in(y, open, all, memo)).collect();
        match self.shape(x) {
            Shape::Open(n) if *n == open => "this".hash(&mut hash),
            Shape::Open(n) => ("another", self.lengths[*n as usize], all.get(n)).hash(&mut hash),
            Shape::Product(_) => "product".hash(&mut hash),
            Shape::Plus(_) => "plus".hash(&mut hash),
            Shape::Leaf(kind, n, _) => (kind, n).hash(&mut hash),
            Shape::Map(op, _) => op.keyword().hash(&mut hash),
            Shape::Fold(op, height, lens, _) => (op.keyword(), height, lens).hash(&mut hash),
            Shape::TopK(height, len, ..) => (height, len).hash(&mut hash),
            leaf => leaf.hash(&mut hash),
        }
        let unordered = match self.shape(x) {
            Shape::Product(_) | Shape::Plus(_) => true,
            Shape::Map(op, _) => self.has(Law::Order) && commutes(*op),
            _ => false,
        };
        if unordered {
            below.sort_unstable();
        }
        below.hash(&mut hash);
        let done = hash.finish();
        memo.insert(x, done);
        done
    }

    /// The form with some nodes replaced by others of their kind: no law is applied again.
    fn relabel(&mut self, x: Form, to: &mut HashMap<Form, Form>) -> Form {
        if let Some(done) = to.get(&x) {
            return *done;
        }
        let mut each = |s: &mut Self, xs: &[Form]| xs.iter().map(|y| s.relabel(*y, to)).collect::<Vec<_>>();
        let shape = match self.shape(x).clone() {
            leaf @ (Shape::Const(_) | Shape::Axis(_) | Shape::Open(_) | Shape::Bound(..) | Shape::Length(_)) => leaf,
            Shape::Leaf(kind, n, xs) => Shape::Leaf(kind, n, each(self, &xs)),
            Shape::Product(xs) => Shape::Product(each(self, &xs)),
            Shape::Plus(xs) => Shape::Plus(each(self, &xs)),
            Shape::Map(op, xs) => Shape::Map(op, each(self, &xs)),
            Shape::Fold(op, height, lens, body) => Shape::Fold(op, height, lens, each(self, &[body])[0]),
            Shape::TopK(height, len, at, body) => {
                let xs = each(self, &[at, body]);
                Shape::TopK(height, len, xs[0], xs[1])
            }
        };
        let new = self.add(shape);
        to.insert(x, new);
        new
    }

    /// The form with open axes replaced by indices, laws applied to what comes.
    fn substitute(&mut self, x: Form, to: &[(u32, Form)], memo: &mut HashMap<Form, Form>) -> Form {
        if let Some(done) = memo.get(&x) {
            return *done;
        }
        let mut each = |s: &mut Self, xs: &[Form]| xs.iter().map(|y| s.substitute(*y, to, memo)).collect::<Vec<_>>();
        let new = match self.shape(x).clone() {
            Shape::Open(n) => to.iter().find(|(m, _)| *m == n).map_or(x, |(_, form)| *form),
            Shape::Const(_) | Shape::Axis(_) | Shape::Bound(..) | Shape::Length(_) => x,
            Shape::Leaf(kind, n, xs) => {
                let xs = each(self, &xs);
                self.add(Shape::Leaf(kind, n, xs))
            }
            Shape::Product(xs) => {
                let xs = each(self, &xs);
                self.product(xs)
            }
            Shape::Plus(xs) => {
                let xs = each(self, &xs);
                self.plus(xs)
            }
            Shape::Map(op, xs) => {
                let xs = each(self, &xs);
                self.map(op, xs)
            }
            Shape::Fold(op, height, lens, body) => {
                let (open, body) = self.opened(height, &lens, body);
                let body = self.substitute(body, to, memo);
                self.fold(op, open, body)
            }
            Shape::TopK(height, len, at, body) => {
                let at = each(self, &[at])[0];
                let (open, body) = self.opened(height, &[len], body);
                let body = self.substitute(body, to, memo);
                self.topk(open[0], at, body)
            }
        };
        memo.insert(x, new);
        new
    }
}

/// Whether a law says how products and sums over products nest, or uses it.
fn nests_products(law: Law) -> bool {
    match law {
        Law::Flatten
        | Law::Stabilise
        | Law::Hoist
        | Law::Merge
        | Law::Push
        | Law::Read
        | Law::Split
        | Law::Group
        | Law::Sink
        | Law::Scale
        | Law::Within
        | Law::Gather
        | Law::Tally
        | Law::Look
        | Law::Distribute
        | Law::Blocks
        | Law::Absorb => true,
        Law::Fold
        | Law::Unit
        | Law::Difference
        | Law::Quotient
        | Law::Power
        | Law::Order
        | Law::Choose
        | Law::Length
        | Law::Compose
        | Law::Rename
        | Law::OneHot
        | Law::Cases
        | Law::Commute => false,
    }
}

/// Whether a law says how sums nest, or uses it.
fn nests_sums(law: Law) -> bool {
    match law {
        Law::Flatten
        | Law::Difference
        | Law::Push
        | Law::Read
        | Law::Distribute
        | Law::Blocks
        | Law::Stabilise
        | Law::Scale => true,
        Law::Fold
        | Law::Unit
        | Law::Quotient
        | Law::Power
        | Law::Order
        | Law::Choose
        | Law::Hoist
        | Law::Merge
        | Law::Length
        | Law::Compose
        | Law::Rename
        | Law::OneHot
        | Law::Cases
        | Law::Split
        | Law::Group
        | Law::Sink
        | Law::Within
        | Law::Gather
        | Law::Tally
        | Law::Look
        | Law::Commute
        | Law::Absorb => false,
    }
}

fn commutes(op: ScalarOp) -> bool {
    use ScalarOp::{Add, And, Eq, Max, Min, Mul, Ne, Or};
    matches!(op, Max | Min | Eq | Ne | And | Or | Add | Mul)
}

fn idempotent(op: ScalarOp) -> bool {
    matches!(op, ScalarOp::Max | ScalarOp::Min | ScalarOp::And | ScalarOp::Or)
}
