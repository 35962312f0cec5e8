//! The graph after elaboration as boxes: weights, then each block.

use super::{Node, Section, Use, View};
use llmc_frontend::graph::text::expression;
use llmc_frontend::graph::{AxisTable, Graph, Model};
use serde_json::{Map, json};

/// Weights, blocks and steps.
pub fn graph(model: &Model) -> View {
    let weights =
        Section { name: "weights".to_owned(), nodes: boxes(&model.axes, &model.weight_graph), ..Section::default() };
    let mut sections = vec![weights];
    for (n, block) in model.blocks.iter().enumerate() {
        let steps = model.steps.iter().filter(|s| s.block.0 as usize == n).count();
        let mut facts = Map::from_iter([("steps".to_owned(), json!(steps))]);
        let named = |all: Vec<(String, String)>| json!(all.into_iter().collect::<std::collections::BTreeMap<_, _>>());
        let results = block.results.iter().map(|(name, id)| (name.clone(), format!("n{}", id.index()))).collect();
        facts.insert("results".to_owned(), named(results));
        let params: Vec<_> = block.params.iter().map(|p| p.name.as_str()).collect();
        let weights: Vec<_> = block.weights.iter().map(|w| w.name.as_str()).collect();
        facts.insert("params".to_owned(), json!(params));
        facts.insert("weights".to_owned(), json!(weights));
        let nodes = boxes(&model.axes, &block.graph);
        sections.push(Section { name: format!("block {}", block.name), nodes, facts });
    }
    View { stage: "graph", sections }
}

fn boxes(axes: &AxisTable, graph: &Graph) -> Vec<Node> {
    let each = |id| {
        let node = &graph[id];
        let of: Vec<Use> = graph.operands(id).iter().map(|x| Use::of(format!("n{}", x.index()))).collect();
        let names: Vec<_> = of.iter().map(|u| u.id.clone()).collect();
        let axis_names: Vec<_> = node.axes.iter().map(|a| axes[a].name.as_str()).collect();
        let facts = [("axes".to_owned(), json!(axis_names)), ("type".to_owned(), json!(node.ty.to_string()))];
        Node {
            id: format!("n{}", petgraph::graph::NodeIndex::index(id)),
            name: node.name.clone(),
            does: expression(axes, &node.op, &names),
            of,
            facts: Map::from_iter(facts),
            ..Node::default()
        }
    };
    graph.ids().map(each).collect()
}
