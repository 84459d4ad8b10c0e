//! Tier 2: archives made byte by byte, unpacked in a temporary directory with a canary outside.

mod differential;
mod hostile_tar;
mod hostile_zip;
mod library;
mod make_tar;
mod make_zip;
mod store;

use super::*;
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

/// An artifact store in a directory that holds something else too, which nobody may touch.
struct Ground {
    directory: tempfile::TempDir,
    files: ArtifactStore,
}

const CANARY: &[u8] = b"nobody may change this";

impl Ground {
    fn new() -> Self {
        Self::with(Bounds::default())
    }

    fn with(bounds: Bounds) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        for place in ["canary", "artifacts/canary", "artifacts/incoming-canary"] {
            let path = directory.path().join(place);
            fs::create_dir_all(path.parent().expect("below")).expect("made");
            fs::write(path, CANARY).expect("written");
        }
        let files =
            ArtifactStore::open(&directory.path().join("artifacts"), bounds).expect("opens");
        Self { directory, files }
    }

    fn upload(&self, packed: &[u8]) -> Result<NewArtifact, ArtifactError> {
        let mut upload = self.files.begin_upload().expect("begins");
        for chunk in packed.chunks(10_000) {
            upload.write(chunk)?;
        }
        upload.finish()
    }

    /// Uploads what must be refused, and checks that nothing is left and nothing else was touched.
    fn refusal(&self, packed: &[u8]) -> (Option<String>, Refusal) {
        let outcome = self.upload(packed);
        assert_eq!(
            self.all(),
            Self::new().all(),
            "something was left or touched"
        );
        match outcome {
            Err(ArtifactError::Refused { entry, rule }) => (entry, rule),
            other => panic!("must be refused, is {other:?}"),
        }
    }

    /// Everything there is, with its content.
    fn all(&self) -> BTreeMap<String, String> {
        listing(self.directory.path())
    }

    fn tree(&self, id: &ArtifactId) -> PathBuf {
        self.files.directory(id).join("tree")
    }
}

/// Path ▸ what it is: `d`, `l TARGET`, or `f x CONTENT` (executable) or `f - CONTENT`.
fn listing(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(&directory).expect("listed") {
            let path = entry.expect("entry").path();
            let meta = fs::symlink_metadata(&path).expect("there");
            let what = if meta.is_dir() {
                todo.push(path.clone());
                "d".to_owned()
            } else if meta.is_symlink() {
                format!("l {}", fs::read_link(&path).expect("link").display())
            } else {
                let mark = if meta.permissions().mode() & 0o100 != 0 {
                    'x'
                } else {
                    '-'
                };
                format!(
                    "f {mark} {}",
                    String::from_utf8_lossy(&fs::read(&path).expect("read"))
                )
            };
            let name = path
                .strip_prefix(root)
                .expect("below")
                .to_str()
                .expect("UTF-8");
            found.insert(name.to_owned(), what);
        }
    }
    found
}

/// Some bytes that do not compress.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
    .take(length)
    .collect()
}

fn deflate(content: &[u8]) -> Vec<u8> {
    let mut encoder =
        flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(content).expect("to memory");
    encoder.finish().expect("to memory")
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(content).expect("to memory");
    encoder.finish().expect("to memory")
}
