use crate::kernel::sample::projections;
use crate::kernel::*;
use llmc_artifact::plan::Table;

fn contract(spec: &mut KernelSpec) -> &mut Contract {
    match &mut spec.body {
        Body::Contract(c) => c,
        other => panic!("{other:?}"),
    }
}

#[test]
fn broken_specs_are_refused_with_their_place() {
    let good = projections(Format::Q4_1, Format::Act8, 64, 576).spec;
    assert!(verify(good.clone()).is_ok());
    let int = ExprRef(good.exprs.0.iter().position(|(_, t)| *t == Type::Int).expect("there is one") as u32);
    type Break = fn(&mut KernelSpec, ExprRef);
    let cases: &[(&str, Break)] = &[
        ("is empty", |s, _| s.axes[2].extent = KernelExtent::Const(0)),
        ("no whole number of act8 blocks", |s, _| {
            s.operands[0].storage = Storage::Dense { dims: vec![Dim::Rows(SeqId(0)), Dim::Const(577)] };
        }),
        ("is not in panels", |s, _| s.operands[2].storage = Storage::Panel { rows: 191, reduce: 576 }),
        ("no q4_1 weight is", |s, _| s.operands[2].storage = Storage::Panel { rows: 192, reduce: 577 }),
        ("takes no act8 activation", |s, _| s.operands[2].format = Format::F16),
        ("neither f32, f16, bf16 nor act8", |s, _| s.operands[0].format = Format::I32),
        ("is not dense [row, 576 columns]", |s, _| {
            s.operands[0].storage = Storage::Dense { dims: vec![Dim::Picked(SeqId(0)), Dim::Const(576)] };
        }),
        ("is not written", |s, _| s.operands[4].write = false),
        ("which is written", |s, _| s.operands[1].write = true),
        ("takes 3 indices, not 2", |s, _| contract(s).segments[0].stores[0].index.truncate(2)),
        ("its first index is the axis of tokens", |s, int| {
            let Storage::Paged { page, .. } = &s.operands[5].storage else { panic!() };
            s.operands[5].storage = Storage::Paged { seq: SeqId(1), page: page.clone() };
            let _ = int;
        }),
        ("mentions result 2, which it cannot see", |s, _| {
            let value = contract(s).segments[1].stores[0].value;
            contract(s).segments[0].stores[0].value = value;
        }),
        ("takes a real", |s, int| contract(s).segments[0].stores[0].value = int),
        ("a product without a segment", |s, _| contract(s).segments.truncate(1)),
        ("axis `m` comes twice", |s, _| contract(s).reduce.push(AxisRef(1))),
        ("which is not in scope", |s, _| {
            let body = contract(s).stats[0].body;
            contract(s).segments[0].stores[0].value = body;
        }),
        ("its operands do not fit it", |s, int| {
            s.exprs.0.push((Expr::Map(ScalarOp::Sqrt, vec![int, int]), Type::Real));
        }),
        ("is declared int and is real", |s, _| s.exprs.0.push((Expr::Const(Value::Real(1.0)), Type::Int))),
        ("no earlier int", |s, _| {
            let at = ExprRef(s.exprs.0.len() as u32 + 1);
            s.exprs.0.push((Expr::Load { operand: OperandRef(1), index: vec![at, at] }, Type::Real));
        }),
        ("moves an axis that its result does not have", |s, int| {
            let e = Expr::Result { result: ResultRef(1), moved: vec![(AxisRef(1), int)] };
            s.exprs.0.push((e, Type::Real));
        }),
    ];
    for (want, change) in cases {
        let mut spec = good.clone();
        change(&mut spec, int);
        match verify(spec) {
            Ok(_) => panic!("accepted: {want}"),
            Err(e) => assert!(e.to_string().contains(want), "{e} (wanted: {want})"),
        }
    }
}

#[test]
fn the_interface_follows_from_the_spec() {
    let spec = projections(Format::Q4_1, Format::Act8, 64, 576).spec;
    let seq = SeqId(0);
    let abi = Abi::of(&spec);
    assert_eq!(abi.tables, [Table::Positions(seq), Table::RowSeq(seq), Table::Blocks(seq)]);
    assert_eq!(abi.dims, [Dim::Rows(seq), Dim::Blocks(seq)]);
    assert_eq!(abi.table(Table::RowSeq(seq)), 7);
    assert_eq!(abi.dim(Dim::Blocks(seq)), 1);
}
