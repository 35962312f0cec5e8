//! A view as one page: boxes unfold, and what a box is made of leads to it. The page needs nothing from outside.

use super::{Node, Section, View};
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::fmt::Write;

const STYLE: &str = "body { font: 14px/1.5 monospace; margin: 2em; max-width: 120em } \
summary { cursor: pointer; white-space: pre-wrap } \
details details { margin-left: 1.5em } \
.marked > summary { font-weight: bold } \
:target > summary { background: #fd6 } \
.axes, .fact { color: #666 } \
pre { background: #f4f4f4; padding: .7em; overflow-x: auto } \
@media (prefers-color-scheme: dark) { body { background: #111; color: #ddd } pre { background: #222 } a { color: #8bf } \
:target > summary { background: #740 } }";

/// The page.
pub fn html(view: &View, title: &str) -> String {
    let title = escaped(title);
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\n\
         <style>{STYLE}</style></head>\n<body><h1>{title}</h1>\n"
    );
    for (n, section) in view.sections.iter().enumerate() {
        part(&mut out, n, section);
    }
    out.push_str("</body></html>\n");
    out
}

fn part(out: &mut String, number: usize, section: &Section) {
    let ids = section.nodes.iter().flat_map(|n| std::iter::once(&n.id).chain(&n.class));
    let known: HashSet<&str> = ids.map(String::as_str).collect();
    let _ = writeln!(out, "<details open><summary><b>{}</b></summary>", escaped(&section.name));
    for (key, value) in &section.facts {
        let _ = writeln!(out, "<div class=\"fact\">{}: {}</div>", escaped(key), escaped(&plain(value)));
    }
    let mut users: HashMap<&str, Vec<&Node>> = HashMap::new();
    for node in &section.nodes {
        node.of.iter().for_each(|u| users.entry(&u.id).or_default().push(node));
    }
    let mut at = 0;
    while at < section.nodes.len() {
        let node = &section.nodes[at];
        let Some(class) = &node.class else {
            entry(out, number, node, &known, &users);
            at += 1;
            continue;
        };
        let count = section.nodes[at..].iter().take_while(|n| n.class.as_ref() == Some(class)).count();
        let forms = &section.nodes[at..at + count];
        let name = node.name.as_ref().map_or_else(String::new, |n| format!(" {n}"));
        let shown = forms.iter().find(|n| n.marked).unwrap_or(node);
        let _ = writeln!(
            out,
            "<details id=\"{number}.{class}\"><summary>{class}{} = {} <span class=\"fact\">({count})</span></summary>",
            escaped(&name),
            escaped(&shown.does)
        );
        forms.iter().for_each(|n| entry(out, number, n, &known, &users));
        used_by(out, number, users.get(class.as_str()));
        out.push_str("</details>\n");
        at += count;
    }
    out.push_str("</details>\n");
}

fn entry(out: &mut String, number: usize, node: &Node, known: &HashSet<&str>, users: &HashMap<&str, Vec<&Node>>) {
    let name = node.name.as_ref().filter(|_| node.class.is_none()).map_or_else(String::new, |n| format!("{n} = "));
    let class = if node.marked { " class=\"marked\"" } else { "" };
    let does = escaped(&format!("{name}{}", node.does));
    let _ = writeln!(out, "<details id=\"{number}.{}\"{class}><summary>{} {does}</summary>", node.id, node.id);
    if !node.of.is_empty() {
        let link = |u: &super::Use| {
            let what = if u.what.is_empty() { &u.id } else { &u.what };
            if !known.contains(u.id.as_str()) {
                return escaped(what);
            }
            format!("<a href=\"#{number}.{}\">{}</a>", u.id, escaped(what))
        };
        let all: Vec<_> = node.of.iter().map(link).collect();
        let _ = writeln!(out, "<div>made of {}</div>", all.join(", "));
    }
    for (key, value) in &node.facts {
        let _ = writeln!(out, "<div class=\"fact\">{}: {}</div>", escaped(key), escaped(&plain(value)));
    }
    if let Some(text) = &node.text {
        let _ = writeln!(out, "<pre>{}</pre>", escaped(text));
    }
    used_by(out, number, users.get(node.id.as_str()));
    out.push_str("</details>\n");
}

fn used_by(out: &mut String, number: usize, users: Option<&Vec<&Node>>) {
    let Some(users) = users else { return };
    let link = |n: &&Node| format!("<a href=\"#{number}.{0}\">{0}</a>", n.id);
    let _ = writeln!(out, "<div>used by {}</div>", users.iter().map(link).collect::<Vec<_>>().join(", "));
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        Value::Array(xs) => xs.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Object(map) => map.iter().map(|(k, v)| format!("{k} {}", plain(v))).collect::<Vec<_>>().join(", "),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
