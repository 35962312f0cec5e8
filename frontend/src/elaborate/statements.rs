//! The model's body: weights where they are read, statements in order, loops a turn at a time.

use super::*;
use crate::graph::{Extent, ValueId};
use ast::{For, Member, Stmt, StmtKind};
use universe::Region;

impl<'a> Elaborator<'a> {
    pub(super) fn statements(&mut self, model: &'a ast::Model) {
        let mut f = Frame::model(SourceUse::None);
        for member in &model.members {
            if let Member::Stmt(stmt) = member {
                self.statement(&mut f, stmt, 0);
            }
        }
    }

    /// `outer` locals, the first ones, are those that a loop's body may rebind; 0 outside loops.
    fn statement(&mut self, f: &mut Frame<'a>, stmt: &'a Stmt, outer: usize) {
        let done = match &stmt.kind {
            StmtKind::Let(binds) => binds.iter().try_for_each(|b| self.bind(f, b)),
            StmtKind::Rebind(d) => self.rebind(f, d, outer),
            StmtKind::For(l) => self.for_loop(f, l, outer),
            StmtKind::Output(o) => self.output(f, o),
        };
        if let Err(Stop::Missing(what)) = done {
            self.report(self.missing(stmt.span, &what));
        }
    }

    /// `x = ...` keeps axes and type.
    fn rebind(&mut self, f: &mut Frame<'a>, d: &'a ast::Definition, outer: usize) -> Result<()> {
        let value = self.expr(f, &d.value);
        let Some(place) = f.locals[..outer].iter().rposition(|(n, _)| *n == d.name.text) else {
            return self.fail(self.not_rebindable(f, d));
        };
        let old = f.locals[place].1.clone();
        f.locals[place].1 = None;
        if let Some(old) = old {
            f.locals[place].1 = Some(self.next_value(old, value?, d)?);
        }
        Ok(())
    }

    fn next_value(&mut self, old: Val, new: Val, d: &'a ast::Definition) -> Result<Val> {
        let old = self.tensor_of(old, d.span)?;
        let new = self.tensor_of(new, d.value.span)?;
        let (was, is) = (self.u.ty(old.node), self.u.ty(new.node));
        let new = if was == llmc_artifact::Type::Real { self.real_of(new, d.value.span)? } else { new };
        if was != self.u.ty(new.node) {
            let wrong = Diagnostic::new(Code::WrongType, d.value.span, format!("`{}` keeps its type", d.name.text));
            return self.fail(wrong.found(is.to_string()).expected(was.to_string()));
        }
        let new = Val::Tensor(new);
        self.check_axes(&new, &old.axes, d.value.span, d.name.span, &d.name.text)?;
        if let Val::Tensor(t) = &new {
            self.name_node(t.node, &d.name.text);
        }
        Ok(new)
    }

    fn not_rebindable(&self, f: &Frame<'a>, d: &ast::Definition) -> Diagnostic {
        let name = &d.name.text;
        let known = f.locals.iter().any(|(n, _)| n == name);
        let wrong = Diagnostic::new(Code::NotRebindable, d.name.span, format!("`{name}` cannot be rebound here"));
        match (known, self.globals.get(name.as_str())) {
            (true, _) => wrong.help("a name of this very scope has its value already; give the new value a new name"),
            (_, Some(g)) => wrong.found(g.what()).expected("a value bound by `let` outside the loop"),
            (false, None) => wrong
                .help(format!("write `let {name} = ...` for a new name"))
                .suggest(name, f.locals.iter().map(|(n, _)| *n)),
        }
    }

    /// `for l` runs over the layers; `for b = e` names one. The outermost loop's turns are regions.
    fn for_loop(&mut self, f: &mut Frame<'a>, l: &'a For, outer: usize) -> Result<()> {
        let family = &l.family;
        let Some(Global::Layers(d)) = self.globals.get(family.text.as_str()).copied() else {
            return self.fail(self.not_layers(family));
        };
        if let Some(e) = &l.value {
            let layer = self.layer_number(f, d, e)?;
            self.turn(f, l, layer, if outer == 0 { f.locals.len() } else { outer });
            return Ok(());
        }
        let count = self.layer_count(d)?;
        let outermost = self.u.regions.last().is_some_and(|r| r.turn.is_none());
        let before = self.u.regions.len() - 1;
        self.loops += usize::from(outermost);
        let known = self.diagnostics.len();
        for layer in 0..count {
            if outermost {
                let turn = Some((family.text.clone(), layer, self.loops));
                self.u.regions.push(Region { turn, before });
            }
            self.turn(f, l, layer, f.locals.len());
            // Every turn has the same text: one turn's mistakes are enough.
            if has_errors(&self.diagnostics[known..]) {
                break;
            }
        }
        if outermost {
            let before = self.u.regions.len();
            self.u.regions.push(Region { turn: None, before });
        }
        Ok(())
    }

