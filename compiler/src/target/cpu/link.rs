//! From an object file to a shared object.

use std::io::Write;
use std::process::Command;

/// Links an object that refers to nothing outside itself.
///
/// # Errors
/// The linker's message, or why it could not be run.
pub fn shared_object(object: &[u8]) -> Result<Vec<u8>, String> {
    let folder = tempfile::tempdir().map_err(|e| format!("no temporary folder: {e}"))?;
    let (input, output) = (folder.path().join("kernels.o"), folder.path().join("kernels.so"));
    let written = std::fs::File::create(&input).and_then(|mut f| f.write_all(object));
    written.map_err(|e| format!("cannot write {}: {e}", input.display()))?;
    let linked = Command::new("cc")
        .args(["-shared", "-nostdlib", "-Wl,-z,noexecstack", "-Wl,-z,defs", "-Wl,--build-id=none", "-o"])
        .arg(&output)
        .arg(&input)
        .output()
        .map_err(|e| format!("cannot run `cc`: {e}; install a C compiler"))?;
    if !linked.status.success() {
        return Err(format!("`cc` failed: {}", String::from_utf8_lossy(&linked.stderr).trim()));
    }
    std::fs::read(&output).map_err(|e| format!("cannot read {}: {e}", output.display()))
}
