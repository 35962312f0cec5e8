//! What a warp's loads and stores cost: sectors of global memory, passes over the banks of shared memory.

use super::access::Request;
use crate::counters::Counters;
use crate::program::LANES;
use crate::syntax::ast::Space;

/// Bytes of a sector.
const SECTOR: u64 = 32;
/// Banks of shared memory, each four bytes wide.
const BANKS: usize = 32;

/// Counts a request of `size` bytes from each lane.
pub fn count(counters: &mut Counters, request: &Request, size: u64, write: bool) {
    let bytes = request.lanes.count_ones() as u64 * size;
    if bytes == 0 {
        return;
    }
    if request.space == Space::Shared {
        counters.shared_requests += 1;
        *(if write { &mut counters.shared_written_bytes } else { &mut counters.shared_read_bytes }) += bytes;
        counters.bank_conflicts += conflicts(request, size);
    } else {
        counters.global_requests += 1;
        *(if write { &mut counters.global_written_bytes } else { &mut counters.global_read_bytes }) += bytes;
        counters.global_sectors += sectors(request, size);
    }
}

fn addresses(request: &Request) -> impl Iterator<Item = u64> + Clone {
    super::warp::lanes_of(request.lanes).map(|l| request.addresses[l])
}

/// Different sectors that the lanes touch.
fn sectors(request: &Request, size: u64) -> u64 {
    let all = addresses(request).flat_map(|a| a / SECTOR..=(a + size - 1) / SECTOR);
    distinct(all)
}

/// Number of different values; sorted ones are counted as they come.
fn distinct(values: impl Iterator<Item = u64> + Clone) -> u64 {
    if values.clone().is_sorted() {
        let mut last = None;
        return values.filter(|v| last.replace(*v) != Some(*v)).count() as u64;
    }
    let mut all: Vec<u64> = values.collect();
    all.sort_unstable();
    all.dedup();
    all.len() as u64
}

/// Passes beyond the one that each group of lanes needs: 32 lanes of up to 4 bytes, 16 of 8, 8 of 16.
pub fn conflicts(request: &Request, size: u64) -> u64 {
    let group = (BANKS as u64 * 4 / size.max(4)).max(1) as usize;
    (0..LANES).step_by(group).map(|first| group_conflicts(request, size, first, group)).sum()
}

fn group_conflicts(request: &Request, size: u64, first: usize, group: usize) -> u64 {
    let lanes = (first..first + group).filter(|l| request.lanes >> l & 1 == 1);
    let words = lanes.flat_map(|l| request.addresses[l] / 4..=(request.addresses[l] + size - 1) / 4);
    let mut all = [0u64; 4 * LANES];
    let mut count = 0;
    for word in words.take(all.len()) {
        all[count] = word;
        count += 1;
    }
    let all = &mut all[..count];
    if !all.is_sorted() {
        all.sort_unstable();
    }
    let (mut banks, mut last) = ([0u64; BANKS], None);
    for word in all.iter() {
        if last.replace(*word) != Some(*word) {
            banks[*word as usize % BANKS] += 1;
        }
    }
    banks.iter().max().copied().unwrap_or(0).saturating_sub(1)
}
