//! Writing the archive: a zip whose bytes depend on names, contents and execute bits alone.
//!
//! Sorted, without times or owners; modes are 0644, or 0755 for executables. Entries of a dependency archive are copied
//! as they are compressed there, so that packing a small agent with large dependencies stays quick.

use super::{BundleError, Entry, Kind};
use proto::ids::ArtifactId;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek};
use std::path::Path;
use tempfile::NamedTempFile;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipArchive, ZipWriter};

/// A packed bundle; the file goes away with it.
#[derive(Debug)]
pub(crate) struct Packed {
    /// The archive.
    pub(crate) file: NamedTempFile,
    /// SHA-256 of its bytes.
    pub(crate) artifact: ArtifactId,
    /// Its size.
    pub(crate) bytes: u64,
    /// Number of files and links.
    pub(crate) entries: usize,
}

/// Packs `entries` over those of the `dependencies` archive (an own file wins over a vendored one of the same name),
/// in a temporary file below `scratch`.
pub(crate) fn pack(
    entries: &[Entry],
    dependencies: Option<&Path>,
    scratch: &Path,
) -> Result<Packed, BundleError> {
    let mut vendored = dependencies.map(open).transpose()?;
    // `None`: an own entry; `Some(index)`: the vendored one.
    let mut plan: BTreeMap<String, Option<usize>> = BTreeMap::new();
    if let Some(archive) = &vendored {
        plan.extend((0..archive.len()).filter_map(|index| {
            let name = archive.name_for_index(index)?;
            Some((name.to_owned(), Some(index)))
        }));
    }
    plan.extend(entries.iter().map(|entry| (entry.name.clone(), None)));

    let file = NamedTempFile::with_prefix_in("bundle-", scratch);
    let file = file.map_err(file_error("write in", scratch))?;
    let mut writer = ZipWriter::new(BufWriter::new(file.as_file()));
    for (name, index) in &plan {
        match (index, &mut vendored) {
            (Some(index), Some(archive)) => {
                let entry = archive.by_index_raw(*index).map_err(pack_error(name))?;
                writer.raw_copy_file(entry).map_err(pack_error(name))?;
            }
            (_, _) => {
                let own = entries.binary_search_by(|entry| entry.name.as_str().cmp(name));
                let own = own.expect("entries are sorted, and the plan's others are vendored");
                add(&mut writer, &entries[own])?;
            }
        }
    }
    finish(writer, file.path())?;
    let (artifact, bytes) = digest(file.path())?;
    Ok(Packed {
        file,
        artifact,
        bytes,
        entries: plan.len(),
    })
}

/// Packs `entries` alone into `into`: the form in which dependencies are kept.
pub(crate) fn pack_into(entries: &[Entry], into: &File, path: &Path) -> Result<(), BundleError> {
    let mut writer = ZipWriter::new(BufWriter::new(into));
    for entry in entries {
        add(&mut writer, entry)?;
    }
    finish(writer, path)
}

/// Writes the archive's directory, and what is still buffered.
fn finish(writer: ZipWriter<BufWriter<&File>>, path: &Path) -> Result<(), BundleError> {
    let written = writer
        .finish()
        .map_err(pack_error("the archive's directory"))?;
    match written.into_inner() {
        Ok(_) => Ok(()),
        Err(error) => Err(BundleError::File {
            verb: "write",
            path: path.to_owned(),
            source: error.into_error(),
        }),
    }
}

fn open(path: &Path) -> Result<ZipArchive<BufReader<File>>, BundleError> {
    let file = File::open(path).map_err(file_error("read", path))?;
    ZipArchive::new(BufReader::new(file)).map_err(pack_error(&path.display().to_string()))
}

fn add<W: io::Write + Seek>(writer: &mut ZipWriter<W>, entry: &Entry) -> Result<(), BundleError> {
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .last_modified_time(DateTime::default());
    match &entry.kind {
        Kind::Link { target } => writer
            .add_symlink(entry.name.as_str(), target.as_str(), options)
            .map_err(pack_error(&entry.name)),
        Kind::File {
            executable, length, ..
        } => {
            let mode = if *executable { 0o755 } else { 0o644 };
            let options = options
                .unix_permissions(mode)
                .large_file(*length >= u64::from(u32::MAX));
            let mut source =
                File::open(&entry.source).map_err(file_error("read", &entry.source))?;
            writer
                .start_file(entry.name.as_str(), options)
                .map_err(pack_error(&entry.name))?;
            io::copy(&mut source, writer).map_err(file_error("pack", &entry.source))?;
            Ok(())
        }
    }
}

fn digest(path: &Path) -> Result<(ArtifactId, u64), BundleError> {
    let mut file = File::open(path).map_err(file_error("read", path))?;
    let mut hash = Sha256::new();
    let mut chunk = vec![0; 64 * 1024];
    let mut bytes = 0;
    loop {
        let read = file.read(&mut chunk).map_err(file_error("read", path))?;
        if read == 0 {
            break;
        }
        hash.update(&chunk[..read]);
        bytes += read as u64;
    }
    let id = ArtifactId::parse(hex(&hash.finalize())).expect("a SHA-256 in hex is an artifact id");
    Ok((id, bytes))
}

