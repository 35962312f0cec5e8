//! Values: scalars and vectors under one type, and the arithmetic on them.

use super::{Emitter, built};
use inkwell::intrinsics::Intrinsic;
use inkwell::types::{BasicType, BasicTypeEnum, VectorType};
use inkwell::values::{BasicValueEnum, InstructionOpcode as Op, IntValue, PointerValue, VectorValue};
use inkwell::{FloatPredicate, IntPredicate};

/// Type of a scalar or of a vector's lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ty {
    /// IEEE binary16; only loaded, stored and converted.
    F16,
    /// IEEE binary32.
    F32,
    /// IEEE binary64.
    F64,
    /// A truth value.
    I1,
    /// 8 bits.
    I8,
    /// 16 bits.
    I16,
    /// 32 bits.
    I32,
    /// 64 bits.
    I64,
}

impl Ty {
    /// Bytes in memory.
    pub const fn bytes(self) -> u64 {
        match self {
            Ty::I1 | Ty::I8 => 1,
            Ty::F16 | Ty::I16 => 2,
            Ty::F32 | Ty::I32 => 4,
            Ty::F64 | Ty::I64 => 8,
        }
    }

    /// Whether it is a floating-point type.
    pub const fn is_float(self) -> bool {
        matches!(self, Ty::F16 | Ty::F32 | Ty::F64)
    }
}

/// A comparison. Of floats it is ordered, except `Ne`, which holds for NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cmp {
    /// Equal.
    Eq,
    /// Not equal.
    Ne,
    /// Less.
    Lt,
    /// Less or equal.
    Le,
    /// Greater.
    Gt,
    /// Greater or equal.
    Ge,
}

/// A value of the function being built: a scalar, a vector or a pointer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Val<'c>(pub(super) BasicValueEnum<'c>);

impl<'c> Val<'c> {
    /// Number of lanes; 1 for a scalar.
    pub fn lanes(self) -> u32 {
        match self.0 {
            BasicValueEnum::VectorValue(v) => v.get_type().get_size(),
            _ => 1,
        }
    }

    /// Type of the lanes.
    ///
    /// # Panics
    /// For a pointer.
    pub fn ty(self) -> Ty {
        let element = match self.0.get_type() {
            BasicTypeEnum::VectorType(v) => v.get_element_type(),
            t => t,
        };
        match element {
            BasicTypeEnum::IntType(t) => match t.get_bit_width() {
                1 => Ty::I1,
                8 => Ty::I8,
                16 => Ty::I16,
                32 => Ty::I32,
                64 => Ty::I64,
                bits => panic!("emission: an integer of {bits} bits"),
            },
            BasicTypeEnum::FloatType(t) => match t.get_bit_width() {
                16 => Ty::F16,
                32 => Ty::F32,
                _ => Ty::F64,
            },
            t => panic!("emission: {t:?} where a number was expected"),
        }
    }

    /// The integer, where it is a constant scalar.
    pub fn constant(self) -> Option<i64> {
        match self.0 {
            BasicValueEnum::IntValue(v) => v.get_sign_extended_constant(),
            _ => None,
        }
    }

    pub(super) fn pointer(self) -> PointerValue<'c> {
        self.0.into_pointer_value()
    }

    pub(super) fn int(self) -> IntValue<'c> {
        self.0.into_int_value()
    }

    fn vector(self) -> VectorValue<'c> {
        self.0.into_vector_value()
    }
}

