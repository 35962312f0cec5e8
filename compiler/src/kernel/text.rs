//! The text form of a KernelSpec: the family and its loops in the language's own notation. For people and for the
//! golden tests; nothing reads it back.

mod expr;

use super::{AxisRef, Body, Contract, Expr, ExprRef, KernelExtent, KernelSpec, OperandRef, ResultRef, Store};
use super::{Stream, TopK};
use crate::cost::Role;
use expr::Printer;
use llmc_artifact::plan::{PageDim, Storage};
use std::collections::HashMap;
use std::fmt;

impl fmt::Display for KernelSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Names::new(self);
        let family = match self.body {
            Body::Map { .. } => "map",
            Body::Contract(_) => "contract",
            Body::Stream(_) => "stream",
            Body::TopK(_) => "topk",
        };
        let role = match self.role {
            Role::Prefill => "",
            Role::Decode => " for decode",
        };
        writeln!(f, "{family} {}{role} {{", self.name)?;
        for (axis, name) in self.axes.iter().zip(&names.axes) {
            writeln!(f, "  axis {name} = {}", extent(axis.extent, &names))?;
        }
        for (operand, name) in self.operands.iter().zip(&names.operands) {
            let verb = if operand.write { "write" } else { "read" };
            writeln!(f, "  {verb} {name}: {} {}", operand.format, storage(&operand.storage))?;
        }
        let mut text = Text { spec: self, names: &names, lines: Vec::new(), indent: 1 };
        match &self.body {
            Body::Map { axes, stores } => text.stores(axes, stores),
            Body::Contract(c) => text.contract(c),
            Body::Stream(s) => text.stream(s),
            Body::TopK(t) => text.topk(t),
        }
        for line in &text.lines {
            writeln!(f, "{line}")?;
        }
        writeln!(f, "}}")
    }
}

/// Names of a kernel's parts, each unique within the kernel.
struct Names {
    axes: Vec<String>,
    operands: Vec<String>,
    results: Vec<String>,
}

impl Names {
    fn new(spec: &KernelSpec) -> Names {
        let mut used = HashMap::new();
        let mut unique = |name: &str| {
            let count = used.entry(name.to_string()).and_modify(|n| *n += 1).or_insert(1);
            if *count == 1 { name.to_string() } else { format!("{name}'{count}") }
        };
        let axes = spec.axes.iter().map(|a| unique(&a.name)).collect();
        let operands = spec.operands.iter().map(|o| unique(&o.name)).collect();
        let mut results = Vec::new();
        let mut count = |stem: &str, n: usize| {
            for i in 0..n {
                results.push(if n == 1 { stem.to_string() } else { format!("{stem}{i}") });
            }
        };
        match &spec.body {
            Body::Map { .. } | Body::TopK(_) => {}
            Body::Contract(c) => {
                count("stat", c.stats.len());
                count("acc", c.products.len());
            }
            Body::Stream(s) => {
                count("dot", s.dots.len());
                count("state", s.states.len());
            }
        }
        let results = results.iter().map(|r| unique(r)).collect();
        Names { axes, operands, results }
    }

    fn axis(&self, a: AxisRef) -> &str {
        self.axes.get(a.0 as usize).map_or("?", |n| n)
    }

    fn operand(&self, o: OperandRef) -> &str {
        self.operands.get(o.0 as usize).map_or("?", |n| n)
    }

    fn result(&self, r: ResultRef) -> &str {
        self.results.get(r.0 as usize).map_or("?", |n| n)
    }

    fn list(&self, axes: &[AxisRef]) -> String {
        axes.iter().map(|a| self.axis(*a)).collect::<Vec<_>>().join(", ")
    }

    /// The head of a loop over axes; of no loop for none.
    fn each(&self, axes: &[AxisRef]) -> String {
        if axes.is_empty() { "do".into() } else { format!("for {}", self.list(axes)) }
    }

    /// `[a, b]`, or nothing for no axes.
    fn bracketed(&self, axes: &[AxisRef]) -> String {
        if axes.is_empty() { String::new() } else { format!("[{}]", self.list(axes)) }
    }
}

fn extent(extent: KernelExtent, names: &Names) -> String {
    match extent {
        KernelExtent::Const(n) => n.to_string(),
        KernelExtent::Rows(s) => format!("rows{}", s.0),
        KernelExtent::Picked(s) => format!("picked{}", s.0),
        KernelExtent::Tokens(s) => format!("tokens{}", s.0),
        KernelExtent::Sequences(s) => format!("sequences{}", s.0),
        KernelExtent::Keys { seq, of, causal, window } => {
            let causal = if causal { ", causal" } else { "" };
            let window = window.map_or(String::new(), |w| format!(", window {w}"));
            format!("keys{} of {}{causal}{window}", seq.0, names.axis(of))
        }
        KernelExtent::Parts { of, size } => format!("parts of {size} along {}", names.axis(of)),
    }
}

fn storage(storage: &Storage) -> String {
    match storage {
        Storage::Dense { dims } => {
            let dims: Vec<_> = dims.iter().map(|d| d.to_string()).collect();
            format!("[{}]", dims.join(", "))
        }
        Storage::Panel { rows, reduce } => format!("panels[{rows}, {reduce}]"),
        Storage::Paged { seq, page } => format!("pages{}[{}]", seq.0, page_text(page)),
        Storage::Workspace { seq, page } => format!("workspace{}[{}]", seq.0, page_text(page)),
    }
}

