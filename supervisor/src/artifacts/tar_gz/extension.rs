//! Headers that describe the entry after them: GNU long names (`L`, `K`) and PAX records (`x`, `g`).

use super::super::{ArtifactError, Refusal};
use super::stream;
use std::io::Read;
use tar::{EntryType, Header};

/// Longest content of such a header: two paths and some attributes, with room to spare.
const MAX_CONTENT: u64 = 64 << 10;

/// What is known of the entry to come.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Extensions {
    pub(super) name: Option<Vec<u8>>,
    pub(super) target: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) modified: Option<i64>,
    has_pax: bool,
}

impl Extensions {
    /// Whether nothing has been said.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Reads the header if it is such a one.
    pub(super) fn take(
        &mut self,
        header: &Header,
        content: &mut dyn Read,
    ) -> Result<bool, ArtifactError> {
        match header.entry_type() {
            EntryType::GNULongName => once(&mut self.name, long_name(header, content)?)?,
            EntryType::GNULongLink => once(&mut self.target, long_name(header, content)?)?,
            EntryType::XHeader => {
                if std::mem::replace(&mut self.has_pax, true) {
                    return Err(twice());
                }
                let records = read(header, content)?;
                for_each_record(&records, |key, value| self.record(key, value))?;
            }
            EntryType::XGlobalHeader => {
                let records = read(header, content)?;
                // `git archive` notes the commit; anything else would change entries from afar.
                for_each_record(&records, |key, _| match key {
                    "comment" => Ok(()),
                    _ => Err(Refusal::Unsupported("a global PAX header").whole()),
                })?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn record(&mut self, key: &str, value: &[u8]) -> Result<(), ArtifactError> {
        let number = || std::str::from_utf8(value).map_err(|_| malformed());
        match key {
            "path" => once(&mut self.name, value.to_owned()),
            "linkpath" => once(&mut self.target, value.to_owned()),
            "size" => {
                let digits = value.iter().all(u8::is_ascii_digit);
                let size = number()?.parse().ok().filter(|_| digits);
                once(&mut self.size, size.ok_or_else(malformed)?)
            }
            "mtime" => {
                // Seconds with a fraction, which nobody here needs.
                let whole = number()?.split('.').next().unwrap_or_default();
                once(&mut self.modified, whole.parse().map_err(|_| malformed())?)
            }
            // They say that the content is not what it seems.
            "hdrcharset" | "charset" => Err(Refusal::Unsupported("another character set").whole()),
            _ if key.starts_with("GNU.sparse.") || key == "SCHILY.realsize" => {
                Err(Refusal::Unsupported("sparse files").whole())
            }
            // Owners, other times, attributes: nothing of it is taken over.
            _ => Ok(()),
        }
    }
}

fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), ArtifactError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(twice()),
    }
}

fn twice() -> ArtifactError {
    Refusal::Malformed("an entry is described twice").whole()
}

fn malformed() -> ArtifactError {
    Refusal::Malformed("a PAX header is not well-formed").whole()
}

fn read(header: &Header, content: &mut dyn Read) -> Result<Vec<u8>, ArtifactError> {
    let size = header
        .entry_size()
        .map_err(|_| Refusal::Malformed("a number in a header is not one").whole())?;
    if size > MAX_CONTENT {
        return Err(Refusal::Malformed("a header is longer than 65536 bytes").whole());
    }
    let mut bytes = Vec::new();
    content.read_to_end(&mut bytes).map_err(stream::failure)?;
    match bytes.len() as u64 == size {
        true => Ok(bytes),
        false => Err(Refusal::Malformed("a header breaks off").whole()),
    }
}

/// The name, which ends at its one NUL.
fn long_name(header: &Header, content: &mut dyn Read) -> Result<Vec<u8>, ArtifactError> {
    if header.as_gnu().is_none() && header.as_ustar().is_none() {
        return Err(Refusal::Malformed("a long name in an archive without formats").whole());
    }
    let mut bytes = read(header, content)?;
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    if bytes[end..].iter().any(|b| *b != 0) {
        return Err(Refusal::Malformed("a long name has more after its end").whole());
    }
    bytes.truncate(end);
    Ok(bytes)
}

/// Records are `LENGTH KEY=VALUE\n`, where the length counts the whole record. Going by the length is the one right way: a
/// value may hold newlines.
fn for_each_record(
    mut rest: &[u8],
    mut act: impl FnMut(&str, &[u8]) -> Result<(), ArtifactError>,
) -> Result<(), ArtifactError> {
    while !rest.is_empty() {
        let space = rest
            .iter()
            .take(8)
            .position(|b| *b == b' ')
            .ok_or_else(malformed)?;
        let digits = rest[..space].iter().all(u8::is_ascii_digit);
        let length: usize = std::str::from_utf8(&rest[..space])
            .ok()
            .filter(|_| digits)
            .and_then(|digits| digits.parse().ok())
            .ok_or_else(malformed)?;
        let record = rest.get(space + 1..length).ok_or_else(malformed)?;
        let (last, pair) = record.split_last().ok_or_else(malformed)?;
        let equals = pair.iter().position(|b| *b == b'=').ok_or_else(malformed)?;
        let key = std::str::from_utf8(&pair[..equals]).map_err(|_| malformed())?;
        if *last != b'\n' || key.is_empty() {
            return Err(malformed());
        }
        act(key, &pair[equals + 1..])?;
        rest = &rest[length..];
    }
    Ok(())
}
