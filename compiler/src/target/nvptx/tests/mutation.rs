//! Bugs planted in emitted PTX: each must be a fault of the simulator or a wrong value.
//!
//! A bug is one edit of one line, whatever kernel it stands in, and the kernel runs on several problems: lengths on both sides
//! of every tile's borders. A bug is without effect where every problem ends in the same bits without a fault. For an order that is
//! left out that is not enough: the simulator's clocks say whether anything needed it. A wait has to be needed. A barrier that
//! nothing needs at any length that is tried is idle: it costs a meeting and hides no bug, and there must not come to be more of them.
//! A bound or a condition without effect lets work be done that is masked later, or skips work of zeros; a swap without effect
//! exchanges what is equal. Whatever changes bits has to be caught.

mod plant;

use super::simulated::{Simulated, differs};
use super::stream;
use crate::cost::Role;
use crate::kernel::interpret::{Memory, interpret};
use crate::kernel::lower::split::tests::of_parts;
use crate::kernel::sample::projections;
use crate::kernel::verify::{Verified, verify};
use crate::kernel::{Body, KernelSpec};
use crate::llvm::Stage;
use crate::llvm::testing::decode;
use crate::target::cpu::contract::tests::{gated, product};
use crate::target::cpu::tests::{
    Attention, PLAIN, anew, attention, cross, embedding, memory, poison, rope, search, statistics,
};
use crate::target::nvptx::Nvptx;
use crate::target::nvptx::tuning::{GROUP_TOKENS, LEVELS, WALKERS};
use half::{bf16, f16};
use llmc_artifact::plan::{KernelInfo, Table};
use llmc_artifact::{DType, Format, SeqId};
use llmc_ptx_sim::Counters;
use plant::{Bug, Mutant, mutants};
use std::collections::BTreeMap;

/// Bugs of one kind that are tried in a kernel by default; of barriers and waits all.
const MOST: usize = 3;

/// Barriers that nothing needs at any length that is tried: where parts are combined, which no row lacks that looks at itself,
/// and before the second tile of a block in the one contraction by fours of warps that is not given so many tokens.
const IDLE: usize = 2;

/// Of the largest magnitude.
const TOLERANCE: f64 = 2e-5;

/// Orders in which warps take turns.
const SEEDS: u64 = 2;

/// A kernel and the problems that it is tried on.
#[derive(Clone)]
struct Family {
    name: String,
    spec: Verified<KernelSpec>,
    problems: Vec<Memory>,
    /// Of the largest magnitude.
    tolerance: f64,
}

/// Sequences by their length and how many of their last tokens are in the step.
type Sequences<'a> = &'a [(u64, u64)];

/// One token, a few, lengths around the borders of blocks and tiles, and one of more keys than a block has threads.
const LENGTHS: [Sequences; 4] = [&[(1, 1), (5, 3)], &[(64, 2), (65, 1), (129, 3)], &[(70, 66)], &[(300, 2)]];

fn family(name: &str, spec: Verified<KernelSpec>, lengths: &[Sequences]) -> Family {
    let problem = |(seed, sequences): (usize, &Sequences)| {
        let mut memory = memory(&spec, seed as u64 + 1, sequences);
        poison(&spec, &mut memory, sequences);
        memory
    };
    let problems = lengths.iter().enumerate().map(problem).collect();
    Family { name: name.into(), spec, problems, tolerance: TOLERANCE }
}

/// The same attention where every score is below 0, queries above and keys below, so that a key of zeros has a weight, and a mean of
/// values above 0, which it lowers. Keys are made smaller by a factor: how far scores spread.
fn opposed(spec: &KernelSpec, memory: &Memory, by: f64) -> Memory {
    let mut memory = memory.clone();
    for (operand, bytes) in spec.operands.iter().zip(&mut memory.operands) {
        let factor = match operand.name.as_str() {
            "q" | "v" => 1.0,
            "k" => -by,
            _ => continue,
        };
        let changed = decode(operand.format, bytes).into_iter().map(|x| factor * x.abs());
        *bytes = match operand.format {
            Format::F32 => changed.flat_map(|x| (x as f32).to_le_bytes()).collect(),
            Format::F16 => changed.flat_map(|x| f16::from_f64(x).to_le_bytes()).collect(),
            Format::BF16 => changed.flat_map(|x| bf16::from_f64(x).to_le_bytes()).collect(),
            other => panic!("queries and keys of {other}"),
        };
    }
    memory
}

