//! Why the compiler made what it made: the laws in their order, checked, with what the forms cost.
//!
//! [`denote`] reads terms by their meaning under a set of laws; [`check`] and [`kernels`] check certificates with it, and
//! share nothing with the stages that wrote them.

pub mod check;
mod dead;
mod decide;
pub mod denote;
pub mod kernels;
#[cfg(test)]
mod planted;
mod powers;
mod rewrite;
mod screen;
mod short;
#[cfg(test)]
mod tests;
pub mod value;
