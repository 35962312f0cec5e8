//! `llmc sim`: a kernel of a PTX file, executed and checked.

use super::args::SimArgs;
use super::failure::Failure;
use llmc::Error;
use llmc_ptx_sim::syntax::Module;
use llmc_ptx_sim::{Argument, Counters, Fault, FaultKind, Kernel, Launch, Memory, Param, Program, PtxError};
use serde_json::json;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Bytes of a PTX file.
const FILE_LIMIT: u64 = 1 << 28;
/// Bytes of all buffers.
const BUFFERS_LIMIT: u64 = 1 << 32;
/// Characters of a line that are shown.
const WIDEST: usize = 160;

/// Runs the kernel and prints what it did.
pub fn run(args: &SimArgs) -> Result<(), Failure> {
    let name = args.file.display().to_string();
    let text = read(&args.file, &name)?;
    let wrong = |e: PtxError| Error::Usage(located(&name, &text, &e));
    let mut memory = Memory::new();
    let program = Program::load(Module::parse(&text).map_err(wrong)?, &mut memory).map_err(wrong)?;
    let kernel = program.kernel(chosen(args, &program)?).map_err(wrong)?;
    let arguments =
        args.args.iter().map(|a| Argument::parse(a)).collect::<Result<Vec<_>, _>>().map_err(Error::Usage)?;
    let bytes = |a: &Argument| if let Argument::Buffer(ty, n, _) = a { u64::from(ty.bytes()) * n } else { 0 };
    if arguments.iter().map(bytes).sum::<u64>() > BUFFERS_LIMIT {
        return Err(Error::Usage(format!("buffers of more than {BUFFERS_LIMIT} bytes")).into());
    }
    let mut values = Vec::new();
    for (i, argument) in arguments.iter().enumerate() {
        let label = kernel.params().get(i).map_or("argument", |p| &p.name);
        values.push(argument.place(label, &mut memory).map_err(Error::Usage)?);
    }
    let params = kernel.pack(&values).map_err(|e| Error::Usage(format!("{e}\n{}", wanted(&kernel))))?;
    let (grid, block) = (sizes(&args.grid)?, sizes(&args.block)?);
    let launch = Launch { shared: args.shared, seed: args.seed, limit: args.limit, ..Launch::new(grid, block, params) };
    let result = kernel.launch(&mut memory, &launch);
    let shown = shown(args, &kernel, &arguments, &values, &memory);
    match args.json {
        true => println!("{}", report_json(&result, &shown)),
        false => print!("{}", report(&result, &shown)),
    }
    result.map(drop).map_err(|_| Failure::Silent)
}

/// The text of a file.
fn read(path: &Path, name: &str) -> Result<String, Error> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|e| Error::io(name, e))?;
    file.take(FILE_LIMIT + 1).read_to_end(&mut bytes).map_err(|e| Error::io(name, e))?;
    if bytes.len() as u64 > FILE_LIMIT {
        return Err(Error::Usage(format!("{name}: more than {FILE_LIMIT} bytes")));
    }
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        let hint = "`llmc sim` reads PTX, which is text; a cubin or a program cannot be run";
        Error::Usage(format!("{name}: byte {at} is not text\n{hint}"))
    })
}

/// What is wrong, where, and the line itself.
fn located(name: &str, text: &str, error: &PtxError) -> String {
    let (line, column) = (error.place.line as usize, error.place.column as usize);
    let Some(shown) = line.checked_sub(1).and_then(|n| text.lines().nth(n)) else { return format!("{name}:{error}") };
    let before: String = shown.chars().take(column.saturating_sub(1)).collect();
    let blank: String = before.chars().map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
    let shown: String = shown.chars().take(WIDEST).collect();
    match column <= WIDEST {
        true => format!("{name}:{error}\n  {shown}\n  {blank}^"),
        false => format!("{name}:{error}\n  {shown} ..."),
    }
}

/// The kernel's parameters, for who gave others.
fn wanted(kernel: &Kernel) -> String {
    let one = |p: &Param| match p.size {
        0..=8 => format!("{} (.{})", p.name, p.ty.name()),
        n => format!("{} ({n} bytes, which only the library can give)", p.name),
    };
    let all: Vec<String> = kernel.params().iter().map(one).collect();
    format!("`--args` takes a value for each of: {}", if all.is_empty() { "none".into() } else { all.join(", ") })
}

fn chosen<'a>(args: &'a SimArgs, program: &Program<'a>) -> Result<&'a str, Error> {
    match (&args.kernel, program.kernels().as_slice()) {
        (Some(name), all) if all.contains(&name.as_str()) => Ok(name),
        (Some(name), all) => Err(Error::Usage(format!("no kernel `{name}`; there are {}", all.join(", ")))),
        (None, [only]) => Ok(only),
        (None, all) => Err(Error::Usage(format!("`--kernel` says which of {} kernels: {}", all.len(), all.join(", ")))),
    }
}

/// Up to three sizes, the others 1.
fn sizes(given: &[u32]) -> Result<[u32; 3], Error> {
    match given.len() {
        1..=3 => Ok([0, 1, 2].map(|i| given.get(i).copied().unwrap_or(1))),
        n => Err(Error::Usage(format!("{n} sizes; a grid and a block have up to three"))),
    }
}

/// Names and first elements of the buffers.
fn shown(
    args: &SimArgs,
    kernel: &Kernel,
    given: &[Argument],
    values: &[u64],
    memory: &Memory,
) -> Vec<(String, Vec<f64>)> {
    let buffers = kernel.params().iter().zip(given).zip(values);
    let first = |a: &Argument, at: u64| a.elements(at, memory, args.show);
    buffers.filter_map(|((p, a), at)| Some((p.name.clone(), first(a, *at)?))).filter(|_| args.show > 0).collect()
}

fn report(result: &Result<Counters, Box<Fault>>, shown: &[(String, Vec<f64>)]) -> String {
    let mut out = match result {
        Err(fault) if fault.kind == FaultKind::Endless => format!("{fault}\n`--limit` allows more\n"),
        Err(fault) => format!("{fault}\n"),
        Ok(counters) => {
            let lines = counters.entries().into_iter().map(|(name, n)| format!("{name:24} {n}\n"));
            let ratio = format!("{:24} {:.2}\n", "sectors_per_request", counters.sectors_per_request());
            lines.chain([ratio]).collect()
        }
    };
    for (name, elements) in shown {
        out += &format!("{name}: {elements:?}\n");
    }
    out
}

fn report_json(result: &Result<Counters, Box<Fault>>, shown: &[(String, Vec<f64>)]) -> serde_json::Value {
    let buffers: serde_json::Map<_, _> = shown.iter().map(|(n, e)| (n.clone(), json!(e))).collect();
    match result {
        Ok(counters) => {
            let counters: serde_json::Map<_, _> =
                counters.entries().into_iter().map(|(n, v)| (n.to_string(), json!(v))).collect();
            json!({ "counters": counters, "buffers": buffers })
        }
        Err(f) => json!({
            "fault": {
                "kind": f.kind.name(), "kernel": f.kernel, "line": f.line, "block": f.block, "thread": f.thread,
                "other": f.other.map(|(line, thread)| json!({ "line": line, "thread": thread })),
                "message": f.message,
            },
            "buffers": buffers,
        }),
    }
}
