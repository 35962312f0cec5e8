//! Substitution and canonical binders.
//!
//! What enters is a DAG of [`Terms`] whose reductions bind arbitrary axes; what leaves is the same DAG in which
//! reductions that differ only in the names of what they bind are one term, so that sharing is equality. A binder's
//! canonical axis is a function of its extent and its height (one more than the greatest height bound in its body):
//! an enclosing binder is always higher, so renaming one never captures another. Nothing is optimized here.

use crate::normal::{Literal, Term, TermId, Terms};
use indexmap::IndexMap;
use llmc_artifact::{ReduceOp, ScalarOp, Type};
use llmc_frontend::graph::{Axes, AxisId, Extent};
use std::collections::HashMap;

/// What axes are replaced by: integer terms. Pairs whose axis is not free in the term at hand do nothing.
pub type Substitution = [(AxisId, TermId)];

/// The axis of the model that a fresh one was made from: itself for an axis of the model.
pub fn origin(terms: &Terms, axis: AxisId) -> AxisId {
    let name = &terms.axes[axis].name;
    match name.split_once('\'') {
        None => axis,
        Some((stem, _)) => terms.axes.iter().find(|(_, a)| a.name == stem).map_or(axis, |(id, _)| id),
    }
}

/// The product of factors: nested products flattened, sorted; a product of one is the factor itself.
pub fn product(terms: &mut Terms, factors: impl IntoIterator<Item = TermId>) -> TermId {
    sum(terms, Axes::none(), factors)
}

/// `S[bound](factors)` in the arena's order. Ones are dropped; a sum of a plain sum binds both's axes.
pub fn sum(terms: &mut Terms, bound: Axes, factors: impl IntoIterator<Item = TermId>) -> TermId {
    let mut flat = Vec::new();
    for f in factors {
        match terms.term(f) {
            Term::Sum(inner, xs) if inner.is_empty() => flat.extend(xs.iter().copied()),
            Term::Const(Literal::Real(bits)) if f64::from_bits(*bits) == 1.0 => {}
            _ => flat.push(f),
        }
    }
    if flat.is_empty() {
        flat.push(real(terms, 1.0));
    }
    if bound.is_empty() && flat.len() == 1 {
        return flat[0];
    }
    flat.sort_unstable();
    terms.add(Term::Sum(bound, flat))
}

/// The n-ary sum: nested ones flattened, sorted; a sum of one is the term itself.
pub fn plus(terms: &mut Terms, xs: impl IntoIterator<Item = TermId>) -> TermId {
    let mut flat = Vec::new();
    for x in xs {
        match terms.term(x) {
            Term::Plus(inner) => flat.extend(inner.iter().copied()),
            _ => flat.push(x),
        }
    }
    if flat.len() == 1 {
        return flat[0];
    }
    flat.sort_unstable();
    terms.add(Term::Plus(flat))
}

/// A real literal.
pub fn real(terms: &mut Terms, x: f64) -> TermId {
    terms.add(Term::Const(Literal::Real(x.to_bits())))
}

/// The literal a term is, if it is a real one.
pub fn as_real(terms: &Terms, id: TermId) -> Option<f64> {
    match terms.term(id) {
        Term::Const(Literal::Real(bits)) => Some(f64::from_bits(*bits)),
        _ => None,
    }
}

/// The negated real term.
pub fn negate(terms: &mut Terms, x: TermId) -> TermId {
    let minus = real(terms, -1.0);
    product(terms, [minus, x])
}

/// A reduction's operation, bound axes and body factors; `None` for every other term. A product over no axes is none.
pub fn reduction(terms: &Terms, id: TermId) -> Option<(ReduceOp, Axes)> {
    match terms.term(id) {
        Term::Sum(bound, _) if !bound.is_empty() => Some((ReduceOp::Sum, bound.clone())),
        Term::Reduce(op, bound, _) => Some((*op, bound.clone())),
        _ => None,
    }
}

/// The body of a reduction: for a sum the product of its factors.
///
/// # Panics
/// When the term is no reduction.
pub fn body(terms: &mut Terms, id: TermId) -> TermId {
    match terms.term(id).clone() {
        Term::Sum(bound, xs) if !bound.is_empty() => product(terms, xs),
        Term::Reduce(_, _, x) => x,
        other => panic!("alpha: {other:?} is no reduction"),
    }
}

