//! `llmc sim`: a kernel of a PTX file, executed and checked.

use super::args::SimArgs;
use super::failure::Failure;
use llmc::Error;
use llmc_ptx_sim::syntax::Module;
use llmc_ptx_sim::{Argument, Counters, Fault, Kernel, Launch, Memory, Program};
use serde_json::json;

/// Runs the kernel and prints what it did.
pub fn run(args: &SimArgs) -> Result<(), Failure> {
    let name = args.file.display();
    let text = std::fs::read_to_string(&args.file).map_err(|e| Error::io(name.to_string(), e))?;
    let wrong = |e: llmc_ptx_sim::PtxError| Error::Usage(format!("{name}:{e}"));
    let mut memory = Memory::new();
    let program = Program::load(Module::parse(&text).map_err(wrong)?, &mut memory).map_err(wrong)?;
    let kernel = program.kernel(chosen(args, &program)?).map_err(wrong)?;
    let arguments =
        args.args.iter().map(|a| Argument::parse(a)).collect::<Result<Vec<_>, _>>().map_err(Error::Usage)?;
    let mut values = Vec::new();
    for (i, argument) in arguments.iter().enumerate() {
        let label = kernel.params().get(i).map_or("argument", |p| &p.name);
        values.push(argument.place(label, &mut memory).map_err(Error::Usage)?);
    }
    let params = kernel.pack(&values).map_err(Error::Usage)?;
    let (grid, block) = (sizes(&args.grid)?, sizes(&args.block)?);
    let launch = Launch { shared: args.shared, seed: args.seed, ..Launch::new(grid, block, params) };
    let result = kernel.launch(&mut memory, &launch);
    let shown = shown(args, &kernel, &arguments, &values, &memory);
    match args.json {
        true => println!("{}", report_json(&result, &shown)),
        false => print!("{}", report(&result, &shown)),
    }
    result.map(drop).map_err(|_| Failure::Silent)
}

fn chosen<'a>(args: &'a SimArgs, program: &Program<'a>) -> Result<&'a str, Error> {
    match (&args.kernel, program.kernels().as_slice()) {
        (Some(name), _) => Ok(name),
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