/// Lower-case hex digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn file_error(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BundleError + use<> {
    let path = path.to_owned();
    move |source| BundleError::File { verb, path, source }
}

fn pack_error(name: &str) -> impl FnOnce(zip::result::ZipError) -> BundleError + use<> {
    let name = name.to_owned();
    move |source| BundleError::Pack { name, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::Selection;
    use proto::config::Language;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::time::{Duration, SystemTime};

    fn agent(dir: &Path, order: &[&str]) {
        for name in order {
            fs::create_dir_all(dir.join(name).parent().expect("a parent")).expect("made");
            fs::write(dir.join(name), name.repeat(500)).expect("written");
        }
        fs::set_permissions(dir.join("run"), fs::Permissions::from_mode(0o700)).expect("set");
        std::os::unix::fs::symlink("a.py", dir.join("link")).expect("linked");
    }

    fn packed(dir: &Path, dependencies: Option<&Path>) -> Packed {
        let selection = Selection::of(dir, Language::Python).expect("selected");
        pack(&selection.entries, dependencies, &std::env::temp_dir()).expect("packed")
    }

    #[test]
    fn the_same_folder_gives_the_same_bytes() {
        let (one, two) = (
            tempfile::tempdir().expect("one"),
            tempfile::tempdir().expect("two"),
        );
        agent(one.path(), &["a.py", "run", "z/b.py"]);
        agent(two.path(), &["z/b.py", "run", "a.py"]);
        let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let file = File::options()
            .write(true)
            .open(two.path().join("a.py"))
            .expect("open");
        file.set_modified(old).expect("set");
        // Who may read or write is not part of it, only the execute bit is.
        fs::set_permissions(two.path().join("a.py"), fs::Permissions::from_mode(0o600))
            .expect("set");

        let (first, second) = (packed(one.path(), None), packed(two.path(), None));
        assert_eq!(first.artifact, second.artifact);
        assert_eq!(
            fs::read(first.file.path()).expect("read"),
            fs::read(second.file.path()).expect("read")
        );
        assert_eq!(first.entries, 4);

        fs::set_permissions(two.path().join("a.py"), fs::Permissions::from_mode(0o700))
            .expect("set");
        assert_ne!(
            packed(two.path(), None).artifact,
            first.artifact,
            "an execute bit counts"
        );
    }

    #[test]
    fn modes_links_and_contents_survive() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        agent(dir.path(), &["a.py", "run"]);
        let packed = packed(dir.path(), None);
        let mut archive = open(packed.file.path()).expect("a zip");
        let names: Vec<_> = archive.file_names().map(str::to_owned).collect();
        assert_eq!(names, ["a.py", "link", "run"]);
        assert_eq!(
            archive.by_name("a.py").expect("there").unix_mode(),
            Some(0o100_644)
        );
        assert_eq!(
            archive.by_name("run").expect("there").unix_mode(),
            Some(0o100_755)
        );
        assert!(archive.by_name("link").expect("there").is_symlink());
        let text = io::read_to_string(archive.by_name("a.py").expect("there")).expect("text");
        assert_eq!(text, "a.py".repeat(500));
        let disk = fs::read(packed.file.path()).expect("read");
        assert_eq!(packed.bytes, disk.len() as u64);
        assert_eq!(packed.artifact.as_str(), hex(&Sha256::digest(&disk)));
    }

    #[test]
    fn dependencies_are_merged_and_own_files_win() {
        let (own, dep) = (
            tempfile::tempdir().expect("own"),
            tempfile::tempdir().expect("dep"),
        );
        for (root, name, text) in [
            (&own, "a.py", "own"),
            (&own, "lib/x.py", "own"),
            (&dep, "lib/x.py", "vendored"),
            (&dep, "lib/y.py", "vendored"),
        ] {
            fs::create_dir_all(root.path().join("lib")).expect("made");
            fs::write(root.path().join(name), text).expect("written");
        }
        let kept = NamedTempFile::new().expect("a file");
        let selection = Selection::of(dep.path(), Language::Python).expect("selected");
        pack_into(&selection.entries, kept.as_file(), kept.path()).expect("packed");

        let merged = packed(own.path(), Some(kept.path()));
        let mut archive = open(merged.file.path()).expect("a zip");
        let names: Vec<_> = archive.file_names().map(str::to_owned).collect();
        assert_eq!(names, ["a.py", "lib/x.py", "lib/y.py"]);
        for (name, text) in [("lib/x.py", "own"), ("lib/y.py", "vendored")] {
            let found = io::read_to_string(archive.by_name(name).expect("there")).expect("text");
            assert_eq!(found, text, "{name}");
        }
    }
}
