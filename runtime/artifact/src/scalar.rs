//! The scalar operations: one row of one table each.
//!
//! The table is the only place that names an operation. The parser's built-ins, the graph, the e-graph, the
//! scalar expressions of kernels and the recipes that prepare weights at load all use [`ScalarOp`]; each of them
//! matches exhaustively, so a new row does not compile until every stage has an answer for it.

use crate::dtype::Type;
use serde::{Deserialize, Serialize};

/// A scalar of any type, as the reference evaluator computes it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Value {
    /// A real number.
    Real(#[serde(with = "exact_real")] f64),
    /// An integer.
    Int(i64),
    /// A truth value.
    Bool(bool),
}

/// Reals in stored plans: as a decimal string, because JSON has no infinities and most readers round its numbers.
mod exact_real {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(x: &f64, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(x)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<f64, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map_err(|_| D::Error::custom(format!("`{text}` is not a number")))
    }
}

impl Value {
    /// The value's type.
    pub const fn ty(self) -> Type {
        match self {
            Value::Real(_) => Type::Real,
            Value::Int(_) => Type::Int,
            Value::Bool(_) => Type::Bool,
        }
    }

    /// The number, integers converted. A truth value is 0 or 1.
    pub const fn real(self) -> f64 {
        match self {
            Value::Real(x) => x,
            Value::Int(n) => n as f64,
            Value::Bool(b) => b as i64 as f64,
        }
    }
}

/// What types an operation takes and gives. `Num` is real or int, the same for operands and result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signature {
    /// Numbers to a number of the same type; an int among reals is converted first.
    Num,
    /// Reals to a real; ints are converted first.
    Real,
    /// Ints to an int.
    Int,
    /// A real to an int.
    Round,
    /// Two numbers to a truth value.
    Compare,
    /// Truth values to a truth value.
    Logic,
    /// A truth value and two values of one type to that type.
    Select,
    /// An int to a real: inserted by the elaborator, never written.
    Convert,
}

macro_rules! scalar_ops {
    ($($name:ident $keyword:literal $arity:literal $signature:ident $doc:literal;)*) => {
        /// A pointwise operation on scalars.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum ScalarOp { $(#[doc = $doc] $name,)* }

        /// Operands that an operation has at most.
        const MOST_OPERANDS: usize = {
            let (arities, mut most, mut n) = ([$($arity as usize),*], 0, 0);
            while n < arities.len() {
                most = if arities[n] > most { arities[n] } else { most };
                n += 1;
            }
            most
        };

        impl ScalarOp {
            /// Every operation, in the table's order.
            pub const ALL: &'static [ScalarOp] = &[$(ScalarOp::$name,)*];

            /// How the language and every text form write it: an infix symbol or a function's name.
            pub const fn keyword(self) -> &'static str { match self { $(ScalarOp::$name => $keyword,)* } }

            /// The number of operands.
            pub const fn arity(self) -> usize { match self { $(ScalarOp::$name => $arity,)* } }

            /// What types it takes and gives.
            pub const fn signature(self) -> Signature { match self { $(ScalarOp::$name => Signature::$signature,)* } }

            /// One sentence for the documentation.
            pub const fn doc(self) -> &'static str { match self { $(ScalarOp::$name => $doc,)* } }
        }
    };
}

