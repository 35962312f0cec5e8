//! One layer of a decoder, written as its text has it, at any size and in several spellings.

use super::draft::{Draft, N};
use llmc_artifact::{ReduceOp, ScalarOp, Type};
use llmc_frontend::graph::AxisId;

/// Lengths of the axes.
#[derive(Clone, Copy)]
pub struct Sizes {
    pub model: u64,
    pub kv: u64,
    pub groups: u64,
    pub head: u64,
    pub hidden: u64,
}

/// Small enough to be evaluated point by point.
pub const TINY: Sizes = Sizes { model: 3, kv: 2, groups: 2, head: 4, hidden: 3 };
/// SmolLM2-135M.
pub const SMALL: Sizes = Sizes { model: 576, kv: 3, groups: 3, head: 64, hidden: 1536 };

/// How the text spells what can be spelled in several ways.
#[derive(Clone, Copy, Default)]
pub struct Spelling {
    /// Divides the sum over values by the total, instead of every weight.
    pub divide_late: bool,
    /// Multiplies the norm's scale after its projection, instead of before.
    pub scale_late: bool,
    /// Reads keys and values at the other token before they are projected.
    pub read_early: bool,
    /// Writes the scores' scale as a factor of the queries.
    pub scale_queries: bool,
}

struct Axes {
    t: AxisId,
    s: AxisId,
    m: AxisId,
    k: AxisId,
    g: AxisId,
    e: AxisId,
    f: AxisId,
    n: AxisId,
}

/// The draft of a layer: one result, `x`.
pub fn layer(sizes: Sizes, spelling: Spelling) -> Draft {
    let mut d = Draft::new();
    let a = Axes {
        t: d.seq("t"),
        m: d.axis("m", sizes.model),
        k: d.axis("k", sizes.kv),
        g: d.axis("g", sizes.groups),
        e: d.axis("e", sizes.head),
        f: d.axis("f", sizes.head / 2),
        n: d.axis("n", sizes.hidden),
        s: d.view("s"),
    };
    let x = d.param("x", &[a.t, a.m], Type::Real);
    let attended = attention(&mut d, &a, x, spelling);
    let x = d.add2(x, attended);
    let fed = feed_forward(&mut d, &a, x, spelling);
    let x = d.add2(x, fed);
    d.result("x", x);
    d
}

/// `sum[m](w * rms_norm[m](x, gain))`, the norm's scale before or after the sum.
fn normed(d: &mut Draft, m: AxisId, x: N, gain: N, w: N, late: bool) -> N {
    if !late {
        let y = d.rms_norm(m, x, gain);
        let p = d.mul(w, y);
        return d.sum(&[m], p);
    }
    let (square, eps) = (d.mul(x, x), d.real(1e-5));
    let mean = d.mean(m, square);
    let shifted = d.add2(mean, eps);
    let root = d.map(ScalarOp::Sqrt, &[shifted]);
    let wg = d.mul(w, gain);
    let p = d.mul(wg, x);
    let sum = d.sum(&[m], p);
    d.div(sum, root)
}

fn attention(d: &mut Draft, a: &Axes, x: N, spelling: Spelling) -> N {
    let gain = d.weight("attn_norm", &[a.m]);
    let wq = d.weight("wq", &[a.k, a.g, a.e, a.m]);
    let (wk, wv) = (d.weight("wk", &[a.k, a.e, a.m]), d.weight("wv", &[a.k, a.e, a.m]));
    let wo = d.weight("wo", &[a.m, a.k, a.g, a.e]);
    let freq = d.weight("freq", &[a.f]);
    let late = spelling.scale_late;
    let q = normed(d, a.m, x, gain, wq, late);
    let q = d.rope(a.e, a.f, a.t, q, freq);
    let (key, value) = if spelling.read_early {
        let x = d.rename(x, a.t, a.s);
        let key = normed(d, a.m, x, gain, wk, late);
        (d.rope(a.e, a.f, a.s, key, freq), normed(d, a.m, x, gain, wv, late))
    } else {
        let key = normed(d, a.m, x, gain, wk, late);
        let key = d.rope(a.e, a.f, a.t, key, freq);
        let value = normed(d, a.m, x, gain, wv, late);
        (d.rename(key, a.t, a.s), d.rename(value, a.t, a.s))
    };
    let root = d.axes.len_of(a.e).expect("a constant axis") as f64;
    let root = d.real(root.sqrt());
    let score = if spelling.scale_queries {
        let q = d.div(q, root);
        let p = d.mul(q, key);
        d.sum(&[a.e], p)
    } else {
        let p = d.mul(q, key);
        let score = d.sum(&[a.e], p);
        d.div(score, root)
    };
    let (i, j, dead) = (d.iota(a.s), d.iota(a.t), d.real(f64::NEG_INFINITY));
    let seen = d.map(ScalarOp::Le, &[i, j]);
    let masked = d.map(ScalarOp::Where, &[seen, score, dead]);
    let (z, total) = d.softmax_parts(a.s, masked);
    let mixed = if spelling.divide_late {
        let p = d.mul(z, value);
        let sum = d.sum(&[a.s], p);
        d.div(sum, total)
    } else {
        let p = d.div(z, total);
        let p = d.mul(p, value);
        d.sum(&[a.s], p)
    };
    let p = d.mul(wo, mixed);
    d.reduce(ReduceOp::Sum, &[a.k, a.g, a.e], p)
}

fn feed_forward(d: &mut Draft, a: &Axes, x: N, spelling: Spelling) -> N {
    let gain = d.weight("ffn_norm", &[a.m]);
    let (gate, up) = (d.weight("gate", &[a.n, a.m]), d.weight("up", &[a.n, a.m]));
    let down = d.weight("down", &[a.m, a.n]);
    let g = normed(d, a.m, x, gain, gate, spelling.scale_late);
    let u = normed(d, a.m, x, gain, up, spelling.scale_late);
    let (one, minus) = (d.real(1.0), d.map(ScalarOp::Neg, &[g]));
    let e = d.map(ScalarOp::Exp, &[minus]);
    let below = d.add2(one, e);
    let sigmoid = d.div(one, below);
    let silu = d.mul(g, sigmoid);
    let p = d.mul(silu, u);
    let p = d.mul(down, p);
    d.sum(&[a.n], p)
}
