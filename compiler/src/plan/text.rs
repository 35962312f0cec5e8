//! The plan in text, for `inspect --stage plan`.

use llmc_artifact::plan::{Arg, Launch, PageDim, Plan, Storage};
use llmc_artifact::{Dim, Format};
use std::fmt::Write;

/// The whole plan: what is allocated, then every launch with its operands by name.
pub fn plan_text(plan: &Plan, kernels: &[String]) -> String {
    let mut out = format!("plan {}\n", plan.model);
    for seq in &plan.seqs {
        let bound = seq.bound.map_or(String::new(), |n| format!(" <= {n}"));
        let grows = match &seq.appendable {
            Ok(()) => "appended to".to_owned(),
            Err(why) => format!("read whole: {why}"),
        };
        line(&mut out, format_args!("seq {}{bound}  # {grows}", seq.name));
    }
    for input in &plan.inputs {
        line(&mut out, format_args!("input {} -> b{}", input.name, input.buffer));
    }
    for output in &plan.outputs {
        line(&mut out, format_args!("output {} <- b{}", output.name, output.buffer));
    }
    line(&mut out, format_args!("\nbuffers"));
    for (n, b) in plan.buffers.iter().enumerate() {
        line(&mut out, format_args!("  b{n} {}: {}{} in slot {}", b.name, b.format, dims(&b.dims), b.slot));
    }
    line(&mut out, format_args!("\ncaches"));
    for (n, c) in plan.caches.iter().enumerate() {
        let window = c.window.map_or(String::new(), |w| format!(", the last {w} tokens"));
        line(&mut out, format_args!("  c{n} {}: {}{window}", c.name, storage(c.format, &c.storage)));
    }
    line(&mut out, format_args!("\nweights"));
    for (n, w) in plan.weights.iter().enumerate() {
        let tensors: Vec<_> = w.recipe.tensors.iter().map(|t| t.names.join(", ")).collect();
        line(
            &mut out,
            format_args!("  w{n} {}: {} from {}", w.name, storage(w.format, &w.storage), tensors.join(", ")),
        );
    }
    launches(&mut out, "prefill", &plan.prefill.launches, plan, kernels);
    if plan.seqs.iter().all(|s| s.appendable.is_err()) {
        line(&mut out, format_args!("\ndecode\n  nothing is generated"));
    } else if plan.decode == plan.prefill {
        line(&mut out, format_args!("\ndecode\n  the same launches"));
    } else {
        launches(&mut out, "decode", &plan.decode.launches, plan, kernels);
    }
    for best in &plan.best {
        let name =
            format!("the best {} of {}, where they are asked for", best.count, plan.outputs[best.output as usize].name);
        launches(&mut out, &name, &best.launches, plan, kernels);
    }
    out
}

fn line(out: &mut String, text: std::fmt::Arguments) {
    writeln!(out, "{text}").expect("writing to a string does not fail");
}

fn launches(out: &mut String, role: &str, launches: &[Launch], plan: &Plan, kernels: &[String]) {
    line(out, format_args!("\n{role}"));
    for launch in launches {
        let args: Vec<_> = launch.args.iter().map(|a| arg(*a, plan)).collect();
        line(out, format_args!("  {}({})", kernels[launch.kernel as usize], args.join(", ")));
    }
}

fn arg(arg: Arg, plan: &Plan) -> String {
    match arg {
        Arg::Buffer(n) => format!("{}:b{n}", plan.buffers[n as usize].name),
        Arg::Weight(n) => format!("{}:w{n}", plan.weights[n as usize].name),
        Arg::Cache(n) => format!("{}:c{n}", plan.caches[n as usize].name),
    }
}

fn dims(dims: &[Dim]) -> String {
    let dims: Vec<_> = dims.iter().map(Dim::to_string).collect();
    format!("[{}]", dims.join(", "))
}

fn storage(format: Format, storage: &Storage) -> String {
    match storage {
        Storage::Dense { dims: d } => format!("{format}{}", dims(d)),
        Storage::Panel { rows, reduce } => format!("{format} panels [{rows}, {reduce}]"),
        Storage::Paged { seq, page } => format!("{format} pages [{}] of seq {}", page_text(page), seq.0),
        Storage::Workspace { seq, page } => format!("{format} workspace [{}] of seq {}", page_text(page), seq.0),
    }
}

fn page_text(page: &[PageDim]) -> String {
    let dim = |d: &PageDim| match d {
        PageDim::Axis(n) => n.to_string(),
        PageDim::Slot { count, step: 1 } => format!("{count} tokens"),
        PageDim::Slot { count, step } => format!("{count} x {step} tokens"),
    };
    page.iter().map(dim).collect::<Vec<_>>().join(", ")
}
