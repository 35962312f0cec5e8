//! Logits to a token.
//!
//! Everything here is a function of the logits, the options and the seed alone: the generator and the exponential are
//! written out in operations that IEEE 754 fixes, so the same seed draws the same tokens on every machine.

use std::collections::VecDeque;
use thiserror::Error;

/// How tokens are drawn. The order is: repeat penalty, temperature, top-k, top-p, min-p.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleOptions {
    /// Divides the logits; 0 takes the most probable token.
    pub temperature: f32,
    /// Keeps the k most probable tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the most probable tokens that together have this probability (Holtzman et al. 2020); 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens at least this fraction as probable as the most probable one (Nguyen et al. 2024); 0 keeps all.
    pub min_p: f32,
    /// Weakens tokens that occurred lately: divides positive logits, multiplies others (Keskar et al. 2019); 1 is none.
    pub repeat_penalty: f32,
    /// How many of the last tokens that penalty looks at.
    pub repeat_window: usize,
    /// Where the generator starts.
    pub seed: u64,
}

impl Default for SampleOptions {
    /// Greedy.
    fn default() -> SampleOptions {
        SampleOptions {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repeat_penalty: 1.0,
            repeat_window: 64,
            seed: 0,
        }
    }
}

/// An option out of its range.
#[derive(Clone, Debug, PartialEq, Error)]
#[error("{option} is {found}; expected {expected}")]
pub struct SampleError {
    /// The option's name.
    pub option: &'static str,
    /// What it is.
    pub found: f32,
    /// What it may be.
    pub expected: &'static str,
}

impl SampleOptions {
    /// Refuses options without a meaning.
    ///
    /// # Errors
    /// The first option out of its range.
    pub fn check(&self) -> Result<(), SampleError> {
        let rules = [
            ("temperature", self.temperature, self.temperature >= 0.0 && self.temperature.is_finite(), "0 or more"),
            ("top-p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "more than 0, at most 1"),
            ("min-p", self.min_p, (0.0..=1.0).contains(&self.min_p), "0 to 1"),
            (
                "repeat-penalty",
                self.repeat_penalty,
                self.repeat_penalty > 0.0 && self.repeat_penalty.is_finite(),
                "more than 0",
            ),
        ];
        match rules.into_iter().find(|(_, _, holds, _)| !holds) {
            None => Ok(()),
            Some((option, found, _, expected)) => Err(SampleError { option, found, expected }),
        }
    }
}

/// The token with the greatest logit, the lowest of equals. NaN counts as minus infinity.
pub fn greedy(logits: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (i, x) in logits.iter().enumerate() {
        if *x > best.1 {
            best = (i, *x);
        }
    }
    best.0 as u32
}

/// A logit as it is ordered: NaN like minus infinity, both zeros equal.
fn order(x: f32) -> f64 {
    if x.is_nan() { f64::NEG_INFINITY } else { x as f64 + 0.0 }
}

/// The natural logarithm of a token's probability under softmax.
///
/// # Panics
/// When `token` has no logit.
pub fn log_probability(logits: &[f32], token: u32) -> f64 {
    let top = tame(logits[greedy(logits) as usize]);
    let total: f64 = logits.iter().map(|x| exp(tame(*x) - top)).sum();
    tame(logits[token as usize]) - top - total.ln()
}

/// Draws tokens, remembering the last ones.
#[derive(Clone, Debug)]
pub struct Sampler {
    options: SampleOptions,
    generator: SplitMix64,
    recent: VecDeque<u32>,
    candidates: Vec<Candidate>,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    token: u32,
    /// The logit, as it is ordered.
    logit: f64,
    /// In proportion to the probability; the greatest is 1.
    weight: f64,
}

impl Sampler {
    /// A sampler at its seed.
    ///
    /// # Errors
    /// As [`SampleOptions::check`].
    pub fn new(options: SampleOptions) -> Result<Sampler, SampleError> {
        options.check()?;
        let generator = SplitMix64(options.seed);
        Ok(Sampler { options, generator, recent: VecDeque::new(), candidates: Vec::new() })
    }

