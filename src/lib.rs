//! llmc compiles the mathematics of a transformer into fused kernels and runs them.
