//! Groups as text, in the language's own notation: each kernel's loop, the reductions taken in it, and what is
//! stored of them.

use super::{Contraction, Fold, Form, Fused, Group, Input, Value, Work};
use crate::alpha;
use crate::normal::text::expression;
use crate::normal::{Term, TermId, Terms};
use crate::stream::{Moved, Repair};
use llmc_frontend::graph::{Axes, AxisId};
use std::collections::HashMap;
use std::fmt::Write;

/// Every group of a block in order of execution, and what was not fused.
pub fn fused_text(fused: &Fused) -> String {
    let mut out = String::new();
    for (n, group) in fused.groups.iter().enumerate() {
        let mut text = Text { fused, terms: fused.terms.clone(), taken: HashMap::new(), out: &mut out };
        text.group(n, group);
    }
    for note in &fused.notes {
        let _ = writeln!(out, "# {note}");
    }
    for leak in fused.leaks.values() {
        let _ = writeln!(out, "# no token can be appended: {}", leak.sentence);
    }
    out
}

/// One group as [`fused_text`] has it.
pub fn kernel_text(fused: &Fused, number: usize) -> String {
    let mut out = String::new();
    let mut text = Text { fused, terms: fused.terms.clone(), taken: HashMap::new(), out: &mut out };
    text.group(number, &fused.groups[number]);
    out
}

struct Text<'a> {
    fused: &'a Fused,
    terms: Terms,
    /// Reductions of the loop, as the leaves that stand for them.
    taken: HashMap<TermId, TermId>,
    out: &'a mut String,
}

