//! What stages made, to be looked at: boxes that are made of others, and the ways to show them.
//!
//! What enters is a stage's result; what leaves is a [`View`]: plain data, which becomes JSON by itself, a drawing for Graphviz
//! ([`dot`]), or one page that unfolds ([`html`]). Text forms are the stages' own.

mod classes;
mod dot;
mod graph;
mod html;
mod kernels;
mod terms;

pub use classes::{egraph, screen};
pub use dot::dot;
pub use graph::graph;
pub use html::html;
pub use kernels::{fused, kernels, kernels_data, plan, plan_data};
pub use terms::normal;

use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::HashSet;

/// A stage's result.
#[derive(Clone, Debug, Serialize)]
pub struct View {
    /// The stage.
    pub stage: &'static str,
    /// Its parts: blocks, mostly.
    pub sections: Vec<Section>,
}

/// A part of a stage's result.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Section {
    /// What it is of.
    pub name: String,
    /// Its boxes, those that others are made of first.
    pub nodes: Vec<Node>,
    /// What else is to be said.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub facts: Map<String, Value>,
}

/// A box.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Node {
    /// Its own in its section.
    pub id: String,
    /// What the text calls it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it does with what it is made of, in a line.
    pub does: String,
    /// Boxes of one class are equal, and what is made of one is made of any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// What it is made of: boxes, or classes.
    pub of: Vec<Use>,
    /// What else is known of it.
    #[serde(flatten)]
    pub facts: Map<String, Value>,
    /// All of it, in several lines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Whether it is to stand out.
    #[serde(skip)]
    pub marked: bool,
    /// What else it is asked for by: the values that a kernel stores.
    #[serde(skip)]
    pub values: Vec<String>,
}

/// A box, or a class of boxes, that another is made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Use {
    /// Its id.
    pub id: String,
    /// As what.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub what: String,
}

impl Use {
    fn of(id: impl Into<String>) -> Use {
        Use { id: id.into(), what: String::new() }
    }
}

impl View {
    /// As JSON.
    ///
    /// # Panics
    /// Never: a view holds nothing that JSON has not.
    pub fn json(&self) -> String {
        format!("{}\n", serde_json::to_string_pretty(self).expect("a view becomes JSON"))
    }
}

impl Section {
    /// Only some boxes, and what they are made of, so many steps down.
    #[must_use]
    pub fn around(mut self, roots: &[String], steps: usize) -> Section {
        let mut kept: HashSet<String> = roots.iter().cloned().collect();
        for _ in 0..steps {
            let own = |n: &&Node| kept.contains(&n.id) || n.class.as_ref().is_some_and(|c| kept.contains(c));
            let more: Vec<_> = self.nodes.iter().filter(own).flat_map(|n| &n.of).map(|u| u.id.clone()).collect();
            let before = kept.len();
            kept.extend(more);
            if kept.len() == before {
                break;
            }
        }
        self.nodes.retain(|n| kept.contains(&n.id) || n.class.as_ref().is_some_and(|c| kept.contains(c)));
        self
    }

    /// Every name that a box has.
    pub fn names(&self) -> Vec<String> {
        self.nodes.iter().flat_map(|n| n.name.iter().chain(&n.class).chain(&n.values)).cloned().collect()
    }

    /// The boxes of this name: classes, where boxes have one.
    pub fn named(&self, name: &str) -> Vec<String> {
        let is = |n: &&Node| n.name.iter().chain(&n.class).chain(&n.values).any(|own| own == name);
        let found = self.nodes.iter().filter(is);
        let mut ids: Vec<_> = found.map(|n| n.class.clone().unwrap_or_else(|| n.id.clone())).collect();
        ids.dedup();
        ids
    }
}
