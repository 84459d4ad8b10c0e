//! Tier 4 (root): a state directory on a real file system that is full, or read-only, in a mount namespace of the test's
//! own (security-bar X9, X11). Work is refused as such, nothing half-done stays, and room heals it without a restart.

use futures_util::stream;
use proto::code::ErrorCode;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use supervisor::artifacts::{Bounds, Library};
use supervisor::store::{Names, PageRequest, Store};

/// Set in the process that has the small file system.
const GROUND: &str = "FULL_DISK_GROUND";

/// Runs the calling test once more in a mount namespace where a directory is a tmpfs of 4 MiB, and gives that directory to
/// the inner run. `None` in the outer run, which has then judged the inner one.
fn small_disk(test: &str) -> Option<PathBuf> {
    if let Some(ground) = std::env::var_os(GROUND) {
        return Some(ground.into());
    }
    if !nix::unistd::geteuid().is_root() {
        skipped(test, "mounts a file system, which needs root");
        return None;
    }
    let ground = tempfile::tempdir().expect("temporary directory");
    let binary = std::env::current_exe().expect("own path");
    let script = "mount -t tmpfs -o size=4m,mode=0755 small \"$1\" && exec \"$2\" --exact \"$3\" --nocapture";
    let status = Command::new("unshare")
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            script,
            "sh",
        ])
        .arg(ground.path())
        .arg(binary)
        .arg(test)
        .env(GROUND, ground.path())
        .status()
        .expect("unshare (util-linux) can be run");
    assert!(status.success(), "{test} failed on the small disk");
    None
}

/// Never silent: the file is what `cargo xtask test` counts.
fn skipped(test: &str, reason: &str) {
    eprintln!("SKIPPED {test}: {reason}");
    if let Some(file) = std::env::var_os("AGENTCORE_SKIPS") {
        let line = format!("supervisor::full_disk::{test}\t{reason}\n");
        let noted = File::options().append(true).create(true).open(file);
        noted
            .and_then(|mut f| f.write_all(line.as_bytes()))
            .expect("noted");
    }
}

fn names() -> Names {
    Names {
        region: "us-local-1".into(),
        account: "000000000000".into(),
    }
}

/// Takes all the room there is.
fn fill(ground: &Path) -> PathBuf {
    let path = ground.join("filler");
    let mut file = File::create(&path).expect("created");
    for size in [64 << 10, 4096, 512, 1] {
        let piece = vec![0; size];
        while file.write_all(&piece).is_ok() {}
    }
    path
}

fn run<F: Future>(work: F) -> F::Output {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("runtime")
        .block_on(work)
}

#[test]
fn a_full_disk_refuses_new_work_and_heals() {
    let Some(ground) = small_disk("a_full_disk_refuses_new_work_and_heals") else {
        return;
    };
    run(async {
        let store = Store::open(&ground.join("agentcore.db"), names()).expect("opens");
        let library = Library::open(&ground.join("artifacts"), store.clone(), Bounds::default())
            .await
            .expect("opens");
        let before = store.next_epoch().await.expect("works");
        let filler = fill(&ground);
        // There may be room left in pages that the log has already; it ends soon.
        let mut last = before;
        let refused = loop {
            match store.next_epoch().await {
                Ok(epoch) => last = epoch,
                Err(error) => break error,
            }
        };
        assert_eq!(refused.code(), ErrorCode::StorageFull, "{refused:?}");
        let piece = bytes::Bytes::from_static(b"PK\x03\x04 never gets that far");
        let upload = library
            .receive(stream::iter([Ok::<_, std::io::Error>(piece)]))
            .await;
        assert_eq!(upload.expect_err("no room").code(), ErrorCode::StorageFull);
        assert_eq!(
            fs::read_dir(ground.join("artifacts/incoming"))
                .expect("listed")
                .count(),
            0
        );
        // Reading goes on.
        assert!(
            store
                .runtimes(PageRequest::default())
                .await
                .expect("reads")
                .items
                .is_empty()
        );
        fs::remove_file(filler).expect("removed");
        let after = store.next_epoch().await.expect("heals without a restart");
        assert_eq!(after, last + 1, "a refused call left something");
        store.close().await;
        Store::open(&ground.join("agentcore.db"), names()).expect("is sound");
    });
}

#[test]
fn a_bundle_that_does_not_fit_leaves_nothing() {
    let Some(ground) = small_disk("a_bundle_that_does_not_fit_leaves_nothing") else {
        return;
    };
    run(async {
        let store = Store::open(&ground.join("agentcore.db"), names()).expect("opens");
        let library = Library::open(&ground.join("artifacts"), store.clone(), Bounds::default())
            .await
            .expect("opens");
        // Packs into some kilobytes, needs eight megabytes.
        let packed = tar_gz_of_zeros(8 << 20);
        let pieces: Vec<_> = packed
            .chunks(4096)
            .map(|c| Ok::<_, std::io::Error>(bytes::Bytes::copy_from_slice(c)))
            .collect();
        let refused = library
            .receive(stream::iter(pieces))
            .await
            .expect_err("no room");
        assert_eq!(refused.code(), ErrorCode::StorageFull, "{refused:?}");
        assert_eq!(
            fs::read_dir(ground.join("artifacts/incoming"))
                .expect("listed")
                .count(),
            0
        );
        assert_eq!(
            fs::read_dir(ground.join("artifacts/sha256"))
                .expect("listed")
                .count(),
            0
        );
        store.next_epoch().await.expect("there is room again");
    });
}

#[test]
fn a_disk_that_turns_read_only_refuses_new_work_and_heals() {
    let Some(ground) = small_disk("a_disk_that_turns_read_only_refuses_new_work_and_heals") else {
        return;
    };
    let remount = |how: &str| {
        let status = Command::new("mount")
            .args(["-o", &format!("remount,{how}")])
            .arg(&ground)
            .status();
        status.expect("mount can be run").success()
    };
    run(async {
        let path = ground.join("agentcore.db");
        Store::open(&path, names()).expect("made").close().await;
        // Files that are open for writing keep a file system from turning read-only; so open it there.
        assert!(remount("ro"), "remounted");
        let refused = Store::open(&path, names()).expect_err("cannot work there");
        assert_eq!(refused.code(), ErrorCode::StorageFull, "{refused:?}");
        assert!(remount("rw"), "remounted");
        let store = Store::open(&path, names()).expect("heals");
        store.next_epoch().await.expect("works");
    });
}

fn tar_gz_of_zeros(size: usize) -> Vec<u8> {
    let mut builder = tar::Builder::new(flate2::write::GzEncoder::new(
        Vec::new(),
        flate2::Compression::default(),
    ));
    let mut header = tar::Header::new_ustar();
    header.set_size(size as u64);
    header.set_mode(0o644);
    builder
        .append_data(&mut header, "zeros", std::io::repeat(0).take(size as u64))
        .expect("to memory");
    builder
        .into_inner()
        .and_then(|mut encoder| {
            encoder.try_finish()?;
            encoder.finish()
        })
        .expect("to memory")
}