impl<'c> Emitter<'c> {
    pub(super) fn scalar_type(&self, ty: Ty) -> BasicTypeEnum<'c> {
        match ty {
            Ty::F16 => self.context.f16_type().into(),
            Ty::F32 => self.context.f32_type().into(),
            Ty::F64 => self.context.f64_type().into(),
            Ty::I1 => self.context.bool_type().into(),
            Ty::I8 => self.context.i8_type().into(),
            Ty::I16 => self.context.i16_type().into(),
            Ty::I32 => self.context.i32_type().into(),
            Ty::I64 => self.context.i64_type().into(),
        }
    }

    /// The LLVM type of `lanes` lanes; a scalar for 1.
    pub(super) fn llvm_type(&self, ty: Ty, lanes: u32) -> BasicTypeEnum<'c> {
        match (self.scalar_type(ty), lanes) {
            (t, 1) => t,
            (BasicTypeEnum::IntType(t), n) => t.vec_type(n).into(),
            (BasicTypeEnum::FloatType(t), n) => t.vec_type(n).into(),
            (t, _) => panic!("emission: a vector of {t:?}"),
        }
    }

    /// An `i64` constant.
    pub fn int(&self, n: i64) -> Val<'c> {
        self.constant(Ty::I64, 1, n as f64, n)
    }

    /// An `i32` constant.
    pub fn int32(&self, n: i32) -> Val<'c> {
        self.constant(Ty::I32, 1, n as f64, n as i64)
    }

    /// A truth value.
    pub fn bool(&self, b: bool) -> Val<'c> {
        self.constant(Ty::I1, 1, 0.0, b as i64)
    }

    /// An `f32` constant.
    pub fn f32(&self, x: f64) -> Val<'c> {
        self.constant(Ty::F32, 1, x, 0)
    }

    /// The number in the type and lanes of another value.
    pub fn like(&self, v: Val<'c>, x: f64) -> Val<'c> {
        self.constant(v.ty(), v.lanes(), x, x as i64)
    }

    /// The integer in the type and lanes of another value.
    pub fn like_int(&self, v: Val<'c>, n: i64) -> Val<'c> {
        self.constant(v.ty(), v.lanes(), n as f64, n)
    }

    fn constant(&self, ty: Ty, lanes: u32, x: f64, n: i64) -> Val<'c> {
        let scalar: BasicValueEnum = match self.scalar_type(ty) {
            BasicTypeEnum::FloatType(t) => t.const_float(if ty == Ty::F32 { (x as f32) as f64 } else { x }).into(),
            BasicTypeEnum::IntType(t) => t.const_int(n as u64, true).into(),
            t => panic!("emission: a constant of {t:?}"),
        };
        if lanes == 1 { Val(scalar) } else { Val(VectorType::const_vector(&vec![scalar; lanes as usize]).into()) }
    }

    /// The constant integers in lanes.
    pub fn int_lanes(&self, ty: Ty, lanes: impl IntoIterator<Item = i64>) -> Val<'c> {
        let t = self.scalar_type(ty).into_int_type();
        let all: Vec<_> = lanes.into_iter().map(|n| t.const_int(n as u64, true)).collect();
        if all.len() == 1 { Val(all[0].into()) } else { Val(VectorType::const_vector(&all).into()) }
    }

    /// Zeros.
    pub fn zero(&self, ty: Ty, lanes: u32) -> Val<'c> {
        self.constant(ty, lanes, 0.0, 0)
    }

    /// A value whose lanes are about to be inserted.
    pub fn undefined(&self, ty: Ty, lanes: u32) -> Val<'c> {
        Val(match self.llvm_type(ty, lanes) {
            BasicTypeEnum::VectorType(t) => t.get_poison().into(),
            BasicTypeEnum::IntType(t) => t.get_poison().into(),
            BasicTypeEnum::FloatType(t) => t.get_poison().into(),
            t => panic!("emission: lanes of {t:?}"),
        })
    }

    /// A scalar in every lane; a vector of that many lanes already is itself.
    pub fn splat(&self, v: Val<'c>, lanes: u32) -> Val<'c> {
        if v.lanes() == lanes {
            return v;
        }
        let one = self.insert(self.undefined(v.ty(), lanes), 0, v);
        self.shuffle(one, one, std::iter::repeat_n(0, lanes as usize))
    }

    /// The lanes of `a` then `b` chosen by index.
    pub fn shuffle(&self, a: Val<'c>, b: Val<'c>, lanes: impl IntoIterator<Item = u32>) -> Val<'c> {
        let i32_type = self.context.i32_type();
        let mask: Vec<_> = lanes.into_iter().map(|l| i32_type.const_int(l as u64, false)).collect();
        Val(built(self.builder.build_shuffle_vector(a.vector(), b.vector(), VectorType::const_vector(&mask), ""))
            .into())
    }

    /// One lane, known when the kernel is compiled.
    pub fn extract(&self, v: Val<'c>, lane: u32) -> Val<'c> {
        if v.lanes() == 1 {
            return v;
        }
        Val(built(self.builder.build_extract_element(v.vector(), self.int32(lane as i32).int(), "")))
    }

    /// A vector with one lane replaced.
    pub fn insert(&self, v: Val<'c>, lane: u32, x: Val<'c>) -> Val<'c> {
        if v.lanes() == 1 {
            return x;
        }
        Val(built(self.builder.build_insert_element(v.vector(), x.0, self.int32(lane as i32).int(), "")).into())
    }

    /// Two values with as many lanes as the wider.
    pub fn widen(&self, a: Val<'c>, b: Val<'c>) -> (Val<'c>, Val<'c>) {
        let lanes = a.lanes().max(b.lanes());
        (self.splat(a, lanes), self.splat(b, lanes))
    }

    fn binary(&self, float: Option<Op>, int: Option<Op>, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        let (a, b) = self.widen(a, b);
        let op = if a.ty().is_float() { float } else { int };
        let op = op.unwrap_or_else(|| panic!("emission: an operation that {:?} does not have", a.ty()));
        Val(built(self.builder.build_binop(op, a.0, b.0, "")))
    }

    /// Sum.
    pub fn add(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        self.binary(Some(Op::FAdd), Some(Op::Add), a, b)
    }

    /// Difference.
    pub fn sub(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        self.binary(Some(Op::FSub), Some(Op::Sub), a, b)
    }

    /// Product.
    pub fn mul(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        self.binary(Some(Op::FMul), Some(Op::Mul), a, b)
    }

    /// Quotient of floats; of ints towards zero, the divisor not 0 and the quotient in range.
    pub fn div(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        self.binary(Some(Op::FDiv), Some(Op::SDiv), a, b)
    }

    /// Bits of both; of truth values, both.
    pub fn and(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        self.binary(None, Some(Op::And), a, b)
    }

    /// Bits of either.
    pub fn or(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        self.binary(None, Some(Op::Or), a, b)
    }

    /// Bits that differ.
    pub fn xor(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        self.binary(None, Some(Op::Xor), a, b)
    }

    /// Negated truth value.
    pub fn not(&self, a: Val<'c>) -> Val<'c> {
        self.xor(a, self.like_int(a, -1))
    }

    /// Left shift by a constant.
    pub fn shl(&self, a: Val<'c>, bits: u32) -> Val<'c> {
        self.binary(None, Some(Op::Shl), a, self.like_int(a, bits as i64))
    }

    /// Right shift that brings in zeros.
    pub fn lshr(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        self.binary(None, Some(Op::LShr), a, b)
    }

    /// Right shift that brings in the sign, by a constant.
    pub fn ashr(&self, a: Val<'c>, bits: u32) -> Val<'c> {
        self.binary(None, Some(Op::AShr), a, self.like_int(a, bits as i64))
    }

    /// Negation.
    pub fn neg(&self, a: Val<'c>) -> Val<'c> {
        self.sub(self.like(a, if a.ty().is_float() { -0.0 } else { 0.0 }), a)
    }

    /// `a * b + c`: rounded once where the target can, twice where it would have to call a library.
    pub fn fma(&self, a: Val<'c>, b: Val<'c>, c: Val<'c>) -> Val<'c> {
        if !self.isa.fma {
            return self.add(self.mul(a, b), c);
        }
        let lanes = a.lanes().max(b.lanes()).max(c.lanes());
        self.intrinsic("llvm.fma", &[self.splat(a, lanes), self.splat(b, lanes), self.splat(c, lanes)])
    }

    /// A comparison, lane by lane.
    pub fn compare(&self, cmp: Cmp, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        let (a, b) = self.widen(a, b);
        if a.ty().is_float() {
            let p = match cmp {
                Cmp::Eq => FloatPredicate::OEQ,
                Cmp::Ne => FloatPredicate::UNE,
                Cmp::Lt => FloatPredicate::OLT,
                Cmp::Le => FloatPredicate::OLE,
                Cmp::Gt => FloatPredicate::OGT,
                Cmp::Ge => FloatPredicate::OGE,
            };
            return match (a.0, b.0) {
                (BasicValueEnum::FloatValue(x), BasicValueEnum::FloatValue(y)) => {
                    Val(built(self.builder.build_float_compare(p, x, y, "")).into())
                }
                _ => Val(built(self.builder.build_float_compare(p, a.vector(), b.vector(), "")).into()),
            };
        }
        let p = match cmp {
            Cmp::Eq => IntPredicate::EQ,
            Cmp::Ne => IntPredicate::NE,
            Cmp::Lt => IntPredicate::SLT,
            Cmp::Le => IntPredicate::SLE,
            Cmp::Gt => IntPredicate::SGT,
            Cmp::Ge => IntPredicate::SGE,
        };
        match (a.0, b.0) {
            (BasicValueEnum::IntValue(x), BasicValueEnum::IntValue(y)) => {
                Val(built(self.builder.build_int_compare(p, x, y, "")).into())
            }
            _ => Val(built(self.builder.build_int_compare(p, a.vector(), b.vector(), "")).into()),
        }
    }

    /// `a` where the condition holds, else `b`, lane by lane.
    pub fn select(&self, condition: Val<'c>, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        let (a, b) = self.widen(a, b);
        let (a, b) = (self.splat(a, condition.lanes().max(a.lanes())), self.splat(b, condition.lanes().max(b.lanes())));
        match condition.0 {
            BasicValueEnum::IntValue(c) => Val(built(self.builder.build_select(c, a.0, b.0, ""))),
            _ => Val(built(self.builder.build_select(condition.vector(), a.0, b.0, ""))),
        }
    }

    /// The larger; a NaN gives the other operand.
    pub fn max(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        let (a, b) = self.widen(a, b);
        self.intrinsic(if a.ty().is_float() { "llvm.maxnum" } else { "llvm.smax" }, &[a, b])
    }

    /// The smaller; a NaN gives the other operand.
    pub fn min(&self, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        let (a, b) = self.widen(a, b);
        self.intrinsic(if a.ty().is_float() { "llvm.minnum" } else { "llvm.smin" }, &[a, b])
    }

    /// Absolute value.
    pub fn abs(&self, a: Val<'c>) -> Val<'c> {
        if a.ty().is_float() {
            return self.intrinsic("llvm.fabs", &[a]);
        }
        self.max(a, self.neg(a))
    }

    /// Square root.
    pub fn sqrt(&self, a: Val<'c>) -> Val<'c> {
        self.intrinsic("llvm.sqrt", &[a])
    }

    /// A float as an int, towards zero; out of range gives the nearest, NaN gives 0.
    pub fn truncate_to_int(&self, a: Val<'c>, ty: Ty) -> Val<'c> {
        let to = self.llvm_type(ty, a.lanes());
        self.call_intrinsic("llvm.fptosi.sat", &[to, a.0.get_type()], &[a])
    }

    /// An overloaded intrinsic of the type of its first operand.
    pub fn intrinsic(&self, name: &str, args: &[Val<'c>]) -> Val<'c> {
        self.call_intrinsic(name, &[args[0].0.get_type()], args)
    }

    /// An intrinsic with its overloads spelled out: types of values, none for one that is not overloaded.
    pub(super) fn call_intrinsic(&self, name: &str, overloads: &[BasicTypeEnum<'c>], args: &[Val<'c>]) -> Val<'c> {
        let found = Intrinsic::find(name).unwrap_or_else(|| panic!("emission: LLVM has no intrinsic `{name}`"));
        let function = found
            .get_declaration(&self.module, overloads)
            .unwrap_or_else(|| panic!("emission: `{name}` has no such overload"));
        let args: Vec<_> = args.iter().map(|v| v.0.into()).collect();
        let call = built(self.builder.build_call(function, &args, ""));
        match call.try_as_basic_value() {
            inkwell::values::ValueKind::Basic(v) => Val(v),
            _ => self.int(0),
        }
    }

    /// A target's intrinsic that is not overloaded, by its full name.
    pub fn target_intrinsic(&self, name: &str, args: &[Val<'c>]) -> Val<'c> {
        self.call_intrinsic(name, &[], args)
    }

    fn cast(&self, op: Op, v: Val<'c>, ty: Ty) -> Val<'c> {
        Val(built(self.builder.build_cast(op, v.0, self.llvm_type(ty, v.lanes()), "")))
    }

    /// A wider int with the sign kept.
    pub fn sext(&self, v: Val<'c>, ty: Ty) -> Val<'c> {
        if v.ty() == ty { v } else { self.cast(Op::SExt, v, ty) }
    }

    /// A wider int, zeros above.
    pub fn zext(&self, v: Val<'c>, ty: Ty) -> Val<'c> {
        if v.ty() == ty { v } else { self.cast(Op::ZExt, v, ty) }
    }

    /// A narrower int.
    pub fn trunc(&self, v: Val<'c>, ty: Ty) -> Val<'c> {
        if v.ty() == ty { v } else { self.cast(Op::Trunc, v, ty) }
    }

    /// A signed int as a float.
    pub fn int_to_float(&self, v: Val<'c>, ty: Ty) -> Val<'c> {
        self.cast(Op::SIToFP, v, ty)
    }

    /// A float in another float type: exact, or rounded to nearest even. Not for f16 in a plain processor.
    pub fn float_cast(&self, v: Val<'c>, ty: Ty) -> Val<'c> {
        match v.ty().bytes().cmp(&ty.bytes()) {
            std::cmp::Ordering::Equal => v,
            std::cmp::Ordering::Less => self.cast(Op::FPExt, v, ty),
            std::cmp::Ordering::Greater => self.cast(Op::FPTrunc, v, ty),
        }
    }

    /// The same bits, each lane read as another type of the same size.
    pub fn bits(&self, v: Val<'c>, ty: Ty) -> Val<'c> {
        self.bit_cast(v, ty, v.lanes())
    }

    /// The same bits read as other lanes.
    pub fn bit_cast(&self, v: Val<'c>, ty: Ty, lanes: u32) -> Val<'c> {
        Val(built(self.builder.build_cast(Op::BitCast, v.0, self.llvm_type(ty, lanes).as_basic_type_enum(), "")))
    }

    /// Folds the lanes of a vector of a power of two lanes with `combine`: halves first, so the order is a tree that
    /// does not depend on the target.
    pub fn fold_lanes(&self, v: Val<'c>, combine: impl Fn(Val<'c>, Val<'c>) -> Val<'c>) -> Val<'c> {
        let mut v = v;
        while v.lanes() > 1 {
            let half = v.lanes() / 2;
            let (low, high) = (self.lane_range(v, 0, half), self.lane_range(v, half, half));
            v = combine(low, high);
        }
        v
    }

    /// Consecutive lanes of a vector.
    pub fn lane_range(&self, v: Val<'c>, from: u32, count: u32) -> Val<'c> {
        if count == 1 { self.extract(v, from) } else { self.shuffle(v, v, from..from + count) }
    }
}
