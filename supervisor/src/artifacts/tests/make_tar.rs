//! Tar archives in which every field can lie.

use super::gzip;

/// A header block with its content.
#[derive(Clone)]
pub(super) struct Block {
    pub(super) header: [u8; 512],
    pub(super) content: Vec<u8>,
}

/// An entry in ustar form.
pub(super) fn entry(name: &str, kind: u8, content: &[u8]) -> Block {
    let mut block = Block {
        header: [0; 512],
        content: content.to_vec(),
    };
    block.set(0, &name.as_bytes()[..name.len().min(100)]);
    block.octal(100, 8, if kind == b'5' { 0o755 } else { 0o644 });
    block.octal(108, 8, 1000);
    block.octal(116, 8, 1000);
    block.octal(124, 12, content.len() as u64);
    block.octal(136, 12, 1_700_000_000);
    block.header[156] = kind;
    block.set(257, b"ustar\x0000");
    block.sum();
    block
}

pub(super) fn file(name: &str, content: &[u8]) -> Block {
    entry(name, b'0', content)
}

pub(super) fn directory(name: &str) -> Block {
    entry(name, b'5', b"")
}

pub(super) fn symlink(name: &str, target: &str) -> Block {
    entry(name, b'2', b"").with(157, target.as_bytes())
}

pub(super) fn hard_link(name: &str, target: &str) -> Block {
    entry(name, b'1', b"").with(157, target.as_bytes())
}

/// A PAX header with these records.
pub(super) fn pax(kind: u8, records: &[(&str, &str)]) -> Block {
    let mut content = Vec::new();
    for (key, value) in records {
        content.extend(record(key, value));
    }
    entry("pax", kind, &content)
}

/// `LENGTH KEY=VALUE\n`
pub(super) fn record(key: &str, value: &str) -> Vec<u8> {
    let rest = format!(" {key}={value}\n");
    let mut length = rest.len() + 1;
    while length.to_string().len() + rest.len() != length {
        length = length.to_string().len() + rest.len();
    }
    format!("{length}{rest}").into_bytes()
}

impl Block {
    fn set(&mut self, at: usize, bytes: &[u8]) {
        self.header[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn octal(&mut self, at: usize, width: usize, number: u64) {
        let digits = format!("{number:0width$o}\0", width = width - 1);
        self.set(at, digits.as_bytes());
    }

    fn sum(&mut self) {
        self.set(148, b"        ");
        let sum: u64 = self.header.iter().map(|b| u64::from(*b)).sum();
        self.octal(148, 7, sum);
    }

    /// With other bytes at this place, and the sum made right again.
    pub(super) fn with(mut self, at: usize, bytes: &[u8]) -> Self {
        self.set(at, bytes);
        self.sum();
        self
    }

    /// With another number in this field.
    pub(super) fn number(mut self, at: usize, width: usize, number: u64) -> Self {
        self.octal(at, width, number);
        self.sum();
        self
    }

    /// With another size than its content has.
    pub(super) fn size(self, size: u64) -> Self {
        self.number(124, 12, size)
    }
}

/// The archive, not compressed and without its end.
pub(super) fn blocks(entries: &[Block]) -> Vec<u8> {
    let mut out = Vec::new();
    for block in entries {
        out.extend(block.header);
        out.extend(&block.content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out
}

/// The whole file.
pub(super) fn tar_gz(entries: &[Block]) -> Vec<u8> {
    let mut out = blocks(entries);
    out.resize(out.len() + 1024, 0);
    gzip(&out)
}