scalar_ops! {
    Add "+" 2 Num "Sum.";
    Sub "-" 2 Num "Difference.";
    Mul "*" 2 Num "Product.";
    Div "/" 2 Real "Real quotient; ints are converted first.";
    FloorDiv "//" 2 Int "Quotient rounded towards minus infinity.";
    Mod "%" 2 Int "Remainder of `//`: has the divisor's sign.";
    Pow "^" 2 Real "Power.";
    Neg "neg" 1 Num "Negation, written as a prefix `-`.";
    Max "max" 2 Num "The larger; a NaN operand gives the other one.";
    Min "min" 2 Num "The smaller; a NaN operand gives the other one.";
    Abs "abs" 1 Num "Absolute value.";
    Exp "exp" 1 Real "e to the power of the operand.";
    Exp2 "exp2" 1 Real "2 to the power of the operand.";
    Log "log" 1 Real "Natural logarithm.";
    Log2 "log2" 1 Real "Logarithm to base 2.";
    Sqrt "sqrt" 1 Real "Square root.";
    Recip "recip" 1 Real "1 / operand: how the algebra writes a division, never written in a model.";
    Sin "sin" 1 Real "Sine of an angle in radians.";
    Cos "cos" 1 Real "Cosine of an angle in radians.";
    Tanh "tanh" 1 Real "Hyperbolic tangent.";
    Erf "erf" 1 Real "Gauss error function.";
    Floor "floor" 1 Round "Largest integer not above the operand.";
    Ceil "ceil" 1 Round "Smallest integer not below the operand.";
    Trunc "trunc" 1 Round "Integer part, towards zero.";
    Eq "==" 2 Compare "Equal.";
    Ne "!=" 2 Compare "Not equal.";
    Lt "<" 2 Compare "Less.";
    Le "<=" 2 Compare "Less or equal.";
    Gt ">" 2 Compare "Greater.";
    Ge ">=" 2 Compare "Greater or equal.";
    And "and" 2 Logic "Both.";
    Or "or" 2 Logic "Either or both.";
    Not "not" 1 Logic "Negation.";
    Where "where" 3 Select "The second operand where the first holds, else the third; both are evaluated.";
    ToReal "real" 1 Convert "The integer as a real number.";
}

impl ScalarOp {
    /// The type of the result for operands of these types; `None` where the signature forbids them.
    pub fn result(self, operands: &[Type]) -> Option<Type> {
        if operands.len() != self.arity() {
            return None;
        }
        let all = |t: Type| operands.iter().all(|o| *o == t);
        let number = !operands.contains(&Type::Bool);
        match self.signature() {
            Signature::Num if number => Some(if all(Type::Int) { Type::Int } else { Type::Real }),
            Signature::Real if number => Some(Type::Real),
            Signature::Int if all(Type::Int) => Some(Type::Int),
            Signature::Round if all(Type::Real) => Some(Type::Int),
            Signature::Compare if number => Some(Type::Bool),
            Signature::Logic if all(Type::Bool) => Some(Type::Bool),
            Signature::Select if operands[0] == Type::Bool && operands[1] == operands[2] => Some(operands[1]),
            Signature::Convert if all(Type::Int) => Some(Type::Real),
            _ => None,
        }
    }

    /// The operation's meaning where operands are what something is worth: [`ScalarOp::evaluate`] of their values.
    ///
    /// # Errors
    /// The first operand's that has no value.
    ///
    /// # Panics
    /// As [`ScalarOp::evaluate`].
    pub fn try_applied<T, E>(self, operands: &[T], value: impl Fn(&T) -> Result<Value, E>) -> Result<Value, E> {
        let mut values = [Value::Bool(false); MOST_OPERANDS];
        for (slot, x) in values.iter_mut().zip(operands) {
            *slot = value(x)?;
        }
        Ok(self.evaluate(&values[..operands.len()]))
    }

