//! What a feed gives, checked against the plan's inputs and laid out as the kernels read it.

use super::batch::Piece;
use super::{Feed, Inputs, Role, Shared, Values, Want};
use crate::run_error::{RunCode, RunError};
use llmc_artifact::plan::{Plan, PlanInput};
use llmc_artifact::{Dim, Type, Value};

/// A feed's inputs, and how much of it has run.
pub(super) struct Prepared {
    /// New tokens along each sequence axis.
    pub rows: Vec<usize>,
    /// How many of them have run.
    pub done: Vec<usize>,
    /// For each input of the plan, the bits of its values: i32 or f32.
    pub words: Vec<Vec<u32>>,
    /// What the tokens are.
    pub role: Role,
    /// Which outputs are wanted.
    pub want: Want,
}

/// Where an input goes: the axis of its tokens, if over tokens, and the elements of one row.
pub(super) fn shape(plan: &Plan, input: &PlanInput) -> (Option<usize>, usize) {
    let dims = &plan.buffers[input.buffer as usize].dims;
    let axis = match dims.first() {
        Some(Dim::Rows(s)) => Some(s.0 as usize),
        _ => None,
    };
    (axis, dims.iter().filter_map(|d| d.as_const()).product::<u64>() as usize)
}

impl Prepared {
    pub(super) fn new(engine: &Shared, feed: &Feed) -> Result<Prepared, RunError> {
        let plan = &engine.plan;
        let mut given: Vec<Option<Vec<u32>>> = vec![None; plan.inputs.len()];
        match &feed.inputs {
            Inputs::Tokens(tokens) => {
                let main = engine.main_input.ok_or_else(|| {
                    RunError::new(RunCode::Input, "tokens", "a model without an integer input over tokens")
                        .help("name its inputs")
                })?;
                given[main] = Some(token_words(&plan.inputs[main], tokens)?);
            }
            Inputs::Named(named) => {
                for (name, values) in named {
                    let at = plan.inputs.iter().position(|i| i.name == *name).ok_or_else(|| unknown(plan, name))?;
                    if given[at].is_some() {
                        return Err(RunError::new(RunCode::Input, format_args!("input `{name}`"), "given twice"));
                    }
                    given[at] = Some(value_words(&plan.inputs[at], *values)?);
                }
            }
        }
        let rows = count_rows(plan, &given)?;
        let words = fill_defaults(plan, given, &rows)?;
        Ok(Prepared { done: vec![0; rows.len()], rows, words, role: feed.role, want: feed.want })
    }

    /// Notes that a piece has run.
    pub(super) fn take(&mut self, piece: &Piece) {
        for (done, count) in self.done.iter_mut().zip(&piece.count) {
            *done += count;
        }
    }
}

fn part(input: &PlanInput) -> String {
    format!("input `{}`", input.name)
}

fn unknown(plan: &Plan, name: &str) -> RunError {
    let names: Vec<&str> = plan.inputs.iter().map(|i| i.name.as_str()).collect();
    RunError::new(RunCode::Input, format_args!("input `{name}`"), "the model has no such input")
        .expected(format_args!("one of: {}", names.join(", ")))
}

fn token_words(input: &PlanInput, tokens: &[u32]) -> Result<Vec<u32>, RunError> {
    let bound = input.bound.unwrap_or(i32::MAX as u64 + 1);
    match tokens.iter().position(|t| *t as u64 >= bound) {
        None => Ok(tokens.to_vec()),
        Some(at) => Err(outside(input, at, tokens[at] as i64, bound)),
    }
}

fn outside(input: &PlanInput, at: usize, found: i64, bound: u64) -> RunError {
    RunError::new(RunCode::Input, part(input), format_args!("{found} at index {at}"))
        .expected(format_args!("integers from 0 to {}", bound as i64 - 1))
        .help("use the tokenizer that belongs to the model")
}

