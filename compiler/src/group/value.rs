//! Which values are stored, and the loop that each hangs on.

use super::agree::UNREAD;
use super::anew::every_axis;
use super::leaves::{plain_loads, reads, stored_leaf, weight_leaf};
use super::{
    Contraction, Demand, Facts, Fold, Form, Input, Product, Unsupported, Value, Why, Work, plain_format, row_axis,
    standard_order,
};
use crate::alpha;
use crate::causality::{self, Sight};
use crate::normal::{Term, TermId, Terms};
use crate::stream::{self, State, Stream};
use llmc_artifact::{DType, Format, ScalarOp, SeqId, Type};
use llmc_frontend::graph::{Axes, AxisId, Extent};
use std::collections::{BTreeSet, HashMap};

/// Elements of the block that activations are quantised in.
const ACTIVATION: Format = Format::Act8;

/// What is stored, before kernels are formed.
pub(super) struct Formed {
    pub terms: Terms,
    pub values: Vec<Value>,
    /// Values and their cache forms, those that were asked for first.
    pub caches: Vec<(u32, usize)>,
    pub notes: Vec<String>,
}

/// Stores every root, every value to be cached, and whatever that takes.
pub(super) fn form(
    terms: Terms,
    roots: &[(String, TermId)],
    caches: &[TermId],
    facts: &Facts,
) -> Result<Formed, Unsupported> {
    let mut former = Former {
        terms,
        facts,
        values: Vec::new(),
        number: HashMap::new(),
        depths: HashMap::new(),
        candidates: HashMap::new(),
        reducing: HashMap::new(),
        notes: Vec::new(),
        loads: Vec::new(),
        users: HashMap::new(),
        contracted: BTreeSet::new(),
        planning: Vec::new(),
        inline: Vec::new(),
        demands: Vec::new(),
    };
    let ids: Vec<_> = roots.iter().map(|(_, r)| *r).collect();
    let ids = former.users_of_products(&ids);
    for (n, ((name, _), root)) in roots.iter().zip(&ids).enumerate() {
        former.terms.set_name(*root, name);
        former.views_absent(*root)?;
        let value = former.store(*root)?;
        former.demand(value, Why::Result, *root);
        let axes = standard_order(&former.terms, &former.terms.stored[value as usize].0);
        let format = plain_format(former.terms.info(*root).ty);
        former.form_of(value, Form::Dense { axes, format });
        former.values[value as usize].results.push(n as u32);
    }
    let caches = former.caches(caches)?;
    former.plain_forms();
    former.demands_known();
    Ok(Formed { terms: former.terms, values: former.values, caches, notes: former.notes })
}

pub(super) struct Former<'a> {
    pub(super) terms: Terms,
    facts: &'a Facts,
    pub(super) values: Vec<Value>,
    /// Stored value of a term over the model's axes.
    pub(super) number: HashMap<TermId, u32>,
    pub(super) depths: HashMap<(TermId, bool), u32>,
    candidates: HashMap<TermId, Option<Candidate>>,
    pub(super) reducing: HashMap<TermId, bool>,
    notes: Vec<String>,
    /// Loads of the values being planned, innermost last.
    pub(super) loads: Vec<BTreeSet<u32>>,
    /// For a weight product, every reduction in whose loop it is used; none where it is used elsewhere as well.
    pub(super) users: HashMap<TermId, Option<BTreeSet<TermId>>>,
    /// Products that are contracted at every step of the loop whose bodies are being resolved.
    pub(super) contracted: BTreeSet<TermId>,
    /// The values being planned: none of them can load itself.
    pub(super) planning: Vec<TermId>,
    /// What is evaluated where it is used, while it is resolved.
    pub(super) inline: Vec<TermId>,
    /// The value, why, the value being planned, the term that demands it.
    pub(super) demands: Vec<(u32, Why, Option<TermId>, TermId)>,
}

/// A reduction that is a weight product, before its input is stored.
#[derive(Clone)]
pub(super) struct Candidate {
    pub(super) term: TermId,
    /// The weight over the model's axes, and how it is packed.
    weight: TermId,
    pub(super) format: Format,
    /// The activation over the model's axes.
    activation: TermId,
    reduce: Vec<AxisId>,
    axes: Vec<AxisId>,
}

