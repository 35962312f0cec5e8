//! The order of a search for the largest values.
//!
//! Every element becomes one i64 that orders as the search must: the float's bits made monotone above, the
//! complement of the index below. All keys differ, so the next winner is the largest key below the last one.

use crate::llvm::{Cmp, Emitter, Ty, Val};

/// The sortable key of values at indices: NaN below everything, both zeros equal.
pub fn search_key<'c>(e: &Emitter<'c>, value: Val<'c>, index: Val<'c>) -> Val<'c> {
    let canonical = e.add(value, e.like(value, 0.0));
    let bits = e.bits(canonical, Ty::I32);
    let negative = e.compare(Cmp::Lt, bits, e.like_int(bits, 0));
    let ordered = e.select(negative, e.xor(bits, e.like_int(bits, i32::MAX as i64)), bits);
    let ordered = e.select(e.is_nan(value), e.like_int(bits, i32::MIN as i64), ordered);
    let high = e.shl(e.sext(ordered, Ty::I64), 32);
    e.or(high, e.sub(e.like_int(index, 0xffff_ffff), index))
}

/// The index that a key was made with.
pub fn index_of<'c>(e: &Emitter<'c>, key: Val<'c>) -> Val<'c> {
    e.and(e.not(key), e.int(0xffff_ffff))
}
