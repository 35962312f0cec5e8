//! The machines that are known by name.

use super::{Level, Machine, Rates};

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// As it is asked for.
    pub name: &'static str,
    /// What it stands for, and where its figures are from.
    pub about: &'static str,
    rates: Rates,
    levels: &'static [Level],
    memory: f64,
    launch: f64,
    slots: f64,
}

impl Row {
    /// The row as a machine.
    pub fn machine(&self) -> Machine {
        let Row { name, rates, levels, memory, launch, slots, .. } = *self;
        Machine { name: name.to_owned(), rates, levels: levels.to_vec(), memory, launch, slots }
    }
}

/// A processor with a few cores: what a build is costed by when nothing else is asked for.
pub const GENERIC: Row = Row {
    name: "generic",
    about: "four cores with 256-bit vectors at 3 GHz, a shared cache of 8 MiB, two channels of memory",
    rates: Rates { f32: 1e11, f16: 1e11, int8: 2e11, scalar: 2e11 },
    levels: &[Level { capacity: 2e6, bandwidth: 2e11 }, Level { capacity: 8e6, bandwidth: 6e10 }],
    memory: 2e10,
    launch: 3e-6,
    slots: 4.0,
};

/// NVIDIA A100 SXM 80 GB, dense figures of its datasheet; launches within one CUDA graph.
pub const DGX_A100: Row = Row {
    name: "sm_80",
    about: "NVIDIA A100 SXM 80 GB (datasheet: 19.5 TFLOP/s f32, 312 f16, 624 TOP/s int8, 2.04 TB/s, 40 MB L2)",
    rates: Rates { f32: 19.5e12, f16: 312e12, int8: 624e12, scalar: 19.5e12 },
    levels: &[Level { capacity: 40e6, bandwidth: 5.1e12 }],
    memory: 2.04e12,
    launch: 2e-6,
    slots: 108.0,
};

/// NVIDIA H100 SXM, dense figures of its datasheet; launches within one CUDA graph.
pub const DGX_H100: Row = Row {
    name: "sm_90a",
    about: "NVIDIA H100 SXM (datasheet: 67 TFLOP/s f32, 989 f16, 1979 TOP/s int8, 3.35 TB/s, 50 MB L2)",
    rates: Rates { f32: 67e12, f16: 989e12, int8: 1979e12, scalar: 67e12 },
    levels: &[Level { capacity: 50e6, bandwidth: 7e12 }],
    memory: 3.35e12,
    launch: 2e-6,
    slots: 132.0,
};

/// NVIDIA H200: the H100's processor with other memory.
const DGX_H200: Row =
    Row { name: "h200", about: "NVIDIA H200 SXM (the H100 with 4.8 TB/s)", memory: 4.8e12, ..DGX_H100 };

/// Every row.
pub(super) const ROWS: &[Row] = &[GENERIC, DGX_A100, DGX_H100, DGX_H200];

/// The machine of this name; `Err` lists the names there are.
///
/// # Errors
/// The known names, separated by commas.
pub fn by_name(name: &str) -> Result<Machine, String> {
    let row = ROWS.iter().find(|r| r.name == name);
    row.map(Row::machine).ok_or_else(|| ROWS.iter().map(|r| r.name).collect::<Vec<_>>().join(", "))
}
