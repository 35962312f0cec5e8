//! NVIDIA's assembler as a judge of PTX, where it is installed.

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

/// What the assembler made of one kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assembled {
    /// The kernel's name.
    pub kernel: String,
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes that did not fit into registers, stored and loaded.
    pub spilled: u32,
}

/// The assembler: `$PTXAS`, on the path, or where the tests' set-up puts it.
fn ptxas() -> Option<PathBuf> {
    let named = std::env::var_os("PTXAS").map(PathBuf::from);
    let cached = std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cache/llmc/cuda/nvidia/cu13/bin/ptxas"));
    let on_path = Some(PathBuf::from("ptxas"));
    let runs = |p: &PathBuf| Command::new(p).arg("--version").output().is_ok_and(|o| o.status.success());
    [named, on_path, cached].into_iter().flatten().find(runs)
}

/// Assembles PTX for a compute capability; `None`, with a word, where no assembler is installed.
///
/// # Panics
/// When it is refused.
pub fn assemble(text: &str, arch: &str) -> Option<Vec<Assembled>> {
    let Some(ptxas) = ptxas() else {
        eprintln!("skipped: ptxas is not installed; set PTXAS to its path");
        return None;
    };
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(text.as_bytes()).expect("room for a kernel");
    let mut command = Command::new(&ptxas);
    command.arg("-v").arg(format!("-arch={arch}")).arg(file.path()).args(["-o", "/dev/null"]);
    let out = command.output().expect("ptxas runs");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{arch}: {said}\n{text}");
    Some(read(&said))
}

/// Reads what `-v` prints.
fn read(said: &str) -> Vec<Assembled> {
    let before =
        |line: &str, word: &str| -> Option<u32> { line.split(word).next()?.split_whitespace().last()?.parse().ok() };
    let mut all: Vec<Assembled> = Vec::new();
    for line in said.lines() {
        if let Some(rest) = line.split("Compiling entry function '").nth(1) {
            let kernel = rest.split('\'').next().unwrap_or_default().to_string();
            all.push(Assembled { kernel, registers: 0, spilled: 0 });
        }
        let Some(last) = all.last_mut() else { continue };
        if line.contains("spill stores") {
            last.spilled =
                before(line, " bytes spill stores").unwrap_or(0) + before(line, " bytes spill loads").unwrap_or(0);
        }
        if line.contains("Used ") {
            last.registers = before(line, " registers").unwrap_or(0);
        }
    }
    all
}
