//! Kernels of real blocks are let through, and none in which something wrong was planted.

use super::kernels::{kernels, roles};
use super::value::check_kernels;
use crate::cost::Role;
use crate::egraph::Extracted;
use crate::group::{Form, Fused, Work};
use crate::normal::{Term, TermId, Terms};
use crate::pipeline::{BlockStages, Options, Stages, run};
use crate::rules::Laws;
use crate::{alpha, causality};
use llmc_artifact::ScalarOp;
use llmc_frontend::compile::{MODELS, compile_text};
use llmc_frontend::graph::Axes;
use std::collections::{BTreeMap, HashMap};

fn stages(name: &str, text: &str) -> Stages {
    let model = compile_text(name, text, None).model.expect("the text checks");
    run(model, &Options::default()).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn given(block: &BlockStages, role: Role) -> Extracted {
    let best = &block.considered[0];
    let picked = best.chosen.as_ref().expect("kernels were formed of it")[role as usize];
    block.optimised.form(best.set, picked.of, picked.form)
}

/// Kernels of both roles of every block of the built-in models are what their blocks mean.
#[test]
fn kernels_of_the_models_are_what_they_mean() {
    for (name, text) in MODELS {
        for block in stages(name, text).blocks {
            let claims = check_kernels(&block).unwrap_or_else(|e| panic!("{name} {}: {e}", block.name));
            assert!(claims >= 9, "{name} {}: {claims} claims", block.name);
        }
    }
}

/// A formula with one thing in it changed, for each thing that can be.
fn changed(terms: &mut Terms, root: TermId) -> Vec<(&'static str, TermId)> {
    let mut out = Vec::new();
    for x in causality::reachable(terms, &[root]) {
        let axes = |terms: &Terms, xs: &[TermId]| xs.iter().fold(Axes::none(), |a, y| a.union(terms.free(*y)));
        let (what, new) = match terms.term(x).clone() {
            Term::Sum(bound, xs) if xs.len() > 1 => {
                let whole = axes(terms, &xs);
                let without = |n: usize| [&xs[..n], &xs[n + 1..]].concat();
                let fits = |n: &usize| axes(terms, &without(*n)) == whole;
                let Some(n) = (0..xs.len()).find(fits) else { continue };
                ("a dropped factor", alpha::sum(terms, bound, without(n)))
            }
            Term::Plus(xs) => {
                let whole = axes(terms, &xs);
                let without = |n: usize| [&xs[..n], &xs[n + 1..]].concat();
                let fits = |n: &usize| axes(terms, &without(*n)) == whole;
                let Some(n) = (0..xs.len()).find(fits) else { continue };
                ("a dropped addend", alpha::plus(terms, without(n)))
            }
            Term::Map(op @ (ScalarOp::Lt | ScalarOp::Le | ScalarOp::Sub | ScalarOp::Pow), xs) if xs[0] != xs[1] => {
                ("a swapped operand", terms.add(Term::Map(op, vec![xs[1], xs[0]])))
            }
            Term::Map(ScalarOp::Where, xs) if xs[1] != xs[2] && terms.info(xs[1]).ty == terms.info(xs[2]).ty => {
                ("a swapped operand", terms.add(Term::Map(ScalarOp::Where, vec![xs[0], xs[2], xs[1]])))
            }
            Term::Map(ScalarOp::Exp, xs) => ("another operation", terms.add(Term::Map(ScalarOp::Tanh, xs))),
            Term::Map(ScalarOp::Sqrt, xs) => ("another operation", xs[0]),
            _ => continue,
        };
        let whole = alpha::replace(terms, root, &HashMap::from([(x, new)]));
        if whole != root && terms.free(whole) == terms.free(root) {
            out.push((what, whole));
        }
    }
    out
}

/// The block with one thing in it changed, for each thing that can be.
fn planted(fused: &Fused) -> Vec<(&'static str, Fused)> {
    let mut out = Vec::new();
    let mut plant = |what: &'static str, change: &mut dyn FnMut(&mut Fused) -> bool| {
        let mut other = fused.clone();
        if change(&mut other) {
            out.push((what, other));
        }
    };
    let mut terms = fused.terms.clone();
    for (n, value) in fused.values.iter().enumerate() {
        for (what, term) in changed(&mut terms, value.term).into_iter().take(4) {
            plant(what, &mut |f| {
                (f.terms, f.values[n].term) = (terms.clone(), term);
                true
            });
        }
        plant("a load of a later value", &mut |f| {
            let later = f.values.len() as u32 - 1;
            let last = f.terms.add(Term::Stored(later));
            let fits = (n as u32) < later && f.terms.free(last).is_subset(f.terms.free(value.term));
            let term = alpha::plus(&mut f.terms, [value.term, last]);
            f.values[n].term = term;
            fits
        });
        plant("a value over pairs of tokens", &mut |f| {
            let Some(view) = f.terms.views.keys().next().copied() else { return false };
            let axes = f.terms.stored[n].0.union(&Axes::from_iter([view]));
            f.terms.stored[n].0 = axes;
            true
        });
        let below = causality::reachable(&fused.terms, &[value.term]);
        let loaded = below.into_iter().find_map(|x| match fused.terms.term(x) {
            Term::Stored(k) => Some(*k),
            _ => None,
        });
        plant("a load that is not said", &mut |f| loaded.is_some_and(|k| f.values[n].loads.remove(&k)));
        plant_work(&mut plant, n, value, &mut terms);
    }
    for n in 1..fused.groups.len() {
        plant("kernels in another order", &mut |f| {
            let reads = |f: &Fused, g: usize, h: usize| {
                f.groups[g]
                    .values
                    .iter()
                    .any(|v| f.values[*v as usize].loads.iter().any(|l| f.groups[h].values.contains(l)))
            };
            let waits = reads(f, n, n - 1);
            f.groups.swap(n, n - 1);
            waits
        });
    }
    plant("a cache that is forgotten", &mut |f| f.caches.pop().is_some());
    plant("a cache that nobody reads", &mut |f| {
        let plain = |v: &crate::group::Value| v.forms.iter().all(|x| matches!(x, Form::Dense { .. }));
        let row = |n: usize| f.terms.stored[n].0.iter().any(|a| f.terms.is_seq(a));
        let Some(n) = (0..f.values.len()).find(|n| plain(&f.values[*n]) && row(*n)) else { return false };
        let inner = f.terms.stored[n].0.iter().filter(|a| !f.terms.is_seq(*a)).collect();
        let sight = causality::Sight { causal: false, window: None };
        let format = f.facts.cache;
        f.values[n].forms.push(Form::Cache { outer: vec![], inner, keys_innermost: false, format, sight });
        f.caches.push((n as u32, f.values[n].forms.len() - 1));
        true
    });
    plant("pages over other axes", &mut |f| {
        let Some((v, form)) = f.caches.first().copied() else { return false };
        let Form::Cache { outer, inner, .. } = &mut f.values[v as usize].forms[form] else { return false };
        inner.pop().or_else(|| outer.pop()).is_some()
    });
    out
}

