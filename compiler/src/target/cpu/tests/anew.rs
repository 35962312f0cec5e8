//! Kernels over every token that the caches hold: they read pages, write a workspace, and streams read that.

use super::*;
use crate::kernel::sample::projections;

/// Another spec: every operand's storage and every axis's extent changed.
fn changed(
    spec: KernelSpec,
    storage: impl Fn(&Storage) -> Storage,
    extent: impl Fn(KernelExtent) -> KernelExtent,
) -> Verified<KernelSpec> {
    let mut spec = spec;
    spec.operands.iter_mut().for_each(|o| o.storage = storage(&o.storage));
    spec.axes.iter_mut().for_each(|a| a.extent = extent(a.extent));
    verify::verify(spec).unwrap_or_else(|e| panic!("{e}"))
}

/// Pages as pages of a workspace; rows as every token.
fn of_step(storage: &Storage) -> Storage {
    let every = |d: &Dim| if *d == ROWS { Dim::Tokens(SEQ) } else { *d };
    match storage.clone() {
        Storage::Paged { seq, page } => Storage::Workspace { seq, page },
        Storage::Dense { dims } => Storage::Dense { dims: dims.iter().map(every).collect() },
        other @ (Storage::Panel { .. } | Storage::Workspace { .. }) => other,
    }
}

fn every_token(extent: KernelExtent) -> KernelExtent {
    match extent {
        KernelExtent::Rows(s) => KernelExtent::Tokens(s),
        other => other,
    }
}

/// `out[token, e] = cache[token, e] * position`: what is cached, for every token of its sequence.
pub fn gathered(keys_inside: bool) -> Verified<KernelSpec> {
    let mut s = Sample::new("gathered");
    let (t, e) = (s.axis("t", KernelExtent::Tokens(SEQ)), s.length("e", 40));
    let page = match keys_inside {
        true => {
            [PageDim::Slot { count: 4, step: 16 }, PageDim::Axis(40), PageDim::Slot { count: 16, step: 1 }].to_vec()
        }
        false => [PageDim::Slot { count: 64, step: 1 }, PageDim::Axis(40)].to_vec(),
    };
    let cache = s.paged("cache", false, Format::F16, &page);
    let out = s.write("out", Format::F32, &[Dim::Tokens(SEQ), Dim::Const(40)]);
    let (at_t, at_e) = (s.at(t), s.at(e));
    let (value, position) = (s.load(cache, &[at_t, at_e]), s.expr(Expr::Position(t), Type::Int));
    let position = s.map(ScalarOp::ToReal, &[position]);
    let value = s.map(ScalarOp::Mul, &[value, position]);
    s.finish(Body::Map { axes: vec![t, e], stores: vec![store(out, &[at_t, at_e], value)] })
}

/// Products of every token into a workspace.
pub fn products(weight: Format, input: Format) -> Verified<KernelSpec> {
    changed(projections(weight, input, 24, 96).spec, of_step, every_token)
}

/// Attention over what lies in a workspace.
pub fn attention_again(a: Attention) -> Verified<KernelSpec> {
    let pages = |s: &Storage| match s {
        Storage::Paged { .. } => of_step(s),
        other => other.clone(),
    };
    changed(attention(a).into_inner(), pages, |e| e)
}

#[test]
fn every_token_is_gathered_multiplied_and_read_again() {
    let sequences = [(1, 1), (16, 3), (64, 2), (130, 4), (17, 1)];
    for spec in [
        gathered(true),
        gathered(false),
        products(Format::F32, Format::F32),
        products(Format::Q8_0, Format::Act8),
        attention_again(PLAIN),
        attention_again(Attention { size: 33, keys_inside: false, format: Format::F16, window: Some(20), ..PLAIN }),
    ] {
        check(&spec, &memory(&spec, 3, &sequences), 3e-5);
    }
}

/// A window has left the first pages behind: positions begin later, and the workspace has no place for them.
#[test]
fn a_workspace_begins_with_the_first_page_that_is_kept() {
    let (length, dropped) = (300u64, 2u64);
    let kept = length.div_ceil(PAGE_TOKENS as u64) - dropped;
    let from = (dropped * PAGE_TOKENS as u64) as i32;
    for spec in
        [gathered(true), products(Format::F32, Format::F32), attention_again(Attention { window: Some(90), ..PLAIN })]
    {
        let mut memory = memory(&spec, 5, &[(length, 3)]);
        memory.tables.insert(Table::TokenPositions(SEQ), (from..length as i32).collect());
        memory.tables.insert(Table::TokenSeq(SEQ), vec![0; (length as i32 - from) as usize]);
        memory.tables.insert(Table::Bases(SEQ), vec![-(dropped as i32)]);
        memory.dims.insert(Dim::Tokens(SEQ), length - from as u64);
        memory.dims.insert(Dim::Pages(SEQ), kept);
        check(&spec, &memory, 3e-5);
    }
}
