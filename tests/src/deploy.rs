//! From a folder to a runtime: packs it, uploads it, makes a version.

use crate::client::Client;
use anyhow::Context as _;
use proto::api::{Artifact, Runtime};
use proto::config::RuntimeConfig;
use std::fs;
use std::io::{Cursor, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use zip::write::SimpleFileOptions;

/// A file of a bundle that is made in memory.
#[derive(Debug, Clone)]
pub struct BundleFile<'a> {
    /// Path in the bundle.
    pub path: &'a str,
    /// Contents.
    pub bytes: &'a [u8],
    /// Permission bits.
    pub mode: u32,
}

/// A file with mode 0644.
#[must_use]
pub fn file<'a>(path: &'a str, bytes: &'a [u8]) -> BundleFile<'a> {
    BundleFile {
        path,
        bytes,
        mode: 0o644,
    }
}

/// Packs files into a zip.
pub fn zip(files: &[BundleFile<'_>]) -> anyhow::Result<Vec<u8>> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for file in files {
        let options = SimpleFileOptions::default().unix_permissions(file.mode);
        writer.start_file(file.path, options)?;
        writer.write_all(file.bytes)?;
    }
    Ok(writer.finish()?.into_inner())
}

/// Packs a folder into a zip (regular files and their modes; caches left out).
pub fn zip_folder(folder: &Path) -> anyhow::Result<Vec<u8>> {
    zip_vendored(folder, &[], &[])
}

/// As [`zip_folder`], without the entries of its top that are `left_out`, and with `files` beside it.
pub fn zip_vendored(
    folder: &Path,
    left_out: &[&str],
    files: &[BundleFile<'_>],
) -> anyhow::Result<Vec<u8>> {
    fn add(
        writer: &mut zip::ZipWriter<Cursor<Vec<u8>>>,
        dir: &Path,
        prefix: &str,
        left_out: &[&str],
    ) -> anyhow::Result<()> {
        let mut entries: Vec<_> = fs::read_dir(dir)
            .with_context(|| format!("read {}", dir.display()))?
            .collect::<Result<_, _>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name == "__pycache__"
                || name == "target"
                || name.starts_with('.')
                || left_out.contains(&name.as_str())
            {
                continue;
            }
            let inside = format!("{prefix}{name}");
            let meta = entry.metadata()?;
            if meta.is_dir() {
                add(writer, &entry.path(), &format!("{inside}/"), &[])?;
            } else if meta.is_file() {
                let options = SimpleFileOptions::default()
                    .unix_permissions(meta.permissions().mode() & 0o777);
                writer.start_file(inside, options)?;
                writer.write_all(&fs::read(entry.path())?)?;
            }
        }
        Ok(())
    }
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    add(&mut writer, folder, "", left_out)?;
    for file in files {
        let options = SimpleFileOptions::default().unix_permissions(file.mode);
        writer.start_file(file.path, options)?;
        writer.write_all(file.bytes)?;
    }
    Ok(writer.finish()?.into_inner())
}

/// A configuration with a name and an entrypoint, the rest at its default; `more` is merged in (`{"resources": {…}}`).
pub fn config(
    name: &str,
    entrypoint: &str,
    more: serde_json::Value,
) -> anyhow::Result<RuntimeConfig> {
    let mut all = serde_json::json!({"name": name, "entrypoint": entrypoint});
    if let (Some(all), serde_json::Value::Object(more)) = (all.as_object_mut(), more) {
        all.extend(more);
    }
    serde_json::from_value(all).context("runtime configuration")
}

/// Uploads a bundle and makes a runtime (or its next version) of it.
pub fn bundle(client: &Client, bundle: Vec<u8>, config: &RuntimeConfig) -> anyhow::Result<Runtime> {
    let artifact: Artifact = client.upload(bundle)?;
    client.put_runtime(config, &artifact)
}

/// Deploys one Python file.
pub fn python(
    client: &Client,
    name: &str,
    source: &str,
    more: serde_json::Value,
) -> anyhow::Result<Runtime> {
    bundle(
        client,
        zip(&[file("agent.py", source.as_bytes())])?,
        &config(name, "agent.py", more)?,
    )
}

/// Deploys the native agent of `examples`.
pub fn native(client: &Client) -> anyhow::Result<Runtime> {
    let program = fs::read(crate::places::binaries().join("native-agent"))
        .context("native-agent is not built")?;
    let packed = zip(&[BundleFile {
        path: "native-agent",
        bytes: &program,
        mode: 0o755,
    }])?;
    let config = config(
        "native",
        "native-agent",
        serde_json::json!({"language": "binary"}),
    )?;
    bundle(client, packed, &config)
}

/// Deploys a folder of `tests/agents` whose entrypoint is `entrypoint`.
pub fn agent(
    client: &Client,
    folder: &str,
    name: &str,
    entrypoint: &str,
    more: serde_json::Value,
) -> anyhow::Result<Runtime> {
    let packed = zip_folder(&crate::places::agent(folder))?;
    bundle(client, packed, &config(name, entrypoint, more)?)
}
