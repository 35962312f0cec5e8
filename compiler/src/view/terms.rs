//! Terms of the normal form as boxes: one for every term that is no leaf.

use super::{Node, Section, Use, View};
use crate::normal::text::{expression, reachable};
use crate::normal::{TermId, Terms};
use crate::pipeline::Stages;
use llmc_frontend::graph::AxisId;
use serde_json::{Map, json};

/// The normal form of every block.
pub fn normal(stages: &Stages) -> View {
    let section = |b: &crate::pipeline::BlockStages| {
        let (terms, roots) = &b.optimised.normal;
        section(format!("block {}", b.name), terms, roots)
    };
    View { stage: "normal", sections: stages.blocks.iter().map(section).collect() }
}

fn section(name: String, terms: &Terms, roots: &[(String, TermId)]) -> Section {
    let own = |x: &TermId| !terms.operands(*x).is_empty() || roots.iter().any(|r| r.1 == *x);
    let order: Vec<_> = reachable(terms, roots.iter().map(|r| r.1)).into_iter().filter(own).collect();
    let mut short = terms.clone();
    let nodes = order.iter().map(|x| boxed(terms, &mut short, *x)).collect();
    let results: Map<_, _> = roots.iter().map(|(name, id)| (name.clone(), json!(number(*id)))).collect();
    Section { name, nodes, facts: Map::from_iter([("results".to_owned(), json!(results))]) }
}

fn number(id: TermId) -> String {
    format!("n{}", id.0)
}

fn boxed(terms: &Terms, short: &mut Terms, id: TermId) -> Node {
    let info = terms.info(id);
    let mut of: Vec<Use> = Vec::new();
    for x in terms.operands(id) {
        if !terms.operands(x).is_empty() && of.iter().all(|u| u.id != number(x)) {
            of.push(Use::of(number(x)));
        }
    }
    Node {
        id: number(id),
        name: info.name.clone(),
        does: shallow(terms, short, id),
        of,
        facts: Map::from_iter([("axes".to_owned(), json!(names(terms, info.axes.as_slice())))]),
        ..Node::default()
    }
}

fn names(terms: &Terms, axes: &[AxisId]) -> Vec<String> {
    axes.iter().map(|a| terms.axes[*a].name.clone()).collect()
}

/// A term over the numbers of what it is made of; leaves as they are. `short` is an arena for such terms.
fn shallow(terms: &Terms, short: &mut Terms, id: TermId) -> String {
    let term = terms.term(id).over(&mut |x| {
        let info = terms.info(x);
        if terms.operands(x).is_empty() {
            return x;
        }
        short.stand_in(number(x), info.axes.clone(), info.ty)
    });
    let shown = short.add(term);
    expression(short, shown)
}