    fn turn(&mut self, f: &mut Frame<'a>, l: &'a For, layer: u64, outer: usize) {
        let scope = f.locals.len();
        f.layers.push((l.family.text.as_str(), layer));
        for stmt in &l.body {
            self.statement(f, stmt, outer);
        }
        f.layers.pop();
        f.locals.truncate(scope);
    }

    fn output(&mut self, f: &mut Frame<'a>, o: &'a ast::Output) -> Result<()> {
        if let Some(condition) = &o.condition {
            match self.build_time(f, condition)? {
                Static::Bool(true) => {}
                Static::Bool(false) => return Ok(()),
                found => {
                    let d = Diagnostic::new(Code::WrongType, condition.span, "a condition is a flag");
                    return self.fail(d.found(found.what()).expected("flag"));
                }
            }
        }
        let value = self.expr_as(f, &o.value, true)?;
        let order = self.axis_list(f, &o.axes.names)?;
        let want: Axes = order.iter().copied().collect();
        self.check_axes(&value, &want, o.value.span, o.axes.span, &o.name.text)?;
        for (axis, name) in order.iter().zip(&o.axes.names) {
            if let Extent::View(seq) = self.u.axes[*axis].extent {
                let own = self.u.seqs[seq.0 as usize].name.clone();
                let d = Diagnostic::new(Code::FreeView, name.span, format!("`{}` is a view of `{own}`", name.text));
                return self.fail(d.help(format!("reduce it, or read it: `x[{} = {own}]`", name.text)));
            }
        }
        let t = self.tensor_of(value, o.value.span)?;
        let node = self.u.broadcast(t.node, &want);
        self.name_node(node, &o.name.text);
        let output = Output { name: o.name.text.clone(), value: ValueId(0), order };
        self.outputs.push((output, node, self.u.regions.len() - 1));
        Ok(())
    }

    /// A weight, at these layers of its families.
    pub(super) fn weight(&mut self, w: &'a ast::Weight, layers: Vec<u64>) -> Result<Tensor> {
        let key = (w.name.text.as_str(), layers.clone());
        match self.weights.get(&key) {
            Some(Slot::Done(value)) => return value.clone().ok_or(Stop::Reported),
            Some(Slot::Busy) => return self.defined_by_itself(key.0, w.name.span),
            None => {}
        }
        self.weights.insert(key.clone(), Slot::Busy);
        let value = self.weight_value(w, &layers);
        self.weights.insert(key, Slot::Done(value.clone().ok()));
        value
    }

    /// The value has exactly the declared axes, or is a literal that is equal along all of them.
    fn weight_value(&mut self, w: &'a ast::Weight, layers: &[u64]) -> Result<Tensor> {
        let mut f = Frame::model(SourceUse::None);
        let declared = self.axis_list(&f, &w.axes.names)?;
        f.layers = w.family.iter().map(|n| n.text.as_str()).zip(layers.iter().copied()).collect();
        f.sources = SourceUse::Tensor(declared.clone());
        let value = match self.expr_as(&mut f, &w.value, true) {
            Err(Stop::Missing(what)) => return self.fail(self.missing_weight(w, layers, &what)),
            value => value?,
        };
        let axes: Axes = declared.into_iter().collect();
        if let Val::Tensor(t) = &value
            && !t.axes.is_empty()
        {
            self.check_axes(&value, &axes, w.value.span, w.axes.span, &w.name.text)?;
        }
        let t = self.tensor_of(value, w.value.span)?;
        let t = self.real_of(t, w.value.span)?;
        if !self.u.facts(t.node).weight_only {
            let d = Diagnostic::new(Code::NotBuildTime, w.value.span, "a weight cannot depend on tokens");
            return self.fail(d.help("bind the value with `let` instead"));
        }
        self.name_node(t.node, &w.name.text);
        let label = layers.iter().fold(w.name.text.clone(), |s, l| format!("{s}[{l}]"));
        self.labels.entry(t.node).or_insert(label);
        Ok(Tensor { node: t.node, axes })
    }

    fn missing_weight(&self, w: &ast::Weight, layers: &[u64], what: &[String]) -> Diagnostic {
        let label = layers.iter().fold(w.name.text.clone(), |s, l| format!("{s}[{l}]"));
        let mut d = self.missing(w.value.span, what);
        d.message = format!("weight `{label}` is not in the checkpoint");
        d
    }
}