    /// Remembers a token of the sequence, prompt or answer, for the repeat penalty.
    pub fn accept(&mut self, token: u32) {
        self.recent.push_back(token);
        while self.recent.len() > self.options.repeat_window {
            self.recent.pop_front();
        }
    }

    /// How many of the greatest logits decide what is drawn; `None` when all do: under a repeat penalty, which may lower
    /// the greatest, and at a temperature without a top-k, for a cut by probability needs the sum over all.
    pub fn needs(&self) -> Option<usize> {
        let SampleOptions { temperature, top_k, repeat_penalty, .. } = self.options;
        match (repeat_penalty == 1.0, temperature == 0.0, top_k) {
            (false, _, _) | (true, false, 0) => None,
            (true, true, _) => Some(1),
            (true, false, k) => Some(k),
        }
    }

    /// The token that [`Sampler::sample`] would draw from all logits, by the greatest of them: as many as
    /// [`Sampler::needs`] says, greatest first, the lower token of equals.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn sample_best(&mut self, tokens: &[u32], logits: &[f32]) -> u32 {
        let count = self.needs().expect("sampling needs all logits");
        if self.options.temperature == 0.0 {
            return tokens[0];
        }
        let entry = |(token, x): (&u32, &f32)| Candidate { token: *token, logit: order(*x), weight: 0.0 };
        self.candidates.clear();
        self.candidates.extend(tokens[..count].iter().zip(&logits[..count]).map(entry));
        self.choose()
    }

    /// The next token, by the last position's logits (`[vocab]`). It is not yet accepted.
    ///
    /// # Panics
    /// When there are no logits.
    pub fn sample(&mut self, logits: &[f32]) -> u32 {
        assert!(!logits.is_empty(), "sampling needs logits");
        if self.options.temperature == 0.0 && self.options.repeat_penalty == 1.0 {
            return greedy(logits);
        }
        self.fill(logits);
        self.penalise();
        if self.options.temperature == 0.0 {
            return most_probable(&self.candidates).token;
        }
        self.keep_top_k();
        self.choose()
    }

    /// Draws one of the candidates, of which none is too improbable by its rank.
    fn choose(&mut self) -> u32 {
        self.weigh();
        self.keep_top_p();
        let least = self.options.min_p as f64;
        self.candidates.retain(|c| c.weight >= least);
        self.draw()
    }

    fn fill(&mut self, logits: &[f32]) {
        let entry = |(i, x): (usize, &f32)| Candidate { token: i as u32, logit: order(*x), weight: 0.0 };
        self.candidates.clear();
        self.candidates.extend(logits.iter().enumerate().map(entry));
    }

    /// Candidates still lie at their tokens' numbers.
    fn penalise(&mut self) {
        let penalty = self.options.repeat_penalty as f64;
        let mut tokens: Vec<u32> = self.recent.iter().copied().collect();
        tokens.sort_unstable();
        tokens.dedup();
        for token in tokens {
            if let Some(c) = self.candidates.get_mut(token as usize) {
                c.logit = if c.logit > 0.0 { c.logit / penalty } else { c.logit * penalty };
            }
        }
    }

    fn keep_top_k(&mut self) {
        let k = self.options.top_k;
        if k > 0 {
            if k < self.candidates.len() {
                self.candidates.select_nth_unstable_by(k - 1, before);
                self.candidates.truncate(k);
            }
            // The selection leaves an order that only this library version fixes.
            self.candidates.sort_unstable_by(before);
        }
    }

    fn weigh(&mut self) {
        let temperature = self.options.temperature as f64;
        let top = finite(most_probable(&self.candidates).logit);
        self.candidates.iter_mut().for_each(|c| c.weight = exp((finite(c.logit) - top) / temperature));
    }

    fn keep_top_p(&mut self) {
        let p = self.options.top_p as f64;
        if p >= 1.0 {
            return;
        }
        let total: f64 = self.candidates.iter().map(|c| c.weight).sum();
        // Tokens below this bound have less than 1 - p together, so the kept ones are all above: few are sorted.
        let bound = total * (1.0 - p) / self.candidates.len() as f64;
        self.candidates.retain(|c| c.weight >= bound.min(1.0));
        self.candidates.sort_unstable_by(before);
        let mut sum = 0.0;
        let kept = self.candidates.iter().take_while(|c| {
            let wanted = sum < total * p;
            sum += c.weight;
            wanted
        });
        let kept = kept.count();
        self.candidates.truncate(kept);
    }

