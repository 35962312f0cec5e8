//! The map family: stores of pointwise values over the same axes.

use super::expr::Place;
use super::{Body, Kernel};

impl Kernel<'_, '_> {
    pub(super) fn map(&mut self, values: &[u32]) -> Body {
        let order = self.walk_order(values[0]);
        let axes = self.all_axes(&order);
        let mut stores = Vec::new();
        for n in values {
            let value = self.expr(self.value(*n).term, &Place::default());
            stores.extend(self.stores(*n, value));
        }
        Body::Map { axes, stores }
    }
}
