//! What tests share.

pub mod cases;
pub mod checkpoint;
pub mod command;
pub mod goal;
pub mod interpreted;
pub mod models;
pub mod ptxas;
pub mod tiny;
