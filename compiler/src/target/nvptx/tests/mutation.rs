//! Bugs planted in emitted PTX: each must be a fault of the simulator or a wrong value.
//!
//! A site is a line of a certain form, whatever kernel it stands in; a bug is one edit of one site. A bug that never comes
//! into play (nothing else is executed, no bit changes) is none on this problem, and so is a bound or a tail whose
//! change does other work and yields the same bits: a block of keys that is visited and masked. Everything else
//! that is not caught fails the test by name.

use super::every_family;
use super::simulated::{Simulated, differs};
use crate::kernel::KernelSpec;
use crate::kernel::interpret::{Memory, interpret};
use crate::kernel::verify::Verified;
use crate::target::Target;
use crate::target::nvptx::Nvptx;
use crate::target::nvptx::tuning::LEVELS;
use llmc_artifact::plan::KernelInfo;
use llmc_ptx_sim::Counters;
use std::collections::BTreeMap;

/// Sites of one kind in one kernel that are tried, evenly spread.
const MOST: usize = 8;

/// Of the largest magnitude.
const TOLERANCE: f64 = 2e-5;

/// Kinds of bugs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Bug {
    /// A barrier is left out.
    Barrier,
    /// Copies or products are not waited for.
    Wait,
    /// A comparison lets one more in, or one less.
    Bound,
    /// Two registers change places: elements of a fragment or vector, operands of an instruction.
    Operand,
    /// What was done under a condition is always done.
    Tail,
}

/// A text with one bug.
struct Mutant {
    bug: Bug,
    line: String,
    text: String,
}

/// The bug of this kind that a line can have.
fn planted(bug: Bug, line: &str) -> Option<String> {
    let code = line.trim();
    let indent = &line[..line.len() - line.trim_start().len()];
    let edited = match bug {
        Bug::Barrier => {
            let barrier = ["bar.sync", "barrier.sync", "barrier.cta.sync", "bar.warp.sync"];
            barrier.iter().any(|b| code.starts_with(b)).then(String::new)
        }
        Bug::Wait => {
            let wait = ["cp.async.wait", "wgmma.wait_group", "cp.async.bulk.wait_group"];
            wait.iter().any(|w| code.starts_with(w)).then(String::new)
        }
        Bug::Bound => bound(code),
        Bug::Operand => swapped(code),
        Bug::Tail => tail(code),
    }?;
    Some(format!("{indent}{edited}"))
}

/// `setp.lt.s64 ...` to `setp.le.s64 ...`
fn bound(code: &str) -> Option<String> {
    let rest = code.strip_prefix("setp.")?;
    let (comparison, rest) = rest.split_once('.')?;
    let other = match comparison {
        "lt" => "le",
        "le" => "lt",
        "gt" => "ge",
        "ge" => "gt",
        _ => return None,
    };
    let integer = ["s16", "s32", "s64", "u16", "u32", "u64"].iter().any(|ty| rest.starts_with(ty));
    integer.then(|| format!("setp.{other}.{rest}"))
}

/// `mma ... {a, b, c, d}` to `{b, a, c, d}`, `sub d, a, b` to `sub d, b, a`, `fma d, a, b, c` to `fma d, c, b, a`
fn swapped(code: &str) -> Option<String> {
    let (mnemonic, operands) = code.strip_suffix(';')?.split_once(char::is_whitespace)?;
    let mut parts = split(operands.trim());
    let family = mnemonic.split('.').next()?;
    match family {
        // The left matrix of a product; its elements lie in other rows than their neighbours'.
        "mma" => parts[1] = exchanged(&parts[1])?,
        "ldmatrix" => parts[0] = exchanged(&parts[0])?,
        "ld" if parts[0].starts_with('{') => parts[0] = exchanged(&parts[0])?,
        "st" if parts.get(1)?.starts_with('{') => parts[1] = exchanged(&parts[1])?,
        "sub" | "div" if parts.len() == 3 => parts.swap(1, 2),
        "fma" | "mad" if parts.len() == 4 => parts.swap(1, 3),
        "selp" if parts.len() == 4 => parts.swap(1, 2),
        _ => return None,
    }
    let edited = format!("{mnemonic} \t{};", parts.join(", "));
    (edited.split_whitespace().ne(code.split_whitespace())).then_some(edited)
}

