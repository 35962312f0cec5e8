//! NVIDIA's assembler, where it is installed. The bench on GPUs includes this file too.

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

/// One kernel of a module, under a name that says nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kernel(String);

/// What the kernels of a module call themselves.
const NAME: &str = "one_kernel";

impl Kernel {
    /// The kernel of this name in a module's text. Kernels that do the same are equal, whatever they are called and wherever
    /// they stand.
    ///
    /// # Panics
    /// When it is not in it.
    pub fn of(module: &str, name: &str) -> Kernel {
        let entry = format!(".visible .entry {name}(");
        let from = module.find(&entry).unwrap_or_else(|| panic!("no kernel `{name}`"));
        let length = module[from..].find("\n}\n").expect("a kernel ends") + "\n}\n".len();
        let text = module[from..from + length].replace(name, NAME);
        // Labels have the kernel's number in the module.
        let mut parts = text.split("$L__BB");
        let mut own = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            own.push_str("$L__BB");
            own.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit()));
        }
        Kernel(own)
    }
}

/// What stands in a module before and between its kernels.
pub fn declarations(module: &str) -> String {
    let mut inside = false;
    let outside = module.lines().filter(|line| {
        inside |= line.starts_with(".visible .entry");
        let keep = !inside && !line.starts_with("//");
        inside &= *line != "}";
        keep && !line.trim_start().starts_with("//") && !line.is_empty()
    });
    outside.flat_map(|line| [line, "\n"]).collect()
}

/// A module of these kernels, which are `k0`, `k1` and so on.
pub fn module<'k>(declarations: &str, kernels: impl IntoIterator<Item = &'k Kernel>) -> String {
    let named = kernels.into_iter().enumerate().map(|(n, kernel)| {
        let text = kernel.0.replace(NAME, &format!("k{n}"));
        text.replace("$L__BB", &format!("$L__BB{n}"))
    });
    std::iter::once(declarations.to_owned()).chain(named).collect()
}

/// `$PTXAS`, on the path, or where the tests' set-up puts it.
pub fn find() -> Option<Ptxas> {
    let named = std::env::var_os("PTXAS").map(PathBuf::from);
    let cache = std::env::var_os("LLMC_CACHE").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cache/llmc")));
    let cached = cache.map(|c| c.join("cuda/nvidia/cu13/bin/ptxas"));
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
