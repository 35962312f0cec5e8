//! The laws of the algebra: one row each.
//!
//! A law is an equation between terms that is exact over the reals and safe for floats in range: no row cancels
//! `x * recip(x)`, multiplies by a zero it cannot see, or splits an exponential. What the table names, the
//! constructors of `normal` and the searches of `egraph` carry out; every firing is counted under its row and, where a
//! test asks for it, recorded with both of its sides, which are then compared by value.
//!
//! A row's condition speaks of free axes. It is what keeps a law from capturing: the classical mistake is to move
//! a factor into or out of a sum that binds one of its axes.

use crate::normal::TermId;
use llmc_frontend::graph::Place;
use std::fmt::{self, Write};
#[cfg(test)]
use std::sync::atomic::{AtomicU64, Ordering};

/// Where in the optimizer a law is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// One way, while terms are built: both sides of the law are the same term afterwards.
    Normalise,
    /// In the e-graph: both sides are kept, and the cost decides.
    Saturate,
    /// While kernels are made: what the format of a weight says.
    Lower,
}

/// What a law is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Theme {
    /// Products, sums and how they nest.
    Algebra,
    /// Reading at an index.
    Index,
    /// Products over sums.
    Distribute,
    /// Weights made once, at load.
    Absorb,
}

macro_rules! laws {
    ($(#[doc = $says:literal] $name:ident $theme:ident $stage:ident $law:literal if $condition:literal
        $(needed $why:literal)?;)*) => {
        /// A law: a row of the table.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Law { $(#[doc = concat!($says, " `", $law, "`, if ", $condition, ".")] $name,)* }

        impl Law {
            /// Every law, in the table's order.
            pub const ALL: &'static [Law] = &[$(Law::$name,)*];

            /// Its name in traces.
            pub const fn name(self) -> &'static str { match self { $(Law::$name => stringify!($name),)* } }

            /// What it is about.
            pub const fn theme(self) -> Theme { match self { $(Law::$name => Theme::$theme,)* } }

            /// Where it is carried out.
            pub const fn stage(self) -> Stage { match self { $(Law::$name => Stage::$stage,)* } }

            /// The equation, in the notation of the text forms.
            pub const fn equation(self) -> &'static str { match self { $(Law::$name => $law,)* } }

            /// When it holds and is applied.
            pub const fn condition(self) -> &'static str { match self { $(Law::$name => $condition,)* } }

            /// What it is for, in a sentence.
            pub fn sentence(self) -> &'static str { match self { $(Law::$name => $says.trim(),)* } }

            /// Why it cannot be switched off, where it cannot: terms would have no form without it.
            pub const fn needed(self) -> Option<&'static str> {
                match self { $(Law::$name => { let why: &[&str] = &[$($why)?]; why.first().copied() })* }
            }
        }
    };
}

