//! Random blocks whose axes collide: few axes, many of them read at each other, bound and free at once.

use super::draft::{Draft, N};
use llmc_artifact::{ReduceOp, ScalarOp, Type};
use llmc_frontend::graph::AxisId;

/// A stream of choices.
pub struct Choices(pub u64);

impl Choices {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % n as u64) as usize
    }
    fn of<T: Copy>(&mut self, xs: &[T]) -> T {
        xs[self.below(xs.len())]
    }
}

/// A random block of about `size` operations, at least half of which use values that other operations made.
pub fn block(seed: u64, size: usize) -> Draft {
    let mut c = Choices(seed.wrapping_mul(0x9e37_79b9) ^ 0x1234_5678);
    let mut d = Draft::new();
    let t = d.seq("t");
    let (a, b, e) = (d.axis("a", 2), d.axis("b", 2), d.axis("e", 3));
    let (s, r) = (d.view("s"), d.view("r"));
    let consts = [a, b, e];
    let mut pool = vec![
        d.param("x", &[t, a], Type::Real),
        d.param("y", &[t, a, b], Type::Real),
        d.param("z", &[t, e], Type::Real),
        d.weight("w", &[a, b]),
        d.weight("v", &[b, e]),
        d.weight("g", &[a]),
        d.weight("u", &[a, e]),
    ];
    for _ in 0..size {
        let fresh = pool.len().saturating_sub(6).max(1);
        let x = if c.below(3) > 0 { pool[pool.len() - 1 - c.below(fresh)] } else { pool[c.below(pool.len())] };
        if let Some(y) = operation(&mut d, &mut c, &pool, x, (t, s, r), &consts)
            && d.free(y).len() <= 5
        {
            pool.push(y);
        }
    }
    let last = *pool.last().expect("the pool is never empty");
    d.result("out", last);
    let other = pool[c.below(pool.len())];
    d.result("other", other);
    // Shapes that draws of single operations come to too seldom.
    let rare = match seed % 4 {
        0 => powers(&mut d, &mut c, &pool, (t, s), &consts),
        1 => picked(&mut d, &mut c, &pool, &consts),
        2 => table(&mut d, &mut c, &pool, (t, s), &consts),
        _ => far(&mut d, &mut c, &pool, (t, s)),
    };
    d.result("rare", rare);
    d
}

/// Powers over their own sum, or its logarithm: masked or not, of a token's own values or of what other tokens have,
/// divided before or after what they are multiplied with.
fn powers(d: &mut Draft, c: &mut Choices, pool: &[N], (t, s): (AxisId, AxisId), consts: &[AxisId]) -> N {
    let x = pool[c.below(3)];
    let x = d.map(ScalarOp::Tanh, &[x]);
    let (x, over) = match c.below(3) {
        0 => (d.rename(x, t, s), s),
        1 => {
            let other = d.rename(x, t, s);
            (d.mul(x, other), s)
        }
        _ => (x, consts.iter().copied().find(|a| d.free(x).contains(*a)).expect("the first params have one")),
    };
    let op = c.of(&[ScalarOp::Exp, ScalarOp::Exp2]);
    let (i, j, zero) = (d.iota(over), d.iota(c.of(consts)), d.real(0.0));
    let mask = d.map(ScalarOp::Le, &[i, j]);
    let z = match c.below(3) {
        0 => {
            let dead = d.real(f64::NEG_INFINITY);
            let masked = d.map(ScalarOp::Where, &[mask, x, dead]);
            d.map(op, &[masked])
        }
        1 => {
            let power = d.map(op, &[x]);
            d.map(ScalarOp::Where, &[mask, power, zero])
        }
        _ => d.map(op, &[x]),
    };
    let total = d.sum(&[over], z);
    let by = d.iota(over);
    let by = d.map(ScalarOp::ToReal, &[by]);
    match c.below(4) {
        0 => d.map(c.of(&[ScalarOp::Log, ScalarOp::Log2]), &[total]),
        1 => d.div(z, total),
        2 => {
            let weight = d.div(z, total);
            let product = d.mul(weight, by);
            d.sum(&[over], product)
        }
        _ => {
            let product = d.mul(by, z);
            let sum = d.sum(&[over], product);
            let both = d.add2(sum, total);
            d.div(both, total)
        }
    }
}