fn value_words(input: &PlanInput, values: Values) -> Result<Vec<u32>, RunError> {
    match (input.ty, values) {
        (Type::Real, Values::Real(x)) => Ok(x.iter().map(|x| x.to_bits()).collect()),
        (Type::Int, Values::Int(x)) => {
            if let Some(bound) = input.bound
                && let Some(at) = x.iter().position(|n| !(0..bound as i64).contains(&(*n as i64)))
            {
                return Err(outside(input, at, x[at] as i64, bound));
            }
            Ok(x.iter().map(|n| *n as u32).collect())
        }
        (Type::Bool, Values::Int(x)) => match x.iter().position(|n| !(0..2).contains(n)) {
            None => Ok(x.iter().map(|n| *n as u32).collect()),
            Some(at) => Err(outside(input, at, x[at] as i64, 2)),
        },
        (ty, values) => {
            let found = match values {
                Values::Int(_) => "integers",
                Values::Real(_) => "real numbers",
            };
            Err(RunError::new(RunCode::Input, part(input), found).expected(ty))
        }
    }
}

/// New tokens along each axis: as many as the inputs over it have rows, all the same number.
fn count_rows(plan: &Plan, given: &[Option<Vec<u32>>]) -> Result<Vec<usize>, RunError> {
    let mut rows: Vec<Option<usize>> = vec![None; plan.seqs.len()];
    for (input, words) in plan.inputs.iter().zip(given) {
        let (Some(words), (axis, width)) = (words, shape(plan, input)) else { continue };
        let Some(axis) = axis else {
            if words.len() != width {
                let found = format!("{} elements", words.len());
                return Err(RunError::new(RunCode::Input, part(input), found).expected(width));
            }
            continue;
        };
        let count = words.len().checked_div(width).unwrap_or(0);
        if count * width != words.len() {
            let found = format!("{} elements", words.len());
            return Err(
                RunError::new(RunCode::Input, part(input), found).expected(format_args!("{width} for each token"))
            );
        }
        if rows[axis].is_some_and(|n| n != count) {
            let found = format!("{count} tokens");
            return Err(RunError::new(RunCode::Input, part(input), found)
                .expected(format_args!("{} as for the inputs before", rows[axis].unwrap_or(0))));
        }
        rows[axis] = Some(count);
    }
    let rows: Vec<usize> = rows.into_iter().map(|n| n.unwrap_or(0)).collect();
    if rows.iter().all(|n| *n == 0) {
        return Err(RunError::new(RunCode::Input, "tokens", "none").expected("at least one"));
    }
    Ok(rows)
}

fn fill_defaults(plan: &Plan, given: Vec<Option<Vec<u32>>>, rows: &[usize]) -> Result<Vec<Vec<u32>>, RunError> {
    let filled = plan.inputs.iter().zip(given).map(|(input, words)| {
        let (axis, width) = shape(plan, input);
        let count = axis.map_or(1, |a| rows[a]) * width;
        match (words, input.default) {
            (Some(words), _) => Ok(words),
            (None, Some(value)) => Ok(vec![value_bits(input.ty, value); count]),
            (None, None) if count == 0 => Ok(Vec::new()),
            (None, None) => Err(RunError::new(RunCode::Input, part(input), "not given")
                .expected(format_args!("{count} values: it has no default"))),
        }
    });
    filled.collect()
}

fn value_bits(ty: Type, value: Value) -> u32 {
    match ty {
        Type::Real => (value.real() as f32).to_bits(),
        Type::Int | Type::Bool => value.real() as i32 as u32,
    }
}

/// An input that is not over tokens has one value for the whole batch.
pub(super) fn check_shared(plan: &Plan, prepared: &[Prepared]) -> Result<(), RunError> {
    for (i, input) in plan.inputs.iter().enumerate() {
        let differs = || prepared.windows(2).any(|p| p[0].words[i] != p[1].words[i]);
        if shape(plan, input).0.is_none() && differs() {
            return Err(RunError::new(RunCode::Input, part(input), "values that differ between sequences of a batch")
                .expected("the same for all: it is not over tokens")
                .help("step the sequences one after another"));
        }
    }
    Ok(())
}
