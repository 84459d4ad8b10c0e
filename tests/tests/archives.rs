//! Code artifacts: what is refused, with what words, and that nothing is left of it. Tier: root.

use anyhow::{Context as _, ensure};
use e2e::client::expect_problem;
use e2e::http::{Request, Response};
use e2e::{Client, Daemon, Options, Result, deploy, ground, puppet};
use serde_json::json;
use std::collections::BTreeSet;
use std::io::{Cursor, Write as _};
use std::path::{Path, PathBuf};
use zip::write::SimpleFileOptions;

fn upload(client: &Client, bytes: impl Into<Vec<u8>>) -> anyhow::Result<Response> {
    client.send(
        Request::post("/v1/artifacts", bytes).header("content-type", "application/octet-stream"),
    )
}

/// Every path below the state directory but the database's own.
fn tree(dir: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut queue = vec![dir.to_owned()];
    while let Some(dir) = queue.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.contains(".db") || name == "bases" {
                continue;
            }
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                queue.push(path.clone());
            }
            found.insert(path);
        }
    }
    found
}

fn zip_with(
    add: impl FnOnce(&mut zip::ZipWriter<Cursor<Vec<u8>>>) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<u8>> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    add(&mut writer)?;
    Ok(writer.finish()?.into_inner())
}

fn zip_named(name: &str) -> anyhow::Result<Vec<u8>> {
    zip_with(|w| {
        w.start_file(name, SimpleFileOptions::default())?;
        w.write_all(b"x")?;
        Ok(())
    })
}

fn tar_with(
    add: impl FnOnce(&mut tar::Builder<Vec<u8>>) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    add(&mut builder)?;
    let plain = builder.into_inner()?;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain)?;
    Ok(gzip.finish()?)
}

/// An entry with a raw name, which `tar::Builder` would not write.
fn entry(
    kind: tar::EntryType,
    name: &str,
    link: Option<&str>,
    body: &[u8],
) -> anyhow::Result<Vec<u8>> {
    tar_with(|b| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(body.len() as u64);
        header.set_mode(0o644);
        let raw = header.as_mut_bytes();
        raw[..name.len()].copy_from_slice(name.as_bytes());
        if let Some(link) = link {
            raw[157..157 + link.len()].copy_from_slice(link.as_bytes());
        }
        if matches!(kind, tar::EntryType::Char | tar::EntryType::Block) {
            header.set_device_major(1)?;
            header.set_device_minor(3)?;
        }
        header.set_cksum();
        b.append(&header, body)?;
        Ok(())
    })
}

#[test]
fn dangerous_and_broken_archives_are_refused_and_leave_nothing() -> Result {
    ground!(Daemon);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        let canary = daemon.dir().join("canary");
        std::fs::write(&canary, "untouched")?;
        let before = tree(&daemon.state_dir());
        let good = deploy::zip(&[deploy::file("agent.py", puppet::SOURCE.as_bytes())])?;
        let cut = good[..good.len() - 10].to_vec();
        let mut wrong_crc = good.clone();
        // The first byte of the compressed data.
        let at = 30 + "agent.py".len() + 5;
        wrong_crc[at] ^= 0xff;
        let symlink = |target: &str| {
            zip_with(|w| Ok(w.add_symlink("link", target, SimpleFileOptions::default())?))
        };
        let through = zip_with(|w| {
            w.add_symlink(
                "out",
                daemon.dir().to_string_lossy(),
                SimpleFileOptions::default(),
            )?;
            w.start_file("out/canary", SimpleFileOptions::default())?;
            w.write_all(b"overwritten")?;
            Ok(())
        })?;
        let bomb = zip_with(|w| {
            w.start_file("zeros", SimpleFileOptions::default())?;
            let chunk = vec![0; 1 << 20];
            for _ in 0..300 {
                w.write_all(&chunk)?;
            }
            Ok(())
        })?;
        let crowd = zip_with(|w| {
            for n in 0..200_001 {
                w.start_file(
                    format!("{n}"),
                    SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored),
                )?;
            }
            Ok(())
        })?;
        let canary_path = canary.to_string_lossy().into_owned();
        let cases: Vec<(&str, Vec<u8>)> = vec![
            ("empty", Vec::new()),
            ("text", b"this is no archive".to_vec()),
            ("cut zip", cut),
            ("wrong crc", wrong_crc),
            ("zip: ..", zip_named("../canary")?),
            ("zip: deep ..", zip_named("a/../../canary")?),
            ("zip: absolute", zip_named(&canary_path)?),
            ("zip: nul", zip_named("a\0b")?),
            ("zip: backslash ..", zip_named("..\\canary")?),
            ("zip: long name", zip_named(&"n".repeat(5000))?),
            ("zip: link out", symlink("../../../canary")?),
            ("zip: link absolute", symlink("/etc/passwd")?),
            ("zip: through a link", through),
            ("zip: bomb over 100×", bomb),
            ("zip: too many entries", crowd),
            (
                "tar: ..",
                entry(tar::EntryType::Regular, "../canary", None, b"x")?,
            ),
            (
                "tar: absolute",
                entry(tar::EntryType::Regular, &canary_path, None, b"x")?,
            ),
            (
                "tar: char device",
                entry(tar::EntryType::Char, "null", None, b"")?,
            ),
            (
                "tar: block device",
                entry(tar::EntryType::Block, "disk", None, b"")?,
            ),
            ("tar: fifo", entry(tar::EntryType::Fifo, "fifo", None, b"")?),
            (
                "tar: link out",
                entry(tar::EntryType::Symlink, "link", Some("../../canary"), b"")?,
            ),
            (
                "tar: hard link out",
                entry(tar::EntryType::Link, "link", Some("/etc/passwd"), b"")?,
            ),
            (
                "tar: hard link nowhere",
                entry(tar::EntryType::Link, "link", Some("missing"), b"")?,
            ),
            ("tar: cut", {
                let mut whole = entry(tar::EntryType::Regular, "agent.py", None, &[7; 4000])?;
                whole.truncate(whole.len() - 20);
                whole
            }),
        ];
        for (what, bytes) in cases {
            let answer = upload(&client, bytes)?;
            expect_problem(answer, 400, "").with_context(|| what.to_owned())?;
            ensure!(
                tree(&daemon.state_dir()) == before,
                "{what} left {:?}",
                tree(&daemon.state_dir()).difference(&before)
            );
            ensure!(
                std::fs::read(&canary)? == b"untouched",
                "{what} wrote outside"
            );
        }
        Ok(())
    })
}

