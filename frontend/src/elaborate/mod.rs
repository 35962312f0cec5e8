//! Elaboration: from a syntax tree and a checkpoint's description to a [`Model`].
//!
//! What enters is a model text with the functions in sight and, perhaps, a checkpoint; what leaves is a graph in which
//! every size is known, every function inlined, every layer unrolled and equal layers shared, or diagnostics, as
//! many as one run finds. Without a checkpoint the defaults of the text hold and every weight is a tensor of the
//! first file that the text names.
//!
//! - [`names`]: every name means something, once, everywhere in the text, also where the choice of a branch leaves
//!   code out;
//! - [`statics`]: values known when the model is built;
//! - [`sources`]: what is read from the checkpoint;
//! - [`expr`], [`index`], [`functions`]: expressions become nodes, under the rules of [`typing`];
//! - [`statements`]: the model's body, a turn of a loop at a time;
//! - [`layers`]: the unrolled graph is cut into blocks and steps.

mod expr;
mod functions;
mod index;
mod layers;
mod names;
mod sources;
mod statements;
mod statics;
#[cfg(test)]
mod tests;
mod typing;
mod universe;

use crate::diag::{Code, Diagnostic, Span, has_errors};
use crate::graph::{Axes, AxisId, Input, Model, ModelValue, Output};
use crate::syntax::ast;
use indexmap::{IndexMap, IndexSet};
use llmc_artifact::Checkpoint;
use petgraph::graph::NodeIndex;
use std::collections::{HashMap, HashSet};
use universe::Universe;

pub use sources::fits;

/// Expressions and calls nest at most this deep together, once functions are inlined.
const MAX_DEPTH: u32 = 400;
/// One elaboration visits at most this many expressions.
const MAX_VISITS: u32 = 1 << 20;

/// The model of `model`, whose `include`s are expanded, with the functions of `functions`. `checkpoint` gives sizes and
/// tensors; without it the text's defaults hold. Where there are no tensors, every weight is one of 32-bit floats.
///
/// A model is returned if and only if no diagnostic is an error.
pub fn elaborate(
    model: &ast::Model,
    functions: &[&ast::Function],
    checkpoint: Option<&dyn Checkpoint>,
) -> (Option<Model>, Vec<Diagnostic>) {
    let mut e = Elaborator::new(model, functions, checkpoint);
    e.check_names(model, functions);
    e.declare(model);
    e.statements(model);
    e.force_statics(model);
    if !has_errors(&e.diagnostics) {
        e.check_unread(model);
    }
    let failed = has_errors(&e.diagnostics);
    let diagnostics = std::mem::take(&mut e.diagnostics);
    (if failed { None } else { Some(e.finish(model)) }, diagnostics)
}

/// Why there is no value.
#[derive(Clone, Debug)]
enum Stop {
    /// Something is wrong and has been reported.
    Reported,
    /// A source does not exist: the next alternative may.
    Missing(Vec<String>),
}

type Result<T> = std::result::Result<T, Stop>;

/// A value known when the model is built.
#[derive(Clone, Debug, PartialEq)]
enum Static {
    Int(i64),
    Real(f64),
    Bool(bool),
    Text(String),
    List(Vec<Static>),
}

/// A node and the axes that the text gave it. A weight declared over axes may be a plain literal: then the node
/// lacks axes that the tensor has, and is equal along them.
#[derive(Clone, Debug)]
struct Tensor {
    node: NodeIndex,
    axes: Axes,
}

/// What an expression stands for.
#[derive(Clone, Debug)]
enum Val {
    Static(Static),
    Tensor(Tensor),
}

