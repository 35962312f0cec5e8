//! A checkpoint that exists in a case's comments only: `# checkpoint: hf toy`, `# config: key value`, `# tensor: name 8 4`.

use llmc_artifact::Format;
use llmc_frontend::Described;
use llmc_frontend::graph::{Model, Op};
use serde_json::{Map, Value, json};

/// The checkpoint that the comments at the top of a text describe, if they do.
pub fn described(text: &str) -> Option<Described> {
    let (mut config, mut tensors) = (Map::new(), Map::new());
    let mut found = None;
    for line in text.lines().take_while(|line| line.starts_with("# ")) {
        let Some((word, rest)) = line[2..].split_once(": ") else { continue };
        let (first, others) = rest.split_once(' ').unwrap_or((rest, ""));
        match word {
            "checkpoint" => found = Some((first, others)),
            "config" => {
                config.insert(first.to_owned(), serde_json::from_str(others).expect("a config value is JSON"));
            }
            "tensor" => {
                let length = |n: &str| Value::from(n.parse::<u64>().expect("a length is a number"));
                tensors.insert(first.to_owned(), others.split(' ').map(length).collect());
            }
            _ => {}
        }
    }
    let (kind, architecture) = found?;
    let json = json!({ kind: architecture, "config": config, "tensors": tensors });
    Some(Described::from_json(&json.to_string()).expect("a description"))
}

/// The tensors that a text reads at its own sizes, stored in a format where they are matrices, as a checkpoint of an architecture.
pub fn stored(model: &Model, architecture: &str, format: Format) -> Described {
    let mut tensors = Map::new();
    for id in model.weight_graph.ids() {
        if let Op::Tensor(view) = &model.weight_graph[id].op {
            let shape = Value::from(view.info.shape.clone());
            tensors.extend(view.names.iter().map(|name| (name.clone(), shape.clone())));
        }
    }
    let json = json!({ "hf": architecture, "config": {}, "tensors": tensors });
    Described::from_json(&json.to_string()).expect("a description").stored_in(format)
}