#[test]
fn an_upload_over_the_limit_is_refused_on_its_head_and_one_cut_off_leaves_nothing() -> Result {
    ground!(Daemon);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        let before = tree(&daemon.state_dir());
        let mut stream = client.target.connect()?;
        // 250 MB as in every size of ours: powers of 1024.
        let length = 250 * 1024 * 1024 + 1;
        stream.write_all(
            format!(
                "POST /v1/artifacts HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n"
            )
            .as_bytes(),
        )?;
        let answer = Response::read(stream, false)?;
        ensure!(answer.status == 413, "{}", answer.status);
        let mut stream = client.target.connect()?;
        stream.write_all(b"POST /v1/artifacts HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100000\r\n\r\nPK\x03\x04half")?;
        drop(stream);
        e2e::wait::until_true(10, "the cut upload to be cleaned up", || {
            Ok(tree(&daemon.state_dir()) == before)
        })
    })
}

#[test]
fn artifacts_are_content_addressed_immutable_and_kept_while_used() -> Result {
    ground!(Daemon, Python);
    Daemon::with(Options::default(), |daemon| {
        let client = daemon.client();
        let zip = deploy::zip(&[deploy::file("agent.py", puppet::SOURCE.as_bytes())])?;
        let first = upload(&client, zip.clone())?
            .expect(201)?
            .json::<proto::api::Artifact>()?;
        let again = upload(&client, zip)?
            .expect(200)?
            .json::<proto::api::Artifact>()?;
        assert_eq!(first.artifact_id, again.artifact_id);
        let config = deploy::config("kept", "agent.py", json!({}))?;
        assert_eq!(client.put_runtime(&config, &first)?.version.0, 1);
        assert_eq!(client.put_runtime(&config, &first)?.version.0, 2);
        let path = format!("/v1/artifacts/{}", first.artifact_id);
        expect_problem(
            client.send(Request::new("DELETE", path.clone()))?,
            409,
            "kept",
        )?;
        client
            .send(Request::new("DELETE", "/v1/runtimes/kept"))?
            .expect(204)?;
        client
            .send(Request::new("DELETE", path.clone()))?
            .expect(204)?;
        client.send(Request::get(path))?.expect(404)?;
        // tar.gz with modes and an inner link.
        let tar = tar_with(|b| {
            let mut header = tar::Header::new_gnu();
            header.set_size(puppet::SOURCE.len() as u64);
            header.set_mode(0o600);
            b.append_data(&mut header, "lib/real.py", puppet::SOURCE.as_bytes())?;
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            header.set_mode(0o777);
            b.append_link(&mut header, "agent.py", "lib/real.py")?;
            Ok(())
        })?;
        deploy::bundle(
            &client,
            tar,
            &deploy::config("fromtar", "agent.py", json!({}))?,
        )?;
        let session = e2e::client::session_name("tar");
        let seen = puppet::run(
            &client,
            "fromtar",
            &session,
            "import os; s = os.stat('/app/lib/real.py'); answer = [oct(s.st_mode), os.readlink('/app/agent.py'), s.st_uid != os.getuid()]",
        )?;
        assert_eq!(seen[1], "lib/real.py");
        ensure!(
            seen[2] == true,
            "the bundle must not be the agent's own: {seen}"
        );
        Ok(())
    })
}