/// Every family, in each of its forms.
fn families() -> Vec<Family> {
    let one = |name: &str, spec: Verified<KernelSpec>| family(name, spec, &LENGTHS);
    let small = Attention { heads: 1, size: 24, ..PLAIN };
    let halves = Attention { format: Format::F16, group: 3, ..small };
    let mut all = vec![
        one("rope", rope(66)),
        one("statistics of rows", statistics(3, 70, false)),
        one("statistics over rows", statistics(3, 33, true)),
        one("search", search(300, 5)),
        one("attention, general", attention(Attention { size: 33, keys_inside: false, ..small })),
        one("attention, general, picked", attention(Attention { picked: true, size: 64, out: Format::Act8, ..small })),
        one("attention", attention(halves)),
        one("attention of a window", attention(Attention { window: Some(20), size: 40, keys_inside: false, ..halves })),
        one("attention over a workspace", anew::attention_again(halves)),
        one("gathered", anew::gathered(true)),
        one("products into a workspace", anew::products(Format::Q8_0, Format::Act8)),
    ];
    for (name, a) in [("attention over another sequence", halves), ("attention over another sequence, general", small)]
    {
        let (spec, memory) = cross(a);
        // Another sequence without tokens: states end as they began.
        let mut empty = memory.clone();
        empty.tables.insert(Table::Lengths(SeqId(1)), vec![0, 33]);
        all.push(Family { name: name.into(), spec, problems: vec![memory, empty], tolerance: TOLERANCE });
    }
    let mut table = one("embedding", embedding(Format::Q5_0, 96, false));
    for problem in &mut table.problems {
        let rows = problem.operands[0].len() / 4;
        problem.operands[0] = [0i32, 36, 17, 15].iter().cycle().take(rows).flat_map(|t| t.to_le_bytes()).collect();
    }
    all.push(table);
    // Where less has to agree, a key too many or too few shows in fewer rows: there are more of them, and a key past the last one,
    // which is zeros and whose score is 0, has a weight where all scores are below that.
    let more: Vec<Sequences> =
        LENGTHS.into_iter().chain([&[(150, 150)][..], &[(70, 66)], &[(131, 131)], &[(190, 190)]]).collect();
    let loose = |name: &str, spec: Verified<KernelSpec>, tolerance: f64, by: f64| {
        let mut family = Family { tolerance, ..family(name, spec, &more) };
        let opposed: Vec<Memory> = family.problems.iter().map(|m| opposed(&family.spec, m, by)).collect();
        family.problems.extend(opposed);
        family
    };
    // A score that is left out of the maximum changes nothing but where weights overflow; a score of hundreds has fewer digits.
    let spread = [small, halves].map(|a| attention(Attention { scale: 50.0, window: Some(20), ..a }));
    let spread = spread.into_iter().zip(["attention of large scores, general", "attention of large scores"]);
    all.extend(spread.map(|(spec, name)| loose(name, spec, 1e-3, 0.05)));
    // Rows that all have the same parts: what a part that a row lacks stores is nobody's business.
    let whole: [Sequences; 2] = [&[(130, 1), (256, 3)], &[(200, 2)]];
    let folds = [("attention", attention(halves)), ("statistics", statistics(70, 33, false))];
    for (name, fold) in folds {
        for (kernel, what) in of_parts(&fold, 128).into_iter().zip(["folded", "combined"]) {
            all.push(family(&format!("parts of {name}, {what}"), kernel, &whole));
        }
    }
    let (spec, _) = cross(halves);
    let [_, combined] = of_parts(&spec, 64);
    let mut combined = one("parts of attention over another sequence, combined", combined);
    // Again one without tokens has no parts.
    combined.problems = vec![combined.problems.swap_remove(1)];
    combined.problems[0].tables.insert(Table::Lengths(SeqId(1)), vec![0, 65, 129]);
    all.push(combined);
    let rounded = attention(Attention { format: Format::BF16, rounded: Some(DType::BF16), ..halves });
    all.push(loose("attention, rounded", rounded, 2e-3, 0.25));
    let tiled =
        |f: &Family| matches!(&f.spec.body, Body::Stream(s) if s.part.is_none() && stream::has_tiles(&f.spec, s));
    let few = |f: &Family| Family {
        name: format!("{}, few tokens", f.name),
        spec: stream::shaped(&f.spec, true),
        // A block for every token takes long.
        problems: f.problems.iter().step_by(2).cloned().collect(),
        ..f.clone()
    };
    let few: Vec<Family> = all.iter().filter(|f| tiled(f)).map(few).collect();
    all.extend(few);
    for role in Role::ALL {
        all.extend(contractions(role));
    }
    all
}

