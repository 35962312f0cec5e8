//! The model language: from text to a verified graph, and the reference evaluator that says what a graph means.
#![forbid(unsafe_code)]

pub mod graph;
