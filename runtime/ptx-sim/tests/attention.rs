//! A kernel of llmc's own making under every check: right, the same in every order of warps, and wrong when changed.

mod support;

use llmc_ptx_sim::FaultKind;
use support::tiles::{self, Tiles};
use support::{Attention, TEXT};

#[test]
fn attention_is_right_in_every_order() {
    let mut first = Attention::new(TEXT, 130, 0);
    let counters = first.run().unwrap_or_else(|f| panic!("{f}"));
    assert!(counters.barriers > 0 && counters.flops > 0 && counters.divergent_branches > 0, "{counters:?}");
    let got = first.result();
    for (i, (bytes, want)) in got.chunks(4).zip(first.expected()).enumerate() {
        let got = f32::from_le_bytes(bytes.try_into().unwrap());
        assert!((got - want).abs() < 1e-5, "element {i}: {got}, expected {want}");
    }
    for seed in [1, 2] {
        let mut other = Attention::new(TEXT, 130, seed);
        other.run().unwrap_or_else(|f| panic!("{f}"));
        assert_eq!(other.result(), got, "seed {seed}");
    }
}

#[test]
fn attention_by_matrix_instructions_is_right_in_every_order() {
    let mut first = Tiles::new(tiles::TEXT, 133, 5, 0);
    let counters = first.run().unwrap_or_else(|f| panic!("{f}"));
    assert!(counters.matrix_instructions > 0 && counters.async_bytes > 0, "{counters:?}");
    let got: Vec<Vec<f32>> = (0..5).map(|row| first.result(row)).collect();
    for (row, got) in got.iter().enumerate() {
        for (i, (got, want)) in got.iter().zip(first.expected(row)).enumerate() {
            assert!((got - want).abs() < 1e-5, "row {row}, element {i}: {got}, expected {want}");
        }
    }
    let mut other = Tiles::new(tiles::TEXT, 133, 5, 1);
    other.run().unwrap_or_else(|f| panic!("{f}"));
    assert!((0..5).all(|row| other.result(row) == got[row]));
}

/// Lines of barriers that another one makes superfluous: what stands between the two touches nothing that it orders.
const SUPERFLUOUS: &[u32] = &[115, 120, 180, 271, 307, 399];

/// Without any other barrier of the kernel the simulator finds a race, or a value that nobody wrote.
#[test]
fn barriers_are_missed() {
    let mut missed = Vec::new();
    for (at, _) in TEXT.match_indices("bar.sync") {
        let mut text = TEXT.to_string();
        text.replace_range(at..at + TEXT[at..].find(';').unwrap() + 1, "");
        match Attention::new(&text, 130, 0).run() {
            Ok(_) => missed.push(TEXT[..at].lines().count() as u32),
            Err(fault) => assert!(matches!(fault.kind, FaultKind::Race | FaultKind::NeverWritten), "{fault}"),
        }
    }
    assert_eq!(missed, SUPERFLUOUS);
}
