//! The little XML that this subset speaks.

use crate::api::reply::ApiError;
use crate::objects::{MOST_PARTS, Part};
use quick_xml::Reader;
use quick_xml::escape::escape;
use quick_xml::events::Event;
use std::fmt::Write as _;

/// What S3's documents are named after.
const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";

/// A document of one level.
pub(super) fn document(root: &str, fields: &[(&str, &str)]) -> String {
    // Errors alone have no namespace.
    let namespace = if root == "Error" {
        String::new()
    } else {
        format!(" xmlns=\"{NAMESPACE}\"")
    };
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{root}{namespace}>{}</{root}>",
        elements(fields)
    )
}

/// Elements, one after another; a name in angle brackets has its content as it is.
pub(super) fn elements(fields: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in fields {
        // Writing to a string cannot fail.
        let _ = match name
            .strip_prefix('<')
            .and_then(|name| name.strip_suffix('>'))
        {
            Some(name) => write!(text, "<{name}>{value}</{name}>"),
            None => write!(text, "<{name}>{}</{name}>", escape(clean(value))),
        };
    }
    text
}

/// Without the control characters that XML 1.0 cannot hold.
fn clean(value: &str) -> String {
    value
        .chars()
        .filter(|c| !c.is_control() || matches!(c, '\n' | '\t'))
        .collect()
}

/// The parts of a `CompleteMultipartUpload` document.
pub(super) fn parts(text: &[u8]) -> Result<Vec<Part>, ApiError> {
    let malformed = || {
        ApiError::field("body", "is not a CompleteMultipartUpload document").because("MalformedXML")
    };
    let text = std::str::from_utf8(text).map_err(|_| malformed())?;
    let mut reader = Reader::from_str(text);
    let mut path: Vec<String> = Vec::new();
    let mut parts: Vec<Part> = Vec::new();
    let (mut number, mut etag) = (String::new(), String::new());
    loop {
        match reader.read_event().map_err(|_| malformed())? {
            Event::Start(start) => {
                path.push(String::from_utf8_lossy(start.local_name().as_ref()).into_owned());
                if path.len() > 3 {
                    return Err(malformed());
                }
            }
            Event::Text(found) => {
                let found = found.decode().map_err(|_| malformed())?;
                match path.last().map(String::as_str) {
                    Some("PartNumber") => number.push_str(&found),
                    Some("ETag") => etag.push_str(&found),
                    Some(_) | None => {}
                }
            }
            // `&quot;` around an ETag.
            Event::GeneralRef(_) => {}
            Event::End(_) => {
                if path.pop().as_deref() == Some("Part") {
                    let number = std::mem::take(&mut number);
                    parts.push(Part {
                        number: number.trim().parse().map_err(|_| malformed())?,
                        etag: std::mem::take(&mut etag).trim().replace('"', ""),
                    });
                    if parts.len() > usize::from(MOST_PARTS) {
                        return Err(malformed());
                    }
                }
            }
            Event::Eof if path.is_empty() => break,
            Event::Decl(_) | Event::Comment(_) => {}
            Event::Empty(_) | Event::CData(_) | Event::PI(_) | Event::DocType(_) | Event::Eof => {
                return Err(malformed());
            }
        }
    }
    let in_order = parts.windows(2).all(|pair| pair[0].number < pair[1].number);
    if parts.is_empty() || !in_order {
        return Err(
            ApiError::field("body", "must name parts in the order of their numbers")
                .because("InvalidPartOrder"),
        );
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_read_as_sdks_write_them() {
        let text = b"<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Part><ETag>\"ab\"</ETag>\
            <PartNumber>1</PartNumber><ChecksumCRC32>x==</ChecksumCRC32></Part><Part><ETag>&quot;cd&quot;</ETag><PartNumber>3</PartNumber></Part>\
            </CompleteMultipartUpload>";
        let found = parts(text).expect("sound");
        let wanted = [(1, "ab"), (3, "cd")].map(|(number, etag)| Part {
            number,
            etag: etag.to_owned(),
        });
        assert_eq!(found, wanted);
        for bad in [
            &b""[..],
            b"<a>",
            b"<CompleteMultipartUpload/>",
            b"<!DOCTYPE a [<!ENTITY b \"c\">]><a>&b;</a>",
            b"<a><Part><PartNumber>2</PartNumber></Part><Part><PartNumber>1</PartNumber></Part></a>",
            b"<a><Part><PartNumber>x</PartNumber></Part></a>",
            b"<a><b><c><d></d></c></b></a>",
            b"\xff",
        ] {
            assert!(parts(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn what_callers_say_cannot_become_markup() {
        let text = document("Error", &[("Message", "<a>&\"\u{1}")]);
        assert!(
            text.contains("<Message>&lt;a&gt;&amp;&quot;</Message>"),
            "{text}"
        );
    }
}
