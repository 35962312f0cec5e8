//! Every test that needs more than one crate, in one binary, so that LLVM is linked once.

mod checkpoints;
mod cli;
mod compiled;
mod damage;
mod decode;
mod docs;
mod errors;
mod figures;
mod fused;
mod goals;
mod gpu;
mod hygiene;
mod latent;
mod laws;
mod looking;
mod occupancy;
mod oracle;
mod problems;
mod ptx;
mod ptxas;
mod sim;
mod support;
mod tiny;
