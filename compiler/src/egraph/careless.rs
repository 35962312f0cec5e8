//! Laws without their conditions: each is dropped where it is carried out, and the checks that every law goes through must
//! see it.

use super::tests::{check_by, joins_are_equal, optimized_by, random_choices, spellings};
use crate::explain::check;
use crate::normal::build::normalise_by;
use crate::normal::text::{expression, reachable};
use crate::normal::{Literal, Term, TermId, Terms};
use crate::rules::{ASKED, Law, Laws};
use crate::testing::draft::Draft;
use crate::testing::layer::{TINY, layer};
use crate::testing::points::{agree, values};
use crate::testing::random::block;
use llmc_artifact::ScalarOp;
use llmc_frontend::graph::AxisId;
use std::sync::atomic::Ordering;

/// Laws that ask whether they may, where they are carried out.
const CONDITIONED: [Law; 12] = [
    Law::Choose,
    Law::Hoist,
    Law::Merge,
    Law::Rename,
    Law::OneHot,
    Law::Read,
    Law::Split,
    Law::Sink,
    Law::Gather,
    Law::Tally,
    Law::Commute,
    Law::Look,
];

/// More pairs of sides than this are not compared: a large block has enough.
const PAIRS: usize = 48;

/// Indices along an axis: its own, and its own turned by one.
fn indices(terms: &mut Terms, along: AxisId, len: u64) -> [TermId; 2] {
    let here = terms.add(Term::Iota(along));
    let [one, n] = [1, len as i64].map(|n| terms.add(Term::Const(Literal::Int(n))));
    let next = terms.map(ScalarOp::Add, vec![here, one]);
    [here, terms.map(ScalarOp::Mod, vec![next, n])]
}

/// Reductions read along axes that they bind, or another does: text has no such names, and what captures one shows.
/// Each is read as it stands, by the laws of indices, and by those that move the index on.
fn collisions(d: &Draft, laws: Laws, seed: u64) -> Result<(), String> {
    let (mut terms, roots) = normalise_by(&d.block, &d.axes, laws, false);
    let mut pairs: Vec<(TermId, TermId)> = Vec::new();
    for x in reachable(&terms, roots.iter().map(|r| r.1)) {
        let (Term::Sum(bound, _) | Term::Reduce(_, bound, _)) = terms.term(x).clone() else { continue };
        for from in terms.free(x).clone().iter() {
            let Some(len) = terms.axes.len_of(from) else { continue };
            for along in bound.iter().chain([from]).filter(|a| terms.axes.len_of(*a) == Some(len)).collect::<Vec<_>>() {
                for at in indices(&mut terms, along, len) {
                    let raw = terms.add(Term::Index(x, vec![(from, at)]));
                    pairs.push((raw, terms.index(x, &[(from, at)])));
                    pairs.extend(super::saturate::commuted(&mut terms, &[raw]));
                }
            }
        }
    }
    pairs.truncate(PAIRS);
    for (raw, made) in pairs {
        let show = || format!("{}\n{}", expression(&terms, raw), expression(&terms, made));
        let sides = values(&terms, &[raw, made], seed);
        agree(&sides[0], &sides[1], 1e-6).map_err(|e| format!("{e}\n{}", show()))?;
    }
    Ok(())
}

#[test]
fn indices_that_collide_with_bound_names_are_not_captured() {
    for seed in 0..150 {
        let d = if seed % 50 == 0 { layer(TINY, spellings()[seed as usize % 16]) } else { block(seed, 14) };
        collisions(&d, Laws::ALL, seed).unwrap_or_else(|e| panic!("{seed}: {e}"));
    }
}

/// Whether what a check says is no, or it does not come to an end.
fn fails(check: impl FnOnce() -> Result<(), String>) -> bool {
    !std::panic::catch_unwind(std::panic::AssertUnwindSafe(check)).is_ok_and(|r| r.is_ok())
}

/// What every law is checked by, with the checks' names.
type Check = fn(&Draft, Laws, u64) -> Result<(), String>;
const CHECKS: [(&str, Check); 5] = [
    ("values", |d, laws, seed| check_by(d, false, laws, seed)),
    ("choices", |d, laws, seed| random_choices(d, laws, seed, 1, 8)),
    ("joins", |d, laws, seed| joins_are_equal(&optimized_by(d, false, laws), seed, &mut vec![0; Law::ALL.len()])),
    ("certificates", |d, laws, _| {
        let (terms, _) = normalise_by(&d.block, &d.axes, laws, true);
        check::normal(&terms, &terms.trace.built, terms.trace.firings.as_deref().expect("asked for"))?;
        let (terms, joins) = optimized_by(d, false, laws).joins();
        check::joins(&terms, &joins)
    }),
    ("collisions", collisions),
];

/// A law whose condition is dropped where it is carried out fails the checks that every law goes through, on the blocks that
/// they are run on: values of whole blocks and of random choices, both sides of each join, certificates, indices that
/// collide.
#[test]
fn a_law_without_its_condition_fails_the_suite() {
    for law in CONDITIONED {
        let laws = Laws::ALL.careless(law);
        let mut caught = [0; CHECKS.len()];
        for seed in 0..250 {
            let d = if seed % 50 == 0 { layer(TINY, spellings()[seed as usize % 16]) } else { block(seed, 18) };
            for (n, (_, check)) in caught.iter_mut().zip(CHECKS) {
                *n += u32::from(fails(|| check(&d, laws, seed)));
            }
            if caught.iter().sum::<u32>() >= 12 {
                break;
            }
        }
        let shown: Vec<_> = CHECKS.iter().zip(caught).map(|((name, _), n)| format!("{name} {n}")).collect();
        println!("{:8} {}", law.name(), shown.join(", "));
        assert!(caught.iter().any(|n| *n > 0), "{} without its condition is let through", law.name());
    }
    let asked = ASKED.load(Ordering::Relaxed);
    let asked: Vec<Law> = Law::ALL.iter().copied().filter(|l| asked >> *l as u32 & 1 == 1).collect();
    let listed: Vec<Law> = Law::ALL.iter().copied().filter(|l| CONDITIONED.contains(l)).collect();
    assert_eq!(asked, listed, "laws that ask for their condition, and those that are tried without it");
}