fn contractions(role: Role) -> Vec<Family> {
    let lengths: [Sequences; 2] = match role {
        Role::Prefill => [&[(70, 66)], &[(5, 3), (1, 1)]],
        Role::Decode => [&[(5, 1)], &[(20, 9)]],
    };
    let one = |name: &str, spec: Verified<KernelSpec>| {
        let spec = verify(spec.into_inner().for_role(role)).expect("a role changes nothing");
        family(&format!("{name}, {}", role.name()), spec, &lengths)
    };
    let projected = |w, x| verify(projections(w, x, 24, 96).spec).expect("well formed");
    let mut all = vec![
        one("projections of f16", projected(Format::F16, Format::F32)),
        one("projections of q4_1", projected(Format::Q4_1, Format::Act8)),
        one("projections of q8_0, decoded", projected(Format::Q8_0, Format::F32)),
        one("a product of f32", product(Format::F32, Format::F32, 131, 100)),
        one("a product of bf16", product(Format::BF16, Format::BF16, 51, 328)),
        one("a product of q5_1", product(Format::Q5_1, Format::Act8, 35, 160)),
        one("a gate of q8_0", gated(Format::Q8_0, Format::Act8, 32, 64)),
    ];
    if role == Role::Prefill {
        // More tiles than blocks that walk over them: each has a second one.
        let tokens = WALKERS * GROUP_TOKENS as u64 + 20;
        all.push(family(
            "a product of many tokens",
            product(Format::BF16, Format::BF16, 16, 200),
            &[&[(tokens, tokens)]],
        ));
    }
    all
}

/// What became of a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Caught,
    /// The same bits, and every access in order: a barrier that nothing needs, a bound or a swap without effect.
    Harmless,
    Survived,
}

/// A kernel's code: what the launch has to know, and the text.
type Code = (Vec<KernelInfo>, String);

/// A problem with what should come of it, and what came of it as it was emitted.
struct Case<'a> {
    memory: &'a Memory,
    want: Memory,
    got: Memory,
    counters: Counters,
}

struct Trial<'a> {
    family: &'a Family,
    infos: &'a [KernelInfo],
    cases: Vec<Case<'a>>,
}

impl<'a> Trial<'a> {
    fn new(family: &'a Family, (infos, text): &'a Code) -> Trial<'a> {
        let (spec, tolerance) = (&family.spec, family.tolerance);
        let mut simulated =
            Simulated::new(std::slice::from_ref(spec), infos, text).unwrap_or_else(|e| panic!("{}: {e}", family.name));
        let case = |memory: &'a Memory| {
            let (mut got, mut want) = (memory.clone(), memory.clone());
            let counters = simulated.run(0, &mut got, 0).unwrap_or_else(|f| panic!("{}: {f}", family.name));
            interpret(spec, &mut want);
            if let Some(what) = differs(spec, &got, &want, tolerance) {
                panic!("{}, {what}", family.name);
            }
            Case { memory, want, got, counters }
        };
        Trial { family, infos, cases: family.problems.iter().map(case).collect() }
    }

    /// Of a bug that no problem shows: whether bits changed.
    fn unseen(&self, mutant: &Mutant) -> Option<bool> {
        // Text that is refused does not get as far as a GPU.
        let mut simulated = Simulated::new(std::slice::from_ref(&self.family.spec), self.infos, &mutant.text).ok()?;
        let mut bits = false;
        for case in &self.cases {
            simulated.limit = 4 * case.counters.warp_instructions + 10_000;
            let order = matches!(mutant.bug, Bug::Barrier | Bug::Wait);
            for seed in 0..if order { SEEDS } else { 1 } {
                let mut got = case.memory.clone();
                simulated.run(0, &mut got, seed).ok()?;
                if differs(&self.family.spec, &got, &case.want, self.family.tolerance).is_some() {
                    return None;
                }
                bits |= got.operands != case.got.operands;
            }
        }
        Some(bits)
    }

    fn fate(&self, mutant: &Mutant) -> Fate {
        match (self.unseen(mutant), mutant.bug) {
            (None, _) => Fate::Caught,
            (Some(_), Bug::Wait) | (Some(true), _) => Fate::Survived,
            (Some(false), Bug::Barrier | Bug::Bound | Bug::Fragment | Bug::Tail) => Fate::Harmless,
        }
    }
}

