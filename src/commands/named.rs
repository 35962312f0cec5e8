//! Values by their names.

use llmc::Error;
use llmc_frontend::diag::did_you_mean;
use std::collections::BTreeSet;

/// A value as it was asked for: `value`, or `block/value`.
pub struct Asked<'a> {
    whole: &'a str,
    /// The block, if one was said.
    pub block: Option<&'a str>,
    /// The value.
    pub value: &'a str,
}

impl<'a> Asked<'a> {
    /// Takes a name apart.
    pub fn new(whole: &'a str) -> Asked<'a> {
        let (block, value) = whole.split_once('/').map_or((None, whole), |(b, v)| (Some(b), v));
        Asked { whole, block, value }
    }

    /// That there is no such value, and which comes near.
    pub fn unknown(&self, names: &[String]) -> Error {
        let names: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        let help = match did_you_mean(self.value, names.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if names.is_empty() => "there is no such block".to_owned(),
            None => {
                let words: Vec<_> = names.into_iter().filter(|n| !is_number(n)).collect();
                format!("there are {}", words.join(", "))
            }
        };
        Error::Usage(format!("no value is called `{}`\n  help: {help}", self.whole))
    }
}

/// A class without a name is asked for by its number.
fn is_number(name: &str) -> bool {
    name.strip_prefix('c').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}
