//! The graph's text form: what `llmc inspect --stage graph` shows, and a drawing for Graphviz.

use super::*;
use std::fmt::Write;

/// The whole model.
pub fn print(model: &Model) -> String {
    let mut out = format!("model {}\n", model.name);
    for (_, axis) in model.axes.iter() {
        let _ = match axis.extent {
            Extent::Const(n) => writeln!(out, "axis {} = {n}", axis.name),
            Extent::Seq(s) => match model.seqs[s.0 as usize].bound {
                Some(bound) => writeln!(out, "seq {} <= {bound}", axis.name),
                None => writeln!(out, "seq {}", axis.name),
            },
            Extent::View(s) => writeln!(out, "axis {} = {}", axis.name, model.seqs[s.0 as usize].name),
        };
    }
    for input in &model.inputs {
        let value = &model.values[input.value.0 as usize];
        let bound = input.bound.map_or(String::new(), |n| format!(" < {n}"));
        let default = input.default.map_or(String::new(), |v| format!(" = {}", literal(v)));
        let _ = writeln!(out, "input {}{}: {}{bound}{default}", value.name, axes(&model.axes, &value.axes), value.ty);
    }
    out.push_str("\nweights {\n");
    body(&mut out, &model.axes, &model.weight_graph);
    for weight in &model.weights {
        let _ = writeln!(out, "  {} = %{}", weight.name, weight.node.index());
    }
    out.push_str("}\n");
    for (number, block) in model.blocks.iter().enumerate() {
        let _ = writeln!(out, "\nblock {number} `{}` {{", block.name);
        out.push_str(&print_block(&model.axes, block));
        out.push_str("}\n");
    }
    out.push('\n');
    for step in &model.steps {
        out.push_str(&print_step(model, step));
    }
    for output in &model.outputs {
        let order: Vec<_> = output.order.iter().map(|a| model.axes[*a].name.as_str()).collect();
        let _ = writeln!(out, "output {}[{}] = ${}", output.name, order.join(", "), output.value.0);
    }
    out
}

/// The parameters, nodes and results of a block, a line each.
pub fn print_block(table: &AxisTable, block: &Block) -> String {
    let mut out = String::new();
    for (n, p) in block.params.iter().enumerate() {
        let _ = writeln!(out, "  param {n} {}{}: {}", p.name, axes(table, &p.axes), p.ty);
    }
    for (n, w) in block.weights.iter().enumerate() {
        let _ = writeln!(out, "  weight {n} {}{}: {}", w.name, axes(table, &w.axes), w.ty);
    }
    body(&mut out, table, &block.graph);
    for (name, id) in &block.results {
        let _ = writeln!(out, "  result {name} = %{}", id.index());
    }
    out
}

fn print_step(model: &Model, step: &Step) -> String {
    let list = |ids: Vec<u32>| ids.iter().map(|v| format!("${v}")).collect::<Vec<_>>().join(", ");
    let layer = step.layer.as_ref().map_or(String::new(), |(axis, n)| format!(" {axis} = {n}"));
    let weights: Vec<_> = step.weights.iter().map(|w| model.weights[w.0 as usize].name.as_str()).collect();
    format!(
        "step{layer}: {} = block {}({}; {})\n",
        list(step.results.iter().map(|v| v.0).collect()),
        step.block.0,
        list(step.args.iter().map(|v| v.0).collect()),
        weights.join(", ")
    )
}

fn body(out: &mut String, table: &AxisTable, graph: &Graph) {
    for id in graph.ids() {
        let node = &graph[id];
        let operands: Vec<_> = graph.operands(id).iter().map(|x| format!("%{}", x.index())).collect();
        let name = node.name.as_ref().map_or(String::new(), |n| format!("  # {n}"));
        let (ty, of) = (node.ty, axes(table, &node.axes));
        let _ = writeln!(out, "  %{} {ty}{of} = {}{name}", id.index(), expression(table, &node.op, &operands));
    }
}

/// An operation applied to operands, as the language would write it.
pub fn expression(table: &AxisTable, op: &Op, x: &[String]) -> String {
    let name = |a: AxisId| table[a].name.clone();
    match op {
        Op::Const(v) => literal(*v),
        Op::Iota(a) => name(*a),
        Op::Length(s) => format!("len({})", s.0),
        Op::Param(n) => format!("param {n}"),
        Op::Weight(n) => format!("weight {n}"),
        Op::Tensor(view) => tensor(table, view),
        Op::Map(op) if op.arity() == 2 && !op.keyword().chars().all(char::is_alphanumeric) => {
            format!("{} {} {}", x[0], op.keyword(), x[1])
        }
        Op::Map(op) => format!("{}({})", op.keyword(), x.join(", ")),
        Op::Reduce(op, axes) => {
            let over: Vec<_> = axes.iter().map(name).collect();
            format!("{}[{}]({})", op.keyword(), over.join(", "), x[0])
        }
        Op::Index(read) => {
            let at: Vec<_> = read.iter().zip(&x[1..]).map(|(a, i)| format!("{} = {i}", name(*a))).collect();
            format!("{}[{}]", x[0], at.join(", "))
        }
        Op::TopK { axis, rank } => format!("topk[{}, {}]({})", name(*axis), name(*rank), x[0]),
    }
}

fn tensor(table: &AxisTable, view: &TensorView) -> String {
    let dims: Vec<_> = view
        .dims
        .iter()
        .map(|d| match &d[..] {
            [one] => table[*one].name.clone(),
            many => format!("({})", many.iter().map(|a| table[*a].name.as_str()).collect::<Vec<_>>().join(" ")),
        })
        .collect();
    let stack = view.stacked.map_or(String::new(), |a| format!(" and on over {}", table[a].name));
    format!("{} \"{}\"{stack} as \"{}\"", view.info.format, view.names[0], dims.join(" "))
}

fn literal(v: Value) -> String {
    match v {
        Value::Real(x) => format!("{x:?}"),
        Value::Int(n) => n.to_string(),
        Value::Bool(b) => b.to_string(),
    }
}

fn axes(table: &AxisTable, axes: &Axes) -> String {
    let names: Vec<_> = axes.iter().map(|a| table[a].name.as_str()).collect();
    format!("[{}]", names.join(", "))
}

/// A block as a Graphviz drawing.
pub fn dot(table: &AxisTable, block: &Block) -> String {
    let label = |id: NodeIndex, node: &Node| {
        let operands: Vec<_> = block.graph.operands(id).iter().map(|x| format!("%{}", x.index())).collect();
        let name = node.name.as_ref().map_or(String::new(), |n| format!("{n} = "));
        let text = format!("{name}{} {}", expression(table, &node.op, &operands), axes(table, &node.axes));
        format!("label = {text:?}")
    };
    let config = [petgraph::dot::Config::NodeNoLabel];
    let nodes = |_: &DiGraph<Node, Port>, (id, node): (NodeIndex, &Node)| label(id, node);
    let edges = |_: &DiGraph<Node, Port>, _: petgraph::graph::EdgeReference<'_, Port>| String::new();
    format!("{:?}", petgraph::dot::Dot::with_attr_getters(block.graph.arena(), &config, &edges, &nodes))
}
