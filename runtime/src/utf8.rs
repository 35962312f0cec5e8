//! Bytes that arrive in pieces, as text that never splits a character.

/// Collects bytes and gives back whole characters as soon as they are complete.
///
/// Bytes that can never become a character turn into U+FFFD, as `String::from_utf8_lossy` would have it, whatever
/// the cuts between the pieces were.
#[derive(Clone, Debug, Default)]
pub struct Utf8Stream {
    /// The beginning of a character, at most three bytes.
    held: Vec<u8>,
}

impl Utf8Stream {
    /// An empty stream.
    pub fn new() -> Utf8Stream {
        Utf8Stream::default()
    }

    /// Takes bytes; returns the characters they complete.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.held.extend_from_slice(bytes);
        let mut out = String::new();
        let mut used = 0;
        for chunk in self.held.utf8_chunks() {
            out.push_str(chunk.valid());
            used += chunk.valid().len();
            let invalid = chunk.invalid();
            if invalid.is_empty() || (used + invalid.len() == self.held.len() && may_continue(invalid)) {
                break;
            }
            out.push(char::REPLACEMENT_CHARACTER);
            used += invalid.len();
        }
        self.held.drain(..used);
        out
    }

    /// What is still held, an unfinished character as U+FFFD.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.held)).into_owned()
    }
}

/// Whether more bytes could make a character of these.
fn may_continue(bytes: &[u8]) -> bool {
    matches!(std::str::from_utf8(bytes), Err(e) if e.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_emoji_waits_for_its_last_byte() {
        let mut s = Utf8Stream::new();
        assert_eq!(s.push(b"a\xf0\x9f"), "a");
        assert_eq!(s.push(b"\x99"), "");
        assert_eq!(s.push(b"\x82b"), "🙂b");
        assert_eq!(s.push(b"\xe2\x82"), "");
        assert_eq!(s.finish(), "\u{fffd}");
        assert_eq!(s.finish(), "");
    }

    proptest! {
        #[test]
        fn pieces_of_a_text_make_the_text(text in "\\PC{0,40}", cuts in prop::collection::vec(1..5usize, 0..200)) {
            let mut s = Utf8Stream::new();
            let (mut rest, mut out, mut cuts) = (text.as_bytes(), String::new(), cuts.into_iter());
            while !rest.is_empty() {
                let (piece, tail) = rest.split_at(cuts.next().unwrap_or(1).min(rest.len()));
                out.push_str(&s.push(piece));
                rest = tail;
            }
            prop_assert_eq!(s.finish(), "");
            prop_assert_eq!(out, text);
        }

        #[test]
        fn any_bytes_make_what_lossy_decoding_makes(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..6), 0..12)) {
            let mut s = Utf8Stream::new();
            let mut out: String = pieces.iter().map(|p| s.push(p)).collect();
            out.push_str(&s.finish());
            let whole = pieces.concat();
            prop_assert_eq!(out, String::from_utf8_lossy(&whole).into_owned());
        }
    }
}
