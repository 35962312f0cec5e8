//! The types of PTX: one row each.

/// How a type's bits are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Bits without a meaning.
    Bits,
    /// Unsigned integer.
    Unsigned,
    /// Two's complement.
    Signed,
    /// Floating point of this layout.
    Float(Layout),
    /// Two or four elements of another type side by side.
    Packed(Type),
    /// A truth value.
    Predicate,
}

/// Layout of a floating-point number: sign, exponent, mantissa.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bits of the exponent.
    pub exponent: u32,
    /// Bits of the mantissa that are stored.
    pub mantissa: u32,
    /// Whether the largest exponent is for infinities and NaN alone; otherwise only all ones are NaN.
    pub infinities: bool,
}

const fn ieee(exponent: u32, mantissa: u32) -> Class {
    Class::Float(Layout { exponent, mantissa, infinities: true })
}

macro_rules! types {
    ($($(#[$doc:meta])* $name:ident $spelling:literal $bits:literal $class:expr;)*) => {
        /// A type.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Type { $($(#[$doc])* $name,)* }

        impl Type {
            /// Every type.
            pub const ALL: &[Type] = &[$(Type::$name),*];

            /// Its spelling without the dot.
            pub const fn name(self) -> &'static str {
                match self { $(Type::$name => $spelling,)* }
            }

            /// Number of bits; 1 for a predicate.
            pub const fn bits(self) -> u32 {
                match self { $(Type::$name => $bits,)* }
            }

            /// How its bits are read.
            pub const fn class(self) -> Class {
                match self { $(Type::$name => $class,)* }
            }
        }
    };
}

types! {
    /// 8 bits.
    B8 "b8" 8 Class::Bits;
    /// 16 bits.
    B16 "b16" 16 Class::Bits;
    /// 32 bits.
    B32 "b32" 32 Class::Bits;
    /// 64 bits.
    B64 "b64" 64 Class::Bits;
    /// 128 bits.
    B128 "b128" 128 Class::Bits;
    /// Unsigned, 8 bits.
    U8 "u8" 8 Class::Unsigned;
    /// Unsigned, 16 bits.
    U16 "u16" 16 Class::Unsigned;
    /// Unsigned, 32 bits.
    U32 "u32" 32 Class::Unsigned;
    /// Unsigned, 64 bits.
    U64 "u64" 64 Class::Unsigned;
    /// Signed, 8 bits.
    S8 "s8" 8 Class::Signed;
    /// Signed, 16 bits.
    S16 "s16" 16 Class::Signed;
    /// Signed, 32 bits.
    S32 "s32" 32 Class::Signed;
    /// Signed, 64 bits.
    S64 "s64" 64 Class::Signed;
    /// Two unsigned halves.
    U16x2 "u16x2" 32 Class::Packed(Type::U16);
    /// Two signed halves.
    S16x2 "s16x2" 32 Class::Packed(Type::S16);
    /// IEEE half precision.
    F16 "f16" 16 ieee(5, 10);
    /// Two of them.
    F16x2 "f16x2" 32 Class::Packed(Type::F16);
    /// Single precision's exponent, 7 bits of mantissa.
    BF16 "bf16" 16 ieee(8, 7);
    /// Two of them.
    BF16x2 "bf16x2" 32 Class::Packed(Type::BF16);
    /// Single precision with 10 bits of mantissa that matter, in 32 bits.
    TF32 "tf32" 32 ieee(8, 10);
    /// IEEE single precision.
    F32 "f32" 32 ieee(8, 23);
    /// IEEE double precision.
    F64 "f64" 64 ieee(11, 52);
    /// 8 bits: 4 of exponent, no infinities.
    E4M3 "e4m3" 8 Class::Float(Layout { exponent: 4, mantissa: 3, infinities: false });
    /// Two of them.
    E4M3x2 "e4m3x2" 16 Class::Packed(Type::E4M3);
    /// 8 bits: 5 of exponent.
    E5M2 "e5m2" 8 ieee(5, 2);
    /// Two of them.
    E5M2x2 "e5m2x2" 16 Class::Packed(Type::E5M2);
    /// A truth value.
    Pred "pred" 1 Class::Predicate;
}

impl Type {
    /// The type with this spelling, without its dot.
    pub fn parse(text: &str) -> Option<Type> {
        Type::ALL.iter().copied().find(|t| t.name() == text)
    }

    /// Bytes in memory.
    pub const fn bytes(self) -> u32 {
        self.bits().div_ceil(8)
    }

    /// Ones wherever it has bits; all of 64 for larger types.
    pub const fn mask(self) -> u64 {
        mask(self.bits())
    }

    /// Whether it is a signed integer.
    pub const fn is_signed(self) -> bool {
        matches!(self.class(), Class::Signed)
    }

    /// Whether it is an integer or bits.
    pub const fn is_integer(self) -> bool {
        matches!(self.class(), Class::Signed | Class::Unsigned | Class::Bits)
    }

    /// Its layout where it is one floating-point number.
    pub const fn layout(self) -> Option<Layout> {
        match self.class() {
            Class::Float(layout) => Some(layout),
            _ => None,
        }
    }
}

/// The low bits set.
pub const fn mask(bits: u32) -> u64 {
    if bits >= 64 { u64::MAX } else { (1 << bits) - 1 }
}

/// The low bits as a number of two's complement.
pub const fn sign_extend(value: u64, bits: u32) -> u64 {
    if bits >= 64 {
        return value;
    }
    ((value << (64 - bits)) as i64 >> (64 - bits)) as u64
}
