//! The `llmc` binary as a user runs it: what it prints, how it ends, and that it ends.

use std::fs::File;
use std::io::{Read, Seek};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// No command of these tests takes a tenth of this, even where other work competes for the processor.
const LIMIT: Duration = Duration::from_secs(120);

/// The most address space a command gets, in KiB: LLVM's libraries and the weights' maps fit many times over.
const ADDRESS_SPACE: &str = "8388608";

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    /// Its arguments, for messages.
    pub command: String,
    /// Its exit code.
    pub code: i32,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

/// Runs `llmc` with these arguments in bounded memory and time.
///
/// # Panics
/// When it takes too long, ends by a signal, or panics.
pub fn llmc<S: AsRef<str>>(args: &[S]) -> Ended {
    limited("", args)
}

/// Runs `llmc` where no file may grow beyond `kib` KiB or half of that, as on a full disk.
pub fn llmc_on_full_disk<S: AsRef<str>>(kib: u64, args: &[S]) -> Ended {
    // Shells count blocks of 512 or of 1024 bytes.
    limited(&format!("trap '' XFSZ; ulimit -f {kib};"), args)
}

fn limited<S: AsRef<str>>(before: &str, args: &[S]) -> Ended {
    let args: Vec<&str> = args.iter().map(AsRef::as_ref).collect();
    let command = format!("llmc {}", args.join(" "));
    let script = format!("ulimit -v {ADDRESS_SPACE}; {before} exec \"$0\" \"$@\"");
    let (mut out, mut err) = (tempfile::tempfile().expect("a file"), tempfile::tempfile().expect("a file"));
    let stream = |file: &File| Stdio::from(file.try_clone().expect("a file can be shared"));
    let mut child = Command::new("sh")
        .args(["-c", &script, env!("CARGO_BIN_EXE_llmc")])
        .args(&args)
        .env("NO_COLOR", "1")
        .env("CUDA_VISIBLE_DEVICES", "")
        .env_remove("RUST_BACKTRACE")
        .stdin(Stdio::null())
        .stdout(stream(&out))
        .stderr(stream(&err))
        .spawn()
        .expect("sh starts");
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            break status;
        }
        if start.elapsed() > LIMIT {
            child.kill().expect("a child can be ended");
            child.wait().expect("a child can be waited for");
            panic!("{command}: still running after {LIMIT:?}");
        }
        std::thread::sleep(Duration::from_millis(3));
    };
    let (out, err) = (text(&mut out), text(&mut err));
    let code = status.code().unwrap_or_else(|| panic!("{command}: {status}\n{err}"));
    assert!(code <= 2 && !err.contains("panicked at"), "{command}: exit code {code}\n{err}");
    Ended { command, code, out, err }
}

fn text(file: &mut File) -> String {
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("a file can be read again");
    String::from_utf8(bytes).expect("llmc prints UTF-8")
}

impl Ended {
    /// What it printed, when it did what was asked.
    #[track_caller]
    pub fn done(self) -> String {
        assert_eq!(self.code, 0, "{}\n{}", self.command, self.err);
        self.out
    }

    /// What it said, when it refused the input with a short message.
    #[track_caller]
    pub fn refused(self) -> String {
        let said = if self.err.is_empty() { self.out } else { self.err };
        assert_eq!(self.code, 1, "{}\n{said}", self.command);
        assert!(said.contains("error") && said.len() < 20_000, "{}\n{said}", self.command);
        said
    }
}
