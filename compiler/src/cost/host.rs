//! The machine that compiles, as far as it tells: caches and cores from sysfs, the rest from short measurements.
//!
//! Two runs on one machine measure slightly different numbers, and a choice that hangs on them would differ: figures
//! are rounded to two digits and kept in the user's cache folder, so that a machine is measured once.

use super::{GENERIC, Level, Machine, Rates};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Elements that a bandwidth is measured over: larger than any cache of a host.
const MEASURED: usize = 1 << 26;

/// The host, read and measured, or as it was measured before.
pub fn host() -> Machine {
    let file = cache_file();
    let known = file.as_deref().and_then(|f| std::fs::read_to_string(f).ok());
    if let Some(machine) = known.and_then(|text| Machine::parse(&text).ok()) {
        return machine;
    }
    let machine = measured();
    if let Some(file) = file {
        // A folder that cannot be written costs a measurement each time, nothing else.
        let _ = file.parent().map(std::fs::create_dir_all);
        let _ = std::fs::write(file, machine.text());
    }
    machine
}

fn cache_file() -> Option<PathBuf> {
    let var = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let folder = var("XDG_CACHE_HOME").or_else(|| var("HOME").map(|h| h.join(".cache")))?;
    Some(folder.join("llmc").join("machine.json"))
}

fn measured() -> Machine {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = round(bandwidth(cores));
    let f32 = round(multiply_adds() * cores as f64);
    let rates = Rates { f32, f16: f32, int8: 2.0 * f32, scalar: f32 };
    let levels = levels(Path::new("/sys/devices/system/cpu"), cores, memory);
    let launch = GENERIC.machine().launch;
    Machine { name: "host".to_owned(), rates, levels, memory, launch, slots: cores as f64 }
}

/// Two significant digits.
fn round(x: f64) -> f64 {
    let unit = 10f64.powf(x.log10().floor() - 1.0);
    (x / unit).round() * unit
}

/// Bytes a second that all cores together read from memory.
fn bandwidth(cores: usize) -> f64 {
    let data = vec![1u32; MEASURED];
    let pass = || {
        let started = Instant::now();
        std::thread::scope(|scope| {
            for part in data.chunks(MEASURED.div_ceil(cores)) {
                scope.spawn(|| std::hint::black_box(part.iter().fold(0u32, |a, x| a.wrapping_add(*x))));
            }
        });
        started.elapsed().as_secs_f64()
    };
    let fastest = (0..3).map(|_| pass()).fold(f64::INFINITY, f64::min);
    (MEASURED * size_of::<u32>()) as f64 / fastest
}

/// Operations a second of one core's vectors, two a multiply-add. A build without the host's own instructions finds
/// half of what its widest vectors do or less; the ratio to the bandwidth is what choices hang on.
fn multiply_adds() -> f64 {
    const LANES: usize = 64;
    const ROUNDS: usize = 1 << 19;
    let (mut sums, by) = ([0.5f32; LANES], std::hint::black_box([0.999f32; LANES]));
    let started = Instant::now();
    for _ in 0..ROUNDS {
        for (s, b) in sums.iter_mut().zip(&by) {
            *s = *s * *b + 0.25;
        }
    }
    std::hint::black_box(sums);
    2.0 * (LANES * ROUNDS) as f64 / started.elapsed().as_secs_f64()
}

/// Data caches beyond the first level, which holds tiles and no values.
fn levels(root: &Path, cores: usize, memory: f64) -> Vec<Level> {
    let read = |index: usize, what: &str| {
        let file = root.join("cpu0/cache").join(format!("index{index}")).join(what);
        std::fs::read_to_string(file).ok().map(|s| s.trim().to_owned())
    };
    let mut found = Vec::new();
    for index in 0..8 {
        let (Some(level), Some(size)) = (read(index, "level"), read(index, "size").and_then(|s| bytes(&s))) else {
            continue;
        };
        if level == "1" || read(index, "type").as_deref() == Some("Instruction") {
            continue;
        }
        let sharing = read(index, "shared_cpu_list").map_or(1, |s| listed(&s)).clamp(1, cores);
        // Each level is about three times as fast as the one behind it.
        let speed = if level == "2" { 10.0 } else { 3.0 };
        found.push(Level { capacity: size * (cores as f64 / sharing as f64), bandwidth: memory * speed });
    }
    found.sort_by(|a, b| a.capacity.total_cmp(&b.capacity));
    found
}

/// `512K`, `32M`.
fn bytes(text: &str) -> Option<f64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" => 1.0,
        "K" => 1024.0,
        "M" => 1024.0 * 1024.0,
        "G" => 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    digits.parse::<u32>().ok().filter(|n| *n > 0).map(|n| f64::from(n) * unit)
}

/// How many processors `0-3,8` are.
fn listed(text: &str) -> usize {
    let count = |part: &str| match part.split_once('-') {
        None => part.parse::<usize>().ok().map(|_| 1),
        Some((a, b)) => Some(b.parse::<usize>().ok()?.checked_sub(a.parse().ok()?)?.saturating_add(1)),
    };
    text.split(',').filter_map(count).fold(0, usize::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_lists_as_sysfs_writes_them() {
        assert_eq!(bytes("512K"), Some(524_288.0));
        assert_eq!(bytes("32M"), Some(33_554_432.0));
        assert_eq!(bytes("K"), None);
        assert_eq!(bytes("3 K"), None);
        assert_eq!((listed("0-3,8"), listed("5"), listed(""), listed("9-2")), (5, 1, 0, 0));
        assert_eq!((round(1.234e10), round(99.6)), (1.2e10, 100.0));
    }

    #[test]
    fn caches_are_counted_over_all_cores() {
        let root = tempfile::tempdir().expect("a folder");
        let write = |index: usize, files: &[(&str, &str)]| {
            let folder = root.path().join("cpu0/cache").join(format!("index{index}"));
            std::fs::create_dir_all(&folder).expect("made");
            files.iter().for_each(|(name, text)| std::fs::write(folder.join(name), text).expect("written"));
        };
        write(0, &[("level", "1"), ("size", "32K"), ("type", "Data")]);
        write(1, &[("level", "2"), ("size", "1M\n"), ("type", "Unified"), ("shared_cpu_list", "0-1")]);
        write(2, &[("level", "3"), ("size", "32M"), ("type", "Unified"), ("shared_cpu_list", "0-7")]);
        let found = levels(root.path(), 8, 1e10);
        let mib = 1024.0 * 1024.0;
        assert_eq!(found.iter().map(|l| l.capacity).collect::<Vec<_>>(), [4.0 * mib, 32.0 * mib]);
        assert!(levels(Path::new("/nonexistent"), 4, 1e10).is_empty());
    }

    #[test]
    fn what_is_measured_is_a_machine() {
        let machine = measured();
        assert!(Machine::parse(&machine.text()).is_ok(), "{machine:?}");
    }
}