/// Renames free axes of a term, without capture.
pub fn rename(terms: &mut Terms, id: TermId, pairs: &[(AxisId, AxisId)]) -> TermId {
    let map: Vec<_> = pairs.iter().filter(|(a, b)| a != b).map(|(a, b)| (*a, terms.add(Term::Iota(*b)))).collect();
    substitute(terms, id, &map)
}

/// Replaces free axes of a term by integer terms, all at once. Indices end at leaves, and at reductions and reads
/// that cannot take them without capture.
pub fn substitute(terms: &mut Terms, id: TermId, map: &Substitution) -> TermId {
    Substituter { terms, memo: HashMap::new() }.run(id, map)
}

/// Runs one substitution; results are remembered for each restricted map, so that a shared term is walked once.
struct Substituter<'a> {
    terms: &'a mut Terms,
    memo: HashMap<(TermId, Vec<(AxisId, TermId)>), TermId>,
}

impl Substituter<'_> {
    fn run(&mut self, id: TermId, map: &Substitution) -> TermId {
        let free = self.terms.free(id).clone();
        let mut map: Vec<_> =
            map.iter().filter(|(a, i)| free.contains(*a) && *self.terms.term(*i) != Term::Iota(*a)).copied().collect();
        if map.is_empty() {
            return id;
        }
        map.sort_unstable();
        let key = (id, map);
        if let Some(done) = self.memo.get(&key) {
            return *done;
        }
        let result = self.replace(id, &key.1);
        if let Some(name) = self.terms.info(id).name.clone() {
            self.terms.set_name(result, &name);
        }
        let place = self.terms.info(id).place;
        self.terms.set_place(result, place);
        self.memo.insert(key, result);
        result
    }

    fn all(&mut self, xs: &[TermId], map: &Substitution) -> Vec<TermId> {
        xs.iter().map(|x| self.run(*x, map)).collect()
    }

    /// `map` is not empty and every pair does something.
    fn replace(&mut self, id: TermId, map: &Substitution) -> TermId {
        match self.terms.term(id).clone() {
            Term::Const(_) | Term::Length(_) => id,
            Term::Iota(_) => map[0].1,
            Term::Param(_) | Term::Weight(_) | Term::Stored(_) => self.terms.add(Term::Index(id, map.to_vec())),
            Term::Sum(bound, xs) if bound.is_empty() => {
                let xs = self.all(&xs, map);
                product(self.terms, xs)
            }
            Term::Plus(xs) => {
                let xs = self.all(&xs, map);
                plus(self.terms, xs)
            }
            Term::Map(op, xs) => {
                let xs = self.all(&xs, map);
                self.terms.add(Term::Map(op, xs))
            }
            Term::Sum(bound, xs) => self.under(id, map, &bound, |s, inner| {
                let xs = s.all(&xs, inner);
                sum(s.terms, bound.clone(), xs)
            }),
            Term::Reduce(op, bound, x) => self.under(id, map, &bound, |s, inner| {
                let x = s.run(x, inner);
                s.terms.add(Term::Reduce(op, bound.clone(), x))
            }),
            Term::TopK(axis, rank, x) => self.search(id, (axis, rank, x), map),
            Term::Index(x, at) => self.index(x, &at, map),
            Term::Read(x, view) => self.read(id, x, view, map),
        }
    }

    /// Pushes what can be pushed below a binder of `bound`: renamings onto axes that are neither bound nor free in
    /// the term (or free only because they are renamed themselves). The rest stays outside as an index.
    fn under(
        &mut self,
        id: TermId,
        map: &Substitution,
        bound: &Axes,
        push: impl FnOnce(&mut Self, &Substitution) -> TermId,
    ) -> TermId {
        let free = self.terms.free(id).clone();
        let moved: Axes = map.iter().map(|(a, _)| *a).collect();
        let target = |s: &Self, i: TermId| match s.terms.term(i) {
            Term::Iota(b) => Some(*b),
            _ => None,
        };
        let legal = |s: &Self, i: TermId| {
            target(s, i).is_some_and(|b| {
                let twice = map.iter().filter(|(_, j)| target(s, *j) == Some(b)).count() > 1;
                !bound.contains(b) && (!free.contains(b) || moved.contains(b)) && !twice
            })
        };
        let (inner, outer): (Vec<_>, Vec<_>) = map.iter().partition(|(_, i)| legal(self, *i));
        // A renaming onto an axis whose own replacement stays outside would be caught by it.
        let caught = inner.iter().any(|(_, i)| target(self, *i).is_some_and(|b| outer.iter().any(|(a, _)| *a == b)));
        if caught || inner.is_empty() {
            return self.read_at(id, map);
        }
        let result = push(self, &inner);
        if outer.is_empty() { result } else { self.read_at(result, &outer) }
    }

    /// What the rank becomes stays outside a search, so that searches that differ in it alone are one term; the rest
    /// goes below it, or all of it stays outside.
    fn search(&mut self, id: TermId, (axis, rank, x): (AxisId, AxisId, TermId), map: &Substitution) -> TermId {
        let (of_rank, rest): (Vec<_>, Vec<_>) = map.iter().copied().partition(|(a, _)| *a == rank);
        if rest.is_empty() {
            return self.terms.add(Term::Index(id, of_rank));
        }
        let below = self.under(id, &rest, &Axes::from_iter([axis, rank]), |s, inner| {
            let x = s.run(x, inner);
            s.terms.add(Term::TopK(axis, rank, x))
        });
        match self.terms.term(below) {
            _ if of_rank.is_empty() => below,
            Term::TopK(..) => self.terms.add(Term::Index(below, of_rank)),
            _ => self.terms.add(Term::Index(id, map.to_vec())),
        }
    }

    /// An index that stays outside a reduction. The axes it reads are bound by it, so their names mean nothing: they
    /// are the model's own where these are not taken.
    fn read_at(&mut self, mut id: TermId, map: &Substitution) -> TermId {
        let mut pairs = Vec::new();
        for (a, i) in map {
            let own = origin(self.terms, *a);
            let taken = self.terms.free(id).contains(own) || pairs.iter().any(|(b, _)| *b == own);
            if taken || own == *a {
                pairs.push((*a, *i));
                continue;
            }
            let name = self.terms.add(Term::Iota(own));
            id = self.run(id, &[(*a, name)]);
            pairs.push((own, *i));
        }
        pairs.sort_unstable();
        self.terms.add(Term::Index(id, pairs))
    }

    /// `x[at][map]` is one simultaneous substitution into `x`.
    fn index(&mut self, x: TermId, at: &[(AxisId, TermId)], map: &Substitution) -> TermId {
        let mut all: Vec<_> = at.iter().map(|(a, i)| (*a, self.run(*i, map))).collect();
        all.extend(map.iter().filter(|(a, _)| at.iter().all(|(b, _)| a != b)));
        self.run(x, &all)
    }

    fn read(&mut self, id: TermId, x: TermId, view: AxisId, map: &Substitution) -> TermId {
        let own = self.terms.views[&view];
        let mut to = view;
        let mut inner = Vec::new();
        for (a, i) in map {
            match self.terms.term(*i) {
                Term::Iota(b) if *a == view && self.terms.views.get(b) == Some(&own) => to = *b,
                _ if *a != view && !self.terms.free(*i).contains(own) => inner.push((*a, *i)),
                // The index mentions the reader, which the read value must not see.
                _ => return self.terms.add(Term::Index(id, map.to_vec())),
            }
        }
        let x = self.run(x, &inner);
        self.terms.add(Term::Read(x, to))
    }
}

