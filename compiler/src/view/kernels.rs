//! Kernels as boxes: as groups of values, as specifications, and the launches of a plan.

use super::{Node, Section, Use, View};
use crate::cost::Role;
use crate::group::{Fused, Work, group_cost, kernel_text};
use crate::kernel::{KernelSpec, Verified};
use crate::pipeline::{BlockStages, Stages};
use crate::plan::plan_text;
use serde_json::{Map, Value, json};

/// The groups of every block: for each role, where the roles have kernels of their own.
pub fn fused(stages: &Stages) -> View {
    let roles = |b: &BlockStages| if b.decode.is_some() { Role::ALL.to_vec() } else { vec![Role::Prefill] };
    let of = |b: &BlockStages, role: Role| {
        let whose = if b.decode.is_some() { format!(" for {}", role.name()) } else { String::new() };
        groups(format!("block {}{whose}", b.name), b.fused(role))
    };
    let sections = stages.blocks.iter().flat_map(|b| roles(b).into_iter().map(move |r| of(b, r))).collect();
    View { stage: "fused", sections }
}

fn groups(name: String, fused: &Fused) -> Section {
    let kernel_of = |v: u32| fused.groups.iter().position(|g| g.values.contains(&v));
    let value = |v: u32| fused.values[v as usize].name.as_str();
    let each = |(n, group): (usize, &crate::group::Group)| {
        let values: Vec<_> = group.values.iter().map(|v| &fused.values[*v as usize]).collect();
        let loads = values.iter().flat_map(|v| &v.loads);
        let mut of: Vec<Use> = Vec::new();
        for load in loads {
            let from = kernel_of(*load).map(|k| Use { id: format!("k{k}"), what: value(*load).to_owned() });
            of.extend(from.filter(|u| !of.contains(u)));
        }
        let stored: Vec<_> = values.iter().map(|v| v.name.as_str()).collect();
        let cost = group_cost(&fused.terms, &fused.values, group, &fused.facts);
        let kept = |v: &&&crate::group::Value| fused.caches.iter().any(|c| value(c.0) == v.name);
        let cached: Vec<_> = values.iter().filter(kept).map(|v| v.name.as_str()).collect();
        let facts = [
            ("stores", json!(stored)),
            ("caches", json!(cached)),
            ("bytes", json!(cost.bytes)),
            ("operations", json!(cost.operations)),
            ("seconds", json!(cost.seconds)),
        ];
        Node {
            id: format!("k{n}"),
            does: format!("{} -> {}", kind(&values[0].work), stored.join(", ")),
            of,
            facts: facts.into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
            text: Some(kernel_text(fused, n)),
            values: stored.iter().map(|s| (*s).to_owned()).collect(),
            ..Node::default()
        }
    };
    let nodes = fused.groups.iter().enumerate().map(each).collect();
    let leaks: Vec<_> = fused.leaks.values().map(|l| l.sentence.as_str()).collect();
    let facts = [("notes", json!(fused.notes)), ("not appendable", json!(leaks))];
    let facts = facts.into_iter().filter(|(_, v)| v.as_array().is_some_and(|a| !a.is_empty()));
    Section { name, nodes, facts: facts.map(|(k, v)| (k.to_owned(), v)).collect() }
}

fn kind(work: &Work) -> &'static str {
    match work {
        Work::Map => "map",
        Work::TopK => "topk",
        Work::Contract(_) => "contract",
        Work::Stream(_) => "stream",
    }
}

/// Kernel specifications.
pub fn kernels(stages: &Stages) -> View {
    let each = |(n, k): (usize, &Verified<KernelSpec>)| Node {
        id: format!("k{n}"),
        does: k.name.clone(),
        text: Some(k.to_string()),
        ..Node::default()
    };
    let nodes = stages.kernels.iter().enumerate().map(each).collect();
    View { stage: "kernels", sections: vec![Section { name: "kernels".to_owned(), nodes, facts: Map::new() }] }
}

/// The plan: its text by paragraphs.
pub fn plan(stages: &Stages) -> View {
    let names: Vec<_> = stages.kernels.iter().map(|k| k.name.clone()).collect();
    let text = plan_text(&stages.plan, &names);
    let each = |(n, part): (usize, &str)| {
        let (head, rest) = part.split_once('\n').unwrap_or((part, ""));
        Node { id: format!("p{n}"), does: head.to_owned(), text: Some(rest.to_owned()), ..Node::default() }
    };
    let nodes = text.split("\n\n").filter(|p| !p.trim().is_empty()).enumerate().map(each).collect();
    View { stage: "plan", sections: vec![Section { name: "plan".to_owned(), nodes, facts: Map::new() }] }
}

/// Kernel specifications as data, each as it is.
pub fn kernels_data(stages: &Stages) -> Value {
    let specs: Vec<&KernelSpec> = stages.kernels.iter().map(|k| &**k).collect();
    json!({ "stage": "kernels", "kernels": specs })
}

/// The plan as data, as an artifact holds it.
pub fn plan_data(stages: &Stages) -> Value {
    json!({ "stage": "plan", "plan": stages.plan })
}
