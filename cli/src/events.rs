//! Server-sent events, decoded as they come.
//!
//! For: `invoke --stream`, which shows each event's `data`, and `task wait`, which goes on after the last `id`. Not for:
//! judging what the data means.
//! Lines may end in LF, CRLF or CR and may be cut anywhere by the transport (WHATWG HTML §9.2.6).

/// Longest event that is collected; beyond it, what is there is given out as it is.
const MAX_EVENT: usize = 8 << 20;

/// Takes bytes, gives the data of each complete event.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    line: Vec<u8>,
    data: Option<Vec<u8>>,
    last_id: Option<String>,
    after_cr: bool,
}

impl Decoder {
    /// The data of every event that `bytes` completes.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut events = Vec::new();
        for &byte in bytes {
            let lf_of_crlf = byte == b'\n' && std::mem::take(&mut self.after_cr);
            if lf_of_crlf {
                continue;
            }
            self.after_cr = byte == b'\r';
            if byte == b'\n' || byte == b'\r' {
                events.extend(self.end_line());
            } else {
                self.line.push(byte);
                if self.line.len() >= MAX_EVENT {
                    self.end_line();
                    events.extend(self.end_event());
                }
            }
        }
        events
    }

    /// What was begun when the stream ended. The standard drops it; a person wants to see it.
    pub(crate) fn finish(mut self) -> Option<String> {
        if !self.line.is_empty() {
            self.end_line();
        }
        self.end_event()
    }

    /// The last id so far.
    pub(crate) fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref()
    }

    fn end_line(&mut self) -> Option<String> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            return self.end_event();
        }
        if let Some(value) = field(&line, b"data") {
            match &mut self.data {
                Some(data) => {
                    data.push(b'\n');
                    data.extend_from_slice(value);
                }
                None => self.data = Some(value.to_vec()),
            }
        } else if let Some(value) = field(&line, b"id")
            && !value.contains(&0)
        {
            self.last_id = Some(String::from_utf8_lossy(value).into_owned());
        }
        None
    }

    fn end_event(&mut self) -> Option<String> {
        let data = self.data.take()?;
        Some(String::from_utf8_lossy(&data).into_owned())
    }
}

/// The value of a line that is of this field.
fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    match line.strip_prefix(name)? {
        [] => Some(&[]),
        [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
        // Another field whose name begins alike.
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = ": hello\r\nevent: x\r\ndata: \"a\"\r\n\r\ndata:b\ndata: c\n\ndatafile: no\n\nid: 1\n\
                          data\n\ndata: ü\r\rdata: rest";

    #[test]
    fn events_are_the_same_however_the_bytes_are_cut() {
        let expected = ["\"a\"", "b\nc", "", "ü"];
        for size in 1..=STREAM.len() {
            let mut decoder = Decoder::default();
            let chunks = STREAM.as_bytes().chunks(size);
            let events: Vec<String> = chunks.flat_map(|chunk| decoder.feed(chunk)).collect();
            assert_eq!(events, expected, "chunks of {size}");
            assert_eq!(decoder.last_id(), Some("1"));
            assert_eq!(decoder.finish().as_deref(), Some("rest"));
        }
    }

    #[test]
    fn an_event_is_given_out_when_its_blank_line_comes_not_later() {
        let mut decoder = Decoder::default();
        assert!(decoder.feed(b"data: 1\n").is_empty());
        assert_eq!(decoder.feed(b"\n"), ["1"]);
        assert_eq!(decoder.finish(), None);
    }
}
