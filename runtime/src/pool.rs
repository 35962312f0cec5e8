//! Threads that stay: fork, barriers within a job, join.
//!
//! A decoding step is a few hundred short launches with a barrier after each, so waiting threads spin for a while
//! (a barrier then takes about a microsecond) and sleep only when the others take long.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What the threads run; the argument is the worker's number.
pub type Job = dyn Fn(usize) + Send + Sync;

/// How long a waiting thread spins before it sleeps.
const SPIN: Duration = Duration::from_micros(100);

/// A point that every worker must reach before any goes on.
pub struct Barrier {
    workers: usize,
    spin: Duration,
    arrived: AtomicUsize,
    generation: AtomicUsize,
    sleepers: AtomicUsize,
    lock: Mutex<()>,
    wake: Condvar,
}

impl Barrier {
    fn new(workers: usize, spin: Duration) -> Barrier {
        Barrier {
            workers,
            spin,
            arrived: AtomicUsize::new(0),
            generation: AtomicUsize::new(0),
            sleepers: AtomicUsize::new(0),
            lock: Mutex::new(()),
            wake: Condvar::new(),
        }
    }

    /// Waits for all workers. What each wrote before is visible to all after.
    pub fn wait(&self) {
        if self.workers == 1 {
            return;
        }
        let generation = self.generation.load(Ordering::SeqCst);
        if self.arrived.fetch_add(1, Ordering::SeqCst) + 1 == self.workers {
            self.arrived.store(0, Ordering::SeqCst);
            self.generation.store(generation.wrapping_add(1), Ordering::SeqCst);
            // A sleeper counts itself before it looks at the generation again, so either it sees the new one or
            // it is seen here; with the lock held it cannot be in between.
            if self.sleepers.load(Ordering::SeqCst) > 0 {
                let _held = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
                self.wake.notify_all();
            }
            return;
        }
        if !self.spin_until_past(generation) {
            self.sleep_until_past(generation);
        }
    }

    fn spin_until_past(&self, generation: usize) -> bool {
        let start = Instant::now();
        while start.elapsed() < self.spin {
            for _ in 0..64 {
                if self.generation.load(Ordering::SeqCst) != generation {
                    return true;
                }
                std::hint::spin_loop();
            }
        }
        false
    }

    fn sleep_until_past(&self, generation: usize) {
        let mut held = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while self.generation.load(Ordering::SeqCst) == generation {
            held = self.wake.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Shared {
    barrier: Barrier,
    job: Mutex<Option<Arc<Job>>>,
}

/// A fixed number of workers; the calling thread is number 0.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// A pool of `workers` threads, at least one, the caller's included.
    pub fn new(workers: usize) -> Pool {
        let workers = workers.max(1);
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        // With more workers than cores a spinning thread keeps the one it waits for from running.
        let spin = if workers <= cores { SPIN } else { Duration::ZERO };
        let shared = Arc::new(Shared { barrier: Barrier::new(workers, spin), job: Mutex::new(None) });
        let threads = (1..workers)
            .map(|worker| {
                let shared = shared.clone();
                let thread = std::thread::Builder::new().name(format!("llmc-{worker}"));
                thread.spawn(move || work(&shared, worker)).expect("the system can start a thread")
            })
            .collect();
        Pool { shared, threads }
    }

    /// Number of workers.
    pub fn workers(&self) -> usize {
        self.shared.barrier.workers
    }

    /// A job's view of the barrier between its parts: every worker must wait equally often.
    pub fn barrier(&self) -> BarrierHandle {
        BarrierHandle(self.shared.clone())
    }

    /// Runs the job on every worker and returns when all are done.
    pub fn run(&mut self, job: Arc<Job>) {
        if self.threads.is_empty() {
            return job(0);
        }
        self.set_job(Some(job.clone()));
        self.shared.barrier.wait();
        run_guarded(&*job, 0);
        self.shared.barrier.wait();
    }

    fn set_job(&self, job: Option<Arc<Job>>) {
        *self.shared.job.lock().unwrap_or_else(PoisonError::into_inner) = job;
    }
}

/// The barrier of a pool, for its jobs.
#[derive(Clone)]
pub struct BarrierHandle(Arc<Shared>);

impl BarrierHandle {
    /// Waits for all workers.
    pub fn wait(&self) {
        self.0.barrier.wait();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.set_job(None);
        self.shared.barrier.wait();
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // a worker that panicked has ended the process already
        }
    }
}

fn work(shared: &Shared, worker: usize) {
    loop {
        shared.barrier.wait();
        let job = shared.job.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(job) = job else { return };
        run_guarded(&*job, worker);
        drop(job);
        shared.barrier.wait();
    }
}

/// A worker that unwound would leave the others waiting for ever: its panic ends the process instead.
fn run_guarded(job: &Job, worker: usize) {
    struct Guard;
    impl Drop for Guard {
        fn drop(&mut self) {
            if std::thread::panicking() {
                std::process::abort();
            }
        }
    }
    let _guard = Guard;
    job(worker);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn every_worker_runs_every_job_and_sees_what_was_written_before_a_barrier() {
        for workers in [1, 2, 3, 7] {
            let mut pool = Pool::new(workers);
            assert_eq!(pool.workers(), workers);
            for round in 0..200u64 {
                let cells: Arc<Vec<AtomicU64>> = Arc::new((0..workers).map(|_| AtomicU64::new(0)).collect());
                let sums: Arc<Vec<AtomicU64>> = Arc::new((0..workers).map(|_| AtomicU64::new(0)).collect());
                let (c, s, barrier) = (cells.clone(), sums.clone(), pool.barrier());
                pool.run(Arc::new(move |worker| {
                    for phase in 1..=3 {
                        c[worker].store(phase * round, Ordering::Relaxed);
                        barrier.wait();
                        let sum: u64 = c.iter().map(|x| x.load(Ordering::Relaxed)).sum();
                        s[worker].fetch_add(sum, Ordering::Relaxed);
                        barrier.wait();
                    }
                }));
                for sum in sums.iter() {
                    assert_eq!(sum.load(Ordering::Relaxed), 6 * round * workers as u64);
                }
            }
        }
    }

    #[test]
    fn sleepers_wake() {
        let mut pool = Pool::new(2);
        for _ in 0..3 {
            let barrier = pool.barrier();
            pool.run(Arc::new(move |worker| {
                if worker == 0 {
                    std::thread::sleep(5 * SPIN); // the other one has gone to sleep by now
                }
                barrier.wait();
            }));
            std::thread::sleep(5 * SPIN);
        }
    }
}