impl Text<'_> {
    fn line(&mut self, text: &str) {
        let _ = writeln!(self.out, "{text}");
    }

    fn group(&mut self, number: usize, group: &Group) {
        let of: Vec<Value> = group.values.iter().map(|v| self.fused.values[*v as usize].clone()).collect();
        match &of[0].work {
            Work::Map => self.line(&format!("kernel {number}: map {{")),
            Work::TopK => self.line(&format!("kernel {number}: topk {{")),
            Work::Contract(c) => {
                let (input, over) = (self.input(c.input), self.names(&c.reduce));
                self.line(&format!("kernel {number}: contract {input} over {over} {{"));
            }
            Work::Stream(f) => self.stream_head(number, f, group.parts),
        }
        for value in &of {
            match &value.work {
                Work::Map | Work::TopK => {}
                Work::Contract(c) => self.contraction(c),
                Work::Stream(f) => self.fold(f),
            }
        }
        for value in &of {
            let text = self.shown(value.term);
            let forms: Vec<_> = value.forms.iter().map(|f| self.form(f)).collect();
            let axes = self.axes(self.terms.free(value.meaning));
            self.line(&format!("  store {}{axes}: {} = {text}", value.name, forms.join(", ")));
        }
        self.line("}");
    }

    fn stream_head(&mut self, number: usize, f: &Fold, parts: Option<u64>) {
        let (over, each) = (self.names(&f.stream.over), self.names(f.parallel.as_slice()));
        let key = f.stream.over[0];
        let own = |t: &Terms, a: AxisId| t.axes[a].name.clone();
        let sees = match f.sight {
            Some(s) if s.causal => {
                let (key, row) = (own(&self.terms, key), own(&self.terms, self.terms.views[&key]));
                let window = s.window.map_or(String::new(), |w| format!(" and {row} - {key} < {w}"));
                format!(" where {key} <= {row}{window}")
            }
            Some(_) | None => String::new(),
        };
        let parts = parts.map_or(String::new(), |size| format!(" in parts of {size}"));
        self.line(&format!("kernel {number}: stream over {over}{parts}{sees} for each {each} {{"));
    }

    fn contraction(&mut self, c: &Contraction) {
        for (term, body) in &c.stats {
            let Some(name) = self.take(*term, "stat") else { continue };
            let (op, bound) = alpha::reduction(&self.terms, *term).expect("a stat is a reduction");
            let text = format!("{}{}({})", op.keyword(), self.axes(&bound), self.shown(*body));
            let axes = self.axes(self.terms.free(*term));
            self.line(&format!("  let {name}{axes} = {text}"));
        }
        let (input, reduce) = (self.input(c.input), self.names(&c.reduce));
        for p in &c.products {
            let Some(name) = self.take(p.term, "product") else { continue };
            let weight = expression(&self.terms, p.weight);
            let axes = self.axes(self.terms.free(p.term));
            self.line(&format!("  let {name}{axes} = sum[{reduce}]({weight} * {input})  # {} weights", p.format));
        }
    }

    fn fold(&mut self, f: &Fold) {
        for d in &f.dots {
            let text = self.shown(*d);
            let Some(name) = self.take(*d, "dot") else { continue };
            let axes = self.axes(self.terms.free(*d));
            self.line(&format!("  let {name}{axes} = {text}"));
        }
        let over = self.axes(&f.stream.over.iter().copied().collect());
        for s in &f.stream.states {
            let body = self.shown(s.body);
            let repair = self.repair(&s.repair);
            let Some(name) = self.take(s.source, "state") else { continue };
            let axes = self.axes(self.terms.free(s.source));
            let init = match s.init {
                llmc_artifact::Value::Real(x) if x.abs() >= 1e6 => format!("{x:e}"),
                llmc_artifact::Value::Real(x) => x.to_string(),
                llmc_artifact::Value::Int(n) => n.to_string(),
                llmc_artifact::Value::Bool(b) => b.to_string(),
            };
            self.line(&format!("  let {name}{axes} = {}{over}({body})  # from {init}", s.op.keyword()));
            for how in repair {
                self.line(&format!("    # repaired by {how}"));
            }
        }
    }

    fn repair(&mut self, repair: &Repair) -> Vec<String> {
        let anew =
            repair.anew.iter().map(|y| format!("beginning anew when {} moves", self.shown(*y))).collect::<Vec<_>>();
        let mut shifts = Vec::new();
        for s in &repair.shifts {
            let by: Vec<_> = s.by.iter().map(|y| format!("(new - old of {})", self.shown(*y))).collect();
            let factor = if s.factor == 1.0 { String::new() } else { format!("{} * ", s.factor) };
            shifts.push(format!("adding {factor}{} * {}", by.join(" * "), self.shown(s.of)));
        }
        let mut scale = |m: &Moved| format!("{}(new - old) of {}", m.op.keyword(), self.shown(m.by));
        let scales = repair.scales.iter().map(&mut scale).collect();
        [anew, shifts, scales].concat()
    }

    /// Gives a reduction of the loop a name; `None` where it has one.
    fn take(&mut self, term: TermId, kind: &str) -> Option<String> {
        if self.taken.contains_key(&term) {
            return None;
        }
        let name = format!("{kind}{}", self.taken.len());
        let info = self.terms.info(term);
        let entry = (info.axes.clone(), info.ty);
        // Values not stored yet have no leaf: the new one comes after all that do.
        let number = self.terms.stored.len() as u32;
        self.terms.stored.push(entry);
        self.terms.stored_names.resize(number as usize, String::new());
        self.terms.stored_names.push(name.clone());
        let leaf = self.terms.add(Term::Stored(number));
        self.taken.insert(term, leaf);
        Some(name)
    }

    fn shown(&mut self, term: TermId) -> String {
        let taken = self.taken.clone();
        let replaced = alpha::replace(&mut self.terms, term, &taken);
        expression(&self.terms, replaced)
    }

    fn input(&self, input: Input) -> String {
        match input {
            Input::Param(n) => self.terms.param_names.get(n as usize).cloned().unwrap_or_else(|| format!("param{n}")),
            Input::Stored { value, form } => {
                let value = &self.fused.values[value as usize];
                match &value.forms[form] {
                    Form::Dense { format, .. } if format.is_quantised() => format!("{}: {format}", value.name),
                    Form::Dense { .. } | Form::Cache { .. } | Form::Workspace { .. } => value.name.clone(),
                }
            }
        }
    }

    fn form(&self, form: &Form) -> String {
        match form {
            Form::Dense { format, .. } => format.to_string(),
            Form::Cache { outer, inner, keys_innermost, format, .. } => {
                format!("{format} cache of {}", self.pages(outer, inner, *keys_innermost))
            }
            Form::Workspace { outer, inner, keys_innermost, format } => {
                format!("{format} workspace of {}", self.pages(outer, inner, *keys_innermost))
            }
        }
    }

    fn pages(&self, outer: &[AxisId], inner: &[AxisId], keys_innermost: bool) -> String {
        let order = if keys_innermost { "keys innermost" } else { "keys outside" };
        format!("[{}][{}], {order}", self.names(outer), self.names(inner))
    }

    fn names(&self, axes: &[AxisId]) -> String {
        axes.iter().map(|a| self.terms.axes[*a].name.as_str()).collect::<Vec<_>>().join(", ")
    }

    fn axes(&self, axes: &Axes) -> String {
        if axes.is_empty() { String::new() } else { format!("[{}]", self.names(axes.as_slice())) }
    }
}
