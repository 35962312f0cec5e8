//! For tests of the optimizer: graphs drafted by hand or at random, and a point-by-point evaluator.

pub mod draft;
pub mod layer;
pub mod machine;
pub mod points;
pub mod random;
pub mod text;
