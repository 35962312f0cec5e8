//! What the optimizer may know of a block's weights: how the checkpoint stores what is behind each slot.

use crate::group::WeightFact;
use llmc_artifact::Format;
use llmc_frontend::graph::{AxisId, BlockId, Graph, Model, Op, TensorView};
use petgraph::graph::NodeIndex;

/// One fact for each weight slot of a block. Every step of the block binds weights of the same storage, so the first
/// step speaks for all.
///
/// # Panics
/// When no step runs the block: elaboration makes no such block.
pub fn of_weights(model: &Model, block: BlockId) -> Vec<WeightFact> {
    let step = model.steps.iter().find(|s| s.block == block).expect("facts: a step runs every block");
    let slots = &model.blocks[block.0 as usize].weights;
    (slots.iter().zip(&step.weights))
        .map(|(slot, weight)| {
            let node = model.weights[weight.0 as usize].node;
            let (order, format, whole_blocks) = stored(&model.weight_graph, node).unwrap_or_else(|| {
                let order = slot.axes.iter().collect();
                (order, Format::F32, false)
            });
            WeightFact { name: slot.name.clone(), order, format, whole_blocks }
        })
        .collect()
}

/// A tensor's axes in the file's order, its format, and whether its rows keep their blocks. `None` for a value that is
/// computed from tensors.
fn stored(graph: &Graph, node: NodeIndex) -> Option<(Vec<AxisId>, Format, bool)> {
    match &graph[node].op {
        Op::Tensor(view) => Some((file_order(view), view.info.format, true)),
        Op::Index(read) => {
            let operands = graph.operands(node);
            let Op::Tensor(view) = &graph[operands[0]].op else { return None };
            let innermost = file_order(view).last().copied();
            let mut order = Vec::new();
            for axis in file_order(view) {
                match read.iter().position(|a| *a == axis) {
                    Some(at) => order.extend(graph[operands[at + 1]].axes.iter()),
                    None => order.push(axis),
                }
            }
            let whole = innermost.is_some_and(|a| !read.contains(&a));
            let format = if whole { view.info.format } else { view.info.format.plain().and(Some(view.info.format))? };
            let distinct = order.iter().enumerate().all(|(i, a)| !order[..i].contains(a));
            distinct.then_some((order, format, whole))
        }
        Op::Const(_) | Op::Iota(_) | Op::Length(_) | Op::Param(_) | Op::Weight(_) => None,
        Op::Map(_) | Op::Reduce(..) | Op::TopK { .. } => None,
    }
}

fn file_order(view: &TensorView) -> Vec<AxisId> {
    view.stacked.into_iter().chain(view.dims.iter().flatten().copied()).collect()
}
