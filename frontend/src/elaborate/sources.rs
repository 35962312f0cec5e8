//! `hf "..."` and `gguf "..."`: config values, tensors, alternatives, and what of the file was never read.

use super::*;
use crate::graph::TensorView;
use crate::syntax::walk::each_child;
use ast::{DeclKind, Expr, ExprKind, PatternPart};
use llmc_artifact::{ConfigValue, SourceKind, TensorInfo};

/// A tensor may be stacked of at most so many.
const MAX_STACKED: u64 = 1 << 16;

/// Whether the model's header names the checkpoint's kind and architecture, and its condition holds.
pub fn fits(model: &ast::Model, checkpoint: &dyn Checkpoint) -> bool {
    let e = Elaborator::new(model, &[], Some(checkpoint));
    e.target(model).is_some()
}

impl<'a> Elaborator<'a> {
    /// Finds how the header reads the file at hand.
    pub(super) fn read_header(&mut self, model: &'a ast::Model) {
        if let Some(target) = self.target(model)
            && let Some(file) = &mut self.file
        {
            file.at = target.at.as_ref().map(|t| t.text.as_str());
            file.drop = target.drop.as_ref().map(|t| t.text.as_str());
        }
    }

    /// The header's first target that fits the file.
    fn target(&self, model: &'a ast::Model) -> Option<&'a ast::Target> {
        let file = self.file.as_ref()?.checkpoint;
        model.targets.iter().find(|t| {
            t.kind == file.kind() && t.architecture.text == file.architecture() && self.condition_holds(t, file)
        })
    }

    /// A condition that speaks of sources that do not exist does not hold.
    fn condition_holds(&self, target: &'a ast::Target, checkpoint: &'a dyn Checkpoint) -> bool {
        let Some(condition) = &target.when else { return true };
        let nothing = ast::Model {
            name: ast::Name { text: String::new(), span: target.span },
            targets: vec![],
            members: vec![],
            span: target.span,
        };
        let at = target.at.as_ref().map(|t| t.text.as_str());
        let mut e = Elaborator::new(&nothing, &[], None);
        e.file = Some(File { checkpoint, at, drop: None });
        let mut f = Frame::model(SourceUse::Config);
        matches!(e.expr(&mut f, condition), Ok(Val::Static(Static::Bool(true))))
    }

    pub(super) fn source(&mut self, f: &mut Frame<'a>, src: &'a ast::Source) -> Result<Val> {
        match f.sources.clone() {
            SourceUse::None => self.fail(names::misplaced(src)),
            SourceUse::Config => self.config(f, src).map(Val::Static),
            SourceUse::Tensor(axes) => self.tensor(f, src, axes).map(Val::Tensor),
        }
    }

    /// Whether the file has a config value or a tensor of that name: what `exists` asks.
    pub(super) fn exists(&mut self, f: &Frame<'a>, src: &'a ast::Source) -> Result<bool> {
        let Some((key, _)) = self.pattern(f, src, false)?.into_iter().next() else { return Ok(false) };
        if self.kind() != Some(src.kind) {
            return Ok(false);
        }
        Ok(self.config_value(&key).is_some() || self.find_tensor(&key).is_some())
    }

    /// The number of entries of a list in the config.
    pub(super) fn count(&mut self, f: &Frame<'a>, src: &'a ast::Source) -> Result<Static> {
        let (key, _) = self.pattern(f, src, false)?.swap_remove(0);
        let found = match &self.file {
            Some(file) if file.checkpoint.kind() == src.kind => {
                let nested = file.at.and_then(|at| file.checkpoint.count(&format!("{at}{key}")));
                nested.or_else(|| file.checkpoint.count(&key))
            }
            _ => None,
        };
        found.map(|n| Static::Int(n as i64)).ok_or_else(|| missing_source(src, &key))
    }

    /// The first alternative whose sources all exist.
    pub(super) fn choice(&mut self, f: &mut Frame<'a>, alternatives: &'a [Expr]) -> Result<Val> {
        if self.weightless && matches!(f.sources, SourceUse::Tensor(_)) {
            let own = |e: &&Expr| kinds(e).iter().all(|k| self.kind().is_none_or(|own| own == *k));
            let plain = alternatives.iter().find(|e| kinds(e).is_empty());
            let chosen = plain.or_else(|| alternatives.iter().find(own)).unwrap_or(&alternatives[0]);
            return self.expr(f, chosen);
        }
        let mut missing = Vec::new();
        for (i, e) in alternatives.iter().enumerate() {
            let kinds = kinds(e);
            let foreign = !kinds.is_empty() && kinds.iter().all(|k| Some(*k) != self.kind());
            if foreign && i + 1 < alternatives.len() {
                missing.extend(sources(e).iter().map(|s| format!("{} \"{}\"", s.kind.keyword(), s.pattern.text)));
                continue;
            }
            let read = self.read.len();
            match self.expr(f, e) {
                Err(Stop::Missing(what)) => {
                    self.read.truncate(read);
                    missing.extend(what);
                }
                other => return other,
            }
        }
        Err(Stop::Missing(missing))
    }

    pub(super) fn missing(&self, span: Span, what: &[String]) -> Diagnostic {
        let mut what = what.to_vec();
        what.dedup();
        let help = match &self.file {
            None => "without a checkpoint every value needs a default: `| 32`".to_owned(),
            Some(_) => format!("add an alternative with `|`{}", self.near(&what)),
        };
        Diagnostic::new(Code::MissingSource, span, "none of these exists in the checkpoint")
            .found(if what.is_empty() { "no alternative for this kind of file".to_owned() } else { what.join(", ") })
            .expected("one that exists")
            .help(help)
    }

    /// ", or did the file mean `...`?": the file's name nearest to a missing one.
    fn near(&self, what: &[String]) -> String {
        let Some(file) = &self.file else { return String::new() };
        let names = file.checkpoint.tensor_names().into_iter().chain(file.checkpoint.config_keys());
        let names: Vec<_> = names.collect();
        let asked = what.iter().filter_map(|w| w.split('"').nth(1));
        let near = asked.filter_map(|w| crate::diag::did_you_mean(w, names.iter().map(String::as_str))).next();
        near.map_or(String::new(), |n| format!("; the file has `{n}`"))
    }

    fn kind(&self) -> Option<SourceKind> {
        self.file.as_ref().map(|file| file.checkpoint.kind())
    }

    fn config(&mut self, f: &Frame<'a>, src: &'a ast::Source) -> Result<Static> {
        let (key, _) = self.pattern(f, src, false)?.swap_remove(0);
        if self.kind() != Some(src.kind) {
            return Err(missing_source(src, &key));
        }
        let Some(value) = self.config_value(&key) else { return Err(missing_source(src, &key)) };
        // A list has an entry for every layer: in a family's value this layer's.
        match (value, f.layers.last()) {
            (ConfigValue::List(list), Some((_, layer))) => match list.get(*layer as usize) {
                Some(entry) => Ok(entry.clone().into()),
                None => self.fail(
                    Diagnostic::new(Code::WrongConfig, src.span, format!("`{key}` has no entry for layer {layer}"))
                        .found(format!("{} entries", list.len()))
                        .expected("one for every layer"),
                ),
            },
            (value, _) => Ok(value.into()),
        }
    }

    fn config_value(&self, key: &str) -> Option<ConfigValue> {
        let file = self.file.as_ref()?;
        let nested = file.at.and_then(|at| file.checkpoint.config(&format!("{at}{key}")));
        nested.or_else(|| file.checkpoint.config(key))
    }

    /// The file's own name of a tensor, and its description.
    fn find_tensor(&self, name: &str) -> Option<(String, TensorInfo)> {
        let file = self.file.as_ref()?;
        let with = file.drop.map(|prefix| format!("{prefix}{name}"));
        std::iter::once(name.to_owned()).chain(with).find_map(|n| file.checkpoint.tensor(&n).map(|info| (n, info)))
    }

    fn tensor(&mut self, f: &Frame<'a>, src: &'a ast::Source, declared: Vec<AxisId>) -> Result<Tensor> {
        if self.file.is_some() && self.kind() != Some(src.kind) {
            return Err(missing_source(src, &src.pattern.text));
        }
        let names = self.pattern(f, src, true)?;
        let stacked = names[0].1;
        let names: Vec<_> = names.into_iter().map(|(n, _)| n).collect();
        let dims = match &src.layout {
            None => declared.iter().filter(|a| Some(**a) != stacked).map(|a| vec![*a]).collect(),
            Some(layout) => self.layout(f, layout, stacked)?,
        };
        let shape = self.dim_lengths(src, &dims)?;
        let view = if self.weightless {
            TensorView { names, stacked, dims, info: TensorInfo { shape, format: Self::WITHOUT_FILE } }
        } else {
            let (names, info) = self.stored(src, &names)?;
            self.check_shape(src, &names[0], &dims, &shape, &info)?;
            self.read.extend(names.iter().cloned());
            TensorView { names, stacked, dims, info }
        };
        let node = self.u.tensor(view);
        Ok(Tensor { node, axes: self.u.node_axes(node).clone() })
    }

    fn layout(&mut self, f: &Frame<'a>, layout: &'a ast::Layout, stacked: Option<AxisId>) -> Result<Vec<Vec<AxisId>>> {
        let mut seen: Vec<_> = stacked.into_iter().collect();
        let mut dims = Vec::new();
        for dim in &layout.dims {
            let axes = self.axis_list(f, dim)?;
            if let Some(twice) = axes.iter().find(|a| seen.contains(a)) {
                let name = self.axis_name(*twice).to_owned();
                let d = Diagnostic::new(Code::RepeatedAxis, layout.span, format!("axis `{name}` is given twice"));
                return self.fail(d.help("a dimension of the file has an axis of its own"));
            }
            seen.extend(&axes);
            dims.push(axes);
        }
        Ok(dims)
    }

    /// The length of every stored dimension.
    fn dim_lengths(&mut self, src: &'a ast::Source, dims: &[Vec<AxisId>]) -> Result<Vec<u64>> {
        let mut shape = Vec::new();
        for dim in dims {
            let mut length = 1u64;
            for axis in dim {
                match self.u.axes.len_of(*axis).and_then(|n| length.checked_mul(n)) {
                    Some(n) => length = n,
                    None => {
                        let name = self.axis_name(*axis).to_owned();
                        let d = Diagnostic::new(
                            Code::WrongAxes,
                            src.span,
                            format!("a tensor of the file has no axis `{name}`"),
                        );
                        return self.fail(d.help("its length is not known when the model is built, or too large"));
                    }
                }
            }
            shape.push(length);
        }
        Ok(shape)
    }

    /// The tensors of these names, which are alike; a tensor that is missing among several is an error.
    fn stored(&mut self, src: &'a ast::Source, names: &[String]) -> Result<(Vec<String>, TensorInfo)> {
        let Some((first, info)) = self.find_tensor(&names[0]) else { return Err(missing_source(src, &names[0])) };
        let mut found = vec![first];
        for name in &names[1..] {
            match self.find_tensor(name) {
                Some((n, i)) if i == info => found.push(n),
                Some((n, i)) => {
                    return self.fail(
                        Diagnostic::new(Code::WrongShape, src.span, format!("`{n}` is unlike `{}`", found[0]))
                            .found(describe(&i))
                            .expected(describe(&info)),
                    );
                }
                None => return self.fail(self.missing(src.span, &[format!("{} \"{name}\"", src.kind.keyword())])),
            }
        }
        Ok((found, info))
    }

    fn check_shape(
        &mut self,
        src: &'a ast::Source,
        name: &str,
        dims: &[Vec<AxisId>],
        shape: &[u64],
        info: &TensorInfo,
    ) -> Result<()> {
        if info.shape == shape {
            return Ok(());
        }
        let spell = |dim: &Vec<AxisId>| {
            dim.iter()
                .map(|a| format!("{} = {}", self.axis_name(*a), self.u.axes.len_of(*a).unwrap_or(0)))
                .collect::<Vec<_>>()
                .join(" * ")
        };
        let declared: Vec<_> = dims.iter().map(spell).collect();
        let d = Diagnostic::new(Code::WrongShape, src.span, format!("`{name}` has another shape"))
            .found(describe(info))
            .expected(format!("{shape:?}, which is [{}]", declared.join(", ")))
            .help("`as \"(a b) c\"` lists the file's dimensions, outermost first; parentheses merge axes");
        self.fail(d)
    }

    /// The source's name with its holes filled: once, or for each index of an axis in a hole.
    fn pattern(&mut self, f: &Frame<'a>, src: &'a ast::Source, tensor: bool) -> Result<Vec<(String, Option<AxisId>)>> {
        let mut names = vec![(String::new(), None)];
        for part in &src.pattern.parts {
            match part {
                PatternPart::Literal(text) => names.iter_mut().for_each(|(n, _)| n.push_str(text)),
                PatternPart::Hole(hole) => match self.hole(f, hole, tensor)? {
                    Hole::Number(n) => names.iter_mut().for_each(|(s, _)| s.push_str(&n.to_string())),
                    Hole::Axis(axis, length) if names.len() == 1 && length <= MAX_STACKED => {
                        let stem = names[0].0.clone();
                        names = (0..length).map(|i| (format!("{stem}{i}"), Some(axis))).collect();
                    }
                    Hole::Axis(..) => {
                        let d = Diagnostic::new(Code::TooLarge, src.span, "too many tensors behind one name");
                        return self.fail(d.expected(format!("one axis in braces, at most {MAX_STACKED} long")));
                    }
                },
            }
        }
        Ok(names)
    }

    fn hole(&mut self, f: &Frame<'a>, hole: &'a ast::Name, tensor: bool) -> Result<Hole> {
        if let Some((_, n)) = f.layers.iter().rev().find(|(name, _)| *name == hole.text) {
            return Ok(Hole::Number(*n));
        }
        match self.globals.get(hole.text.as_str()).copied() {
            Some(Global::Static(kind, s)) if s.family.is_empty() => match self.static_value(kind, s, vec![])? {
                Static::Int(n) => Ok(Hole::Number(n as u64)),
                found => self.fail(
                    Diagnostic::new(Code::WrongType, hole.span, "a name's hole takes a whole number")
                        .found(found.to_string()),
                ),
            },
            Some(Global::Axis(_)) if tensor => {
                let axis = self.axis(f, hole)?;
                match self.u.axes.len_of(axis) {
                    Some(n) => Ok(Hole::Axis(axis, n)),
                    None => self.fail(Diagnostic::new(
                        Code::WrongKind,
                        hole.span,
                        format!("`{}` has no length when the model is built", hole.text),
                    )),
                }
            }
            Some(g) => {
                let d = Diagnostic::new(Code::WrongKind, hole.span, format!("`{}` cannot stand in a name", hole.text));
                self.fail(
                    d.found(g.what()).expected("a layer family of this declaration, a size, or an axis of the tensor"),
                )
            }
            None => self.fail(self.unknown_name(f, &hole.text, hole.span)),
        }
    }

    /// Every tensor of the file is read or listed under `ignore`.
    pub(super) fn check_unread(&mut self, model: &'a ast::Model) {
        let Some(kind) = self.kind() else { return };
        let mut ignored = Vec::new();
        let f = Frame::model(SourceUse::None);
        for decl in statics::decls(model) {
            if let DeclKind::Ignore(list) = &decl.kind {
                for src in list.iter().filter(|s| s.kind == kind) {
                    match self.pattern(&f, src, false) {
                        Ok(names) => ignored.extend(names.into_iter().map(|(n, _)| n)),
                        Err(_) => return,
                    }
                }
            }
        }
        let Some(file) = &self.file else { return };
        let names = file.checkpoint.tensor_names();
        let plain = |n: &str| file.drop.and_then(|p| n.strip_prefix(p)).unwrap_or(n).to_owned();
        let unread: Vec<_> = names
            .iter()
            .filter(|n| !self.read.contains(*n))
            .filter(|n| !ignored.iter().any(|g| matches(g, n) || matches(g, &plain(n))))
            .collect();
        if unread.is_empty() {
            return;
        }
        let shown: Vec<_> = unread.iter().take(8).map(|n| format!("`{n}`")).collect();
        let more = unread.len() - shown.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let d = Diagnostic::new(
            Code::UnreadTensor,
            model.name.span,
            format!("model `{}` does not read {} of the file's {} tensors", model.name.text, unread.len(), names.len()),
        )
        .found(format!("{}{more}", shown.join(", ")))
        .expected("every tensor read, or listed under `ignore`")
        .help(format!("declare a weight for it, or add `ignore {} \"{}\"`", kind.keyword(), unread[0]));
        self.report(d);
    }
}

enum Hole {
    Number(u64),
    Axis(AxisId, u64),
}

fn missing_source(src: &ast::Source, name: &str) -> Stop {
    Stop::Missing(vec![format!("{} \"{name}\"", src.kind.keyword())])
}

fn describe(info: &TensorInfo) -> String {
    format!("{:?} of {}", info.shape, info.format)
}

/// The sources that an expression speaks of.
fn sources(e: &Expr) -> Vec<&ast::Source> {
    fn walk<'e>(e: &'e Expr, found: &mut Vec<&'e ast::Source>) {
        if let ExprKind::Source(s) = &e.kind {
            found.push(s);
        }
        each_child(e, &mut |child| walk(child, found));
    }
    let mut found = Vec::new();
    walk(e, &mut found);
    found
}

