//! The `llmc` command.
fn main() {}
