//! Python's zipfile and tarfile as a second opinion: what they write is taken, in every dialect, and unpacked to the same
//! tree; what has been tampered with is refused, or means the same to both.

use super::*;
use std::process::{Command, Stdio};

type Listing = BTreeMap<String, String>;

/// Runs `reference.py`; `None` (loudly) where there is no Python to ask.
fn reference(arguments: &[&str]) -> Option<BTreeMap<String, Option<Listing>>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/artifacts/tests/reference.py");
    let run = Command::new("python3")
        .args(["-S", "-B"])
        .arg(script)
        .args(arguments)
        // Names of twins come from its hash function.
        .env("PYTHONHASHSEED", "0")
        .stderr(Stdio::inherit())
        .output();
    let output = match run {
        Ok(output) => output,
        Err(error) => {
            eprintln!("SKIPPED (tier 2): python3 cannot be run: {error}");
            return None;
        }
    };
    assert!(output.status.success(), "reference.py failed");
    Some(serde_json::from_slice(&output.stdout).expect("a listing"))
}

/// As `reference.py` tells it.
fn hex_listing(root: &Path) -> Listing {
    let mut found = listing(root);
    for (path, what) in &mut found {
        if what.starts_with('f') {
            let content = fs::read(root.join(path)).expect("read");
            let hex: String = content.iter().map(|b| format!("{b:02x}")).collect();
            *what = format!("{} {hex}", &what[..3]);
        }
    }
    found
}

fn ours(ground: &Ground, packed: &[u8]) -> Result<Listing, ArtifactError> {
    let artifact = ground.upload(packed)?;
    let found = hex_listing(&ground.tree(&artifact.id));
    assert_eq!(artifact.entries, found.len() as u64);
    ground.files.delete(&artifact.id).expect("deleted");
    Ok(found)
}

#[test]
fn what_python_packs_is_unpacked_the_same() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let Some(made) = reference(&["make", directory.path().to_str().expect("UTF-8")]) else {
        return;
    };
    assert!(made.len() >= 80);
    let ground = Ground::new();
    for (path, expected) in made {
        let packed = fs::read(&path).expect("read");
        let found = ours(&ground, &packed).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(Some(found), expected, "{path}");
    }
}

/// A small generator, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).expect("small")
    }

    fn byte(&mut self) -> u8 {
        const LIKELY: &[u8] = b"\0\0\x01\xff/.\\0127KLxgS5 ";
        match self.below(2) {
            0 => LIKELY[self.below(LIKELY.len())],
            _ => u8::try_from(self.below(256)).expect("a byte"),
        }
    }
}

/// Changes bytes of a zip's structure: names, headers, directory and end, as a content would only break its checksum.
fn tamper_zip(packed: &mut [u8], random: &mut Random) {
    let marks: Vec<usize> = (0..packed.len().saturating_sub(4))
        .filter(|at| packed[*at..].starts_with(b"PK"))
        .collect();
    for _ in 0..=random.below(2) {
        let at = marks[random.below(marks.len())] + random.below(64);
        if let Some(byte) = packed.get_mut(at) {
            *byte = random.byte();
        }
    }
}

/// Changes bytes of headers, and makes their sums right again, as otherwise nobody would look further.
fn tamper_tar(packed: &[u8], random: &mut Random) -> Vec<u8> {
    let mut tar = Vec::new();
    io::Read::read_to_end(&mut flate2::read::GzDecoder::new(packed), &mut tar).expect("sound");
    let headers: Vec<usize> = (0..tar.len() / 512)
        .map(|block| block * 512)
        .filter(|at| tar[at + 257..].starts_with(b"ustar"))
        .collect();
    for _ in 0..=random.below(2) {
        let header = headers[random.below(headers.len())];
        // Name, mode, size, kind, target, magic, prefix; or the content, which may be a header's own.
        let fields = [
            0, 1, 2, 100, 106, 124, 134, 135, 156, 157, 158, 257, 263, 345, 512, 513, 515,
        ];
        let at = header + fields[random.below(fields.len())] + random.below(3);
        if let Some(byte) = tar.get_mut(at) {
            *byte = random.byte();
        }
        let block = &mut tar[header..header + 512];
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    gzip(&tar)
}

#[test]
fn what_was_tampered_with_means_the_same_to_both_or_is_refused() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let Some(made) = reference(&["make", directory.path().to_str().expect("UTF-8")]) else {
        return;
    };
    let mut random = Random(0x5eed_0000_0001);
    let mut accepted = BTreeMap::new();
    let ground = Ground::new();
    for round in 0..12 {
        for path in made.keys() {
            let mut packed = fs::read(path).expect("read");
            if path.ends_with(".zip") {
                tamper_zip(&mut packed, &mut random);
            } else {
                packed = tamper_tar(&packed, &mut random);
            }
            if let Ok(listing) = ours(&ground, &packed) {
                let copy = path.replacen(
                    &format!("{}/", directory.path().display()),
                    &format!("{}/{round}-", directory.path().display()),
                    1,
                );
                fs::write(&copy, packed).expect("written");
                accepted.insert(copy, listing);
            }
        }
    }
    assert!(
        accepted.len() > 50,
        "only {} were accepted: nothing is compared",
        accepted.len()
    );
    let paths: Vec<&str> = std::iter::once("read")
        .chain(accepted.keys().map(String::as_str))
        .collect();
    let Some(theirs) = reference(&paths) else {
        return;
    };
    for (path, ours) in accepted {
        if let Some(theirs) = &theirs[&path] {
            assert_eq!(&ours, theirs, "{path}: two readings");
        }
    }
}
