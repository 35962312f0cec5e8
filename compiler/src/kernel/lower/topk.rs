//! The topk family.

use super::expr::Place;
use super::{Body, Kernel};
use crate::kernel::TopK;
use crate::normal::Term;

impl Kernel<'_, '_> {
    pub(super) fn topk(&mut self, values: &[u32]) -> Body {
        let n = values[0];
        let Term::TopK(axis, rank, x) = *self.l.terms.term(self.value(n).term) else {
            panic!("lower: a search's value is a search")
        };
        let order = self.walk_order(n);
        let parallel: Vec<_> = order.iter().copied().filter(|a| *a != rank).collect();
        let parallel = self.all_axes(&parallel);
        let (axis, rank) = (self.axis(axis), self.axis(rank));
        let value = self.expr(x, &Place::default());
        // The winners themselves are what is stored: the expression only carries the type.
        let winners = self.int(0);
        let store = self.stores(n, winners).into_iter().next().expect("lower: a search is stored once");
        Body::TopK(TopK { parallel, axis, rank, value, operand: store.operand, index: store.index })
    }
}