/// Plants a bug of a name by an edit, which says whether there was a place for it.
type Planting<'a> = dyn FnMut(&'static str, &mut dyn FnMut(&mut Fused) -> bool) + 'a;

fn plant_work(plant: &mut Planting, n: usize, value: &crate::group::Value, terms: &mut Terms) {
    match &value.work {
        Work::Map | Work::TopK => {}
        Work::Contract(c) => {
            for (at, p) in c.products.iter().enumerate() {
                for (_, weight) in changed(terms, p.weight).into_iter().take(1) {
                    plant("another weight", &mut |f| {
                        f.terms = terms.clone();
                        let Work::Contract(c) = &mut f.values[n].work else { unreachable!() };
                        c.products[at].weight = weight;
                        true
                    });
                }
                plant("a product that is dropped", &mut |f| {
                    let Work::Contract(c) = &mut f.values[n].work else { unreachable!() };
                    drop(c.products.remove(at));
                    true
                });
            }
            for (at, s) in c.stats.iter().enumerate() {
                for (what, body) in changed(terms, s.1).into_iter().take(1) {
                    plant(what, &mut |f| {
                        f.terms = terms.clone();
                        let Work::Contract(c) = &mut f.values[n].work else { unreachable!() };
                        c.stats[at].1 = body;
                        true
                    });
                }
            }
            plant("a reduced axis too few", &mut |f| {
                let Work::Contract(c) = &mut f.values[n].work else { unreachable!() };
                c.reduce.pop().is_some()
            });
            plant("another reduced axis", &mut |f| {
                let other = c.products[0].axes[0];
                let Work::Contract(c) = &mut f.values[n].work else { unreachable!() };
                std::mem::replace(&mut c.reduce[0], other) != other
            });
        }
        Work::Stream(fold) => {
            for (at, state) in fold.stream.states.iter().enumerate() {
                for (what, body) in changed(terms, state.body).into_iter().take(3) {
                    plant(what, &mut |f| {
                        f.terms = terms.clone();
                        let Work::Stream(fold) = &mut f.values[n].work else { unreachable!() };
                        fold.stream.states[at].body = body;
                        true
                    });
                }
                plant("a repair that is dropped", &mut |f| {
                    let Work::Stream(fold) = &mut f.values[n].work else { unreachable!() };
                    let repair = &mut fold.stream.states[at].repair;
                    let some = !repair.is_empty();
                    *repair = crate::stream::Repair::default();
                    some
                });
                plant("a state that is dropped", &mut |f| {
                    let Work::Stream(fold) = &mut f.values[n].work else { unreachable!() };
                    drop(fold.stream.states.remove(at));
                    true
                });
            }
            plant("a dot that is not said", &mut |f| {
                let Work::Stream(fold) = &mut f.values[n].work else { unreachable!() };
                fold.dots.pop().is_some()
            });
            plant("keys that are skipped", &mut |f| {
                let Work::Stream(fold) = &mut f.values[n].work else { unreachable!() };
                fold.sight.as_mut().is_some_and(|s| s.window.replace(3) != Some(3))
            });
        }
    }
}