/// Operands, whole vectors and addresses among them.
fn split(operands: &str) -> Vec<String> {
    let (mut parts, mut depth) = (vec![String::new()], 0);
    for c in operands.chars() {
        depth += matches!(c, '{' | '[' | '(') as i32 - matches!(c, '}' | ']' | ')') as i32;
        match (c, depth) {
            (',', 0) => parts.push(String::new()),
            _ => parts.last_mut().expect("it starts with one").push(c),
        }
    }
    parts.iter().map(|p| p.trim().to_string()).collect()
}

/// A vector whose first two elements change places.
fn exchanged(vector: &str) -> Option<String> {
    let mut elements = split(vector.strip_prefix('{')?.strip_suffix('}')?);
    if elements.len() < 2 || elements[0] == elements[1] {
        return None;
    }
    elements.swap(0, 1);
    Some(format!("{{{}}}", elements.join(", ")))
}

/// `@%p1 st.global ...` without its condition; a branch that leaves something out is never taken.
fn tail(code: &str) -> Option<String> {
    let (_, rest) = code.strip_prefix('@')?.split_once(char::is_whitespace)?;
    let rest = rest.trim_start();
    Some(if rest.starts_with("bra") { String::new() } else { rest.to_string() })
}

fn mutants(text: &str) -> Vec<Mutant> {
    let lines: Vec<&str> = text.lines().collect();
    let mut all = Vec::new();
    for bug in [Bug::Barrier, Bug::Wait, Bug::Bound, Bug::Operand, Bug::Tail] {
        let sites: Vec<(usize, String)> =
            lines.iter().enumerate().filter_map(|(i, line)| Some((i, planted(bug, line)?))).collect();
        let step = sites.len().div_ceil(MOST).max(1);
        for (at, edited) in sites.into_iter().step_by(step) {
            let mut edit: Vec<&str> = lines.clone();
            edit[at] = &edited;
            let line = format!("line {}: `{}` to `{}`", at + 1, lines[at].trim(), edited.trim());
            all.push(Mutant { bug, line, text: edit.join("\n") });
        }
    }
    all
}

/// What became of a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Caught,
    /// It is none on this problem.
    Idle,
    Survived,
}

/// A kernel with its problem, run once as it was emitted.
struct Case<'a> {
    spec: &'a Verified<KernelSpec>,
    infos: &'a [KernelInfo],
    memory: &'a Memory,
    want: Memory,
    got: Memory,
    counters: Counters,
}

impl Case<'_> {
    fn fate(&self, mutant: &Mutant) -> Fate {
        let specs = std::slice::from_ref(self.spec);
        // Text that is refused does not get as far as a GPU.
        let Ok(mut simulated) = Simulated::new(specs, self.infos, &mutant.text) else { return Fate::Caught };
        simulated.limit = 4 * self.counters.warp_instructions + 10_000;
        let mut got = self.memory.clone();
        let Ok(counters) = simulated.run(0, &mut got, 0) else { return Fate::Caught };
        if differs(self.spec, &got, &self.want, TOLERANCE).is_some() {
            return Fate::Caught;
        }
        let same_bits = got.operands == self.got.operands;
        let idle = match mutant.bug {
            Bug::Barrier | Bug::Wait => counters == self.counters,
            Bug::Bound | Bug::Operand | Bug::Tail => true,
        };
        if same_bits && idle { Fate::Idle } else { Fate::Survived }
    }
}

/// How many were caught, were none, and survived, by kind.
type Fates = BTreeMap<Bug, [usize; 3]>;

/// A kernel's code: what the launch has to know, and the text.
type Code = (Vec<KernelInfo>, String);

fn emitted(level: &str, spec: &Verified<KernelSpec>) -> Code {
    let target = Nvptx::new(level).expect("a level");
    let code = target.emit(std::slice::from_ref(spec)).unwrap_or_else(|e| panic!("{e}"));
    (code.kernels, String::from_utf8(code.code).expect("PTX is text"))
}

