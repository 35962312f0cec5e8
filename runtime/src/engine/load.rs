//! From an artifact and perhaps a checkpoint to an engine: weights onto the device, limits of the caches.

use super::state::{State, caches_of, page_bytes};
use super::{Axis, Engine, EngineOptions, LoadStats, Shared, main_axis_and_input};
use crate::device::cpu::HostBytes;
use crate::device::{Bytes, Device, Memory};
use crate::kv_cache::PagePool;
use crate::run_error::{RunCode, RunError, Size};
use llmc_artifact::plan::{PAGE_TOKENS, PackedWeight, Plan};
use llmc_artifact::recipe::eval::{RecipeError, pack_into};
use llmc_artifact::{Artifact, TensorData, Weights};
use std::sync::{Arc, Mutex};
use std::time::Instant;

pub(super) fn load(
    mut device: Box<dyn Device>,
    artifact: &Artifact,
    data: Option<&dyn TensorData>,
    options: &EngineOptions,
) -> Result<Engine, RunError> {
    let start = Instant::now();
    let plan = artifact.plan.clone();
    let weights = load_weights(&mut *device, artifact, data, options)?;
    let per_page: u64 = (0..plan.caches.len()).map(|c| page_bytes(&plan, c)).sum();
    let page_limit = page_limit(&*device, per_page, options.cache_bytes);
    let axes = (0..plan.seqs.len()).map(|axis| Axis { pool: PagePool::new(page_limit), window: window(&plan, axis) });
    let axes = axes.collect();
    let (main, main_input) = main_axis_and_input(&plan);
    let description = device.describe();
    let state = Mutex::new(State::new(device, &plan, weights, page_limit));
    let load = LoadStats {
        seconds: start.elapsed().as_secs_f64(),
        weight_bytes: plan.weights.iter().map(PackedWeight::bytes).sum(),
        cache_bytes_per_token: per_page as f64 / PAGE_TOKENS as f64,
    };
    Ok(Engine(Arc::new(Shared { plan, axes, main, main_input, chunk: options.chunk, description, load, state })))
}

fn load_weights(
    device: &mut dyn Device,
    artifact: &Artifact,
    data: Option<&dyn TensorData>,
    options: &EngineOptions,
) -> Result<Vec<Memory>, RunError> {
    let weights = &artifact.plan.weights;
    let total: u64 = weights.iter().map(PackedWeight::bytes).sum();
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let mut done = 0;
    let mut loaded = Vec::with_capacity(weights.len());
    for (i, weight) in weights.iter().enumerate() {
        let bytes = match (&artifact.weights, data) {
            (_, Some(data)) => Bytes::Owned(pack(weight, data, threads)?),
            (Weights::Embedded(embedded), None) => Bytes::Mapped(embedded.bytes(i)),
            (Weights::Absent, None) => {
                return Err(RunError::new(RunCode::Weights, &artifact.plan.model, "an artifact without weights")
                    .expected("the checkpoint that it was built for")
                    .help("give it with `--weights`, or build the artifact with it"));
            }
        };
        let memory = device.import(bytes).map_err(|e| {
            let part = format!("weight `{}`, after {} of {} of weights", weight.name, Size(done), Size(total));
            e.without_room(part, weight.bytes(), device.free_memory(), "use smaller weights, or `--device cpu`")
        })?;
        loaded.push(memory);
        done += weight.bytes();
        if let Some(progress) = &options.progress {
            progress(done, total);
        }
    }
    Ok(loaded)
}

fn pack(weight: &PackedWeight, data: &dyn TensorData, threads: usize) -> Result<HostBytes, RunError> {
    let mut bytes = HostBytes::zeroed(weight.bytes())?;
    pack_into(weight, data, threads, &mut bytes).map_err(|e| refused(weight, &e))?;
    // Otherwise all weights would be in memory twice in the end.
    weight.recipe.tensors.iter().flat_map(|t| &t.names).for_each(|name| data.release(name));
    Ok(bytes)
}

fn refused(weight: &PackedWeight, e: &RecipeError) -> RunError {
    RunError::new(RunCode::Weights, format_args!("weight `{}`", weight.name), e)
        .expected("the checkpoint that the artifact was built for")
        .help("give the same weights, or build again for these")
}

/// The most pages of each axis, so that all caches together stay within the bytes.
fn page_limit(device: &dyn Device, per_page: u64, bytes: Option<u64>) -> u32 {
    let bytes = bytes.unwrap_or_else(|| device.free_memory() / 2);
    let pages = bytes.checked_div(per_page).unwrap_or(u64::MAX);
    pages.clamp(1, (i32::MAX as u32 / PAGE_TOKENS) as u64) as u32
}

/// The widest bound of an axis's caches, if each of them has one.
fn window(plan: &Plan, axis: usize) -> Option<u64> {
    let windows: Option<Vec<u64>> = caches_of(plan, axis).map(|c| plan.caches[c].window).collect();
    windows?.into_iter().max()
}