fn page_text(page: &[PageDim]) -> String {
    let dim = |d: &PageDim| match d {
        PageDim::Axis(n) => n.to_string(),
        PageDim::Slot { count, step } => format!("slot {count} by {step}"),
    };
    page.iter().map(dim).collect::<Vec<_>>().join(", ")
}

struct Text<'a> {
    spec: &'a KernelSpec,
    names: &'a Names,
    lines: Vec<String>,
    indent: usize,
}

impl Text<'_> {
    fn line(&mut self, text: impl AsRef<str>) {
        self.lines.push(format!("{}{}", "  ".repeat(self.indent), text.as_ref()));
    }

    fn nested(&mut self, head: String, inside: impl FnOnce(&mut Self)) {
        self.line(format!("{head} {{"));
        self.indent += 1;
        inside(self);
        self.indent -= 1;
        self.line("}");
    }

    /// Prints `let`s for what some roots share, and gives a printer that knows them.
    fn shared(&mut self, roots: &[ExprRef]) -> Printer<'_> {
        let mut printer = Printer::new(&self.spec.exprs, self.names);
        for line in printer.share(roots) {
            self.lines.push(format!("{}{line}", "  ".repeat(self.indent)));
        }
        printer
    }

    fn stores(&mut self, axes: &[AxisRef], stores: &[Store]) {
        self.nested(self.names.each(axes), |text| {
            let roots: Vec<_> = stores.iter().flat_map(|s| s.index.iter().copied().chain([s.value])).collect();
            let printer = text.shared(&roots);
            let lines: Vec<_> = stores
                .iter()
                .map(|s| {
                    format!(
                        "{}{} = {}",
                        printer.names.operand(s.operand),
                        printer.index(&s.index),
                        printer.top(s.value)
                    )
                })
                .collect();
            lines.iter().for_each(|l| text.line(l));
        });
    }

    fn contract(&mut self, c: &Contract) {
        let (reduce, input) = (self.names.list(&c.reduce), self.names.operand(c.input));
        self.nested(format!("for {}", self.names.axis(c.row)), |text| {
            for (i, stat) in c.stats.iter().enumerate() {
                let body = text.shared(&[stat.body]).top(stat.body);
                let name = text.names.result(ResultRef(i as u16));
                text.line(format!("{name} = {}[{reduce}]({body})", stat.op.keyword()));
            }
            for segment in &c.segments {
                for r in &segment.products {
                    let weight = text.names.operand(c.products[r.0 as usize - c.stats.len()].weight);
                    let left = format!("{}{}", text.names.result(*r), text.names.bracketed(&segment.axes));
                    text.line(format!("{left} = sum[{reduce}]({weight} * {input})"));
                }
                text.stores(&segment.axes, &segment.stores);
            }
        });
    }

    fn stream(&mut self, s: &Stream) {
        self.nested(self.names.each(&s.parallel), |text| {
            let visit = s.visit.map(|v| format!(" where {}", text.shared(&[v.condition]).top(v.condition)));
            let part = s.part.as_ref().map(|p| format!(" in {}", text.names.axis(p.axis)));
            let which = [part, visit].into_iter().flatten().collect::<String>();
            text.nested(format!("fold {}{which}", text.names.list(&s.over)), |text| {
                for (i, dot) in s.dots.iter().enumerate() {
                    let printer = text.shared(&[dot.left, dot.right]);
                    let body = format!("{} * {}", printer.factor(dot.left), printer.factor(dot.right));
                    let (name, axes) = (text.names.result(ResultRef(i as u16)), text.names.list(&dot.reduce));
                    text.line(format!("{name} = sum[{axes}]({body})"));
                }
                for (i, state) in s.states.iter().enumerate() {
                    let name = text.names.result(ResultRef((s.dots.len() + i) as u16));
                    let name = format!("{name}{}", text.names.bracketed(&state.axes));
                    let printer =
                        text.shared(&[state.body].into_iter().chain(state.repair.exprs()).collect::<Vec<_>>());
                    let init = expr::literal(state.init);
                    let body = printer.top(state.body);
                    let how = |words: &str, e: Option<ExprRef>| {
                        e.map_or(String::new(), |e| format!(", {words} {}", printer.top(e)))
                    };
                    let keep = how("kept while", state.repair.keep);
                    let shift = how("repaired by adding", state.repair.shift);
                    let repair = format!("{keep}{shift}{}", how("repaired by", state.repair.scale));
                    text.line(format!("{name} = {}({body}) from {init}{repair}", state.op.keyword()));
                }
            });
            let parts = s.part.iter().flat_map(|p| s.states.iter().zip(&p.stores));
            parts.for_each(|(state, store)| text.stores(&state.axes, std::slice::from_ref(store)));
            if s.part.is_none() {
                text.stores(&s.finish_axes, &s.finish);
            }
        });
    }

    fn topk(&mut self, t: &TopK) {
        self.nested(self.names.each(&t.parallel), |text| {
            let roots: Vec<_> = t.index.iter().copied().chain([t.value]).collect();
            let (axis, rank) = (text.names.axis(t.axis).to_string(), text.names.axis(t.rank).to_string());
            let printer = text.shared(&roots);
            let to = format!("{}{}", printer.names.operand(t.operand), printer.index(&t.index));
            let line = format!("{to} = topk[{axis}, {rank}]({})", printer.top(t.value));
            text.line(line);
        });
    }
}

#[cfg(test)]
mod tests;
