//! What tests share.

pub mod cases;
pub mod models;
pub mod checkpoint;
