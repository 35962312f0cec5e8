//! Matrices spread over the lanes of a warp.
//!
//! Layouts are those of the PTX ISA, section "Matrix multiply-accumulate operation using mma instruction". Products are exact;
//! their sum over `k` and the addend are summed in f64 and rounded once, which is at least as precise as the hardware promises.

use super::Machine;
use super::access::{Request, locate};
use super::traffic;
use super::warp::Warp;
use crate::fault::Problem;
use crate::number::{Rounding, narrow, widen};
use crate::program::{LANES, MatrixAccess, Mma, Slot};
use crate::types::{Type, mask, sign_extend};

/// An operand of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    A,
    B,
    /// The addend or the result.
    C,
}

/// Row and column of an element of a fragment: of `register`, element `part` of those that it holds side by side.
pub fn position(fragment: Fragment, ty: Type, lane: usize, register: usize, part: usize) -> (usize, usize) {
    let (group, inner, width) = (lane / 4, lane % 4, 32 / ty.bits() as usize);
    // Four lanes side by side hold a register's worth each.
    let along = inner * width + part;
    match fragment {
        Fragment::A => (group + 8 * (register % 2), along + 4 * width * (register / 2)),
        Fragment::B => (along + 4 * width * register, group),
        Fragment::C => {
            let index = register * width + part;
            (group + 8 * (index / 2), inner * 2 + index % 2)
        }
    }
}

/// Most elements of a fragment: 16 by 32.
const MOST: usize = 512;

/// Reads a fragment, row-major with this number of columns.
fn gather<T: Copy + Default>(
    warp: &Warp,
    fragment: Fragment,
    ty: Type,
    registers: &[Slot],
    columns: usize,
    read: impl Fn(u64) -> T,
) -> [T; MOST] {
    let mut out = [T::default(); MOST];
    let bits = ty.bits();
    for (r, slot) in registers.iter().enumerate() {
        let register = warp.reg(*slot);
        for part in 0..(32 / bits) as usize {
            for (lane, whole) in register.iter().enumerate() {
                let (row, column) = position(fragment, ty, lane, r, part);
                out[row * columns + column] = read(whole >> (bits * part as u32) & mask(bits));
            }
        }
    }
    out
}

fn scatter(warp: &mut Warp, ty: Type, registers: &[Slot], columns: usize, value: impl Fn(usize) -> u64) {
    let bits = ty.bits();
    for (r, slot) in registers.iter().enumerate() {
        let out = std::array::from_fn(|lane| {
            (0..(32 / bits) as usize).fold(0, |whole, part| {
                let (row, column) = position(Fragment::C, ty, lane, r, part);
                whole | value(row * columns + column) << (bits * part as u32)
            })
        });
        warp.put(*slot, &out);
    }
}

