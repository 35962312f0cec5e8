//! Inner products of a stream's block: for every lane `sum[reduce](left * right)`.

use super::super::nest::vectors;
use super::super::tuning::{DOT_CHAINS, WIDTH};
use super::{Block, Fold};
use crate::kernel::{AxisRef, Dot, Expr, ExprRef};
use crate::llvm::{Lane, Scope, Ty, Val};
use llmc_artifact::plan::{PageDim, Storage};

impl<'s, 'e, 'c> Fold<'s, 'e, 'c> {
    /// Computes a dot's left factor at every point of its reduced axes.
    pub(super) fn keep_left(&self, at: &Scope<'_, 'c>, dot: &Dot, array: Val<'c>) {
        fn nest<'c>(at: &Scope<'_, 'c>, axes: &[AxisRef], store: &dyn Fn(&Scope<'_, 'c>)) {
            let Some((first, rest)) = axes.split_first() else { return store(at) };
            let (e, zero) = (at.emitter(), at.emitter().int(0));
            let length = at.dim(at.spec().dim(*first).expect("emission: a dot over keys"));
            if rest.is_empty() {
                return vectors(at, *first, (zero, length), WIDTH, store);
            }
            e.repeat(zero, length, 1, |i| nest(&at.bind(*first, Lane::uniform(i)), rest, store));
        }
        nest(at, &dot.reduce, &|s| {
            let place = self.slot(s, &dot.reduce, &[]);
            s.emitter().store_elements(array, Ty::F32, place, s.real(dot.left), s.width());
        });
    }

    fn left(&self, scope: &Scope<'_, 'c>, i: usize, dot: &Dot) -> Lane<'c> {
        match self.kept[i] {
            Some(array) => {
                let place = self.slot(scope, &dot.reduce, &[]);
                self.entry.emitter.load_elements(array, Ty::F32, place, scope.width())
            }
            None => scope.real(dot.left),
        }
    }

    /// Whether consecutive indices of the folded axis lie side by side in what the right factor loads.
    fn lies_along_lanes(&self, at: &Scope<'_, 'c>, right: ExprRef) -> bool {
        let spec = self.entry.spec;
        let is_load = |e: ExprRef| matches!(spec.exprs[e], Expr::Load { .. }) && at.depends_on(e, self.inner);
        at.largest_parts(right, is_load).into_iter().all(|e| {
            let Expr::Load { operand, index } = &spec.exprs[e] else { return false };
            match &spec.operands[operand.0 as usize].storage {
                Storage::Paged { page, .. } | Storage::Workspace { page, .. } => {
                    matches!(page.last(), Some(PageDim::Slot { count, step: 1 }) if *count >= WIDTH)
                }
                // Rows of a panel are its lanes.
                Storage::Panel { .. } => {
                    let plain = spec.operands[operand.0 as usize].format.plain().is_some();
                    plain && spec.exprs[index[0]] == Expr::Axis(self.inner)
                }
                Storage::Dense { .. } => index.last().is_some_and(|i| spec.exprs[*i] == Expr::Axis(self.inner)),
            }
        })
    }
}

impl<'f, 's, 'e, 'c> Block<'f, 's, 'e, 'c> {
    /// Computes a dot at the block's lanes.
    pub(super) fn dot(&self, at: &Scope<'_, 'c>, i: usize, dot: &Dot) {
        let (fold, e) = (self.fold, at.emitter());
        if self.at_once && fold.lies_along_lanes(at, dot.right) {
            let lanes = at.widened(WIDTH).bind(fold.inner, Lane::range(self.base, WIDTH as u64));
            lanes.hoist(&[dot.right], &dot.reduce);
            let sum = self.sum_lanes(&lanes, &dot.reduce, i, dot, e.zero(Ty::F32, WIDTH));
            e.store(fold.dots[i], sum);
            self.vectors.borrow_mut()[i] = Some(sum);
            return;
        }
        e.repeat(self.valid.0, self.valid.1, 1, |key| {
            let one = at.bind(fold.inner, Lane::uniform(key));
            one.hoist(&[dot.right], &dot.reduce);
            let sum = self.sum_reduced(&one, &dot.reduce, i, dot);
            e.store(e.element(fold.dots[i], Ty::F32, e.sub(key, self.base)), sum);
        });
        if self.at_once {
            self.vectors.borrow_mut()[i] = Some(e.load(Ty::F32, WIDTH, fold.dots[i]));
        }
    }