laws! {
    /// Arithmetic on literals is done while the model is compiled.
    Fold Algebra Normalise "f(1, 2) = 3" if "all operands are literals and the result is a number";
    /// A factor one and an addend zero are dropped.
    Unit Algebra Normalise "1 * x = x, 0 + x = x" if "the literal is exactly the unit";
    /// Products and sums have any number of operands, in no order, so that neither needs associativity.
    Flatten Algebra Normalise "a * (b * c) = a * b * c, and for +" if "the result has at most 64 operands, and an inner + holds no reduction: it is a value that others share";
    /// Differences are sums, so that what holds of sums holds of them.
    Difference Algebra Normalise "a - b = a + -1 * b, -1 * (a + b) = -1 * a + -1 * b" if "the operands are real";
    /// Quotients are products, so that a division moves as a factor does.
    Quotient Algebra Normalise "a / b = a * recip(b)" if "the text does not round the quotient";
    /// Small powers are what they abbreviate.
    Power Algebra Normalise "x ^ 2 = x * x, x ^ 0.5 = sqrt(x), x ^ -1 = recip(x)" if "the exponent is one of these literals";
    /// Mirrored and commuting operations are spelled one way.
    Order Algebra Normalise "a > b = b < a, max(a, b) = max(b, a)" if "the operation is mirrored or commutes";
    /// A choice that is settled while the model is compiled is the branch that it takes.
    Choose Algebra Normalise "where(true, a, b) = a, where(c, a, a) = a" if "the condition is settled by bounds, and no axis is lost";
    /// Powers over their own sum are taken of what is lowered by its greatest value: a softmax and its logarithm are in range however they are written.
    Stabilise Algebra Normalise "H(x) * g / S[a](H(x)) = H(x - m) * g / max(S[a](H(x - m)), 1), log(S[a](H(x))) = m + log(S[a](H(x - m))), m = min(max(max[a](x), -3e38), 3e38)" if "H is one of the ratio table, x is the same up to the names of a, and is not lowered so already; g may be summed with H(x); where S[a] has other factors the division is by it alone";
    /// What a sum does not sum over leaves it: a row's scale is applied after its product.
    Hoist Algebra Normalise "S[a](f * g) = f * S[a](g)" if "f has none of the axes a, and no other reduction in g has all of f's";
    /// A sum of a sum is one sum over the axes of both.
    Merge Algebra Normalise "S[a](f * S[b](g)) = S[a, b](f * g)" if "no axis of b is in f or in a";
    /// What does not run with a reduction's axis is counted or taken once.
    Length Algebra Normalise "S[a](f) = len(a) * f, max[a](f) = f" if "f lacks a" needed "an axis that is bound is used by what it binds";
    /// An index goes through pointwise operations to what they are made of.
    Push Index Normalise "(f * g)[a = i] = f[a = i] * g[a = i], for every pointwise operation" if "always";
    /// A read of a read is one read.
    Compose Index Normalise "x[a = i][b = j] = x[a = i[b = j], b = j]" if "always";
    /// A new name for an axis goes under a reduction that does not bind it.
    Rename Index Normalise "S[a](f)[b = c] = S[a](f[b = c])" if "c is an axis that a does not hold" needed "bound axes get fresh names by it";
    /// A sum that picks one index is the read at that index.
    OneHot Index Normalise "S[a](where(a == i, f, 0) * g) = f[a = i] * g[a = i]" if "i lacks a and is provably within it";
    /// A matrix written as cases is a sum of matrices with one case each.
    Cases Index Normalise "S[a](where(a == i, f, where(a == j, g, 0))) = S[a](where(a == i, f, 0)) + S[a](where(a == j, where(a == i, 0, g), 0))" if "every case is one of OneHot, and no axis is lost; the same for a sum of such choices";
    /// What is computed of one other token is computed by that token, and read whole: the candidate for a cache.
    Read Index Normalise "f[t = s] * g[t = s] = (f * g)[t = s], for every token-wise operation" if "neither has t besides";
    /// A sum over several axes is a sum of smaller sums.
    Split Algebra Saturate "S[a, b](f * g) = S[a](f * S[b](g))" if "f has none of the axes b";
    /// What multiplies the weights is made first: the activation.
    Group Algebra Saturate "S[a](w * f * g) = S[a](w * (f * g))" if "w alone depends on weights only";
    /// A factor outside a sum goes into a factor inside that has all of its axes.
    Sink Algebra Saturate "f * S[a](g * h) = S[a]((f * g) * h)" if "f has none of the axes a, g has all of f's, and neither they nor the sum are squared";
    /// A literal goes into each addend of a sum whose addends all take it into a weight: scores of rotated queries.
    Scale Distribute Saturate "c * (f + g) = c * f + c * g" if "c is a literal, and f and g are sums over a weight that is not quantised, times anything, or reads of such sums";
    /// A literal goes into what is read at an index, where that is a sum over a weight.
    Within Index Saturate "c * S[a](w * f)[b = i] = S[a]((c * w) * f)[b = i]" if "c is a literal, and w is a weight that is not quantised";
    /// A table is multiplied first and read afterwards: keys of relative positions are one small product.
    Gather Index Saturate "S[a](f * x[b = i]) = S[a](f * x)[b = i]" if "i has none of the axes a, and f lacks b";
    /// A table that a loop over tokens reads row by row is multiplied once, by what met each row: values of relative positions are one small product.
    Tally Index Saturate "S[s](f * x[b = i]) = S[b](x * S[s](where(b == i, f, 0)))" if "x depends on weights only and lacks s, i runs with s, an axis of tokens, and is provably within b, and x has more elements that f and i lack than b is long";
    /// A product that is read at an index is the product of what is read there, where that only moves weights.
    Commute Index Saturate "S[a](f)[b = i] = S[a](f[b = i])" if "i has none of the axes a";
    /// What is computed from another token's value by weights alone is computed where it is read: the smaller value is cached.
    Look Index Saturate "S[a](w * f)[t = s] = S[a](w * f[t = s])" if "w depends on weights only, and f has fewer elements than the sum";
    /// A product over a sum, where an addend then leaves the reduction or is made at load: the mean of a layer norm.
    Distribute Distribute Saturate "S[a](w * (f + g)) = S[a](w * f) + S[a](w * g)" if "g has none of the axes a, and w depends on weights only; or g is a table of weights read at an index";
    /// A weight in blocks is never decoded to be multiplied: over a block its product is one of ints, the scales outside.
    Blocks Distribute Lower "S[i]((d * q + m) * x) = d * S[i](q * x) + m * S[i](x)" if "d and m are one number for the block that i runs within" needed "a product with packed blocks has no other form in a kernel";
    /// Factors that are weights become one weight, made at load.
    Absorb Absorb Saturate "S[a](w * g * f) = S[a]((w * g) * f)" if "w and g depend on weights only, w has all of g's axes and is not quantised";
}