impl Former<'_> {
    /// The stored value of a term over the model's axes; inputs are stored before it.
    pub(super) fn store(&mut self, term: TermId) -> Result<u32, Unsupported> {
        if let Some(n) = self.number.get(&term) {
            return Ok(*n);
        }
        self.views_absent(term)?;
        self.loads.push(BTreeSet::new());
        self.planning.push(term);
        let planned = self.plan(term);
        self.planning.pop();
        let loads = self.loads.pop().expect("group: every plan has its list of loads");
        let (work, resolved) = planned?;
        let n = self.values.len() as u32;
        let info = self.terms.info(term);
        let stem = info.name.clone().unwrap_or_else(|| "v".to_owned());
        let ty = info.ty;
        let axes = self.axes_of(term);
        let name = self.fresh_name(&stem);
        self.terms.stored.push((axes, ty));
        self.terms.stored_names.push(name.clone());
        self.number.insert(term, n);
        self.values.push(Value {
            name,
            meaning: term,
            term: resolved,
            work,
            forms: vec![],
            results: vec![],
            loads,
            demands: vec![],
        });
        Ok(n)
    }

    /// The values that are cached: those that were asked for, whether they are read here or not, then the others.
    fn caches(&mut self, asked: &[TermId]) -> Result<Vec<(u32, usize)>, Unsupported> {
        let mut found = Vec::new();
        for term in asked {
            let (base, _) = self.unbound(*term);
            let value = self.store(base)?;
            let (axes, ty) = self.terms.stored[value as usize].clone();
            let row = row_axis(&self.terms, &axes);
            let inner = axes.iter().filter(|a| Some(*a) != row).collect();
            let format = self.cache_format(ty);
            let form = Form::Cache { outer: vec![], inner, keys_innermost: false, format, sight: UNREAD };
            self.demand(value, Why::Role, *term);
            found.push((value, self.form_of(value, form)));
        }
        for (n, value) in self.values.iter().enumerate() {
            let form = value.forms.iter().position(|f| matches!(f, Form::Cache { .. }));
            found.extend(form.map(|f| (n as u32, f)).filter(|c| !found.contains(c)));
        }
        Ok(found)
    }

    /// Pages hold reals: an int up to 2^24 is one exactly.
    pub(super) fn cache_format(&self, ty: Type) -> Format {
        if ty == Type::Real { self.facts.cache } else { Format::F32 }
    }

    /// Notes why a value is stored.
    pub(super) fn demand(&mut self, value: u32, why: Why, at: TermId) {
        self.demands.push((value, why, self.planning.last().copied(), at));
    }

    /// Gives every value its demands, now that their readers have numbers.
    fn demands_known(&mut self) {
        for (value, why, reader, at) in std::mem::take(&mut self.demands) {
            let demand = Demand { why, reader: reader.map(|r| self.number[&r]), at };
            let known = &mut self.values[value as usize].demands;
            // A formula may load the same value in several places.
            if !known.iter().any(|d| d.why == why && d.reader == demand.reader) {
                known.push(demand);
            }
        }
    }

    /// The axes that a term is stored with: its own, and the sequences of the batch for a value that depends on tokens
    /// and is none's.
    fn axes_of(&mut self, term: TermId) -> Axes {
        let free = self.terms.free(term).clone();
        match self.whole_sequence(term) {
            Some(seq) if row_axis(&self.terms, &free).is_none() => free.union(&Axes::from_iter([self.each(seq)])),
            _ => free,
        }
    }

    /// The sequence that a term depends on as a whole, if it does: by a reduction over its tokens, by their number, or by
    /// a stored value that does.
    fn whole_sequence(&self, term: TermId) -> Option<SeqId> {
        let seq = |a: AxisId| match self.terms.axes[a].extent {
            Extent::Const(_) => None,
            Extent::Seq(s) | Extent::View(s) => Some(s),
        };
        if self.terms.info(term).weight_only {
            return None;
        }
        causality::reachable(&self.terms, &[term]).into_iter().find_map(|x| match self.terms.term(x) {
            Term::Length(s) => Some(*s),
            _ => alpha::reduction(&self.terms, x).and_then(|(_, bound)| bound.iter().find_map(seq)),
        })
    }

    fn each(&mut self, seq: SeqId) -> AxisId {
        if let Some(known) = self.terms.each.get(&seq) {
            return *known;
        }
        let axis = self.terms.axes.push(format!("each'{}", seq.0), Extent::Seq(seq));
        self.terms.each.insert(seq, axis);
        axis
    }

    /// Names of values are for people, and unlike.
    fn fresh_name(&self, stem: &str) -> String {
        let taken = |n: &str| self.terms.stored_names.iter().chain(&self.terms.param_names).any(|m| m == n);
        let numbered = (1..).map(|i| format!("{stem}{i}"));
        let plain = (stem != "v").then(|| stem.to_owned());
        plain.into_iter().chain(numbered).find(|n| !taken(n)).expect("there is always a next number")
    }

    /// A value over pairs of tokens is never stored.
    pub(super) fn views_absent(&self, term: TermId) -> Result<(), Unsupported> {
        let free = self.terms.free(term);
        let view = free.iter().find(|a| matches!(self.terms.axes[*a].extent, Extent::View(_)));
        // The tokens of a second sequence are as many pairs.
        let second = free.iter().filter(|a| self.terms.is_seq(*a)).nth(1);
        match view.or(second) {
            None => Ok(()),
            Some(v) => Err(Unsupported(format!(
                "{} would have to be stored for every pair of tokens: it has the axis {}",
                self.shown(term),
                self.terms.axes[v].name
            ))),
        }
    }

    pub(super) fn shown(&self, term: TermId) -> String {
        self.terms.info(term).name.as_ref().map_or_else(|| "a value".to_owned(), |n| format!("`{n}`"))
    }

    pub(super) fn form_of(&mut self, value: u32, form: Form) -> usize {
        let forms = &mut self.values[value as usize].forms;
        // Readers of a cache agree on one layout: dots come first, the others read it as it is.
        let same = |f: &Form| match (f, &form) {
            (Form::Cache { .. }, Form::Cache { .. }) | (Form::Workspace { .. }, Form::Workspace { .. }) => true,
            (f, form) => f == form,
        };
        if let Some(at) = forms.iter().position(same) {
            let keys_innermost = |f: &Form| match f {
                Form::Cache { keys_innermost, .. } | Form::Workspace { keys_innermost, .. } => *keys_innermost,
                Form::Dense { .. } => false,
            };
            let (old, other) = if keys_innermost(&form) && !keys_innermost(&forms[at]) {
                let old = std::mem::replace(&mut forms[at], form);
                (&mut forms[at], old)
            } else {
                (&mut forms[at], form)
            };
            if let (Form::Cache { sight, .. }, Form::Cache { sight: more, .. }) = (old, &other) {
                *sight = sight.join(*more);
            }
            return at;
        }
        forms.push(form);
        forms.len() - 1
    }

    /// A stored value that is loaded plainly needs a dense form of plain numbers.
    fn plain_forms(&mut self) {
        let mut wanted = BTreeSet::new();
        for value in &self.values {
            wanted.extend(plain_loads(&self.terms, value));
        }
        for n in wanted {
            let ty = self.terms.stored[n as usize].1;
            let plain = |f: &Form| matches!(f, Form::Dense { format, .. } if *format == plain_format(ty));
            if !self.values[n as usize].forms.iter().any(plain) {
                let axes = standard_order(&self.terms, &self.terms.stored[n as usize].0.clone());
                self.form_of(n, Form::Dense { axes, format: plain_format(ty) });
            }
        }
    }

    // ---- loops -----------------------------------------------------------------------------------------

    /// The loop a value hangs on, and its formula over stored values.
    pub(super) fn plan(&mut self, term: TermId) -> Result<(Work, TermId), Unsupported> {
        if let Term::TopK(axis, rank, x) = self.terms.term(term).clone() {
            let x = self.searched(x)?;
            return Ok((Work::TopK, self.terms.add(Term::TopK(axis, rank, x))));
        }
        let term = self.scaled_within(term);
        let frontier = self.frontier(term);
        let Some(depth) = frontier.iter().map(|r| self.depth(*r)).max() else {
            return Ok((Work::Map, self.resolve(term, &[])?));
        };
        let mut deepest = frontier.clone();
        deepest.retain(|r| self.depth(*r) == depth);
        if let Some(plan) = self.plan_contract(term, &frontier, &deepest)? {
            return Ok(plan);
        }
        let mut folds = deepest;
        folds.retain(|r| self.candidate(*r).is_none() && stream::behind(&self.terms, *r).is_some());
        match folds.first() {
            Some(first) => {
                let joined = self.of_the_same_steps(*first, &frontier);
                self.plan_stream(term, *first, &[folds.as_slice(), &joined].concat())
            }
            // Products whose axes are not the value's, and searches: each is stored, and the value is made of them.
            None => Ok((Work::Map, self.resolve(term, &[])?)),
        }
    }

    /// Other reductions of a formula that can be taken in the loop of `first`, as they read some of the same.
    fn of_the_same_steps(&mut self, first: TermId, frontier: &[TermId]) -> Vec<TermId> {
        let leaves = |s: &Self, r: TermId| -> BTreeSet<TermId> {
            let leaf = |x: &TermId| matches!(s.terms.term(*x), Term::Param(_) | Term::Weight(_) | Term::Stored(_));
            causality::reachable(&s.terms, &[r]).into_iter().filter(leaf).collect()
        };
        let read = leaves(self, first);
        let mut found = Vec::new();
        for r in frontier {
            let fold = stream::behind(&self.terms, *r).is_some() && self.candidate(*r).is_none();
            let like = self.terms.free(*r) == self.terms.free(first);
            if fold && like && self.depth(*r) < self.depth(first) && !leaves(self, *r).is_disjoint(&read) {
                found.push(*r);
            }
        }
        found
    }

    fn plan_contract(
        &mut self,
        term: TermId,
        frontier: &[TermId],
        deepest: &[TermId],
    ) -> Result<Option<(Work, TermId)>, Unsupported> {
        let mut own: Vec<Candidate> = deepest.iter().filter_map(|r| self.candidate(*r)).collect();
        // An epilogue has the product's axes: a product with others is stored first.
        own.retain(|c| *self.terms.free(c.term) == *self.terms.free(term));
        let size = |c: &Candidate| c.axes.iter().filter_map(|a| self.terms.axes.len_of(*a)).product::<u64>();
        let Some(anchor) = own.iter().max_by_key(|c| (size(c), std::cmp::Reverse(c.term))) else { return Ok(None) };
        let (activation, reduce, packed) = (anchor.activation, anchor.reduce.clone(), anchor.format.is_quantised());
        let product = anchor.term;
        own.retain(|c| c.activation == activation && c.reduce == reduce && c.format.is_quantised() == packed);
        let format = if packed { ACTIVATION } else { self.facts.activations };
        let input = self.input(product, activation, &reduce, format)?;
        let mut stats = Vec::new();
        for r in frontier {
            if own.iter().all(|c| c.term != *r) && self.is_stat(*r, &reduce) {
                let body = alpha::body(&mut self.terms, *r);
                stats.push((*r, self.resolve(body, &[])?));
            }
        }
        let keep: Vec<_> = own.iter().map(|c| c.term).chain(stats.iter().map(|s| s.0)).collect();
        let resolved = self.resolve(term, &keep)?;
        let products = (own.into_iter())
            .map(|c| Product { term: c.term, weight: c.weight, format: c.format, axes: c.axes })
            .collect();
        Ok(Some((Work::Contract(Contraction { input, reduce, products, stats }), resolved)))
    }

    /// The activation of a contraction, stored as its weights read it.
    fn input(
        &mut self,
        product: TermId,
        activation: TermId,
        reduce: &[AxisId],
        format: Format,
    ) -> Result<Input, Unsupported> {
        let free = self.terms.free(activation).clone();
        let row = row_axis(&self.terms, &free).expect("group: an activation has a row");
        let axes: Vec<_> = std::iter::once(row).chain(reduce.iter().copied()).collect();
        if let Term::Param(n) = self.terms.term(activation)
            && !self.facts.picked
            && format == Format::F32
            && standard_order(&self.terms, &free) == axes
        {
            return Ok(Input::Param(*n));
        }
        let value = self.store(activation)?;
        self.note_load(value);
        self.demand(value, Why::Activation, product);
        Ok(Input::Stored { value, form: self.form_of(value, Form::Dense { axes, format }) })
    }

    pub(super) fn note_load(&mut self, value: u32) {
        self.loads.last_mut().expect("group: loads are noted while a value is planned").insert(value);
    }

    /// A reduction over the contraction's axes, one number a row: it can be taken in the contraction's loop.
    fn is_stat(&self, r: TermId, reduce: &[AxisId]) -> bool {
        let Some((_, bound)) = alpha::reduction(&self.terms, r) else { return false };
        let origins: BTreeSet<_> = bound.iter().map(|a| alpha::origin(&self.terms, a)).collect();
        let free = self.terms.free(r);
        origins == reduce.iter().copied().collect()
            && bound.len() == reduce.len()
            && free.len() == 1
            && row_axis(&self.terms, free).is_some()
    }

    fn plan_stream(&mut self, term: TermId, first: TermId, folds: &[TermId]) -> Result<(Work, TermId), Unsupported> {
        let bound = self.bound(first);
        let targets: Vec<_> = folds
            .iter()
            .copied()
            .filter(|r| stream::same_loop(&self.terms, self.bound(*r).as_slice(), bound.as_slice()))
            .collect();
        let mut stream = stream::derive(&mut self.terms, &targets);
        for refused in &stream.refused {
            let (earlier, reader) = (self.shown(refused.earlier), self.shown(refused.reader));
            self.notes.push(format!("{earlier} takes a pass before {reader}: {}", refused.reason));
        }
        let derived = stream.clone();
        let keep: Vec<_> = stream.states.iter().map(|s| s.source).collect();
        let sight = self.sight(&stream)?;
        let folded = stream.states.iter().filter_map(|s| stream::behind(&self.terms, s.source)).collect();
        self.contracted = self.products_of(&folded);
        for at in 0..stream.states.len() {
            stream.states[at].body = self.resolve(stream.states[at].body, &keep)?;
            let mut repair = stream.states[at].repair.clone();
            for by in repair.moving_mut() {
                *by = self.resolve(*by, &keep)?;
            }
            stream.states[at].repair = repair;
        }
        self.contracted.clear();
        let over: Axes = stream.over.iter().copied().collect();
        let dots = self.dots(&stream, &keep);
        self.flat(&dots)?;
        let parallel = self.parallel(&targets, &stream, &dots, &over)?;
        // A finish has the loop's own point: a result read elsewhere is stored first.
        if !parallel.is_subset(&self.axes_of(term)) || self.is_indexed(term, &keep) {
            return Ok((Work::Map, self.resolve(term, &[])?));
        }
        // Where no token looks, none is before or after it.
        let looks = parallel.iter().any(|a| self.terms.is_seq(a) && !self.terms.each.values().any(|e| *e == a));
        let sight = sight.map(|s| if looks { s } else { Sight { causal: false, window: None } });
        if let Some(sight) = sight {
            for state in stream.states.clone() {
                self.cache_reads(state.body, &keep, &dots, &parallel, sight);
            }
        }
        let guarded = self.guarded(term, &stream, &keep);
        let resolved = self.resolve(guarded, &keep)?;
        Ok((Work::Stream(Fold { stream, derived, dots, parallel, sight }), resolved))
    }

    /// A formula that divides by a sum that is 0 or at least 1: a row to which nothing contributed gives zeros, as it
    /// does where the text holds the sum at 1 itself.
    fn guarded(&mut self, term: TermId, stream: &Stream, keep: &[TermId]) -> TermId {
        let mut by: HashMap<_, _> = keep.iter().map(|k| (*k, *k)).collect();
        for state in stream.states.iter().filter(|s| s.reaches_one) {
            let one = alpha::real(&mut self.terms, 1.0);
            let held = self.terms.add(Term::Map(ScalarOp::Max, vec![state.source, one]));
            let divided = self.terms.add(Term::Map(ScalarOp::Recip, vec![state.source]));
            let by_held = self.terms.add(Term::Map(ScalarOp::Recip, vec![held]));
            by.insert(divided, by_held);
        }
        alpha::replace(&mut self.terms, term, &by)
    }

    /// Whether a formula reads one of its loop's results at an index.
    fn is_indexed(&self, term: TermId, keep: &[TermId]) -> bool {
        let indexed = |x: TermId| matches!(self.terms.term(x), Term::Index(y, _) if keep.contains(y));
        let mut stack = vec![term];
        let mut seen = BTreeSet::new();
        while let Some(x) = stack.pop() {
            if indexed(x) {
                return true;
            }
            if seen.insert(x) && !keep.contains(&x) {
                stack.extend(self.terms.operands(x));
            }
        }
        false
    }

    fn bound(&self, source: TermId) -> Axes {
        let reduction = stream::behind(&self.terms, source).expect("group: a loop's target is a reduction");
        alpha::reduction(&self.terms, reduction).expect("group: a loop's target is a reduction").1
    }

    /// What the masks of a loop over tokens prove for all of its states.
    fn sight(&self, stream: &Stream) -> Result<Option<Sight>, Unsupported> {
        let [key] = stream.over[..] else { return self.no_tokens(stream) };
        let Some(row) = self.terms.views.get(&key).copied() else { return self.no_tokens(stream) };
        let each = stream.states.iter().map(|s| causality::sight(&self.terms, s.op, s.body, key, row));
        Ok(each.reduce(Sight::join))
    }

    fn no_tokens(&self, stream: &Stream) -> Result<Option<Sight>, Unsupported> {
        match stream.over.iter().find(|a| self.terms.axes.len_of(**a).is_none()) {
            None => Ok(None),
            Some(a) => {
                let name = &self.terms.axes[alpha::origin(&self.terms, *a)].name;
                Err(Unsupported(format!("a reduction over all tokens of {name} together is not supported yet")))
            }
        }
    }

    /// Reductions inside the bodies: they are contracted at every step.
    fn dots(&self, stream: &Stream, keep: &[TermId]) -> Vec<TermId> {
        let mut found = BTreeSet::new();
        for state in &stream.states {
            let mut stack = vec![state.body];
            let mut seen = BTreeSet::new();
            while let Some(x) = stack.pop() {
                if !seen.insert(x) || keep.contains(&x) || self.terms.info(x).weight_only {
                    continue;
                }
                if alpha::reduction(&self.terms, x).is_some() {
                    found.insert(x);
                } else {
                    stack.extend(self.terms.operands(x));
                }
            }
        }
        found.into_iter().collect()
    }

    /// A contraction at every step has no other within.
    fn flat(&self, dots: &[TermId]) -> Result<(), Unsupported> {
        let mut stack: Vec<_> = dots.iter().flat_map(|d| self.terms.operands(*d)).collect();
        let mut seen = BTreeSet::new();
        while let Some(x) = stack.pop() {
            if !seen.insert(x) || self.terms.info(x).weight_only || matches!(self.terms.term(x), Term::Read(..)) {
                continue;
            }
            if alpha::reduction(&self.terms, x).is_some() {
                let name = self.shown(x);
                return Err(Unsupported(format!(
                    "{name} is contracted within a contraction, for every pair of tokens"
                )));
            }
            stack.extend(self.terms.operands(x));
        }
        Ok(())
    }

    /// Axes that every state and every dot has: one fold for each point of them.
    fn parallel(
        &mut self,
        targets: &[TermId],
        stream: &Stream,
        dots: &[TermId],
        over: &Axes,
    ) -> Result<Axes, Unsupported> {
        // Sums that only a repair multiplies may have fewer: they are taken for each point all the same.
        let text: BTreeSet<_> = causality::reachable(&self.terms, targets).into_iter().collect();
        let of_text = |s: &&State| text.contains(&s.source);
        let sources: Vec<_> = stream.states.iter().filter(of_text).map(|s| s.source).collect();
        let states: Vec<_> = sources.into_iter().map(|s| self.axes_of(s)).collect();
        let inner = dots.iter().map(|d| self.terms.free(*d).minus(over));
        let parallel = states.into_iter().chain(inner).reduce(|a, b| a.intersect(&b)).unwrap_or(Axes::none());
        if let Some(dot) = dots.iter().find(|d| !self.terms.free(**d).minus(over).is_subset(&parallel)) {
            return Err(Unsupported(format!(
                "{} is contracted inside a loop that runs for fewer axes than it has",
                self.shown(*dot)
            )));
        }
        if over.iter().any(|a| self.terms.views.contains_key(&a)) && row_axis(&self.terms, &parallel).is_none() {
            return Err(Unsupported("a reduction over tokens that no token looks from is not supported yet".into()));
        }
        Ok(parallel)
    }

    /// Stored values read at other tokens are cached, laid out for what reads them.
    fn cache_reads(&mut self, body: TermId, keep: &[TermId], dots: &[TermId], parallel: &Axes, sight: Sight) {
        for (read, within) in reads(&self.terms, body, keep, dots) {
            let (value, names) = match *self.terms.term(read) {
                Term::Read(x, _) => stored_leaf(&self.terms, x),
                _ => stored_leaf(&self.terms, read),
            };
            let (axes, ty) = self.terms.stored[value as usize].clone();
            let contracted = within.map_or(Axes::none(), |d| alpha::reduction(&self.terms, d).expect("a dot").1);
            let row = row_axis(&self.terms, &axes);
            let all: Vec<_> = axes.iter().filter(|a| Some(*a) != row).collect();
            let seen = |a: &AxisId| names.iter().find(|(b, _)| b == a).map_or(*a, |(_, c)| *c);
            let (mut inner, mut outer): (Vec<_>, Vec<_>) = all.iter().partition(|a| contracted.contains(seen(a)));
            let keys_innermost = !inner.is_empty();
            if !keys_innermost {
                (outer, inner) = all.iter().partition(|a| parallel.contains(seen(a)));
            }
            let format = self.cache_format(ty);
            if every_axis(&self.terms, &axes).is_none() {
                self.form_of(value, Form::Cache { outer, inner, keys_innermost, format, sight });
            } else {
                self.form_of(value, Form::Workspace { outer, inner, keys_innermost, format });
                self.cached_for(value, sight);
            }
        }
    }

    // ---- weight products -------------------------------------------------------------------------------

    /// A reduction as a weight product: `S[reduce](weight * activation)` with a weight that has every reduced axis
    /// and output axes of its own, and an activation over tokens and the reduced axes.
    pub(super) fn candidate(&mut self, r: TermId) -> Option<Candidate> {
        if let Some(known) = self.candidates.get(&r) {
            return known.clone();
        }
        let found = self.weight_product(r);
        self.candidates.insert(r, found.clone());
        found
    }

    fn weight_product(&mut self, r: TermId) -> Option<Candidate> {
        let Term::Sum(bound, factors) = self.terms.term(r).clone() else { return None };
        let constant = bound.iter().all(|a| self.terms.axes.len_of(a).is_some());
        if bound.is_empty() || !constant || self.terms.info(r).ty != Type::Real || self.terms.info(r).weight_only {
            return None;
        }
        let (weights, mut rest): (Vec<_>, Vec<_>) =
            factors.iter().copied().partition(|f| self.terms.info(*f).weight_only);
        let main = weights.iter().copied().max_by_key(|w| self.terms.free(*w).len())?;
        let mut packed = vec![main];
        let blocks = self.block_format(main, &bound);
        let at = weights.iter().position(|w| *w == main)?;
        for w in weights.into_iter().enumerate().filter(|(i, _)| *i != at).map(|(_, w)| w) {
            let inside = self.terms.free(w).is_subset(&bound);
            let along = inside && !self.terms.free(w).is_empty();
            if inside && blocks.is_some() || along && self.is_short(main) { rest.push(w) } else { packed.push(w) }
        }
        let format = match (blocks, &packed[..]) {
            (Some(format), [_]) => format,
            _ => self.plain_weight(&packed),
        };
        let weight = alpha::product(&mut self.terms, packed);
        let activation = alpha::product(&mut self.terms, rest);
        self.shaped(r, &bound, weight, activation, format)
    }

    /// The candidate, if weight and activation have the axes of the family.
    fn shaped(
        &mut self,
        r: TermId,
        bound: &Axes,
        weight: TermId,
        activation: TermId,
        format: Format,
    ) -> Option<Candidate> {
        let axes = self.terms.free(weight).minus(bound);
        let outer = self.terms.free(activation).minus(bound);
        let row = row_axis(&self.terms, &outer)?;
        let complete = bound.is_subset(self.terms.free(weight)) && bound.is_subset(self.terms.free(activation));
        let rows_only = outer.len() == 1 && !axes.contains(row) && !axes.is_empty();
        let constant = axes.iter().all(|a| self.terms.axes.len_of(a).is_some());
        if !complete || !rows_only || !constant {
            return None;
        }
        let (weight, names) = self.unbound(weight);
        let (activation, _) = self.unbound(activation);
        let named = |a: AxisId| names.iter().find(|(_, b)| *b == a).map_or(a, |(c, _)| *c);
        let reduce: Axes = bound.iter().map(named).collect();
        let back: Vec<_> = names.iter().copied().filter(|(_, b)| axes.contains(*b)).collect();
        // Output axes under other names than the weight's own: the product is read renamed, which loads handle.
        if !back.is_empty() || reduce.len() != bound.len() {
            return None;
        }
        // Both are read along the same axes: not where one of them has the axis free that the other's bound one is called by.
        if !reduce.is_subset(self.terms.free(weight)) || !reduce.is_subset(self.terms.free(activation)) {
            return None;
        }
        let order = self.weight_order(weight);
        let (reduce, axes) = order.into_iter().partition(|a| reduce.contains(*a));
        Some(Candidate { term: r, weight, format, activation, reduce, axes })
    }

    /// Whether a weight's elements are shorter in the file than what is computed at load: they stay as they are, and factors along
    /// the reduced axes go with the activation, or the weight would be twice as many bytes.
    fn is_short(&self, weight: TermId) -> bool {
        let format = weight_leaf(&self.terms, weight).map(|(slot, _)| self.facts.weights[slot as usize].format);
        matches!(format.and_then(Format::plain), Some(DType::F16 | DType::BF16))
    }

    /// The block format in which a weight can stay: it is a slot of the file, whole rows of which lie along the
    /// reduced axes.
    fn block_format(&self, weight: TermId, bound: &Axes) -> Option<Format> {
        let (slot, names) = weight_leaf(&self.terms, weight)?;
        let fact = &self.facts.weights[slot as usize];
        let seen = |a: &AxisId| names.iter().find(|(b, _)| b == a).map_or(*a, |(_, c)| *c);
        let tail = fact.order.iter().rev().take(bound.len()).all(|a| bound.contains(seen(a)));
        let last = self.terms.axes.len_of(*fact.order.last()?)?;
        let fits = last % ACTIVATION.block() as u64 == 0 && last % fact.format.block() as u64 == 0;
        (fact.format.is_quantised() && fact.whole_blocks && tail && fits).then_some(fact.format)
    }

    /// How a weight is stored that is decoded or computed when it is loaded.
    fn plain_weight(&self, factors: &[TermId]) -> Format {
        match factors {
            [one] => weight_leaf(&self.terms, *one)
                .map(|(slot, _)| self.facts.weights[slot as usize].format)
                .filter(|f| !f.is_quantised() && *f != Format::I32)
                .unwrap_or(Format::F32),
            _ => Format::F32,
        }
    }

    /// Axes of a weight over the model's axes, in the order of the file of its largest slot.
    fn weight_order(&self, weight: TermId) -> Vec<AxisId> {
        let free = self.terms.free(weight);
        let slots = causality::reachable(&self.terms, &[weight]).into_iter().filter_map(|x| match self.terms.term(x) {
            Term::Weight(n) => Some(&self.facts.weights[*n as usize].order),
            _ => None,
        });
        let main = slots.filter(|o| o.iter().all(|a| free.contains(*a))).max_by_key(|o| o.len());
        let mut order: Vec<_> = main.cloned().unwrap_or_default();
        let missing: Vec<_> = free.iter().filter(|a| !order.contains(a)).collect();
        order.splice(0..0, missing);
        order
    }
}
