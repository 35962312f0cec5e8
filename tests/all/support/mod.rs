//! What tests share.

pub mod cases;
pub mod checkpoint;
pub mod command;
pub mod goal;
pub mod models;