/// A declaration of the model.
#[derive(Clone, Copy)]
enum Global<'a> {
    Static(ast::StaticKind, &'a ast::Static),
    Axis(&'a ast::Definition),
    Layers(&'a ast::Definition),
    Seq(&'a ast::Seq),
    Input(&'a ast::Input),
    Weight(&'a ast::Weight),
}

impl Global<'_> {
    fn name(&self) -> &ast::Name {
        match self {
            Global::Static(_, x) => &x.name,
            Global::Axis(x) | Global::Layers(x) => &x.name,
            Global::Seq(x) => &x.name,
            Global::Input(x) => &x.name,
            Global::Weight(x) => &x.name,
        }
    }

    fn what(&self) -> &'static str {
        match self {
            Global::Static(kind, _) => kind.keyword(),
            Global::Axis(_) => "axis",
            Global::Layers(_) => "layers",
            Global::Seq(_) => "seq",
            Global::Input(_) => "input",
            Global::Weight(_) => "weight",
        }
    }
}

/// What `hf` and `gguf` stand for where an expression is written.
#[derive(Clone, Debug, PartialEq)]
enum SourceUse {
    /// Nothing: in statements and functions.
    None,
    /// A config value.
    Config,
    /// A tensor; without `as` its dimensions are these axes.
    Tensor(Vec<AxisId>),
}

/// What is in sight.
struct Frame<'a> {
    /// A function's axis parameters.
    axes: HashMap<&'a str, AxisId>,
    /// Values, innermost last; `None` where an error has been reported.
    locals: Vec<(&'a str, Option<Val>)>,
    /// Layer families with their layers, innermost last.
    layers: Vec<(&'a str, u64)>,
    /// In a function's body the model is out of sight.
    function: bool,
    sources: SourceUse,
}

impl Frame<'_> {
    fn model(sources: SourceUse) -> Self {
        Frame { axes: HashMap::new(), locals: Vec::new(), layers: Vec::new(), function: false, sources }
    }
}

/// A declaration's value, once it is known.
#[derive(Clone)]
enum Slot<T> {
    /// Being computed: whoever meets it defines it by itself.
    Busy,
    Done(Option<T>),
}

/// The checkpoint at hand and how the model's header reads it.
struct File<'a> {
    checkpoint: &'a dyn Checkpoint,
    /// Prefix of config keys.
    at: Option<&'a str>,
    /// Prefix that tensor names may carry.
    drop: Option<&'a str>,
}

struct Elaborator<'a> {
    file: Option<File<'a>>,
    /// Without a file, or with one that has a config and no tensors, every weight is a tensor that no file has.
    weightless: bool,
    functions: HashMap<&'a str, &'a ast::Function>,
    cyclic: HashSet<&'a str>,
    globals: IndexMap<&'a str, Global<'a>>,
    u: Universe,
    /// Axes by name; `None` where the declaration has an error, or the length is 0.
    axis_ids: HashMap<&'a str, Option<AxisId>>,
    statics: HashMap<(&'a str, Vec<u64>), Slot<Static>>,
    weights: HashMap<(&'a str, Vec<u64>), Slot<Tensor>>,
    /// Names of weights with their layers, by node.
    labels: HashMap<NodeIndex, String>,
    inputs: Vec<Input>,
    input_values: Vec<ModelValue>,
    /// Outputs with their values and the regions that compute them.
    outputs: Vec<(Output, NodeIndex, usize)>,
    /// Tensors of the file that have been read.
    read: IndexSet<String>,
    diagnostics: Vec<Diagnostic>,
    reported: HashSet<(Code, Option<Span>)>,
    /// Calls that are being inlined, outermost first.
    calls: Vec<Span>,
    depth: u32,
    visits: u32,
    loops: usize,
}

impl<'a> Elaborator<'a> {
    fn new(model: &'a ast::Model, functions: &[&'a ast::Function], checkpoint: Option<&'a dyn Checkpoint>) -> Self {
        let mut e = Elaborator {
            file: checkpoint.map(|checkpoint| File { checkpoint, at: None, drop: None }),
            weightless: checkpoint.is_none_or(|c| c.tensor_names().is_empty()),
            functions: functions.iter().map(|f| (f.name.text.as_str(), *f)).collect(),
            cyclic: HashSet::new(),
            globals: IndexMap::new(),
            u: Universe::new(),
            axis_ids: HashMap::new(),
            statics: HashMap::new(),
            weights: HashMap::new(),
            labels: HashMap::new(),
            inputs: Vec::new(),
            input_values: Vec::new(),
            outputs: Vec::new(),
            read: IndexSet::new(),
            diagnostics: Vec::new(),
            reported: HashSet::new(),
            calls: Vec::new(),
            depth: 0,
            visits: 0,
            loops: 0,
        };
        e.read_header(model);
        e
    }

    /// Keeps a diagnostic, once for each place, and says which call led there.
    fn report(&mut self, mut d: Diagnostic) -> Stop {
        if let Some(call) = self.calls.first()
            && d.primary.is_none_or(|p| p != *call)
        {
            d = d.label(*call, "in this call");
        }
        if self.reported.insert((d.code, d.primary)) {
            self.diagnostics.push(d);
        }
        Stop::Reported
    }

    fn fail<T>(&mut self, d: Diagnostic) -> Result<T> {
        Err(self.report(d))
    }

    fn axis_name(&self, id: AxisId) -> &str {
        &self.u.axes[id].name
    }

    /// `[t, m]`, for messages.
    fn show(&self, axes: &Axes) -> String {
        let names: Vec<_> = axes.iter().map(|a| self.axis_name(a)).collect();
        format!("[{}]", names.join(", "))
    }

    /// The axis of that name, in a function or in the model.
    fn axis(&mut self, f: &Frame<'a>, name: &ast::Name) -> Result<AxisId> {
        if let Some(id) = f.axes.get(name.text.as_str()) {
            return Ok(*id);
        }
        match self.axis_ids.get(name.text.as_str()) {
            Some(Some(id)) if !f.function => Ok(*id),
            Some(None) if !f.function => self.axis_without_length(name),
            _ => self.fail(self.unknown_axis(f, name)),
        }
    }

    fn axis_without_length(&mut self, name: &ast::Name) -> Result<AxisId> {
        if has_errors(&self.diagnostics) {
            return Err(Stop::Reported);
        }
        let declared = self.globals[name.text.as_str()].name().span;
        self.fail(
            Diagnostic::new(Code::NotASize, name.span, format!("axis `{}` has length 0", name.text))
                .label(declared, "its length is 0 for these sizes")
                .help("choose another branch with `if` where there is nothing to read"),
        )
    }

    /// Different axes, in the order of writing.
    fn axis_list(&mut self, f: &Frame<'a>, names: &[ast::Name]) -> Result<Vec<AxisId>> {
        let mut list = Vec::new();
        for name in names {
            let id = self.axis(f, name)?;
            if list.contains(&id) {
                let d = Diagnostic::new(
                    Code::RepeatedAxis,
                    name.span,
                    format!("axis `{}` is given twice", self.axis_name(id)),
                );
                return self.fail(d.help("give a different axis, or leave this one out"));
            }
            list.push(id);
        }
        Ok(list)
    }
}
