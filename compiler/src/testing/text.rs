//! A model text of one block through every stage, and what its kernels compute beside what the text means.

use super::machine::{BlockMachine, assert_close};
use crate::cost::Role;
use crate::egraph::{BlockFacts, optimize};
use crate::fixture::scrambled;
use crate::group::{Facts, Fused, Machine, Unsupported, WeightFact, Work, fuse, standard_order};
use crate::stream::Stream;
use crate::stream::check::Leaf;
use llmc_artifact::{Format, Type, Value};
use llmc_frontend::compile_text;
use llmc_frontend::graph::{Axes, Model, Op};
use llmc_frontend::reference::{Tensor, evaluate_graph};

/// A block made of a text, and the leaves it is evaluated over.
pub struct Text {
    model: Model,
    pub fused: Fused,
    /// Reals are in `-scale..scale`.
    pub scale: f64,
    /// Elements of real inputs, by name and index, that are something else.
    pub given: fn(&str, &[i64]) -> Option<f64>,
}

/// The text's only block through the optimizer and into kernels, for a machine that any fold fills: none is cut.
///
/// # Errors
/// What no kernel computes.
pub fn kernels(text: &str) -> Result<Text, Unsupported> {
    kernels_for(text, Machine { slots: 1.0, ..Machine::default() })
}

/// As [`kernels`], costed by a machine.
///
/// # Errors
/// As [`kernels`].
pub fn kernels_for(text: &str, machine: Machine) -> Result<Text, Unsupported> {
    let compiled = compile_text("text.llm", text, None);
    let model = compiled.model.unwrap_or_else(|| panic!("{:#?}", compiled.diagnostics));
    let model: Model = model.into_inner();
    assert_eq!(model.blocks.len(), 1, "these texts are one block");
    let weights: Vec<_> = model.steps[0].weights.iter().zip(&model.blocks[0].weights).collect();
    let fact = |(weight, slot): (&llmc_frontend::graph::WeightId, &llmc_frontend::graph::WeightSlot)| {
        let order = match &model.weight_graph[model.weights[weight.0 as usize].node].op {
            Op::Tensor(view) => view.dims.iter().flatten().copied().collect(),
            _ => slot.axes.iter().collect(),
        };
        WeightFact { name: slot.name.clone(), order, format: Format::F32, whole_blocks: true }
    };
    let weights: Vec<_> = weights.into_iter().map(fact).collect();
    let best = optimize(
        &model.blocks[0],
        &model.axes,
        &BlockFacts { quantised: vec![false; weights.len()], ..BlockFacts::default() },
    );
    let (cache, activations) = (Format::F32, Format::F32);
    let facts = Facts { weights, picked: false, cache, activations, machine, role: Role::Decode };
    let fused = fuse(&best.terms, &best.roots, facts)?;
    Ok(Text { model, fused, scale: 1.0, given: |_, _| None })
}

impl Text {
    /// The streams of the block, each once.
    pub fn streams(&self) -> Vec<&Stream> {
        let mut found: Vec<&Stream> = Vec::new();
        for group in &self.fused.groups {
            if let Work::Stream(fold) = &self.fused.values[group.values[0] as usize].work {
                found.push(&fold.stream);
            }
        }
        found
    }

    /// Its kernels as people read them.
    pub fn shown(&self) -> String {
        crate::group::fused_text(&self.fused)
    }

    fn leaf(&self, leaf: Leaf, index: &[i64]) -> Value {
        let x = scrambled(leaf, index).real();
        match leaf {
            Leaf::Param(n) => {
                let own = &self.model.blocks[0].params[n as usize];
                let value = self.model.steps[0].args[n as usize];
                let bound = self.model.inputs.iter().find(|i| i.value == value).and_then(|i| i.bound);
                match own.ty {
                    Type::Real => {
                        let x = (self.given)(&own.name, index).unwrap_or(x * self.scale);
                        Value::Real(x as f32 as f64)
                    }
                    Type::Int => Value::Int(((x.abs() * 1e6) as i64) % bound.unwrap_or(4) as i64),
                    Type::Bool => Value::Bool(x > 0.0),
                }
            }
            Leaf::Weight(_) | Leaf::Stored(_) => Value::Real(x as f32 as f64),
        }
    }

