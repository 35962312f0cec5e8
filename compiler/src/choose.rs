//! The last choice: which caches, and which form for each role, by what their kernels cost whole.
//!
//! What enters is a block with the sets of caches and the forms that its algebra ranks best; what leaves is one set, and
//! for each role the kernels of one form that reads nothing else. The extraction's estimate adds up single operations;
//! here every candidate's kernels are formed and costed whole: bytes, operations, launches, shared values once. Both
//! roles run the same kernels unless kernels of their own are worth it; whether a fold is cut into parts each decides for itself.

use crate::cost::{Cost, Role};
use crate::egraph::{BlockFacts, Costing, Extracted, Optimized, optimize_for};
use crate::group::{self, Facts, Fused, Unsupported};
use crate::rules::Laws;
use llmc_frontend::graph::{AxisTable, Block};

/// Sets of caches whose kernels are formed.
const SETS: usize = 3;
/// Kernels of its own must save a role this share: every kernel is code to compile, to store and to load.
const WORTH: f64 = 0.02;

/// A form of a role whose kernels were formed.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its number among the set's forms of the role that it was extracted for.
    pub form: usize,
    /// What its kernels cost whole, or why there are none.
    pub cost: Result<Cost, Unsupported>,
}

/// A form that a role would run.
#[derive(Clone, Copy, Debug)]
pub struct Picked {
    /// The role that it was extracted for.
    pub of: Role,
    /// Its number among the set's forms of that role.
    pub form: usize,
    /// What it costs in the role that runs it.
    pub cost: Cost,
}

/// A set of caches with the forms that read it.
#[derive(Clone, Debug)]
pub struct Considered {
    /// Its number among the sets that the algebra ranks.
    pub set: usize,
    /// The cached values, for people.
    pub caches: Vec<String>,
    /// Bytes of one token in all of them.
    pub bytes: f64,
    /// For each role, the forms whose kernels were formed.
    pub candidates: [Vec<Candidate>; 2],
    /// For each role, the form that it would run.
    pub chosen: Option<[Picked; 2]>,
    /// Seconds of a conversation: both roles' steps, and what is kept.
    pub seconds: f64,
}

/// What was chosen for a block.
pub struct Chosen {
    /// Kernels for prompts.
    pub prefill: Fused,
    /// Kernels for generated tokens, where they are others.
    pub decode: Option<Fused>,
    /// Every set whose kernels were formed, the chosen one first.
    pub considered: Vec<Considered>,
}

/// The algebra of a block, costed by the block's facts.
pub fn optimise(block: &Block, axes: &AxisTable, facts: &Facts, laws: Laws) -> Optimized {
    let quantised = facts.weights.iter().map(|w| w.format.is_quantised()).collect();
    let weight_bytes = facts.weights.iter().map(|w| crate::cost::element_bytes(w.format)).collect();
    let costing = Costing { machine: facts.machine.clone(), weight_bytes };
    optimize_for(block, axes, &BlockFacts { quantised, laws }, &costing)
}

/// Forms kernels of the best sets and forms, and takes the cheapest combination.
///
/// # Errors
/// Why the form that is ranked best has no kernels, when none has.
pub fn choose(optimised: &Optimized, facts: &Facts) -> Result<Chosen, Unsupported> {
    let sets = optimised.sets.len().min(SETS);
    let mut found: Vec<(Considered, Option<Pair>)> = (0..sets).map(|n| consider(optimised, n, facts)).collect();
    // A stable sort: of equally cheap sets the one that the estimate ranks first.
    found.sort_by(|a, b| a.0.seconds.total_cmp(&b.0.seconds));
    let pair = found[0].1.take();
    let considered: Vec<_> = found.into_iter().map(|f| f.0).collect();
    match pair {
        Some(Pair { prefill, decode }) => Ok(Chosen { prefill, decode, considered }),
        None => Err(why_not(&considered)),
    }
}

fn why_not(considered: &[Considered]) -> Unsupported {
    let all = considered.iter().flat_map(|c| c.candidates.iter().flatten());
    let first = all.filter_map(|c| c.cost.clone().err()).next();
    first.unwrap_or_else(|| Unsupported("prompts and generated tokens find no caches that serve both".to_owned()))
}

/// Kernels of both roles over one set of caches.
struct Pair {
    prefill: Fused,
    decode: Option<Fused>,
}