/// How many were caught, were harmless, and survived, by kind.
type Fates = BTreeMap<Bug, [usize; 3]>;

fn emitted(level: &str, family: &Family) -> Code {
    let target = Nvptx::new(level).expect("a level");
    let (infos, code) =
        target.compile(std::slice::from_ref(&family.spec), Stage::Assembly).unwrap_or_else(|e| panic!("{e}"));
    (infos, String::from_utf8(code).expect("PTX is text"))
}

/// Plants bugs in one kernel; fates, and the bugs that survived.
fn plant(place: &str, family: &Family, code: &Code, most: Option<usize>) -> (Fates, Vec<String>) {
    let trial = Trial::new(family, code);
    let (mut fates, mut survivors) = (Fates::new(), Vec::new());
    for mutant in mutants(&code.1, most) {
        let fate = trial.fate(&mutant);
        fates.entry(mutant.bug).or_default()[fate as usize] += 1;
        if fate == Fate::Survived {
            survivors.push(format!("{place}, {:?}, {}", mutant.bug, mutant.place));
        }
        if fate == Fate::Harmless && std::env::var_os("LLMC_SHOW").is_some() {
            println!("harmless: {place}, {:?}, {}", mutant.bug, mutant.place);
        }
    }
    (fates, survivors)
}

/// Plants bugs in every family, `most` of each kind.
fn all(most: Option<usize>) -> Fates {
    let part = std::env::var("LLMC_FAMILY").unwrap_or_default();
    let (mut survivors, mut total) = (Vec::new(), Fates::new());
    for family in families().iter().filter(|f| f.name.contains(&part)) {
        let mut seen = Vec::new();
        for level in LEVELS {
            let code = emitted(level.name, family);
            // Code that differs in its head alone has had its bugs.
            let head = |l: &&str| [".version", ".target", "//"].iter().any(|h| l.starts_with(h));
            let body = code.1.lines().filter(|l| !head(l)).collect::<Vec<_>>().join("\n");
            if seen.contains(&body) {
                continue;
            }
            seen.push(body);
            let place = format!("{} for {}", family.name, level.name);
            let start = std::time::Instant::now();
            let (fates, alive) = plant(&place, family, &code, most);
            println!("{place}: {:.1} s, caught, harmless, survived {fates:?}", start.elapsed().as_secs_f64());
            for (bug, counts) in &fates {
                counts.iter().zip(total.entry(*bug).or_default()).for_each(|(n, sum)| *sum += n);
            }
            alive.iter().for_each(|s| println!("survived: {s}"));
            survivors.extend(alive);
        }
    }
    println!("all: caught, harmless, survived {total:?}");
    assert!(survivors.is_empty(), "{} bugs survived:\n{}", survivors.len(), survivors.join("\n"));
    for bug in Bug::ALL {
        assert!(!part.is_empty() || total.get(&bug).is_some_and(|c| c[0] > 0), "no {bug:?} was planted and caught");
    }
    total
}

#[test]
fn planted_bugs_are_caught_in_every_family() {
    let total = all(Some(MOST));
    let idle = total.get(&Bug::Barrier).map_or(0, |fates| fates[Fate::Harmless as usize]);
    assert_eq!(idle, IDLE, "barriers that nothing needs");
}

#[test]
#[ignore = "takes minutes: `make test-mutations` runs it"]
fn every_planted_bug_is_caught() {
    all(None);
}