/// A term with some subterms replaced. What is bound above them must not be free in what replaces them.
pub fn replace(terms: &mut Terms, id: TermId, by: &HashMap<TermId, TermId>) -> TermId {
    replace_in(terms, id, by, &mut HashMap::new())
}

fn replace_in(
    terms: &mut Terms,
    id: TermId,
    by: &HashMap<TermId, TermId>,
    memo: &mut HashMap<TermId, TermId>,
) -> TermId {
    if let Some(done) = by.get(&id).or_else(|| memo.get(&id)) {
        return *done;
    }
    let mut each = |terms: &mut Terms, xs: &[TermId]| -> Vec<TermId> {
        xs.iter().map(|x| replace_in(terms, *x, by, memo)).collect()
    };
    let new = match terms.term(id).clone() {
        Term::Const(_) | Term::Iota(_) | Term::Length(_) | Term::Param(_) | Term::Weight(_) | Term::Stored(_) => id,
        Term::Sum(bound, xs) => {
            let xs = each(terms, &xs);
            sum(terms, bound, xs)
        }
        Term::Plus(xs) => {
            let xs = each(terms, &xs);
            plus(terms, xs)
        }
        Term::Map(op, xs) => {
            let xs = each(terms, &xs);
            terms.add(Term::Map(op, xs))
        }
        Term::Reduce(op, bound, x) => {
            let x = each(terms, &[x])[0];
            terms.add(Term::Reduce(op, bound, x))
        }
        Term::Index(x, at) => {
            let x = each(terms, &[x])[0];
            let at = at.iter().map(|(a, i)| (*a, each(terms, &[*i])[0])).collect();
            terms.add(Term::Index(x, at))
        }
        Term::Read(x, view) => {
            let x = each(terms, &[x])[0];
            terms.add(Term::Read(x, view))
        }
        Term::TopK(axis, rank, x) => {
            let x = each(terms, &[x])[0];
            terms.add(Term::TopK(axis, rank, x))
        }
    };
    memo.insert(id, new);
    new
}

