//! Every instruction by its first word.

use super::arithmetic::{self, Decoded};
use super::cx::Cx;
use super::{bits, compare, control, convert, copy, float, integer, matrix, mbarrier, memory, moves, warp, wgmma};

type Decode = fn(&mut Cx) -> Decoded;

const INSTRUCTIONS: &[(&str, Decode)] = &[
    ("abs", arithmetic::abs),
    ("activemask", warp::activemask),
    ("add", arithmetic::add),
    ("addc", integer::carried),
    ("and", bits::and),
    ("applypriority", moves::nothing),
    ("atom", memory::atom),
    ("bar", warp::bar),
    ("barrier", warp::bar),
    ("bfe", bits::bfe),
    ("bfi", bits::bfi),
    ("bfind", bits::bfind),
    ("bmsk", bits::bmsk),
    ("bra", control::bra),
    ("brev", bits::brev),
    ("brx", control::brx),
    ("clz", bits::clz),
    ("cnot", bits::cnot),
    ("copysign", arithmetic::copysign),
    ("cos", float::cos),
    ("cp", copy::cp),
    ("createpolicy", moves::policy),
    ("cvt", convert::cvt),
    ("cvta", moves::cvta),
    ("discard", moves::nothing),
    ("div", arithmetic::div),
    ("dp2a", integer::dp2a),
    ("dp4a", integer::dp4a),
    ("elect", warp::elect),
    ("ex2", float::ex2),
    ("exit", control::exit),
    ("fence", memory::fence),
    ("fma", float::fma),
    ("griddepcontrol", moves::nothing),
    ("isspacep", moves::isspacep),
    ("ld", memory::ld),
    ("ldmatrix", matrix::ldmatrix),
    ("ldu", memory::ld),
    ("lg2", float::lg2),
    ("lop3", bits::lop3),
    ("mad", arithmetic::mad),
    ("mad24", integer::small_product),
    ("mapa", moves::mapa),
    ("match", warp::match_),
    ("max", arithmetic::max),
    ("mbarrier", mbarrier::mbarrier),
    ("membar", memory::fence),
    ("min", arithmetic::min),
    ("mma", matrix::mma),
    ("mov", moves::mov),
    ("mul", arithmetic::mul),
    ("mul24", integer::small_product),
    ("nanosleep", moves::nothing),
    ("neg", arithmetic::neg),
    ("not", bits::not),
    ("or", bits::or),
    ("popc", bits::popc),
    ("prefetch", moves::nothing),
    ("prefetchu", moves::nothing),
    ("prmt", bits::prmt),
    ("rcp", float::rcp),
    ("red", memory::red),
    ("redux", warp::redux),
    ("rem", integer::rem),
    ("ret", control::ret),
    ("rsqrt", float::rsqrt),
    ("sad", integer::sad),
    ("selp", compare::selp),
    ("set", compare::set),
    ("setmaxnreg", moves::nothing),
    ("setp", compare::setp),
    ("shf", bits::shf),
    ("shfl", warp::shfl),
    ("shl", bits::shl),
    ("shr", bits::shr),
    ("sin", float::sin),
    ("slct", compare::slct),
    ("sqrt", float::sqrt),
    ("st", memory::st),
    ("stmatrix", matrix::stmatrix),
    ("sub", arithmetic::sub),
    ("subc", integer::carried),
    ("tanh", float::tanh),
    ("testp", compare::testp),
    ("trap", control::trap),
    ("vote", warp::vote),
    ("wgmma", wgmma::wgmma),
    ("xor", bits::xor),
];

/// Decodes an instruction.
pub fn decode(cx: &mut Cx) -> Decoded {
    match INSTRUCTIONS.binary_search_by_key(&cx.name(), |(name, _)| name) {
        Ok(at) => INSTRUCTIONS[at].1(cx),
        Err(_) => cx.unknown(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_table_is_in_order() {
        assert!(super::INSTRUCTIONS.is_sorted_by(|a, b| a.0 < b.0));
    }
}