/// Every wrong thing that is planted in the kernels of these blocks is refused.
#[test]
fn kernels_in_which_something_is_wrong_are_refused() {
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    // A decoder's layer, and an encoder's beginning and layer: folds over tokens with a mask and without, spreads.
    for (at, block) in [(1, "l"), (3, "first"), (3, "l")] {
        let (name, text) = MODELS[at];
        let stages = stages(name, text);
        let block = stages.blocks.iter().find(|b| b.name == block).expect("it has such a block");
        let given = given(block, Role::Prefill);
        for (what, wrong) in planted(&block.fused) {
            let found = kernels(&given, &wrong);
            assert!(found.is_err(), "{name} {}: {what} is let through", block.name);
            *kinds.entry(what).or_default() += 1;
        }
    }
    println!("{kinds:?}");
    assert!(kinds.len() >= 16, "{kinds:?}");
}

/// Roles that keep other values, or keep them in another order or layout, do not agree.
#[test]
fn roles_that_keep_other_values_are_refused() {
    let stages = stages(MODELS[1].0, MODELS[1].1);
    let fused = &stages.blocks.iter().max_by_key(|b| b.fused.caches.len()).expect("it has blocks").fused;
    assert!(fused.caches.len() == 2 && roles(fused, fused, Laws::ALL).is_ok());
    let mut other = fused.clone();
    other.caches.swap(0, 1);
    assert!(roles(fused, &other, Laws::ALL).is_err(), "another order");
    let mut other = fused.clone();
    other.caches.pop();
    assert!(roles(fused, &other, Laws::ALL).is_err(), "one fewer");
    let mut other = fused.clone();
    let (value, form) = other.caches[0];
    let Form::Cache { keys_innermost, .. } = &mut other.values[value as usize].forms[form] else { unreachable!() };
    *keys_innermost = !*keys_innermost;
    assert!(roles(fused, &other, Laws::ALL).is_err(), "another layout");
    let mut other = fused.clone();
    let two = alpha::real(&mut other.terms, 2.0);
    let meaning = other.values[value as usize].meaning;
    other.values[value as usize].meaning = alpha::product(&mut other.terms, [meaning, two]);
    assert!(roles(fused, &other, Laws::ALL).is_err(), "another value");
}
