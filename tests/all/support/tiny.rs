//! Tiny random models of every text in `models/`: a config, random weights, tokens, and what transformers makes of them.

use super::cases::root;
use llmc_artifact::{Format, TensorData};
use llmc_frontend::diag::render_text;
use llmc_frontend::reference::{Evaluator, Inputs as Values, RandomTensors};
use llmc_frontend::{Described, MODELS, Model, Verified, compile_text, select_model};
use serde_json::Value;
use std::collections::BTreeMap;

/// What `tests/oracle/tiny.py` made its weights of.
const SEED: u64 = 5;

/// Outputs by name, `[rows, elements]` flattened.
pub type Outputs = BTreeMap<String, Vec<f64>>;

/// A tiny model.
pub struct Tiny {
    /// The text's name without `.llm`.
    pub name: &'static str,
    /// Config and shapes of tensors.
    pub checkpoint: Described,
    golden: Value,
}

/// One for every text.
pub fn all() -> Vec<Tiny> {
    MODELS.iter().map(|(file, _)| Tiny::named(file.trim_end_matches(".llm"))).collect()
}

impl Tiny {
    /// That of `models/NAME.llm`.
    pub fn named(name: &'static str) -> Tiny {
        let path = root().join("tests/oracle/tiny").join(format!("{name}.json"));
        let json = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let checkpoint = Described::from_json(&json).unwrap_or_else(|e| panic!("{name}: {e}"));
        Tiny { name, checkpoint, golden: serde_json::from_str(&json).expect("JSON") }
    }

    /// With matrices stored in another format.
    pub fn stored_in(mut self, format: Format) -> Tiny {
        self.checkpoint = self.checkpoint.stored_in(format);
        self
    }

    /// The text that is chosen for it.
    pub fn text(&self) -> &'static str {
        let (file, text) = select_model(MODELS.iter().copied(), &self.checkpoint).expect("a text fits");
        assert_eq!(file, format!("{}.llm", self.name));
        text
    }

    /// The model.
    pub fn model(&self) -> Verified<Model> {
        self.model_of(self.text())
    }

    /// The model of another text at the same sizes.
    pub fn model_of(&self, text: &str) -> Verified<Model> {
        let c = compile_text(self.name, text, Some(&self.checkpoint));
        c.model.unwrap_or_else(|| panic!("{}", render_text(&c.diagnostics, &c.sources, Default::default())))
    }

    /// Its weights.
    pub fn weights(model: &Model) -> RandomTensors {
        RandomTensors::new(model, SEED)
    }

    /// The tokens of one of its inputs; none where it has no such input.
    pub fn tokens(&self, input: &str) -> Vec<u32> {
        let list = self.golden.get(input).and_then(Value::as_array);
        list.into_iter().flatten().map(|n| n.as_u64().expect("a token") as u32).collect()
    }

    /// What transformers computed.
    pub fn wanted(&self) -> Outputs {
        let rows = |v: &Value| -> Vec<f64> {
            let rows = v.as_array().expect("rows").iter();
            rows.flat_map(|row| row.as_array().expect("a row")).map(|x| x.as_f64().expect("a number")).collect()
        };
        let outputs = self.golden["outputs"].as_object().expect("outputs");
        outputs.iter().map(|(name, v)| (name.clone(), rows(v))).collect()
    }

    /// What the reference evaluator makes of the first `count` tokens.
    pub fn reference(&self, model: &Model, count: usize) -> Outputs {
        self.reference_with(model, &Tiny::weights(model), count)
    }

    /// The same with other weights.
    pub fn reference_with(&self, model: &Model, weights: &dyn TensorData, count: usize) -> Outputs {
        let ints = |input: &str| self.tokens(input).iter().map(|t| i64::from(*t)).collect::<Vec<_>>();
        let mut inputs = Values::one("tokens", &ints("tokens")[..count]);
        if self.golden.get("source").is_some() {
            inputs = inputs.with("source", &ints("source"));
        }
        let out = Evaluator::new(model, weights).run(&inputs).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        out.into_iter().map(|(name, value)| (name, value.data)).collect()
    }
}

/// The largest difference over the largest wanted value, of the worst output; a NaN is infinitely far.
pub fn error(found: &Outputs, want: &Outputs) -> f64 {
    assert_eq!(found.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>());
    let far = |d: f64| if d.is_nan() { f64::INFINITY } else { d };
    let of = |(name, want): (&String, &Vec<f64>)| {
        assert_eq!(found[name].len(), want.len(), "{name}");
        let scale = want.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        found[name].iter().zip(want).fold(0.0f64, |m, (a, b)| m.max(far((a - b).abs()))) / scale
    };
    want.iter().map(of).fold(0.0, f64::max)
}