/// A sum that picks an index, where there may be none to pick: the index runs with the axis itself, or lies beyond it.
fn picked(d: &mut Draft, c: &mut Choices, pool: &[N], consts: &[AxisId]) -> N {
    let (i, from) = (c.of(consts), c.of(consts));
    let (here, there, zero) = (d.iota(i), d.iota(from), d.real(0.0));
    let wanted = match c.below(4) {
        0 => there,
        1 => at(d, c, i, from),
        // Sometimes beyond the axis, or always.
        n => {
            let by = d.int(if n == 2 { 1 } else { 3 });
            d.map(ScalarOp::Add, &[there, by])
        }
    };
    let hit = d.map(ScalarOp::Eq, &[here, wanted]);
    let (x, y) = (pool[c.below(7)], pool[c.below(7)]);
    let hot = d.map(ScalarOp::Where, &[hit, x, zero]);
    let product = d.mul(hot, y);
    d.sum(&[i], product)
}

/// Two products by weights, scaled by the token and read at another one: what is read may be what lies between them.
fn far(d: &mut Draft, c: &mut Choices, pool: &[N], (t, s): (AxisId, AxisId)) -> N {
    let (y, z, w, v) = (pool[1], pool[2], pool[3], pool[4]);
    let (first, second) = (d.free(v).intersect(&d.free(z)), d.free(w).intersect(&d.free(v)));
    let p = d.mul(v, z);
    let inner = d.sum(first.as_slice(), p);
    let p = d.mul(w, inner);
    let outer = d.sum(second.as_slice(), p);
    let scale = if c.below(2) == 0 { y } else { d.map(ScalarOp::Tanh, &[y]) };
    let wide = d.mul(scale, outer);
    let there = d.rename(wide, t, s);
    if c.below(2) == 0 { there } else { d.mul(pool[c.below(3)], there) }
}

/// A sum over other tokens of a row of a table for each distance, times something.
fn table(d: &mut Draft, c: &mut Choices, pool: &[N], (t, s): (AxisId, AxisId), consts: &[AxisId]) -> N {
    let (a, e) = (consts[0], consts[2]);
    let (wide, x) = (pool[6], pool[c.below(3)]);
    let (i, j, low, high) = (d.iota(s), d.iota(t), d.int(0), d.int(1));
    let gap = d.sub(i, j);
    let above = d.map(ScalarOp::Max, &[gap, low]);
    let row = d.map(ScalarOp::Min, &[above, high]);
    let rows = d.index(wide, a, row);
    let met = match c.below(3) {
        0 => d.rename(x, t, s),
        1 => {
            let (here, there) = (x, d.rename(x, t, s));
            d.mul(here, there)
        }
        _ => {
            let most = d.reduce(ReduceOp::Max, &[e], rows);
            let there = d.rename(x, t, s);
            d.mul(most, there)
        }
    };
    let product = d.mul(met, rows);
    let sum = d.sum(&[s], product);
    match c.below(3) {
        0 => sum,
        1 => d.mul(sum, x),
        // Within a sum over the rows themselves.
        _ => {
            let product = d.mul(sum, pool[1]);
            d.sum(&[a], product)
        }
    }
}