    /// What the text means: its results by the reference evaluator, rows outermost.
    pub fn meaning(&self, tokens: u64) -> Vec<Vec<f64>> {
        let axes = &self.model.axes;
        let lengths: Vec<usize> =
            axes.iter().map(|(a, _)| axes.len_of(a).map_or(tokens as usize, |n| n as usize)).collect();
        let tensor = |leaf: Leaf, own: &Axes| {
            let mut points = vec![vec![]];
            for a in own.iter() {
                let longer = |p: Vec<i64>| {
                    (0..lengths[a.0 as usize] as i64).map(move |i| p.iter().copied().chain([i]).collect::<Vec<_>>())
                };
                points = points.into_iter().flat_map(longer).collect();
            }
            let number = |p: &Vec<i64>| match self.leaf(leaf, p) {
                Value::Real(x) => x,
                Value::Int(n) => n as f64,
                Value::Bool(b) => f64::from(b),
            };
            Tensor::new(own.iter().collect(), &lengths, points.iter().map(number).collect())
        };
        let block = &self.model.blocks[0];
        let params = block.params.iter().enumerate().map(|(n, p)| tensor(Leaf::Param(n as u32), &p.axes)).collect();
        let weights = block.weights.iter().enumerate().map(|(n, w)| tensor(Leaf::Weight(n as u32), &w.axes)).collect();
        let roots: Vec<_> = block.results.iter().map(|(_, id)| *id).collect();
        let results = evaluate_graph(axes, &block.graph, params, weights, &[tokens as usize], &roots);
        let outermost = |(t, id): (Tensor, _)| {
            let id: &petgraph::graph::NodeIndex = id;
            t.ordered(&standard_order(&self.fused.terms, &block.graph[*id].axes)).data
        };
        results.into_iter().zip(&roots).map(outermost).collect()
    }

    /// The first result compiled, its tokens up to each of `ends` at a time.
    pub fn in_chunks(&self, tokens: u64, ends: &[u64]) -> Vec<f64> {
        let leaves = |leaf: Leaf, index: &[i64]| self.leaf(leaf, index);
        let mut machine = BlockMachine::over(&self.fused, tokens, &leaves);
        machine.compile();
        let starts = [0].into_iter().chain(ends.iter().copied());
        starts.zip(ends).flat_map(|(from, to)| machine.step(from, *to).swap_remove(0)).collect()
    }

    /// The last row of the first result, interpreted and compiled, where an input is not a number at some tokens.
    pub fn last_row_without(&self, tokens: u64, input: &str, absent: &dyn Fn(i64) -> bool) -> [Vec<f64>; 2] {
        let leaves = |leaf: Leaf, index: &[i64]| match leaf {
            Leaf::Param(n)
                if self.model.blocks[0].params[n as usize].name == input && absent(index[self.row_of(n)]) =>
            {
                Value::Real(f64::NAN)
            }
            leaf => self.leaf(leaf, index),
        };
        [false, true].map(|compiled| {
            let mut machine = BlockMachine::over(&self.fused, tokens, &leaves);
            if compiled {
                machine.compile();
            }
            let all = machine.step(0, tokens).swap_remove(0);
            all[all.len() - all.len() / tokens as usize..].to_vec()
        })
    }

    /// Where the tokens stand among a parameter's axes.
    fn row_of(&self, n: u32) -> usize {
        let axes = &self.model.blocks[0].params[n as usize].axes;
        axes.iter().position(|a| self.model.axes.len_of(a).is_none()).expect("an input over tokens")
    }

    /// For every row and head of the block's fold over tokens, the first key of each block that is visited.
    pub fn visited(&self, tokens: u64, block: i64) -> Vec<Vec<i64>> {
        let leaves = |leaf: Leaf, index: &[i64]| self.leaf(leaf, index);
        BlockMachine::over(&self.fused, tokens, &leaves).visited(tokens, block)
    }

    /// Every result of the kernels, interpreted or compiled, all tokens at once.
    pub fn results(&self, tokens: u64, compiled: bool) -> Vec<Vec<f64>> {
        let leaves = |leaf: Leaf, index: &[i64]| self.leaf(leaf, index);
        let mut machine = BlockMachine::over(&self.fused, tokens, &leaves);
        if compiled {
            machine.compile();
        }
        machine.step(0, tokens)
    }

    /// Every result of the kernels, interpreted and compiled, is what the text means.
    pub fn agrees(&self, tokens: u64, tolerance: f64) {
        let want = self.meaning(tokens);
        for compiled in [false, true] {
            let got = self.results(tokens, compiled);
            assert_eq!(got.len(), want.len());
            got.iter().zip(&want).for_each(|(g, w)| assert_close(g, w, tolerance));
        }
    }
}