    /// The operation's meaning. Operands have the types [`Signature`] demands; the elaborator has seen to it.
    ///
    /// # Panics
    /// When an operand has a type the signature forbids: an invariant of the stage that built the expression.
    pub fn evaluate(self, x: &[Value]) -> Value {
        use Value::{Bool, Int, Real};
        match (self, x) {
            (ScalarOp::Add, [Int(a), Int(b)]) => Int(a.wrapping_add(*b)),
            (ScalarOp::Sub, [Int(a), Int(b)]) => Int(a.wrapping_sub(*b)),
            (ScalarOp::Mul, [Int(a), Int(b)]) => Int(a.wrapping_mul(*b)),
            (ScalarOp::Neg, [Int(a)]) => Int(a.wrapping_neg()),
            (ScalarOp::Max, [Int(a), Int(b)]) => Int(*a.max(b)),
            (ScalarOp::Min, [Int(a), Int(b)]) => Int(*a.min(b)),
            (ScalarOp::Abs, [Int(a)]) => Int(a.wrapping_abs()),
            (ScalarOp::FloorDiv, [Int(a), Int(b)]) => Int(floor_div(*a, *b)),
            (ScalarOp::Mod, [Int(a), Int(b)]) => Int(a.wrapping_sub(floor_div(*a, *b).wrapping_mul(*b))),
            (ScalarOp::Eq, [Int(a), Int(b)]) => Bool(a == b),
            (ScalarOp::Ne, [Int(a), Int(b)]) => Bool(a != b),
            (ScalarOp::Lt, [Int(a), Int(b)]) => Bool(a < b),
            (ScalarOp::Le, [Int(a), Int(b)]) => Bool(a <= b),
            (ScalarOp::Gt, [Int(a), Int(b)]) => Bool(a > b),
            (ScalarOp::Ge, [Int(a), Int(b)]) => Bool(a >= b),
            (ScalarOp::And, [Bool(a), Bool(b)]) => Bool(*a && *b),
            (ScalarOp::Or, [Bool(a), Bool(b)]) => Bool(*a || *b),
            (ScalarOp::Not, [Bool(a)]) => Bool(!a),
            (ScalarOp::Where, [Bool(c), a, b]) => {
                if *c {
                    *a
                } else {
                    *b
                }
            }
            (ScalarOp::ToReal, [Int(a)]) => Real(*a as f64),
            (op, [a]) => op.evaluate_real1(a.real()),
            (op, [a, b]) => op.evaluate_real2(a.real(), b.real()),
            (op, _) => panic!("scalar evaluation: `{}` applied to {x:?}", op.keyword()),
        }
    }

    fn evaluate_real1(self, a: f64) -> Value {
        use Value::{Int, Real};
        match self {
            ScalarOp::Neg => Real(-a),
            ScalarOp::Abs => Real(a.abs()),
            ScalarOp::Exp => Real(a.exp()),
            ScalarOp::Exp2 => Real(a.exp2()),
            ScalarOp::Log => Real(a.ln()),
            ScalarOp::Log2 => Real(a.log2()),
            ScalarOp::Sqrt => Real(a.sqrt()),
            ScalarOp::Recip => Real(1.0 / a),
            ScalarOp::Sin => Real(a.sin()),
            ScalarOp::Cos => Real(a.cos()),
            ScalarOp::Tanh => Real(a.tanh()),
            ScalarOp::Erf => Real(erf(a)),
            ScalarOp::Floor => Int(a.floor() as i64),
            ScalarOp::Ceil => Int(a.ceil() as i64),
            ScalarOp::Trunc => Int(a.trunc() as i64),
            _ => panic!("scalar evaluation: `{}` applied to one real", self.keyword()),
        }
    }

    fn evaluate_real2(self, a: f64, b: f64) -> Value {
        use Value::{Bool, Real};
        match self {
            ScalarOp::Add => Real(a + b),
            ScalarOp::Sub => Real(a - b),
            ScalarOp::Mul => Real(a * b),
            ScalarOp::Div => Real(a / b),
            ScalarOp::Pow => Real(a.powf(b)),
            ScalarOp::Max => Real(a.max(b)),
            ScalarOp::Min => Real(a.min(b)),
            ScalarOp::Eq => Bool(a == b),
            ScalarOp::Ne => Bool(a != b),
            ScalarOp::Lt => Bool(a < b),
            ScalarOp::Le => Bool(a <= b),
            ScalarOp::Gt => Bool(a > b),
            ScalarOp::Ge => Bool(a >= b),
            _ => panic!("scalar evaluation: `{}` applied to two reals", self.keyword()),
        }
    }
}

/// Floor division; 0 where the divisor is 0, so that evaluating both sides of a `where` cannot fault.
pub fn floor_div(a: i64, b: i64) -> i64 {
    if b == 0 {
        return 0;
    }
    let q = a.wrapping_div(b);
    if a.wrapping_rem(b) != 0 && (a < 0) != (b < 0) { q - 1 } else { q }
}

