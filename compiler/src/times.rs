//! How long the stages took: what `make bench-optimizer` prints.

use std::time::{Duration, Instant};

/// Seconds by stage, in the order in which the stages first ran.
#[derive(Clone, Debug, Default)]
pub struct Times(Vec<(&'static str, Duration)>);

impl Times {
    /// Runs a stage and adds the time it takes to the stage's.
    pub fn of<T>(&mut self, stage: &'static str, run: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let made = run();
        self.add(stage, start.elapsed());
        made
    }

    /// Adds to a stage's time.
    pub fn add(&mut self, stage: &'static str, time: Duration) {
        match self.0.iter_mut().find(|(s, _)| *s == stage) {
            Some((_, total)) => *total += time,
            None => self.0.push((stage, time)),
        }
    }

    /// Adds all of another's times.
    pub fn extend(&mut self, other: &Times) {
        other.0.iter().for_each(|(stage, time)| self.add(stage, *time));
    }

    /// A stage's time; none where it did not run.
    pub fn get(&self, stage: &str) -> Duration {
        self.0.iter().find(|(s, _)| *s == stage).map_or(Duration::ZERO, |(_, t)| *t)
    }

    /// All stages' time.
    pub fn total(&self) -> Duration {
        self.0.iter().map(|(_, t)| *t).sum()
    }
}
