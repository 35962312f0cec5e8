use super::ast::*;
use super::*;
use proptest::prelude::*;

const HEAD: &str = ".version 8.0\n.target sm_90a\n.address_size 64\n";

fn body(statements: &str) -> Result<Vec<Statement<'static>>, PtxError> {
    let text = format!("{HEAD}.visible .entry k() {{\n{statements}\n}}").leak();
    Module::parse(text).map(|m| m.functions[0].body.clone().expect("a body"))
}

fn first(statement: &str) -> Statement<'static> {
    body(statement).unwrap_or_else(|e| panic!("{statement}: {e}")).remove(0)
}

fn instruction(text: &str) -> Instruction<'static> {
    match first(text) {
        Statement::Instruction(i) => *i,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_module_has_its_parts() {
    let text = r#"
.version 7.0
.target sm_80, debug
.address_size 64
.file 1 "a.cu" /* a comment */
.extern .shared .align 16 .b8 memory[];
.const .align 4 .f32 table[2][2] = {{0f3F800000, 1.5}, {-0.5, 0d4000000000000000}};
.global .u64 pointers[] = {table, table+4, generic(table)};
.extern .func (.param .b32 r) vprintf(.param .b64 a, .param .b64 b);
.section .debug_str { .b8 1, 2 { } }
.visible .entry k(.param .u64 .ptr .global .align 1 k_param_0, .param .align 64 .b8 map[128])
.maxntid 128, 1, 1
.reqntid 128
.minnctapersm 2
{
  .reg .b32 %r<5>;
  .loc 1 2 3, function_name info, inlined_at 1 2 3
  .pragma "nounroll";
  ret;
}"#;
    let m = Module::parse(text).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((m.version, m.target.as_slice()), ((7, 0), ["sm_80", "debug"].as_slice()));
    assert_eq!(m.variables.len(), 3);
    assert_eq!((m.variables[0].elements, m.variables[0].external), (None, true));
    assert_eq!(m.variables[1].elements, Some(4));
    assert_eq!(m.variables[1].init[1], Init::Number(Number::Double(1.5f64.to_bits())));
    assert_eq!(m.variables[2].init[1..], [Init::Symbol("table", 4, false), Init::Symbol("table", 0, true)]);
    let k = &m.functions[1];
    assert_eq!(k.params[1].elements, Some(128));
    assert_eq!(k.limits, [("maxntid", vec![128, 1, 1]), ("reqntid", vec![128]), ("minnctapersm", vec![2])]);
    assert_eq!(k.body.as_ref().map(Vec::len), Some(2));
}

#[test]
fn statements_end_at_semicolons() {
    let i = instruction("@!%p1\n ld.global.L2::128B.v2.f32\n {%f1,\n _}, [%rd1+-8]\n;");
    assert_eq!((i.guard, i.name), (Some(("%p1", true)), "ld"));
    assert_eq!(i.modifiers, ["global", "L2::128B", "v2", "f32"]);
    assert_eq!(i.operands[0], Operand::Vector(vec![Operand::Name("%f1", None), Operand::Name("_", None)]));
    assert_eq!(i.operands[1], Operand::Address { base: Some("%rd1"), offset: -8, coordinates: None });
}

#[test]
fn scopes_nest_and_labels_stand_alone() {
    let found = body("{ .reg .pred p; again: mov.u32 %r1, %tid.x; { ret; } } table: .branchtargets a, b;").unwrap();
    let Statement::Block(inner) = &found[0] else { panic!("{found:?}") };
    assert!(matches!(&inner[0], Statement::Registers(r) if r.names == [("p", None)]));
    assert!(matches!(&inner[1], Statement::Label("again", _)));
    assert!(matches!(&inner[3], Statement::Block(b) if b.len() == 1));
    assert!(matches!(&found[1], Statement::Targets("table", t, _) if t == &["a", "b"]));
}

#[test]
fn operands_of_every_form() {
    let i = instruction("shfl.sync.bfly.b32 %r1|%p1, %r2, (1 + 2) * 4 << 1, !%p2, tile+16, 0f3F800000, -0x10;");
    let int = |n: i64| Operand::Number(Number::Int(n as u64));
    assert!(matches!(&i.operands[0], Operand::Pair(..)));
    assert_eq!(i.operands[2], int(24));
    assert_eq!(i.operands[3], Operand::Not("%p2"));
    assert_eq!(i.operands[4], Operand::Sum("tile", 16));
    assert_eq!(i.operands[5], Operand::Number(Number::Single(0x3f80_0000)));
    assert_eq!(i.operands[6], int(-16));
    let call = instruction("call.uni (retval0), f, (param0, param1);");
    assert_eq!(call.operands[2], Operand::List(vec![Operand::Name("param0", None), Operand::Name("param1", None)]));
    let bulk = instruction("cp.async.bulk.tensor.2d.shared::cluster.global.tile [%r1], [map, {%r2, %r3}], [%r4];");
    assert!(matches!(&bulk.operands[1], Operand::Address { coordinates: Some(c), .. } if c.len() == 1));
    assert_eq!(bulk.modifiers[3], "2d");
}

#[test]
fn errors_say_where() {
    for (text, place, message) in [
        ("add.s32 %r1, %r2", (6, 1), "expected `;`, found `}`"),
        ("mov.b32 %r1, 0f3F80;", (5, 14), "expected a number, found `0f3F80`"),
        (".surface .b32 x;", (5, 1), "the directive `.surface` is not known"),
        (".shared .b8 x[0x7fffffffffffffff][4];", (5, 37), "`x` is larger than memory can be"),
        ("mov.b32 %r1, 4 / 0;", (5, 19), "a division by zero"),
        ("mov.b32 %r1, \u{e9};", (5, 14), "'é' is not part of PTX"),
        ("/* open", (5, 1), "a comment is not closed"),
    ] {
        let error = body(text).expect_err(text);
        assert_eq!((error.place.line, error.place.column), place, "{text}: {error}");
        assert_eq!(error.message, message, "{text}");
    }
}

#[test]
fn nesting_has_an_end() {
    for open in ["{", "mov.b32 %r1, {", "mov.b32 %r1, (", "mov.b32 %r1, -", ".global .b32 x = {"] {
        let error = body(&open.repeat(100_000)).expect_err(open);
        assert!(error.message.contains("inside each other") || error.message.contains("expected"), "{error}");
    }
}

const SAMPLE: &str = include_str!("../../tests/ptx/reduce.ptx");

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_answered(text in "\\PC{0,200}") {
        let _ = Module::parse(&format!("{HEAD}{text}"));
        let _ = Module::parse(&text);
    }

    #[test]
    fn damaged_texts_are_answered(edits in prop::collection::vec((0usize..SAMPLE.len(), any::<u8>(), 0u8..3), 1..8)) {
        let mut bytes = SAMPLE.as_bytes().to_vec();
        for (at, byte, how) in edits {
            let at = at.min(bytes.len() - 1);
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => { bytes.remove(at); }
            }
        }
        let _ = Module::parse(&String::from_utf8_lossy(&bytes));
    }
}