/// Gauss error function to about 1e-15: the Maclaurin series near zero, a continued fraction for `erfc` beyond
/// (Abramowitz & Stegun 7.1.6 and 7.1.14).
pub fn erf(x: f64) -> f64 {
    let a = x.abs();
    if a < 3.0 {
        // erf x = 2/sqrt(pi) e^(-x^2) sum_n 2^n x^(2n+1) / (2n+1)!!, all terms of one sign.
        let (mut term, mut sum, mut n) = (x, x, 0.0);
        while term.abs() > sum.abs() * 1e-17 {
            n += 1.0;
            term *= 2.0 * x * x / (2.0 * n + 1.0);
            sum += term;
        }
        return std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum;
    }
    if a.is_nan() {
        return x;
    }
    let mut fraction = a;
    for k in (1..=60).rev() {
        fraction = a + k as f64 / 2.0 / fraction;
    }
    let erfc = (-a * a).exp() / (fraction * std::f64::consts::PI.sqrt());
    (1.0 - erfc).copysign(x)
}

/// A reduction over axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReduceOp {
    /// Sum of numbers; 0 when there is nothing to add.
    Sum,
    /// Largest; minus infinity of nothing.
    Max,
    /// Smallest; infinity of nothing.
    Min,
    /// Whether one truth value holds.
    Any,
    /// Whether all truth values hold.
    All,
}

impl ReduceOp {
    /// Every reduction.
    pub const EVERY: &'static [ReduceOp] = &[ReduceOp::Sum, ReduceOp::Max, ReduceOp::Min, ReduceOp::Any, ReduceOp::All];

    /// How the language writes it.
    pub const fn keyword(self) -> &'static str {
        match self {
            ReduceOp::Sum => "sum",
            ReduceOp::Max => "max",
            ReduceOp::Min => "min",
            ReduceOp::Any => "any",
            ReduceOp::All => "all",
        }
    }

    /// The pointwise operation that it folds with.
    pub const fn combine(self) -> ScalarOp {
        match self {
            ReduceOp::Sum => ScalarOp::Add,
            ReduceOp::Max => ScalarOp::Max,
            ReduceOp::Min => ScalarOp::Min,
            ReduceOp::Any => ScalarOp::Or,
            ReduceOp::All => ScalarOp::And,
        }
    }

    /// The reduction of nothing, for a body of type `ty`.
    pub const fn identity(self, ty: Type) -> Value {
        match (self, ty) {
            (ReduceOp::Sum, Type::Real) => Value::Real(0.0),
            (ReduceOp::Sum, _) => Value::Int(0),
            (ReduceOp::Max, Type::Int) => Value::Int(i64::MIN),
            (ReduceOp::Max, _) => Value::Real(f64::NEG_INFINITY),
            (ReduceOp::Min, Type::Int) => Value::Int(i64::MAX),
            (ReduceOp::Min, _) => Value::Real(f64::INFINITY),
            (ReduceOp::Any, _) => Value::Bool(false),
            (ReduceOp::All, _) => Value::Bool(true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_matches_known_values() {
        for (x, want) in [
            (0.0, 0.0),
            (0.5, 0.520_499_877_813_046_5),
            (2.0, 0.995_322_265_018_952_7),
            (3.5, 0.999_999_256_901_627_7),
            (-1.0, -0.842_700_792_949_714_9),
        ] {
            assert!((erf(x) - want).abs() < 1e-15, "erf({x}) = {}", erf(x));
        }
    }

    #[test]
    fn reals_survive_storage_exactly() {
        for x in [0.1, -0.0, 1e300, 5e-324, 1.0 / 3.0, f64::INFINITY, f64::NEG_INFINITY] {
            let text = serde_json::to_string(&Value::Real(x)).unwrap();
            let Value::Real(back) = serde_json::from_str(&text).unwrap() else { panic!("{text}") };
            assert_eq!(back.to_bits(), x.to_bits(), "{text}");
        }
        assert!(serde_json::from_str::<Value>(r#"{"Real":"nought"}"#).is_err());
    }

    #[test]
    fn floor_division_rounds_down() {
        for (a, b, want) in [(7, 2, 3), (-7, 2, -4), (7, -2, -4), (-7, -2, 3), (6, 3, 2), (1, 0, 0)] {
            assert_eq!(floor_div(a, b), want, "{a} // {b}");
        }
    }
}
