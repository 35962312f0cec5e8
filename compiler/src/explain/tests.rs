use super::check::{self, Checker};
use crate::egraph::proof::Join;
use crate::egraph::{BlockFacts, optimize};
use crate::normal::build::normalise_by;
use crate::normal::text::expression;
use crate::normal::{Term, TermId, Terms};
use crate::rules::{Built, Firing, Law, Laws, Stage, Theme};
use crate::testing::draft::Draft;
use crate::testing::layer::{Spelling, TINY, layer};
use crate::testing::random::block;
use llmc_artifact::Type;
use llmc_frontend::compile::{MODELS, compile_text};
use llmc_frontend::graph::Axes;

fn drafts(seeds: std::ops::Range<u64>) -> impl Iterator<Item = Draft> {
    seeds.map(|seed| if seed == 0 { layer(TINY, Spelling::default()) } else { block(seed, 16) })
}

fn recorded(d: &Draft) -> (Terms, Vec<Built>, Vec<Firing>) {
    let (mut terms, _) = normalise_by(&d.block, &d.axes, Laws::ALL, true);
    let (built, firings) = (std::mem::take(&mut terms.trace.built), terms.trace.firings.take());
    (terms, built, firings.expect("asked for"))
}

/// What normalise wrote down about random blocks holds, every law of the table among them.
#[test]
fn certificates_of_normalise_hold() {
    let mut seen = Laws::NONE;
    for d in drafts(0..300) {
        let (terms, built, firings) = recorded(&d);
        check::normal(&terms, &built, &firings).unwrap();
        seen = firings.iter().fold(seen, |laws, f| laws.with(f.law));
    }
    for law in Law::ALL.iter().filter(|l| l.stage() == Stage::Normalise) {
        assert!(seen.has(*law), "{} is in no certificate", law.name());
    }
}

/// What normalise writes down about every block of the built-in models holds, and so does what the e-graph joins.
#[test]
fn certificates_of_the_models_hold() {
    for (name, text) in MODELS {
        let model = compile_text(name, text, None).model.expect("the text checks");
        for block in &model.blocks {
            let (terms, _) = normalise_by(block, &model.axes, Laws::ALL, true);
            let firings = terms.trace.firings.as_ref().expect("asked for");
            check::normal(&terms, &terms.trace.built, firings).unwrap_or_else(|e| panic!("{name}: {e}"));
            let o = optimize(block, &model.axes, &BlockFacts::default());
            let (terms, joins) = o.joins();
            check::joins(&terms, &joins).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }
}

/// A firing under another term, another result, a step that is left out: each is refused.
#[test]
fn changed_certificates_of_normalise_are_refused() {
    let mut tried = 0;
    for d in drafts(0..25) {
        let (terms, built, firings) = recorded(&d);
        let other = |a, b| Checker::new(&terms).equal(a, b, Laws::ALL).is_err();
        for n in (0..firings.len()).step_by(7) {
            let mut wrong = firings.clone();
            wrong[n].after = firings[(n + 1) % firings.len()].after;
            if other(firings[n].after, wrong[n].after) {
                assert!(check::normal(&terms, &built, &wrong).is_err(), "another term is let through");
                tried += 1;
            }
        }
        for n in (0..built.len()).step_by(7) {
            let mut wrong = built.clone();
            wrong[n].made = built[(n + 1) % built.len()].made;
            if other(built[n].made, wrong[n].made) {
                assert!(check::normal(&terms, &wrong, &firings).is_err(), "another result is let through");
                tried += 1;
            }
        }
        assert!(check::normal(&terms, &built[1..], &firings).is_err() || built[0].firings.is_empty());
    }
    assert!(tried > 50, "{tried}");
}

/// A step holds by the laws that fired for it and not without them.
#[test]
fn laws_that_are_not_named_are_not_used() {
    let (mut without, mut all) = (0, 0);
    for d in drafts(0..60) {
        let (terms, built, firings) = recorded(&d);
        let mut checker = Checker::new(&terms);
        for step in built.iter().filter(|b| !b.firings.is_empty()) {
            let theme = |f: &Firing| f.law.theme() == Theme::Index;
            if !firings[step.firings.clone()].iter().any(theme) {
                all += 1;
                without += u32::from(checker.equal(step.raw, step.made, Laws::NONE).is_ok());
            }
        }
    }
    // What remains is notation: a sum of two is one of any number.
    assert!(all > 100 && without * 2 < all, "{without} of {all}");
}

/// What the e-graph joined of random blocks holds, each join by its law alone; joins under other laws are refused.
#[test]
fn joins_of_the_egraph_hold() {
    let mut seen = Laws::NONE;
    for d in drafts(0..12) {
        let o = optimize(&d.block, &d.axes, &BlockFacts::default());
        let (terms, joins) = o.joins();
        check::joins(&terms, &joins).unwrap();
        seen = joins.iter().fold(seen, |laws, j| laws.with(j.law));
        for pair in joins.windows(2).step_by(17) {
            let mut wrong = pair[0].clone();
            wrong.after = pair[1].after;
            let alike = Checker::new(&terms).equal(pair[0].after, wrong.after, Laws::ALL).is_ok();
            assert!(alike || check::joins(&terms, &[wrong]).is_err(), "another term is let through");
        }
    }
    assert!(seen.on().count() >= 5, "{seen:?}");
}

/// A law whose condition on free axes is dropped is caught by the checker: a factor that has the axis of a sum goes into
/// the sum and is captured. With the condition the same law holds.
#[test]
fn a_law_without_its_condition_is_caught() {
    let (mut captured, mut fresh) = (0, 0);
    for d in drafts(1..30) {
        let (mut terms, _, firings) = recorded(&d);
        let sums: Vec<TermId> = firings.iter().map(|f| f.before).collect();
        let real = |x: &TermId| terms.info(*x).ty == Type::Real;
        let factors: Vec<TermId> = firings.iter().map(|f| f.after).filter(real).take(6).collect();
        for sum in sums {
            let Term::Sum(bound, xs) = terms.term(sum).clone() else { continue };
            if bound.is_empty() || terms.info(sum).ty != Type::Real {
                continue;
            }
            let outer = factors.iter().copied().find(|f| bound.is_subset(terms.free(*f)));
            for f in factors.iter().copied() {
                let Some(outer) = outer else { continue };
                let meets = !terms.free(f).intersect(&bound).is_empty();
                let before = terms.add(Term::Sum(Axes::none(), vec![outer, f, sum]));
                let inside = terms.add(Term::Sum(bound.clone(), xs.iter().copied().chain([f]).collect()));
                let after = terms.add(Term::Sum(Axes::none(), vec![outer, inside]));
                let join = Join { law: Law::Sink, before, after, place: None };
                assert_eq!(check::joins(&terms, &[join]).is_ok(), !meets, "{}", expression(&terms, before));
                if meets { captured += 1 } else { fresh += 1 }
            }
        }
    }
    assert!(captured > 20 && fresh > 20, "{captured} captured, {fresh} fresh");
}