fn consider(optimised: &Optimized, number: usize, facts: &Facts) -> (Considered, Option<Pair>) {
    let set = &optimised.sets[number];
    let found = Role::ALL.map(|role| forms(optimised, number, role, facts));
    let mut considered = Considered {
        set: number,
        caches: optimised.cached(number),
        bytes: set.bytes,
        candidates: found.each_ref().map(|f| f.iter().map(|c| c.candidate(facts)).collect()),
        chosen: None,
        seconds: f64::INFINITY,
    };
    let Some((chosen, pair)) = combine(found, facts) else { return (considered, None) };
    let kept = facts.machine.kept(set.bytes);
    considered.seconds = kept + Role::ALL.iter().zip(&chosen).map(|(r, c)| r.steps() * c.cost.seconds).sum::<f64>();
    considered.chosen = Some(chosen);
    (considered, Some(pair))
}

/// A form with its kernels.
struct Formed {
    role: Role,
    form: usize,
    fused: Result<Fused, Unsupported>,
}

impl Formed {
    fn candidate(&self, facts: &Facts) -> Candidate {
        let cost = self.fused.as_ref().map(|f| cost_for(f, self.role, facts)).map_err(Clone::clone);
        Candidate { form: self.form, cost }
    }
}

fn forms(optimised: &Optimized, set: usize, role: Role, facts: &Facts) -> Vec<Formed> {
    let count = optimised.sets[set].forms[role as usize].len();
    (0..count)
        .map(|form| {
            let Extracted { terms, roots, caches, .. } = optimised.form(set, role, form);
            let fused = group::fuse_caching(&terms, &roots, &caches, Facts { role, ..facts.clone() });
            Formed { role, form, fused }
        })
        .collect()
}

/// What kernels cost in a role, whichever they were formed for.
fn cost_for(fused: &Fused, role: Role, facts: &Facts) -> Cost {
    group::whole_cost(fused, &Facts { role, ..facts.clone() })
}

/// Kernels as a role would have them: its folds cut into parts, or not.
fn cut_for(fused: &Fused, role: Role) -> Fused {
    let mut own = fused.clone();
    own.facts.role = role;
    group::parts::cut_all(&mut own);
    own
}

/// The cheapest kernels for each role, or kernels for both where those come close.
fn combine(found: [Vec<Formed>; 2], facts: &Facts) -> Option<([Picked; 2], Pair)> {
    let all: Vec<(&Formed, &Fused, [Cost; 2])> = (found.iter().flatten())
        .filter_map(|f| {
            let fused = f.fused.as_ref().ok()?;
            Some((f, fused, Role::ALL.map(|role| cost_for(fused, role, facts))))
        })
        .collect();
    let cheapest = |role: Role| {
        let cost = |n: &usize| all[*n].2[role as usize].seconds;
        (0..all.len()).min_by(|a, b| cost(a).total_cmp(&cost(b)))
    };
    let seconds = |pair: [usize; 2]| -> f64 {
        Role::ALL.iter().map(|r| r.steps() * all[pair[*r as usize]].2[*r as usize].seconds).sum()
    };
    let mut options: Vec<(f64, [usize; 2])> = (0..all.len()).map(|n| (seconds([n, n]), [n, n])).collect();
    options.sort_by(|a, b| a.0.total_cmp(&b.0));
    let apart = [cheapest(Role::Prefill)?, cheapest(Role::Decode)?];
    let saves = |role: Role, common: usize| {
        let of = |n: usize| all[n].2[role as usize].seconds;
        of(common) > of(apart[role as usize]) * (1.0 + WORTH)
    };
    let common = options.first()?.1[0];
    let worth = Role::ALL.into_iter().any(|role| saves(role, common));
    options.insert(if worth { 0 } else { options.len() }, (seconds(apart), apart));
    options.into_iter().find_map(|(_, [a, b])| {
        let picked =
            |n: usize, role: Role| Picked { of: all[n].0.role, form: all[n].0.form, cost: all[n].2[role as usize] };
        let chosen = [picked(a, Role::Prefill), picked(b, Role::Decode)];
        let [mut prefill, mut decode] =
            [(a, Role::Prefill), (b, Role::Decode)].map(|(n, role)| cut_for(all[n].1, role));
        if a == b && prefill.groups == decode.groups {
            return Some((chosen, Pair { prefill, decode: None }));
        }
        group::agree(&mut prefill, &mut decode).ok()?;
        Some((chosen, Pair { prefill, decode: Some(decode) }))
    })
}
