//! A process's bytes as text: JSON has no other strings.
//!
//! A character that comes in two pieces is put together again. What is no UTF-8 becomes U+FFFD, one for each maximal bad
//! sequence, as `String::from_utf8_lossy` has it: whoever wants a binary file says `base64 FILE`.

/// The text of one stream.
#[derive(Debug, Default)]
pub(super) struct Text {
    /// The beginning of a character whose rest has not come: at most three bytes.
    begun: Vec<u8>,
}

impl Text {
    /// The text that `bytes` complete.
    pub(super) fn take(&mut self, bytes: &[u8]) -> String {
        let mut all = std::mem::take(&mut self.begun);
        all.extend_from_slice(bytes);
        let mut text = String::with_capacity(all.len());
        let mut rest = &all[..];
        loop {
            match std::str::from_utf8(rest) {
                Ok(good) => {
                    text.push_str(good);
                    return text;
                }
                Err(error) => {
                    let (good, bad) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(good));
                    match error.error_len() {
                        Some(length) => {
                            text.push(char::REPLACEMENT_CHARACTER);
                            rest = &bad[length..];
                        }
                        None => {
                            self.begun = bad.to_vec();
                            return text;
                        }
                    }
                }
            }
        }
    }

    /// What is left at the end of the stream.
    pub(super) fn finish(self) -> String {
        String::from_utf8_lossy(&self.begun).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn in_pieces(bytes: &[u8], size: usize) -> String {
        let mut text = Text::default();
        let mut out = String::new();
        for piece in bytes.chunks(size) {
            out += &text.take(piece);
            assert!(text.begun.len() < 4);
        }
        out + &text.finish()
    }

    #[test]
    fn characters_are_put_together_and_what_is_none_is_replaced() {
        assert_eq!(in_pieces("aü€🙂z".as_bytes(), 1), "aü€🙂z");
        assert_eq!(in_pieces(b"a\xffb\xe2\x82", 2), "a\u{fffd}b\u{fffd}");
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(bytes in proptest::collection::vec(any::<u8>(), 0..200), size in 1_usize..9) {
            prop_assert_eq!(in_pieces(&bytes, size), String::from_utf8_lossy(&bytes));
        }
    }
}