    fn draw(&mut self) -> u32 {
        let total: f64 = self.candidates.iter().map(|c| c.weight).sum();
        let mut left = self.generator.uniform() * total;
        for c in &self.candidates {
            left -= c.weight;
            if left < 0.0 {
                return c.token;
            }
        }
        most_probable(&self.candidates).token // rounding left a sliver behind the last candidate
    }
}

/// Most probable first, the lower token of equals.
fn before(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token))
}

fn most_probable(candidates: &[Candidate]) -> Candidate {
    *candidates.iter().min_by(|a, b| before(a, b)).expect("the most probable candidate is never dropped")
}

/// A logit as a finite number, so that differences are never NaN.
fn tame(x: f32) -> f64 {
    finite(order(x))
}

fn finite(logit: f64) -> f64 {
    logit.clamp(f32::MIN as f64, f32::MAX as f64)
}

/// Sebastiano Vigna's formulation of Steele, Lea and Flood's generator (OOPSLA 2014).
#[derive(Clone, Debug)]
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// 0 or more and less than 1, a multiple of 2^-53.
    fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// e^x for x at most 0, to about 1e-15: 2^n times a Taylor polynomial on half a binary logarithm's range.
///
/// Libraries differ in the last bits of `exp`; sums and products do not.
fn exp(x: f64) -> f64 {
    const LN2_HIGH: f64 = 6.931_471_803_691_238e-1; // its low 32 bits are zero, so n * LN2_HIGH is exact
    const LN2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    if x < -708.0 {
        return 0.0; // less than any weight that could be drawn
    }
    let n = (x * std::f64::consts::LOG2_E).round();
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    let polynomial = TAYLOR.iter().rev().fold(0.0, |sum, c| sum * r + c);
    polynomial * f64::from_bits(((n as i64 + 1023) as u64) << 52)
}

