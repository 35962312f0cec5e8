//! Graph to artifact: algebra on e-graphs, streams, kernels, and code through LLVM.
#![deny(unsafe_code)]

pub mod alpha;
pub mod blocks;
pub mod causality;
pub mod choose;
pub mod cost;
pub mod egraph;
pub mod explain;
pub mod facts;
#[cfg(test)]
mod fixture;
pub mod group;
pub mod kernel;
pub mod llvm;
pub mod normal;
pub mod pipeline;
pub mod plan;
pub mod recipe;
pub mod rules;
pub mod stream;
pub mod target;
#[cfg(test)]
#[allow(missing_docs)]
pub(crate) mod testing;
pub mod view;