/// Plants every bug in one kernel; fates, and the bugs that survived.
fn plant(place: &str, spec: &Verified<KernelSpec>, (infos, text): &Code, memory: &Memory) -> (Fates, Vec<String>) {
    let (mut got, mut want) = (memory.clone(), memory.clone());
    let mut simulated = Simulated::new(std::slice::from_ref(spec), infos, text).unwrap_or_else(|e| panic!("{e}"));
    let counters = simulated.run(0, &mut got, 0).unwrap_or_else(|f| panic!("{place}: {f}"));
    interpret(spec, &mut want);
    let case = Case { spec, infos, memory, want, got, counters };
    let (mut fates, mut survivors) = (Fates::new(), Vec::new());
    for mutant in mutants(text) {
        let fate = case.fate(&mutant);
        fates.entry(mutant.bug).or_default()[fate as usize] += 1;
        if fate == Fate::Survived {
            survivors.push(format!("{place}, {:?}, {}", mutant.bug, mutant.line));
        }
    }
    (fates, survivors)
}

#[test]
fn planted_bugs_are_caught_in_every_family() {
    let (mut survivors, mut total) = (Vec::new(), Fates::new());
    for (spec, memory) in every_family(&[(1, 1), (70, 2), (5, 3)]) {
        let codes = LEVELS.iter().map(|l| (l.name, emitted(l.name, &spec)));
        let mut seen = Vec::new();
        for (level, code) in codes {
            // Code that differs in its head alone has had its bugs.
            let body = code.1.lines().filter(|l| !l.starts_with(".target") && !l.starts_with(".version"));
            let body = body.collect::<Vec<_>>().join("\n");
            if seen.contains(&body) {
                continue;
            }
            seen.push(body);
            let place = format!("{} for {level}", spec.name);
            let (fates, alive) = plant(&place, &spec, &code, &memory);
            println!("{place}: caught, idle, survived {fates:?}");
            for (bug, counts) in &fates {
                counts.iter().zip(total.entry(*bug).or_default()).for_each(|(n, sum)| *sum += n);
                if counts[0] == 0 && matches!(bug, Bug::Barrier | Bug::Wait | Bug::Operand) {
                    survivors.push(format!("{place}: no {bug:?} was caught, {counts:?}"));
                }
            }
            alive.iter().for_each(|s| println!("survived: {s}"));
            survivors.extend(alive);
        }
    }
    println!("all: caught, idle, survived {total:?}");
    for bug in [Bug::Barrier, Bug::Bound, Bug::Operand, Bug::Tail] {
        assert!(total.get(&bug).is_some_and(|counts| counts[0] > 0), "no {bug:?} was planted and caught");
    }
    assert!(survivors.is_empty(), "{} bugs survived:\n{}", survivors.len(), survivors.join("\n"));
}

#[test]
fn lines_get_the_bugs_that_they_can_have() {
    let planted = |bug, line: &str| planted(bug, line).map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "));
    let some = |text: &str| Some(text.to_string());
    assert_eq!(planted(Bug::Barrier, "\tbar.sync \t0;"), some(""));
    assert_eq!(planted(Bug::Bound, "\tsetp.ge.s64 \t%p3, %rd14, %rd13;"), some("setp.gt.s64 %p3, %rd14, %rd13;"));
    assert_eq!(planted(Bug::Bound, "\tsetp.lt.f32 \t%p3, %f1, %f2;"), None);
    let vector = "ld.shared.v2.b32 \t{%r12, %r13}, [%rd45+512];";
    assert_eq!(planted(Bug::Operand, vector), some("ld.shared.v2.b32 {%r13, %r12}, [%rd45+512];"));
    let product = "mma.sync.x {%d0}, {%a0, %a1, %a2}, {%b0}, {%c0};";
    assert_eq!(planted(Bug::Operand, product), some("mma.sync.x {%d0}, {%a1, %a0, %a2}, {%b0}, {%c0};"));
    assert_eq!(planted(Bug::Operand, "fma.rn.f32 %r1, %r2, %r3, %r2;"), None);
    assert_eq!(planted(Bug::Tail, "\t@%p1 st.global.b32 \t[%rd1], %r1;"), some("st.global.b32 [%rd1], %r1;"));
    assert_eq!(planted(Bug::Tail, "\t@%p2 bra \t$L__BB3_51;"), some(""));
}