/// 1/k!
const TAYLOR: [f64; 14] = {
    let mut c = [1.0; 14];
    let mut k = 1;
    while k < 14 {
        c[k] = c[k - 1] / k as f64;
        k += 1;
    }
    c
};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sampler(change: impl FnOnce(&mut SampleOptions)) -> Sampler {
        let mut options = SampleOptions { temperature: 1.0, ..SampleOptions::default() };
        change(&mut options);
        Sampler::new(options).unwrap()
    }

    /// How often each of the tokens came in `n` draws.
    fn counts(s: &mut Sampler, logits: &[f32], n: usize) -> Vec<usize> {
        let mut counts = vec![0; logits.len()];
        (0..n).for_each(|_| counts[s.sample(logits) as usize] += 1);
        counts
    }

    #[test]
    fn ties_go_to_the_lower_token_and_nan_loses() {
        assert_eq!(greedy(&[1.0, 3.0, 3.0]), 1);
        assert_eq!(greedy(&[f32::NAN, -5.0]), 1);
        assert_eq!(greedy(&[f32::NAN, f32::NEG_INFINITY]), 0);
        assert_eq!(sampler(|o| o.temperature = 0.0).sample(&[0.0, f32::INFINITY, f32::INFINITY]), 1);
    }

    #[test]
    fn the_generator_is_the_published_one() {
        // The first outputs of splitmix64.c for the seed 1234567.
        let mut g = SplitMix64(1234567);
        let want = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431];
        assert_eq!([g.next(), g.next(), g.next(), g.next()], want);
    }

    #[test]
    fn the_same_seed_draws_the_same_tokens() {
        let logits: Vec<f32> = (0..50).map(|i| ((i * 7 % 13) as f32) / 3.0).collect();
        let draw = |seed| {
            let mut s = sampler(|o| (o.seed, o.top_k, o.top_p) = (seed, 40, 0.95));
            (0..12).map(|_| s.sample(&logits)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        // Written down, so that another machine or another version of the library is compared with this one.
        assert_eq!(draw(1), PINNED);
    }

    /// Also what a few lines of Python draw that follow the definitions.
    const PINNED: [u32; 12] = [20, 31, 10, 48, 48, 44, 1, 7, 9, 3, 35, 33];

    #[test]
    fn frequencies_follow_softmax_and_temperature() {
        let logits = [0.0, 2f32.ln(), 4f32.ln(), f32::NEG_INFINITY];
        let c = counts(&mut sampler(|_| ()), &logits, 70_000);
        // Expected 10000, 20000 and 40000; six standard deviations are below 900.
        for (got, want) in c.iter().zip([10_000i64, 20_000, 40_000, 0]) {
            assert!((*got as i64 - want).abs() < 900, "{c:?}");
        }
        let c = counts(&mut sampler(|o| o.temperature = 0.5), &logits, 21_000);
        for (got, want) in c.iter().zip([1_000i64, 4_000, 16_000, 0]) {
            assert!((*got as i64 - want).abs() < 450, "{c:?}");
        }
    }

    #[test]
    fn each_cut_keeps_what_it_says() {
        let logits = [0.5f32.ln(), 0.25f32.ln(), 0.15f32.ln(), 0.1f32.ln()];
        let kept = |change: fn(&mut SampleOptions)| {
            let c = counts(&mut sampler(change), &logits, 2000);
            c.iter().map(|n| (*n > 0) as u8).collect::<Vec<_>>()
        };
        assert_eq!(kept(|_| ()), [1, 1, 1, 1]);
        assert_eq!(kept(|o| o.top_k = 2), [1, 1, 0, 0]);
        assert_eq!(kept(|o| o.top_p = 0.74), [1, 1, 0, 0]);
        assert_eq!(kept(|o| o.top_p = 0.76), [1, 1, 1, 0]);
        assert_eq!(kept(|o| o.top_p = 1e-6), [1, 0, 0, 0]);
        assert_eq!(kept(|o| o.min_p = 0.25), [1, 1, 1, 0]);
        assert_eq!(kept(|o| o.min_p = 1.0), [1, 0, 0, 0]);
    }

    #[test]
    fn a_penalty_weakens_recent_tokens_of_either_sign() {
        let mut s = sampler(|o| (o.temperature, o.repeat_penalty, o.repeat_window) = (0.0, 2.0, 2));
        assert_eq!(s.sample(&[3.0, 2.0]), 0);
        s.accept(0);
        assert_eq!(s.sample(&[3.0, 2.0]), 1);
        assert_eq!(s.sample(&[-1.0, -1.5]), 1);
        s.accept(7);
        s.accept(7); // 0 has left the window, 7 has no logit
        assert_eq!(s.sample(&[3.0, 2.0]), 0);
    }

    #[test]
    fn a_penalty_or_an_uncut_temperature_needs_every_logit() {
        let needs = |change: fn(&mut SampleOptions)| sampler(change).needs();
        assert_eq!(needs(|o| o.temperature = 0.0), Some(1));
        assert_eq!(needs(|o| (o.temperature, o.top_k) = (0.0, 7)), Some(1));
        assert_eq!(needs(|o| o.top_k = 7), Some(7));
        assert_eq!(needs(|_| ()), None);
        assert_eq!(needs(|o| (o.temperature, o.repeat_penalty) = (0.0, 1.1)), None);
        assert_eq!(needs(|o| (o.top_k, o.repeat_penalty) = (7, 1.1)), None);
    }

    #[test]
    fn options_without_meaning_are_refused() {
        let refused = |o: SampleOptions| Sampler::new(o).err().map(|e| e.option);
        let d = SampleOptions::default;
        assert_eq!(refused(SampleOptions { temperature: -1.0, ..d() }), Some("temperature"));
        assert_eq!(refused(SampleOptions { temperature: f32::NAN, ..d() }), Some("temperature"));
        assert_eq!(refused(SampleOptions { top_p: 0.0, ..d() }), Some("top-p"));
        assert_eq!(refused(SampleOptions { min_p: 1.5, ..d() }), Some("min-p"));
        assert_eq!(refused(SampleOptions { repeat_penalty: 0.0, ..d() }), Some("repeat-penalty"));
        assert_eq!(refused(d()), None);
    }

    #[test]
    fn log_probabilities_are_those_of_softmax() {
        let logits = [1.0, 3.0, f32::NAN, 2.0];
        let total: f64 = [1.0f64, 3.0, 2.0].map(f64::exp).iter().sum();
        assert!((log_probability(&logits, 3) - (2.0 - total.ln())).abs() < 1e-12);
    }

    proptest! {
        /// What is drawn from the best alone is what is drawn from all, with ties, infinities and NaN among them.
        #[test]
        fn the_best_decide_as_all_do(
            logits in prop::collection::vec(prop_oneof![
                Just(f32::NAN), Just(f32::NEG_INFINITY), Just(f32::INFINITY), Just(-0.0f32), Just(0.0f32),
                Just(f32::MAX), Just(f32::MIN), (-3..3i32).prop_map(|n| n as f32), -5.0..5.0f32], 1..40),
            greedy: bool, k in 1..45usize, top_p in 0.05..=1.0f32, min_p in 0.0..=0.5f32, seed: u64,
        ) {
            let mut all = sampler(|o| *o = SampleOptions {
                temperature: if greedy { 0.0 } else { 0.8 }, top_k: k, top_p, min_p, seed, ..SampleOptions::default() });
            let mut few = all.clone();
            let count = few.needs().unwrap();
            prop_assert_eq!(count, if greedy { 1 } else { k });
            if count > logits.len() {
                return Ok(());
            }
            let mut order: Vec<u32> = (0..logits.len() as u32).collect();
            let key = |t: &u32| { let x = logits[*t as usize]; if x.is_nan() { f32::NEG_INFINITY } else { x } };
            order.sort_by(|a, b| key(b).partial_cmp(&key(a)).unwrap().then(a.cmp(b)));
            let values: Vec<f32> = order.iter().map(|t| logits[*t as usize]).collect();
            for _ in 0..6 {
                prop_assert_eq!(all.sample(&logits), few.sample_best(&order, &values));
            }
        }

        #[test]
        fn the_exponential_is_the_exponential(x in -700.0..0.0f64) {
            prop_assert!((exp(x) / x.exp() - 1.0).abs() < 1e-14, "{} {}", exp(x), x.exp());
        }

        #[test]
        fn any_logits_give_a_token(
            logits in prop::collection::vec(prop_oneof![any::<f32>(), -5.0..5.0f32], 1..40),
            temperature in prop_oneof![Just(0.0f32), 1e-6..100.0f32],
            top_k in 0..50usize, top_p in 1e-6..=1.0f32, min_p in 0.0..=1.0f32, penalty in 0.1..3.0f32, seed: u64,
        ) {
            let mut s = sampler(|o| *o = SampleOptions {
                temperature, top_k, top_p, min_p, repeat_penalty: penalty, repeat_window: 8, seed });
            for _ in 0..4 {
                let t = s.sample(&logits);
                prop_assert!((t as usize) < logits.len());
                s.accept(t);
            }
        }

        /// The drawn token is among the k most probable, and in the smallest set that has probability p.
        #[test]
        fn cuts_hold_for_any_distribution(
            logits in prop::collection::vec(-8.0..8.0f32, 2..60), k in 1..20usize, p in 0.05..1.0f32, seed: u64,
        ) {
            let rank = |t: u32| logits.iter().filter(|x| **x > logits[t as usize]).count();
            let t = sampler(|o| (o.top_k, o.seed) = (k, seed)).sample(&logits);
            prop_assert!(rank(t) < k);
            let t = sampler(|o| (o.top_p, o.seed) = (p, seed)).sample(&logits);
            let more_probable = logits.iter().filter(|x| **x > logits[t as usize]).map(|x| (*x as f64).exp()).sum::<f64>();
            let total: f64 = logits.iter().map(|x| (*x as f64).exp()).sum();
            prop_assert!(more_probable / total < p as f64 + 1e-6);
        }
    }
}
