//! Messages to a prompt, through the checkpoint's chat template.
//!
//! Templates are Jinja programs that come with the weights. They run with bounded fuel and bounded output, and see
//! nothing but the messages, the special tokens' names and the date.

use crate::error::{FileCode, FileError};
use crate::tokenizer::Tokenizer;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error, ErrorKind, State, context};
use serde::{Deserialize, Serialize};
use std::io::{self, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Instructions a template may run for: some thousands suffice for a long conversation.
const FUEL: u64 = 2_000_000;
const MAX_OUTPUT: usize = 16 << 20;
const NAME: &str = "chat";

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`, as a rule.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// A message.
    pub fn new(role: &str, content: &str) -> Message {
        Message { role: role.into(), content: content.into() }
    }
}

/// A chat template, ready for use.
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

impl ChatTemplate {
    /// The tokenizer's template; `None` when it has none.
    ///
    /// # Errors
    /// E0612 when it is not a template.
    pub fn of(tokenizer: &Tokenizer) -> Result<Option<ChatTemplate>, FileError> {
        let data = tokenizer.data();
        let Some(source) = &data.chat_template else { return Ok(None) };
        let name = |id: Option<u32>| id.and_then(|id| tokenizer.name(id)).unwrap_or_default();
        ChatTemplate::new(source, &name(data.bos), &name(data.eos.first().copied())).map(Some)
    }

    /// A template, with the texts of the tokens that begin and end a sequence.
    ///
    /// # Errors
    /// E0612 when it is not a template.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<ChatTemplate, FileError> {
        let mut environment = Environment::new();
        // The settings under which Hugging Face renders chat templates.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(|e| failure(&e))?;
        environment.set_syntax(syntax);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_fuel(Some(FUEL));
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", tojson);
        // In Python None cannot be iterated over; minijinja iterates over nothing.
        environment.add_test("iterable", |v: &Value| !v.is_none() && v.try_iter().is_ok());
        environment.add_template_owned(NAME, without_generation(source)).map_err(|e| failure(&e))?;
        Ok(ChatTemplate { environment, bos: bos.into(), eos: eos.into() })
    }

    /// The prompt for these messages; with `answer`, up to where the model's answer begins.
    ///
    /// # Errors
    /// E0612 when the template refuses the messages, fails, or runs too long.
    pub fn render(&self, messages: &[Message], answer: bool) -> Result<String, FileError> {
        let template = self.environment.get_template(NAME).map_err(|e| failure(&e))?;
        let messages: Vec<Value> =
            messages.iter().map(|m| context! { role => &m.role, content => &m.content }).collect();
        let values = context! {
            messages => messages,
            add_generation_prompt => answer,
            bos_token => &self.bos,
            eos_token => &self.eos,
            // Templates tell "no tools" by none, not by an unknown name.
            tools => (),
            documents => (),
        };
        let mut out = Bounded(Vec::new());
        template.render_captured_to(values, &mut out).map_err(|e| failure(&e))?;
        String::from_utf8(out.0).map_err(|_| failure(&Error::new(ErrorKind::BadSerialization, "output is not UTF-8")))
    }
}

/// Hugging Face's own tag `generation` marks what a model is trained on; for a prompt it is an `if` that holds.
fn without_generation(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((before, tag)) = rest.split_once("{%") {
        let Some((tag, after)) = tag.split_once("%}") else { break };
        let replaced = match tag.trim_matches(['-', '+', ' ']) {
            "generation" => tag.replace("generation", "if true"),
            "endgeneration" => tag.replace("endgeneration", "endif"),
            _ => tag.to_string(),
        };
        out.extend([before, "{%", &replaced, "%}"]);
        rest = after;
    }
    out.push_str(rest);
    out
}

/// Output that may not grow for ever.
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_OUTPUT {
            return Err(io::Error::other(format!("more than {MAX_OUTPUT} bytes of output")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn failure(e: &Error) -> FileError {
    let part = e.line().map_or("the template".into(), |l| format!("line {l} of the template"));
    FileError::new(FileCode::ChatTemplate, Path::new(""), part)
        .found(e)
        .expected("a Jinja template that accepts these messages")
        .help("--raw uses the prompt as it is")
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// JSON as Python writes it: spaces after `,` and `:`, and nothing escaped for HTML.
fn tojson(_: &State, value: Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let invalid = |e: serde_json::Error| Error::new(ErrorKind::BadSerialization, e.to_string());
    let mut out = Vec::new();
    match indent {
        Some(n) => {
            let indent = " ".repeat(n.min(16));
            let pretty = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, pretty)).map_err(invalid)?;
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, OneLine)).map_err(invalid)?,
    }
    Ok(Value::from_safe_string(String::from_utf8(out).expect("serde_json writes UTF-8")))
}

struct OneLine;

impl serde_json::ser::Formatter for OneLine {
    fn begin_array_value<W: ?Sized + Write>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, w: &mut W) -> io::Result<()> {
        w.write_all(b": ")
    }
}

fn strftime_now(format: String) -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    strftime(seconds, &format)
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// The parts of C's strftime that templates use, in UTC; an unknown one stays as it is written.
fn strftime(seconds: u64, format: &str) -> String {
    let days = seconds / 86_400;
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let (month_name, day_name) = (MONTHS[month as usize - 1], DAYS[(days % 7) as usize]);
    let mut out = String::new();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let padded = chars.next_if_eq(&'-').is_none();
        let two = |n: u64| if padded { format!("{n:02}") } else { n.to_string() };
        match chars.next() {
            Some('Y') => out.push_str(&year.to_string()),
            Some('y') => out.push_str(&two(year % 100)),
            Some('m') => out.push_str(&two(month)),
            Some('d') => out.push_str(&two(day)),
            Some('H') => out.push_str(&two(hour)),
            Some('I') => out.push_str(&two((hour + 11) % 12 + 1)),
            Some('M') => out.push_str(&two(minute)),
            Some('S') => out.push_str(&two(second)),
            Some('p') => out.push_str(if hour < 12 { "AM" } else { "PM" }),
            Some('B') => out.push_str(month_name),
            Some('b') => out.push_str(&month_name[..3]),
            Some('A') => out.push_str(day_name),
            Some('a') => out.push_str(&day_name[..3]),
            Some('%') => out.push('%'),
            Some(other) => out.extend(['%', other]),
            None => out.push('%'),
        }
    }
    out
}

/// Year, month and day of a day since 1970 (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468; // days since 0000-03-01
    let (era, of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153; // months since March
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + (month <= 2) as u64;
    (year, month, of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str, messages: &[Message]) -> Result<String, FileError> {
        ChatTemplate::new(source, "<s>", "</s>")?.render(messages, true)
    }

    #[test]
    fn a_conversation_becomes_a_prompt() {
        let source = "{% for message in messages %}\n  {% if message['role'] == 'user' %}\n[U] {{ message['content'] | trim }}\n\
                      {% else %}\n[A] {{ message.content }}{{ eos_token }}\n{% endif %}\n{% endfor %}\n\
                      {% if add_generation_prompt %}{{ '[A] ' }}{% endif %}";
        let messages = [Message::new("user", " hi "), Message::new("assistant", "yo"), Message::new("user", "ok")];
        assert_eq!(render(source, &messages).unwrap(), "[U] hi\n[A] yo</s>\n[U] ok\n[A] ");
    }

    #[test]
    fn the_helpers_of_templates_are_there() {
        let same = |source: &str, want: &str| assert_eq!(render(source, &[]).unwrap(), want, "{source}");
        same("{{ ' a '.strip() }}{{ 'b'.upper() }}{{ 'x,y'.split(',')[1] }}{{ 'abc'.startswith('ab') }}", "aByTrue");
        same("{{ {'a': [1, 'é<']} | tojson }}", "{\"a\": [1, \"é<\"]}");
        same("{{ [1] | tojson(indent=2) }}", "[\n  1\n]");
        same("{% for i in range(9) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}", "012");
        same("{% set ns = namespace(n=0) %}{% for i in [1, 2] %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}", "3");
        same("{%- generation -%} a {%- endgeneration %} {{ tools is none }}{{ tools is iterable }}", "a TrueFalse");
        assert!(render("{{ strftime_now('%Y') }}", &[]).unwrap().parse::<u32>().unwrap() >= 2024);
    }

    #[test]
    fn what_goes_wrong_is_told() {
        let e = render("{{ raise_exception('roles must alternate') }}", &[]).unwrap_err();
        assert_eq!(e.code, FileCode::ChatTemplate);
        assert!(e.to_string().contains("roles must alternate"), "{e}");
        assert_eq!(render("{% for %}", &[]).unwrap_err().code, FileCode::ChatTemplate);
    }

    #[test]
    fn a_template_cannot_run_for_ever() {
        let nested = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}";
        assert_eq!(render(nested, &[]).unwrap_err().code, FileCode::ChatTemplate);
        let long = "{% for a in range(9999) %}{{ 'x' * 9999 }}{% endfor %}";
        assert!(render(long, &[]).unwrap_err().to_string().contains("output"));
        assert_eq!(render(&"{{ (".repeat(100_000), &[]).unwrap_err().code, FileCode::ChatTemplate);
        assert_eq!(
            render("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", &[]).unwrap_err().code,
            FileCode::ChatTemplate
        );
    }

    #[test]
    fn dates_are_right() {
        assert_eq!(strftime(0, "%d %b %Y %H:%M:%S %A"), "01 Jan 1970 00:00:00 Thursday");
        assert_eq!(strftime(1_709_210_096, "%-d %B %y, %I:%M %p %a 100%"), "29 February 24, 12:34 PM Thu 100%");
        assert_eq!(strftime(4_107_542_399, "%Y-%m-%d %q"), "2100-02-28 %q");
    }
}
