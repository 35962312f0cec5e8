//! The list of problems on every device that is here. `LLMC_PROBLEM=PART` runs those with the part in their names alone.

use super::support::problem;
use llmc::DeviceKind;
use llmc_artifact::plan::TargetCode;
use llmc_runtime::RunError;
use llmc_runtime::device::{self, Device};
use std::time::Instant;

/// Runs the list and says how near each problem came, in parts of its tolerance.
pub fn run(target: &str, open: impl Fn(TargetCode) -> Result<Box<dyn Device>, RunError>) {
    let part = std::env::var("LLMC_PROBLEM").ok();
    let mut failures = Vec::new();
    for problem in problem::all(part.as_deref()) {
        let start = Instant::now();
        let error = open(problem.code(target)).and_then(|device| problem.error_on(device));
        let seconds = start.elapsed().as_secs_f64();
        let said = match error {
            Ok(error) => {
                format!("{:28} {target:8} {error:.3} of {:.0e}, {seconds:.2} s", problem.name, problem.tolerance)
            }
            Err(ref e) => format!("{:28} {target:8} {e}", problem.name),
        };
        println!("{said}");
        if !error.is_ok_and(|e| e <= 1.0) {
            failures.push(said);
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn open(kind: DeviceKind) -> impl Fn(TargetCode) -> Result<Box<dyn Device>, RunError> {
    move |code| device::open(kind, &[code])
}

#[test]
fn on_the_processor() {
    run("cpu", open(DeviceKind::Cpu { threads: Some(2) }));
}

#[test]
fn on_the_simulator() {
    run("sm_80", open(DeviceKind::Sim));
}