fn operation(
    d: &mut Draft,
    c: &mut Choices,
    pool: &[N],
    x: N,
    (t, s, r): (AxisId, AxisId, AxisId),
    consts: &[AxisId],
) -> Option<N> {
    let y = pool[c.below(pool.len())];
    Some(match c.below(20) {
        0..=2 => d.mul(x, y),
        16..=18 => contraction(d, c, pool, x, consts)?,
        19 => {
            // A scaled sum of products, one of them perhaps read elsewhere.
            let mut p = contraction(d, c, pool, x, consts)?;
            let q = contraction(d, c, pool, y, consts)?;
            let axes: Vec<_> = d.free(p).iter().filter(|a| consts.contains(a)).collect();
            if let Some(from) = Some(axes).filter(|a| !a.is_empty()).map(|a| c.of(&a)) {
                let i = at(d, c, from, from);
                p = d.index(p, from, i);
            }
            let (sum, scale) = (d.add2(p, q), d.real(0.5));
            d.mul(scale, sum)
        }
        3 => d.add2(x, y),
        4 => d.sub(x, y),
        5 => {
            let (square, c) = (d.mul(y, y), d.real(1.5));
            let below = d.add2(square, c);
            d.div(x, below)
        }
        6 => {
            let op = c.of(&[ScalarOp::Tanh, ScalarOp::Sin, ScalarOp::Abs, ScalarOp::Exp]);
            let bounded = d.map(ScalarOp::Tanh, &[x]);
            d.map(op, &[bounded])
        }
        7 => d.map(c.of(&[ScalarOp::Max, ScalarOp::Min]), &[x, y]),
        8..=10 => {
            // The language refuses a sum over an axis that is not there; the algebra has them.
            let axes: Vec<_> = d.free(x).iter().chain(consts.iter().copied()).collect();
            let over = c.of(&axes);
            d.reduce(c.of(&[ReduceOp::Sum, ReduceOp::Sum, ReduceOp::Max, ReduceOp::Min]), &[over], x)
        }
        11 => {
            // A token at another, whichever way round.
            let axes: Vec<_> = d.free(x).iter().filter(|a| [t, s, r].contains(a)).collect();
            let from = c.of(Some(axes.as_slice()).filter(|a| !a.is_empty())?);
            let to = c.of(&[s, r, t]);
            d.rename(x, from, to)
        }
        12 => {
            let axes: Vec<_> = d.free(x).iter().filter(|a| consts.contains(a)).collect();
            let from = c.of(Some(axes.as_slice()).filter(|a| !a.is_empty())?);
            let to = c.of(consts);
            let i = at(d, c, from, to);
            d.index(x, from, i)
        }
        13 => {
            // A mask over positions.
            let (i, j) = (d.iota(c.of(&[t, s])), d.iota(c.of(&[t, s, r])));
            let mask = d.map(c.of(&[ScalarOp::Le, ScalarOp::Ge, ScalarOp::Gt]), &[i, j]);
            let dead = d.real(-1e4);
            d.map(ScalarOp::Where, &[mask, x, dead])
        }
        14 => {
            // One-hot: an index found by a sum.
            let (i, from) = (c.of(consts), c.of(consts));
            let (wanted, here, zero) = (at(d, c, i, from), d.iota(i), d.real(0.0));
            let found = d.map(ScalarOp::Eq, &[here, wanted]);
            let otherwise = if c.below(2) == 0 {
                let other = at(d, c, i, from);
                let found = d.map(ScalarOp::Eq, &[other, here]);
                d.map(ScalarOp::Where, &[found, y, zero])
            } else {
                zero
            };
            let hot = d.map(ScalarOp::Where, &[found, x, otherwise]);
            if from == i { hot } else { d.sum(&[i], hot) }
        }
        _ => {
            let c2 = d.real(c.of(&[2.0, -1.0, 0.5, 1.0]));
            let exponent = d.real(c.of(&[2.0, 1.0]));
            let power = d.map(ScalarOp::Pow, &[x, exponent]);
            d.mul(c2, power)
        }
    })
}

/// A sum of products over one or two axes: weights first, as layers have them.
fn contraction(d: &mut Draft, c: &mut Choices, pool: &[N], x: N, consts: &[AxisId]) -> Option<N> {
    let mut product = x;
    for _ in 0..1 + c.below(3) {
        let factor = if c.below(2) == 0 { pool[3 + c.below(4)] } else { pool[c.below(pool.len())] };
        product = d.mul(product, factor);
    }
    let axes: Vec<_> = d.free(product).iter().filter(|a| consts.contains(a)).collect();
    let first = c.of(Some(axes.as_slice()).filter(|a| !a.is_empty())?);
    let second = c.of(&axes);
    let over = if first == second || c.below(2) == 0 { vec![first] } else { vec![first, second] };
    Some(d.sum(&over, product))
}

/// An index into `a` made of the index along `b`: a rename where that is all that is needed, or a rotation.
fn at(d: &mut Draft, c: &mut Choices, a: AxisId, b: AxisId) -> N {
    let n = d.axes.len_of(a).expect("a constant axis") as i64;
    let fits = d.axes.len_of(b).expect("a constant axis") as i64 <= n;
    let i = d.iota(b);
    if fits && c.below(2) == 0 {
        return i;
    }
    let (one, n) = (d.int(1), d.int(n));
    let next = d.map(ScalarOp::Add, &[i, one]);
    d.map(ScalarOp::Mod, &[next, n])
}