impl Law {
    /// The law of that name.
    pub fn from_name(name: &str) -> Option<Law> {
        Law::ALL.iter().copied().find(|l| l.name() == name)
    }
}

/// Laws that have asked for their conditions: a bit for each.
#[cfg(test)]
pub(crate) static ASKED: AtomicU64 = AtomicU64::new(0);

/// Which laws are switched on: a bit for each, in the lower half.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Laws(u128);

impl Laws {
    /// All of them.
    pub const ALL: Laws = Laws(u64::MAX as u128);

    /// None of them.
    pub const NONE: Laws = Laws(0);

    /// These and one more.
    pub const fn with(self, law: Law) -> Laws {
        Laws(self.0 | 1 << law as u32)
    }

    /// These without one.
    pub const fn without(self, law: Law) -> Laws {
        Laws(self.0 & !(1 << law as u32))
    }

    /// Whether a law is switched on.
    pub const fn has(self, law: Law) -> bool {
        self.0 >> law as u32 & 1 == 1
    }

    /// A law's condition on free axes, as it was found. Every such condition is asked here, so that tests can drop one and
    /// see that the suite fails.
    pub(crate) fn require(self, law: Law, holds: bool) -> bool {
        #[cfg(test)]
        ASKED.fetch_or(1 << law as u32, Ordering::Relaxed);
        holds || self.is_careless(law)
    }

    /// Whether a law is applied whatever its condition on free axes says.
    const fn is_careless(self, law: Law) -> bool {
        self.0 >> (64 + law as u32) & 1 == 1
    }

    /// These, one of them whatever its condition on free axes says.
    #[cfg(test)]
    pub(crate) const fn careless(self, law: Law) -> Laws {
        Laws(self.0 | 1 << (64 + law as u32))
    }

    /// The laws that are switched on.
    pub fn on(self) -> impl Iterator<Item = Law> {
        Law::ALL.iter().copied().filter(move |l| self.has(*l))
    }

    /// The laws that are switched off.
    pub fn off(self) -> impl Iterator<Item = Law> {
        Law::ALL.iter().copied().filter(move |l| !self.has(*l))
    }
}

impl Default for Laws {
    fn default() -> Laws {
        Laws::ALL
    }
}

impl fmt::Debug for Laws {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("all laws")?;
        self.off().try_for_each(|l| write!(f, " without {}", l.name()))?;
        let careless = |l: &Law| self.is_careless(*l);
        Law::ALL.iter().copied().filter(careless).try_for_each(|l| write!(f, ", {} careless", l.name()))
    }
}

/// The table for people: name, stage, equation, condition, sentence.
pub fn table() -> String {
    let mut out = String::new();
    for law in Law::ALL {
        let stage = match law.stage() {
            Stage::Normalise => "normalise",
            Stage::Saturate => "saturate",
            Stage::Lower => "lower",
        };
        let _ = writeln!(out, "{} ({stage}): {}", law.name(), law.sentence());
        let _ = writeln!(out, "    {}", law.equation());
        let _ = writeln!(out, "    if {}", law.condition());
        if let Some(why) = law.needed() {
            let _ = writeln!(out, "    cannot be switched off: {why}");
        }
    }
    out
}

/// One application of a law, with both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Firing {
    /// The law.
    pub law: Law,
    /// The term as it was.
    pub before: TermId,
    /// The term that replaces it, or joins it.
    pub after: TermId,
    /// Where the text has what was being built.
    pub place: Option<Place>,
}

/// What a node of the text's graph became: a step of normalise's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// The node's operation on what its operands became.
    pub raw: TermId,
    /// The term in normal form.
    pub made: TermId,
    /// The firings that made it: a range of [`Trace::firings`].
    pub firings: std::ops::Range<usize>,
    /// What the text calls it.
    pub name: Option<String>,
    /// Where the text has it.
    pub place: Option<Place>,
}

/// Counts the laws that fired.
#[derive(Clone, Debug)]
pub struct Trace {
    counts: Vec<u64>,
    /// Both sides of every firing, when asked for: it costs a term each.
    pub firings: Option<Vec<Firing>>,
    /// What each node became, with the firings.
    pub built: Vec<Built>,
}

impl Default for Trace {
    fn default() -> Trace {
        Trace { counts: vec![0; Law::ALL.len()], firings: None, built: vec![] }
    }
}

impl Trace {
    /// Counts a firing.
    pub fn count(&mut self, law: Law) {
        self.counts[law as usize] += 1;
    }

    /// How often a law has fired.
    pub fn fired(&self, law: Law) -> u64 {
        self.counts[law as usize]
    }
}
