//! A view as a drawing for Graphviz.

use super::{Node, Section, View};
use std::collections::{HashMap, HashSet};
use std::fmt::Write;

/// A cluster for each section; classes are clusters within it.
pub fn dot(view: &View) -> String {
    let mut out = format!(
        "digraph {} {{\n  compound = true; rankdir = BT;\n  node [shape = box, fontname = monospace, fontsize = 10];\n",
        quoted(view.stage)
    );
    for (n, section) in view.sections.iter().enumerate() {
        let _ = writeln!(out, "  subgraph cluster_{n} {{\n    label = {};", quoted(&section.name));
        part(&mut out, n, section);
        out.push_str("  }\n");
    }
    out.push_str("}\n");
    out
}

fn part(out: &mut String, number: usize, section: &Section) {
    let id = |x: &str| quoted(&format!("{number}.{x}"));
    let mut classes: Vec<(&str, Vec<&Node>)> = Vec::new();
    for node in &section.nodes {
        match &node.class {
            None => drop(writeln!(out, "    {}", boxed(&id(&node.id), node))),
            Some(class) => match classes.iter_mut().find(|(c, _)| c == class) {
                Some((_, nodes)) => nodes.push(node),
                None => classes.push((class, vec![node])),
            },
        }
    }
    for (class, nodes) in &classes {
        let name = nodes[0].name.as_ref().map_or_else(String::new, |n| format!(" {n}"));
        let label = quoted(&format!("{class}{name}"));
        let _ = writeln!(out, "    subgraph \"cluster_{number}.{class}\" {{ label = {label}; style = dotted;");
        for node in nodes {
            let _ = writeln!(out, "      {}", boxed(&id(&node.id), node));
        }
        out.push_str("    }\n");
    }
    let first: HashMap<&str, &str> = classes.iter().map(|(c, nodes)| (*c, nodes[0].id.as_str())).collect();
    let known: HashSet<&str> = section.nodes.iter().map(|n| n.id.as_str()).collect();
    for node in &section.nodes {
        for of in &node.of {
            let what = if of.what.is_empty() { String::new() } else { format!("label = {}", quoted(&of.what)) };
            let _ = match first.get(of.id.as_str()) {
                Some(x) => {
                    writeln!(out, "    {} -> {} [ltail = \"cluster_{number}.{}\" {what}]", id(x), id(&node.id), of.id)
                }
                None if known.contains(of.id.as_str()) => {
                    writeln!(out, "    {} -> {} [{what}]", id(&of.id), id(&node.id))
                }
                None => Ok(()),
            };
        }
    }
}

fn boxed(id: &str, node: &Node) -> String {
    let name = node.name.as_ref().filter(|_| node.class.is_none()).map_or_else(String::new, |n| format!("{n} = "));
    let style = if node.marked { ", style = bold" } else { "" };
    format!("{id} [label = {}{style}]", quoted(&format!("{name}{}", node.does)))
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\l"))
}
