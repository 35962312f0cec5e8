//! Statistics of one token: folds over the reduced axes that use no packed weight.
//!
//! Lanes of the innermost axis have partial results of their own, in several chains, folded at the end in a fixed
//! order; what does not fill a vector is folded last. All of it depends on the axis's length alone.

use crate::kernel::{AxisRef, Contract, ExprRef, ResultRef};
use crate::llvm::{Emitter, Lane, Scope, Val};
use crate::target::cpu::tuning::{DOT_CHAINS, WIDTH};
use llmc_artifact::{Dim, ReduceOp, Type};

/// The statistic at the row that the scope is bound to.
pub(super) fn emit<'c>(scope: &Scope<'_, 'c>, contract: &Contract, stat: ResultRef) -> Val<'c> {
    let e = scope.emitter();
    let fold = &contract.stats[stat.0 as usize];
    let fold = Fold { op: fold.op, body: fold.body };
    let identity = e.f32(fold.op.identity(Type::Real).real());
    // Vector chains, then the scalar one.
    let mut begin = vec![e.splat(identity, WIDTH); DOT_CHAINS as usize];
    begin.push(identity);
    let done = fold.nest(scope, &contract.reduce, &begin);
    let (single, chains) = done.split_last().expect("there are chains");
    let mut chains = chains.to_vec();
    while chains.len() > 1 {
        chains = chains.chunks(2).map(|c| if c.len() == 2 { fold.combine(e, c[0], c[1]) } else { c[0] }).collect();
    }
    let lanes = e.fold_lanes(chains[0], |a, b| fold.combine(e, a, b));
    fold.combine(e, lanes, *single)
}

struct Fold {
    op: ReduceOp,
    body: ExprRef,
}

impl Fold {
    fn combine<'c>(&self, e: &Emitter<'c>, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        match self.op {
            ReduceOp::Sum => e.add(a, b),
            ReduceOp::Max => e.max(a, b),
            ReduceOp::Min => e.min(a, b),
            ReduceOp::Any | ReduceOp::All => panic!("emission: a statistic of truth values"),
        }
    }

    fn nest<'c>(&self, scope: &Scope<'_, 'c>, axes: &[AxisRef], carried: &[Val<'c>]) -> Vec<Val<'c>> {
        let e = scope.emitter();
        let Some((first, rest)) = axes.split_first() else {
            let mut next = carried.to_vec();
            let last = next.len() - 1;
            next[last] = self.combine(e, next[last], scope.widened(1).real(self.body).value);
            return next;
        };
        let length = scope.spec().dim(*first).and_then(Dim::as_const).expect("emission: a reduced axis varies") as i64;
        if rest.is_empty() {
            return self.innermost(scope, *first, length, carried);
        }
        e.for_each(e.int(0), e.int(length), 1, carried, |i, now| {
            self.nest(&scope.bind(*first, Lane::uniform(i)), rest, now)
        })
    }

    fn innermost<'c>(&self, scope: &Scope<'_, 'c>, axis: AxisRef, n: i64, carried: &[Val<'c>]) -> Vec<Val<'c>> {
        let (e, width) = (scope.emitter(), WIDTH as i64);
        scope.hoist(&[self.body], &[axis]);
        let (chained, whole) = (n - n % (width * DOT_CHAINS), n - n % width);
        let wide = scope.widened(WIDTH);
        let vectors = |from: i64, to: i64, chains: i64, carried: &[Val<'c>]| {
            e.for_each(e.int(from), e.int(to), chains * width, carried, |i, now| {
                let mut next = now.to_vec();
                for c in 0..chains {
                    let at = wide.bind(axis, Lane::range(e.add(i, e.int(c * width)), WIDTH as u64));
                    let value = e.materialise(at.real(self.body), WIDTH);
                    next[c as usize] = self.combine(e, next[c as usize], value);
                }
                next
            })
        };
        let carried = vectors(0, chained, DOT_CHAINS, carried);
        let carried = vectors(chained, whole, 1, &carried);
        let single = scope.widened(1);
        e.for_each(e.int(whole), e.int(n), 1, &carried, |i, now| {
            self.nest(&single.bind(axis, Lane::uniform(i)), &[], now)
        })
    }
}
