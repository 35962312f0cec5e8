//! Why the compiler made what it made: the laws in their order, checked, with what the forms cost.
//!
//! [`denote`] reads terms by their meaning under a set of laws; [`check`] checks certificates with it, and shares
//! nothing with the stages that wrote them.

pub mod check;
mod decide;
pub mod denote;
mod powers;
mod rewrite;
#[cfg(test)]
mod tests;
pub mod value;