/// The kinds of file that an expression speaks of.
fn kinds(e: &Expr) -> Vec<SourceKind> {
    sources(e).iter().map(|s| s.kind).collect()
}

/// Whether `name` is what `glob` says; `*` stands for any characters.
fn matches(glob: &str, name: &str) -> bool {
    let mut parts = glob.split('*');
    let Some(mut rest) = name.strip_prefix(parts.next().unwrap_or("")) else { return false };
    let parts: Vec<_> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

impl From<ConfigValue> for Static {
    fn from(v: ConfigValue) -> Static {
        match v {
            ConfigValue::Bool(b) => Static::Bool(b),
            ConfigValue::Int(n) => Static::Int(n),
            ConfigValue::Real(x) => Static::Real(x),
            ConfigValue::Text(t) => Static::Text(t),
            ConfigValue::List(list) => Static::List(list.into_iter().map(Static::from).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (glob, name, want) in [
            ("cls.*", "cls.bias", true),
            ("cls.*", "cl.bias", false),
            ("a.*.b", "a.0.x.b", true),
            ("a.*.b", "a.0.x.c", false),
            ("a.b", "a.b", true),
            ("a.b", "a.bc", false),
            ("*", "", true),
        ] {
            assert_eq!(matches(glob, name), want, "{glob} {name}");
        }
    }
}