impl Machine<'_> {
    pub fn mma(&mut self, warp: &mut Warp, mma: &Mma) -> Result<(), Box<Problem>> {
        whole_warp(warp)?;
        let [m, n, k] = mma.shape;
        self.counters.matrix_instructions += 1;
        self.counters.matrix_flops += 2 * (m * n * k) as u64;
        if mma.d_type == Type::S32 {
            integers(warp, mma)
        } else {
            floats(warp, mma)
        }
        Ok(())
    }

    pub fn load_matrix(&mut self, warp: &mut Warp, access: &MatrixAccess) -> Result<(), Box<Problem>> {
        whole_warp(warp)?;
        for (i, slot) in access.registers.iter().enumerate() {
            let mut rows = [[0u8; 16]; 8];
            let mut request = Request::new();
            for (r, row) in rows.iter_mut().enumerate() {
                let lane = 8 * i + r;
                let at = locate(warp, &access.address, lane);
                request.note(lane, at.0, at.1);
                let bytes = self.read(warp, lane, at, 16, false).map_err(|p| p.of_lane(lane as u32))?;
                row.copy_from_slice(&bytes[..16]);
            }
            traffic::count(&mut self.counters, &request, 16, false);
            let half = |r: usize, c: usize| u16::from_le_bytes([rows[r][2 * c], rows[r][2 * c + 1]]) as u64;
            let out = std::array::from_fn(|lane| {
                let (outer, inner) = (lane / 4, lane % 4 * 2);
                match access.transposed {
                    false => half(outer, inner) | half(outer, inner + 1) << 16,
                    true => half(inner, outer) | half(inner + 1, outer) << 16,
                }
            });
            warp.put(*slot, &out);
        }
        Ok(())
    }

    pub fn store_matrix(&mut self, warp: &mut Warp, access: &MatrixAccess) -> Result<(), Box<Problem>> {
        whole_warp(warp)?;
        for (i, slot) in access.registers.iter().enumerate() {
            let mut rows = [[0u8; 16]; 8];
            for (lane, whole) in warp.reg(*slot).iter().enumerate() {
                for part in 0..2 {
                    let (outer, inner) = (lane / 4, lane % 4 * 2 + part);
                    let (r, c) = if access.transposed { (inner, outer) } else { (outer, inner) };
                    rows[r][2 * c..2 * c + 2].copy_from_slice(&((whole >> (16 * part)) as u16).to_le_bytes());
                }
            }
            let mut request = Request::new();
            for (r, row) in rows.iter().enumerate() {
                let lane = 8 * i + r;
                let at = locate(warp, &access.address, lane);
                request.note(lane, at.0, at.1);
                self.write(warp, lane, at, row, false).map_err(|p| p.of_lane(lane as u32))?;
            }
            traffic::count(&mut self.counters, &request, 16, true);
        }
        Ok(())
    }
}

/// A matrix instruction needs every lane.
pub fn whole_warp(warp: &Warp) -> Result<(), Box<Problem>> {
    let missing = !warp.mask;
    if missing == 0 {
        return Ok(());
    }
    let lane = missing.trailing_zeros() % LANES as u32;
    let message = format!("a matrix instruction that lane {lane} of the warp does not reach");
    Err(Problem::new(crate::fault::FaultKind::Divergence, message))
}

fn floats(warp: &mut Warp, mma: &Mma) {
    let [m, n, k] = mma.shape;
    let a = gather(warp, Fragment::A, mma.a_type, &mma.a, k, |x| widen(x, mma.a_type));
    let b = gather(warp, Fragment::B, mma.b_type, &mma.b, n, |x| widen(x, mma.b_type));
    let mut sum = gather(warp, Fragment::C, mma.c_type, &mma.c, n, |x| widen(x, mma.c_type));
    for row in 0..m {
        let mut dots = [0f64; 8];
        for inner in 0..k {
            let factor = a[row * k + inner];
            (0..n).for_each(|column| dots[column] += factor * b[inner * n + column]);
        }
        (0..n).for_each(|column| sum[row * n + column] += dots[column]);
    }
    scatter(warp, mma.d_type, &mma.d, n, |i| narrow(sum[i], mma.d_type, Rounding::Even, false));
}

fn integers(warp: &mut Warp, mma: &Mma) {
    let [m, n, k] = mma.shape;
    let byte = |ty: Type| move |x: u64| if ty.is_signed() { sign_extend(x, 8) as i64 } else { x as i64 };
    let a = gather(warp, Fragment::A, mma.a_type, &mma.a, k, byte(mma.a_type));
    let b = gather(warp, Fragment::B, mma.b_type, &mma.b, n, byte(mma.b_type));
    let mut sum = gather(warp, Fragment::C, mma.c_type, &mma.c, n, |x| sign_extend(x, 32) as i64);
    for row in 0..m {
        for column in 0..n {
            sum[row * n + column] += (0..k).map(|i| a[row * k + i] * b[i * n + column]).sum::<i64>();
        }
    }
    let (low, high) = (i32::MIN as i64, i32::MAX as i64);
    let fit = |x: i64| if mma.saturate { x.clamp(low, high) } else { x };
    scatter(warp, Type::S32, &mma.d, n, |i| fit(sum[i]) as u64 & mask(32));
}
