//! NVIDIA's assembler, where it is installed.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

/// The assembler, and its version.
pub struct Ptxas {
    path: PathBuf,
    /// `V13.5.37`
    pub version: String,
}

/// Registers and spilled bytes of each kernel.
pub type Used = BTreeMap<String, (u32, u32)>;

/// `$PTXAS`, on the path, or where the tests' set-up puts it.
pub fn find() -> Option<Ptxas> {
    let named = std::env::var_os("PTXAS").map(PathBuf::from);
    let cached = std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cache/llmc/cuda/nvidia/cu13/bin/ptxas"));
    [named, Some(PathBuf::from("ptxas")), cached].into_iter().flatten().find_map(|path| {
        let out = Command::new(&path).arg("--version").output().ok().filter(|out| out.status.success())?;
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        let version = said.split_whitespace().rfind(|w| w.starts_with('V'))?.to_owned();
        Some(Ptxas { path, version })
    })
}

impl Ptxas {
    /// Assembles a module.
    ///
    /// # Panics
    /// When it is refused.
    pub fn assemble(&self, text: &str, arch: &str) -> Used {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(text.as_bytes()).expect("room for a module");
        let mut command = Command::new(&self.path);
        command.arg("-v").arg(format!("-arch={arch}")).arg(file.path()).args(["-o", "/dev/null"]);
        let out = command.output().expect("ptxas runs");
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{arch}: {said}\n{text}");
        used(&said)
    }
}

/// Reads what `-v` prints.
fn used(said: &str) -> Used {
    let number = |line: &str, word: &str| -> u32 {
        let before = line.split(word).next().and_then(|b| b.split_whitespace().last());
        before.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("no number before `{word}`: {line}"))
    };
    let (mut all, mut kernel) = (Used::new(), String::new());
    for line in said.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            kernel = rest.split('\'').next().unwrap_or_default().to_owned();
            all.insert(kernel.clone(), (0, 0));
        }
        let Some((registers, spilled)) = all.get_mut(&kernel) else { continue };
        if line.contains(" bytes spill stores") {
            *spilled = number(line, " bytes spill stores") + number(line, " bytes spill loads");
        }
        if line.contains("Used ") {
            *registers = number(line, " registers");
        }
    }
    all
}