/// Rebuilds the terms below `roots` with canonical binders. A reduction over a view of a sequence together with
/// constant axes becomes a nest, the view inside; factors that a sum over a view does not bind and that hold another
/// reduction over tokens leave it, so that an outer value never waits for a loop's end inside that loop.
pub fn canonical(old: &Terms, roots: &[TermId]) -> (Terms, Vec<TermId>) {
    let mut terms = Terms::default();
    terms.axes.clone_from(&old.axes);
    terms.views.clone_from(&old.views);
    terms.params.clone_from(&old.params);
    terms.weights.clone_from(&old.weights);
    terms.param_names.clone_from(&old.param_names);
    terms.weight_names.clone_from(&old.weight_names);
    terms.binders.clone_from(&old.binders);
    terms.stored.clone_from(&old.stored);
    terms.each.clone_from(&old.each);
    terms.every.clone_from(&old.every);
    let mut pass = Canonical { old, terms, done: HashMap::new(), heights: HashMap::new(), binders: IndexMap::new() };
    let roots = roots.iter().map(|r| pass.visit(*r)).collect();
    (pass.terms, roots)
}

struct Canonical<'a> {
    old: &'a Terms,
    terms: Terms,
    done: HashMap<TermId, TermId>,
    heights: HashMap<TermId, u32>,
    binders: IndexMap<(Extent, String, u32), AxisId>,
}

