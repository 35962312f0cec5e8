//! Loads, stores and conversions between what is stored and what is computed.

use super::{Cmp, Emitter, Ty, Val, built};
use inkwell::AddressSpace;
use llmc_artifact::DType;

impl<'c> Emitter<'c> {
    /// A pointer moved by bytes.
    pub fn offset(&self, pointer: Val<'c>, bytes: Val<'c>) -> Val<'c> {
        // SAFETY: an address computation only; whether it may be accessed is for the load or store that uses it, whose
        // bounds the kernel's verifier and the plan's buffer sizes guarantee.
        let moved = unsafe { self.builder.build_gep(self.context.i8_type(), pointer.pointer(), &[bytes.int()], "") };
        Val(built(moved).into())
    }

    /// The address of an element.
    pub fn element(&self, pointer: Val<'c>, ty: Ty, index: Val<'c>) -> Val<'c> {
        // SAFETY: as in [`Emitter::offset`].
        let moved = unsafe { self.builder.build_gep(self.scalar_type(ty), pointer.pointer(), &[index.int()], "") };
        Val(built(moved).into())
    }

    /// Loads `lanes` consecutive elements; they are aligned as one element is.
    pub fn load(&self, ty: Ty, lanes: u32, pointer: Val<'c>) -> Val<'c> {
        let v = Val(built(self.builder.build_load(self.llvm_type(ty, lanes), pointer.pointer(), "")));
        if let Some(i) = inkwell::values::BasicValue::as_instruction_value(&v.0) {
            built(i.set_alignment(ty.bytes() as u32));
        }
        v
    }

    /// Loads a pointer.
    pub fn load_pointer(&self, pointer: Val<'c>) -> Val<'c> {
        let ty = self.context.ptr_type(AddressSpace::from(self.isa.space));
        Val(built(self.builder.build_load(ty, pointer.pointer(), "")))
    }

    /// Loads whose address is a multiple of `align` bytes only, whatever the type.
    pub fn load_aligned(&self, ty: Ty, lanes: u32, pointer: Val<'c>, align: u32) -> Val<'c> {
        let v = Val(built(self.builder.build_load(self.llvm_type(ty, lanes), pointer.pointer(), "")));
        if let Some(i) = inkwell::values::BasicValue::as_instruction_value(&v.0) {
            built(i.set_alignment(align));
        }
        v
    }

    /// Stores the lanes of a value one after another; they are aligned as one element is.
    pub fn store(&self, pointer: Val<'c>, v: Val<'c>) {
        let i = built(self.builder.build_store(pointer.pointer(), v.0));
        built(i.set_alignment(v.ty().bytes() as u32));
    }

    /// Stores where the address is a multiple of `align` bytes.
    pub fn store_aligned(&self, pointer: Val<'c>, v: Val<'c>, align: u32) {
        let i = built(self.builder.build_store(pointer.pointer(), v.0));
        built(i.set_alignment(align));
    }

    /// A stored element as f32 (reals) or as i32 (ints).
    pub fn widen_stored(&self, dtype: DType, v: Val<'c>) -> Val<'c> {
        match dtype {
            DType::F32 | DType::I32 => v,
            DType::F16 => self.half_to_float(v),
            DType::BF16 => self.bits(self.shl(self.zext(v, Ty::I32), 16), Ty::F32),
            DType::I8 => self.sext(v, Ty::I32),
            DType::U8 => self.zext(v, Ty::I32),
        }
    }

    /// An f32 (reals) or i32 (ints) as it is stored, rounded to nearest even.
    pub fn narrow_stored(&self, dtype: DType, v: Val<'c>) -> Val<'c> {
        match dtype {
            DType::F32 | DType::I32 => v,
            DType::F16 => self.float_to_half(v),
            DType::BF16 => self.float_to_bfloat(v),
            DType::I8 | DType::U8 => self.trunc(v, Ty::I8),
        }
    }

    /// How an element of this dtype is loaded.
    pub fn stored_type(dtype: DType) -> Ty {
        match dtype {
            DType::F32 => Ty::F32,
            DType::F16 | DType::BF16 => Ty::I16,
            DType::I32 => Ty::I32,
            DType::I8 | DType::U8 => Ty::I8,
        }
    }

    fn half_to_float(&self, v: Val<'c>) -> Val<'c> {
        if self.isa.f16 {
            return self.float_cast(self.bits(v, Ty::F16), Ty::F32);
        }
        // Exponent and mantissa moved into place and scaled by 2^112 are exact, subnormals included; a full exponent
        // (infinity, NaN) then needs the rest of its bits.
        let wide = self.zext(v, Ty::I32);
        let magnitude = self.and(wide, self.like_int(wide, 0x7fff));
        let scaled = self.bits(self.shl(magnitude, 13), Ty::F32);
        let finite = self.mul(scaled, self.like(scaled, 2f64.powi(112)));
        let special = self.compare(Cmp::Ge, magnitude, self.like_int(magnitude, 0x7c00));
        let body = self.bits(finite, Ty::I32);
        let body = self.select(special, self.or(body, self.like_int(body, 0x7f80_0000)), body);
        let sign = self.shl(self.and(wide, self.like_int(wide, 0x8000)), 16);
        self.bits(self.or(body, sign), Ty::F32)
    }

    fn float_to_half(&self, v: Val<'c>) -> Val<'c> {
        if self.isa.f16 {
            return self.bits(self.float_cast(v, Ty::F16), Ty::I16);
        }
        let bits = self.bits(v, Ty::I32);
        let sign = self.and(self.lshr(bits, self.like_int(bits, 16)), self.like_int(bits, 0x8000));
        let magnitude = self.and(bits, self.like_int(bits, 0x7fff_ffff));
        // Normal results: round at bit 13 and move the exponent's bias from 127 to 15.
        let odd = self.and(self.lshr(magnitude, self.like_int(bits, 13)), self.like_int(bits, 1));
        let rounded = self.add(self.add(magnitude, self.like_int(bits, 0xfff - (112 << 23))), odd);
        let normal = self.lshr(rounded, self.like_int(bits, 13));
        // Subnormal results: adding 2^-1 puts the unit of 2^-24 at the last bit of the sum, rounded by the addition.
        let value = self.bits(magnitude, Ty::F32);
        let small = self.bits(self.add(value, self.like(value, 0.5)), Ty::I32);
        let small = self.sub(small, self.like_int(small, 0x3f00_0000));
        let tiny = self.compare(Cmp::Lt, magnitude, self.like_int(bits, 113 << 23));
        let finite = self.select(tiny, small, normal);
        let over = self.compare(Cmp::Ge, magnitude, self.like_int(bits, 0x477f_f000));
        let nan = self.compare(Cmp::Gt, magnitude, self.like_int(bits, 0x7f80_0000));
        let huge = self.select(nan, self.like_int(bits, 0x7e00), self.like_int(bits, 0x7c00));
        self.trunc(self.or(self.select(over, huge, finite), sign), Ty::I16)
    }

    fn float_to_bfloat(&self, v: Val<'c>) -> Val<'c> {
        let bits = self.bits(v, Ty::I32);
        let high = self.lshr(bits, self.like_int(bits, 16));
        let odd = self.and(high, self.like_int(bits, 1));
        let rounded = self.lshr(self.add(self.add(bits, self.like_int(bits, 0x7fff)), odd), self.like_int(bits, 16));
        let nan = self.compare(Cmp::Ne, v, v);
        self.trunc(self.select(nan, self.or(high, self.like_int(bits, 0x40)), rounded), Ty::I16)
    }
}