    /// Adds the products over the reduced axes to `sum`, all lanes at once. The innermost axis is dealt out to a few
    /// chains, which hide the latency of the multiply-add and are added in a fixed order.
    fn sum_lanes(&self, at: &Scope<'_, 'c>, reduce: &[AxisRef], i: usize, dot: &Dot, sum: Val<'c>) -> Val<'c> {
        let e = at.emitter();
        let step = |s: &Scope<'_, 'c>, sum: Val<'c>| {
            let (left, right) = (self.fold.left(s, i, dot), s.real(dot.right));
            e.fma(e.materialise(left, WIDTH), e.materialise(right, WIDTH), sum)
        };
        let Some((axis, rest)) = reduce.split_first() else { return step(at, sum) };
        let length = at.dim(at.spec().dim(*axis).expect("emission: a dot over keys"));
        if !rest.is_empty() {
            let all = e.for_each(e.int(0), length, 1, &[sum], |k, sum| {
                vec![self.sum_lanes(&at.bind(*axis, Lane::uniform(k)), rest, i, dot, sum[0])]
            });
            return all[0];
        }
        let whole = length.constant().map_or(0, |n| n / DOT_CHAINS * DOT_CHAINS);
        let mut chains = vec![e.zero(Ty::F32, WIDTH); DOT_CHAINS as usize];
        chains[0] = sum;
        if whole > 0 {
            chains = e.for_each(e.int(0), e.int(whole), DOT_CHAINS, &chains, |k, sums| {
                let at_chain =
                    |(c, sum): (usize, &Val<'c>)| step(&at.bind(*axis, Lane::uniform(e.add(k, e.int(c as i64)))), *sum);
                sums.iter().enumerate().map(at_chain).collect()
            });
        }
        if length.constant() != Some(whole) {
            let rest = e.for_each(e.int(whole), length, 1, &chains[..1], |k, sum| {
                vec![step(&at.bind(*axis, Lane::uniform(k)), sum[0])]
            });
            chains[0] = rest[0];
        }
        while chains.len() > 1 {
            chains = chains.chunks(2).map(|pair| e.add(pair[0], pair[1])).collect();
        }
        chains[0]
    }

    /// The sum of products at one index of the folded axis: vectors along the innermost reduced axis.
    fn sum_reduced(&self, at: &Scope<'_, 'c>, reduce: &[AxisRef], i: usize, dot: &Dot) -> Val<'c> {
        let e = at.emitter();
        let product = |s: &Scope<'_, 'c>, sum: Val<'c>, width: u32| {
            let (left, right) = (self.fold.left(s, i, dot), s.real(dot.right));
            e.fma(e.materialise(left, width), e.materialise(right, width), sum)
        };
        let Some((axis, rest)) = reduce.split_first() else { return product(at, e.zero(Ty::F32, 1), 1) };
        let length = at.dim(at.spec().dim(*axis).expect("emission: a dot over keys"));
        if !rest.is_empty() {
            let all = e.for_each(e.int(0), length, 1, &[e.f32(0.0)], |k, sum| {
                let inner = self.sum_reduced(&at.bind(*axis, Lane::uniform(k)), rest, i, dot);
                vec![e.add(sum[0], inner)]
            });
            return all[0];
        }
        let whole = length.constant().map_or(0, |n| n / WIDTH as i64 * WIDTH as i64);
        let mut sum = e.f32(0.0);
        if whole > 0 {
            let wide = at.widened(WIDTH);
            let zero = e.zero(Ty::F32, WIDTH);
            let lanes = e.for_each(e.int(0), e.int(whole), WIDTH as i64, &[zero], |k, sum| {
                vec![product(&wide.bind(*axis, Lane::range(k, WIDTH as u64)), sum[0], WIDTH)]
            });
            sum = e.fold_lanes(lanes[0], |a, b| e.add(a, b));
        }
        if length.constant() == Some(whole) {
            return sum;
        }
        let tail = e.for_each(e.int(whole), length, 1, &[sum], |k, sum| {
            vec![product(&at.bind(*axis, Lane::uniform(k)), sum[0], 1)]
        });
        tail[0]
    }
}