impl Canonical<'_> {
    fn visit(&mut self, id: TermId) -> TermId {
        if let Some(done) = self.done.get(&id) {
            return *done;
        }
        let new = self.rebuild(id);
        if let Some(name) = &self.old.info(id).name {
            self.terms.set_name(new, name);
        }
        self.terms.set_place(new, self.old.info(id).place);
        self.done.insert(id, new);
        new
    }

    fn rebuild(&mut self, id: TermId) -> TermId {
        match self.old.term(id).clone() {
            leaf @ (Term::Const(_)
            | Term::Iota(_)
            | Term::Length(_)
            | Term::Param(_)
            | Term::Weight(_)
            | Term::Stored(_)) => self.terms.add(leaf),
            Term::Sum(bound, xs) => {
                let xs: Vec<_> = xs.iter().map(|x| self.visit(*x)).collect();
                let body = product(&mut self.terms, xs);
                if bound.is_empty() { body } else { self.nest(ReduceOp::Sum, &bound, body) }
            }
            Term::Plus(xs) => {
                let xs: Vec<_> = xs.iter().map(|x| self.visit(*x)).collect();
                plus(&mut self.terms, xs)
            }
            Term::Map(op, xs) => {
                let xs = xs.iter().map(|x| self.visit(*x)).collect();
                self.terms.add(Term::Map(op, xs))
            }
            Term::Reduce(op, bound, x) => {
                let x = self.visit(x);
                self.nest(op, &bound, x)
            }
            Term::Index(x, at) => {
                let x = self.visit(x);
                let at: Vec<_> = at.iter().map(|(a, i)| (*a, self.visit(*i))).collect();
                let read = substitute(&mut self.terms, x, &at);
                self.token_read(read)
            }
            Term::Read(x, view) => {
                let x = self.visit(x);
                self.read(x, view)
            }
            Term::TopK(axis, rank, x) => {
                let x = self.visit(x);
                let (names, x) = self.bind(&Axes::from_iter([axis]), x);
                self.search(names[0], rank, x)
            }
        }
    }

    /// A real value of the token at a computed position, `x[t = i]`, as the sum over all tokens of what that one has:
    /// `sum[s](where(s == i, x[t = s], 0))`. Tokens are only ever read by a loop over them.
    fn token_read(&mut self, id: TermId) -> TermId {
        let Term::Index(x, at) = self.terms.term(id).clone() else { return id };
        let is_token = |s: &Self, a: AxisId| matches!(s.terms.axes[a].extent, Extent::Seq(_));
        let Some((t, i)) = at.iter().copied().find(|(a, _)| is_token(self, *a)) else { return id };
        if self.terms.info(x).ty != Type::Real {
            return id;
        }
        let rest: Vec<_> = at.iter().copied().filter(|(a, _)| *a != t).collect();
        let Extent::Seq(seq) = self.terms.axes[t].extent else { unreachable!("asked above") };
        let name = format!("{}'at", self.terms.axes[t].name);
        let view = self.terms.axes.iter().find(|(_, a)| a.name == name).map(|(id, _)| id);
        let view = view.unwrap_or_else(|| self.terms.axes.push(name, Extent::View(seq)));
        self.terms.views.insert(view, t);
        let there = self.read(x, view);
        let there = substitute(&mut self.terms, there, &rest);
        let (position, zero) = (self.terms.add(Term::Iota(view)), real(&mut self.terms, 0.0));
        let hit = self.terms.add(Term::Map(ScalarOp::Eq, vec![position, i]));
        let body = self.terms.add(Term::Map(ScalarOp::Where, vec![hit, there, zero]));
        self.nest(ReduceOp::Sum, &Axes::from_iter([view]), body)
    }

    /// A search by the rank of the model's own name, read at the one asked for: searches that differ only in it are one.
    fn search(&mut self, axis: AxisId, rank: AxisId, x: TermId) -> TermId {
        let own = origin(&self.terms, rank);
        if own == rank || self.terms.free(x).contains(own) {
            return self.terms.add(Term::TopK(axis, rank, x));
        }
        let found = self.terms.add(Term::TopK(axis, own, x));
        let at = self.terms.add(Term::Iota(rank));
        self.terms.add(Term::Index(found, vec![(own, at)]))
    }

    /// `x[t = view]`. What also has tokens of another sequence is read in its parts: a read value has one token.
    fn read(&mut self, x: TermId, view: AxisId) -> TermId {
        let own = self.terms.views[&view];
        let free = self.terms.free(x).clone();
        if !free.contains(own) {
            return x;
        }
        if free.iter().filter(|a| self.terms.is_seq(*a)).count() == 1 {
            let x_is_index = *self.terms.term(x) == Term::Iota(own);
            return self.terms.add(if x_is_index { Term::Iota(view) } else { Term::Read(x, view) });
        }
        let each = |pass: &mut Self, xs: &[TermId]| xs.iter().map(|y| pass.read(*y, view)).collect::<Vec<_>>();
        match self.terms.term(x).clone() {
            Term::Sum(bound, xs) => {
                let xs = each(self, &xs);
                sum(&mut self.terms, bound, xs)
            }
            Term::Plus(xs) => {
                let xs = each(self, &xs);
                plus(&mut self.terms, xs)
            }
            Term::Map(op, xs) => {
                let xs = each(self, &xs);
                self.terms.add(Term::Map(op, xs))
            }
            Term::Reduce(op, bound, y) => {
                let y = self.read(y, view);
                self.terms.add(Term::Reduce(op, bound, y))
            }
            Term::Index(y, at) => {
                let y = self.read(y, view);
                let at: Vec<_> = at.iter().map(|(a, i)| (*a, self.read(*i, view))).collect();
                substitute(&mut self.terms, y, &at)
            }
            Term::Const(_)
            | Term::Iota(_)
            | Term::Length(_)
            | Term::Param(_)
            | Term::Weight(_)
            | Term::Stored(_)
            | Term::Read(..)
            | Term::TopK(..) => self.terms.add(Term::Read(x, view)),
        }
    }

    /// A reduction with the views innermost.
    fn nest(&mut self, op: ReduceOp, bound: &Axes, body: TermId) -> TermId {
        let views: Axes = bound.iter().filter(|a| matches!(self.terms.axes[*a].extent, Extent::View(_))).collect();
        let rest = bound.minus(&views);
        let mut x = body;
        for part in [views, rest] {
            if !part.is_empty() {
                x = self.reduce(op, &part, x);
            }
        }
        x
    }

    fn reduce(&mut self, op: ReduceOp, bound: &Axes, body: TermId) -> TermId {
        let (names, body) = self.bind(bound, body);
        let names = Axes::from_iter(names);
        if op != ReduceOp::Sum || self.terms.info(body).ty != Type::Real {
            return match op {
                ReduceOp::Sum => self.terms.add(Term::Sum(names, vec![body])),
                op => self.terms.add(Term::Reduce(op, names, body)),
            };
        }
        let factors = match self.terms.term(body) {
            Term::Sum(b, xs) if b.is_empty() => xs.clone(),
            _ => vec![body],
        };
        let (out, kept): (Vec<_>, Vec<_>) = factors.into_iter().partition(|f| self.leaves(*f, &names));
        let inner = sum(&mut self.terms, names, kept);
        product(&mut self.terms, out.into_iter().chain([inner]))
    }

    /// Whether a factor of a sum over `bound` leaves it: see [`canonical`].
    fn leaves(&self, factor: TermId, bound: &Axes) -> bool {
        let tokens = bound.iter().any(|a| self.terms.axes.len_of(a).is_none());
        tokens && self.terms.free(factor).intersect(bound).is_empty() && reads_tokens(&self.terms, factor)
    }

    /// Gives binders their canonical axes.
    fn bind(&mut self, bound: &Axes, body: TermId) -> (Vec<AxisId>, TermId) {
        let height = self.height(body);
        let mut pairs = Vec::new();
        for (i, a) in bound.iter().enumerate() {
            pairs.push((a, self.binder(a, height + 1 + i as u32)));
        }
        let body = rename(&mut self.terms, body, &pairs);
        (pairs.into_iter().map(|(_, b)| b).collect(), body)
    }

    fn binder(&mut self, like: AxisId, height: u32) -> AxisId {
        let own = origin(&self.terms, like);
        // What is bound over a sequence's own axis is a view of it, whose origin is no view.
        let like = if self.terms.axes[own].extent == self.terms.axes[like].extent { own } else { like };
        let axis = self.terms.axes[like].clone();
        let stem = match axis.extent {
            Extent::Const(_) | Extent::Seq(_) => axis.name,
            Extent::View(_) => String::new(),
        };
        let key = (axis.extent, stem, height);
        if let Some(found) = self.binders.get(&key) {
            return *found;
        }
        let fresh = self.terms.axes.fresh(like);
        if let Some(own) = self.terms.views.get(&like).copied() {
            self.terms.views.insert(fresh, own);
        }
        self.binders.insert(key, fresh);
        fresh
    }

    /// The greatest height bound in a term of the new arena; 0 where nothing is bound.
    fn height(&mut self, id: TermId) -> u32 {
        if let Some(h) = self.heights.get(&id) {
            return *h;
        }
        let below = self.terms.operands(id).into_iter().map(|x| self.height(x)).max().unwrap_or(0);
        let own = match self.terms.term(id) {
            Term::Sum(b, _) | Term::Reduce(_, b, _) => b.len() as u32,
            Term::TopK(..) => 1,
            _ => 0,
        };
        self.heights.insert(id, below + own);
        below + own
    }
}

/// Whether a term holds a reduction over tokens.
pub fn reads_tokens(terms: &Terms, id: TermId) -> bool {
    let mut seen = vec![false; terms.len()];
    let mut stack = vec![id];
    while let Some(x) = stack.pop() {
        if std::mem::replace(&mut seen[x.0 as usize], true) {
            continue;
        }
        if reduction(terms, x).is_some_and(|(_, b)| b.iter().any(|a| terms.axes.len_of(a).is_none())) {
            return true;
        }
        // What another token computed is not this token's loop.
        if !matches!(terms.term(x), Term::Read(..)) {
            stack.extend(terms.operands(x));
        }
    }
    false
}
