//! Ratio homomorphisms: operations H with `H(a + b) = H(a) * H(b)`.
//!
//! When a value y that a running sum's body multiplies with `H(y)` moves, the sum is corrected by `H(new) / H(old)`.
//! That quotient is never computed as one: a row says what it is in closed form, defined wherever old and new are
//! finite, however small `H(old)` has become.

use llmc_artifact::ScalarOp;

/// A row: the operation and why its ratio is `H(new - old)`.
pub struct Ratio {
    /// H; of one operand.
    pub op: ScalarOp,
    /// The law a certificate names.
    pub law: &'static str,
}

/// Every ratio homomorphism.
pub static RATIOS: &[Ratio] = &[
    Ratio { op: ScalarOp::Exp, law: "e^(a + b) = e^a * e^b" },
    Ratio { op: ScalarOp::Exp2, law: "2^(a + b) = 2^a * 2^b" },
];

/// The row of an operation.
pub fn ratio(op: ScalarOp) -> Option<&'static Ratio> {
    RATIOS.iter().find(|r| r.op == op)
}
