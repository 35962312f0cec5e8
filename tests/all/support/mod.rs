//! What tests share.

pub mod cases;
pub mod checkpoint;
pub mod command;
pub mod fragments;
pub mod goal;
pub mod interpreted;
pub mod models;
pub mod problem;
pub mod ptxas;
pub mod tiny;
