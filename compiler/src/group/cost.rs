//! What a kernel costs: bytes moved and operations on a roofline, and a launch.

use super::{Facts, Form, Value, Work};
use crate::normal::{TermId, Terms};
use llmc_artifact::Format;
use llmc_frontend::graph::{Axes, AxisId};
use std::collections::BTreeSet;

/// The roofline that costs are measured by, and the lengths that stand for those known only when it runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Machine {
    /// Bytes a second from memory.
    pub bytes: f64,
    /// Floating-point operations a second.
    pub flops: f64,
    /// Seconds of one launch.
    pub launch: f64,
    /// Tokens of a step.
    pub rows: u64,
    /// Tokens that a token sees.
    pub keys: u64,
}

impl Default for Machine {
    /// One generated token late in a conversation, on a machine with few cores.
    fn default() -> Machine {
        Machine { bytes: 2e10, flops: 1e11, launch: 3e-6, rows: 1, keys: 1024 }
    }
}

impl Machine {
    fn len(&self, terms: &Terms, axis: AxisId) -> f64 {
        match terms.axes.len_of(axis) {
            Some(n) => n as f64,
            None if terms.views.contains_key(&axis) => self.keys as f64,
            None => self.rows as f64,
        }
    }

    fn points(&self, terms: &Terms, axes: &Axes) -> f64 {
        axes.iter().map(|a| self.len(terms, a)).product()
    }
}

/// Seconds that one kernel takes which computes all of `members`: what they share is paid once.
pub fn seconds(terms: &Terms, values: &[Value], members: &[u32], facts: &Facts) -> f64 {
    let m = &facts.machine;
    let (mut bytes, mut flops) = (0.0, 0.0);
    let mut read = BTreeSet::new();
    let mut reduced: BTreeSet<TermId> = BTreeSet::new();
    for n in members {
        let value = &values[*n as usize];
        let axes = &terms.stored[*n as usize].0;
        flops += m.points(terms, axes) * terms.operands(value.term).len().max(1) as f64;
        bytes += value.forms.iter().map(|f| m.points(terms, axes) * element_bytes(form_format(f))).sum::<f64>();
        read.extend(value.loads.iter().copied());
        match &value.work {
            Work::Map | Work::TopK => {}
            Work::Contract(c) => {
                for p in c.products.iter().filter(|p| reduced.insert(p.term)) {
                    let size = m.points(terms, terms.free(p.weight));
                    bytes += size * element_bytes(p.format);
                    flops += 2.0 * size * m.rows as f64;
                }
                for (_, body) in c.stats.iter().filter(|s| reduced.insert(s.0)) {
                    flops += 2.0 * m.points(terms, terms.free(*body));
                }
            }
            Work::Stream(f) => {
                let over: Axes = f.stream.over.iter().copied().collect();
                for s in f.stream.states.iter().filter(|s| reduced.insert(s.source)) {
                    flops += 4.0 * m.points(terms, &terms.free(s.source).union(&over));
                }
                for d in f.dots.iter().filter(|d| reduced.insert(**d)) {
                    let inner = crate::alpha::reduction(terms, *d).map_or(Axes::none(), |(_, b)| b);
                    flops += 2.0 * m.points(terms, &terms.free(*d).union(&inner));
                }
            }
        }
    }
    bytes += read.iter().map(|n| read_bytes(terms, values, *n, m)).sum::<f64>();
    m.launch + (bytes / m.bytes).max(flops / m.flops)
}

fn read_bytes(terms: &Terms, values: &[Value], n: u32, m: &Machine) -> f64 {
    let axes = &terms.stored[n as usize].0;
    let cached = values[n as usize].forms.iter().any(|f| matches!(f, Form::Cache { .. }));
    let again = if cached { m.keys as f64 / m.rows as f64 } else { 1.0 };
    m.points(terms, axes) * 4.0 * again
}

fn form_format(form: &Form) -> Format {
    match form {
        Form::Dense { format, .. } | Form::Cache { format, .. } => *format,
    }
}

fn element_bytes(format: Format) -> f64 {
    format.block_bytes() as f64 / format.block() as f64
}
