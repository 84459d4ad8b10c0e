//! `cargo xtask package`: the Debian package of daemon, shim, command, units, manual pages, completions and Python modules.
//!
//! debhelper makes it, from a tree that is laid out here: it is what Debian's own packages are made with, so the scripts that
//! enable, restart and remove services are Debian's and follow its policy, library dependencies come from the binaries, and
//! lintian has something to say. (cargo-deb would have to be compiled first and writes such scripts by itself; nfpm leaves
//! them to us.) What is ours is in `packaging/debian`.
//!
//! ```text
//!  target/package/tree/stage   what goes to /usr, /lib and /etc
//!  target/package/tree/debian  packaging/debian, the changelog, manual pages, documents
//!  target/package/*.deb        the outcome
//! ```

mod manual;

use crate::command::{root, run as run_command};
use crate::{build, setup};
use anyhow::{Context as _, ensure};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How `cargo xtask package` was called.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The debug build instead of the optimised one, and no compression: for tests.
    #[arg(long)]
    debug: bool,
    /// Its version [default: the workspace's]
    #[arg(long, value_name = "VERSION")]
    deb_version: Option<String>,
    /// Without lintian's opinion.
    #[arg(long)]
    no_lint: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    setup::for_package()?;
    build::all(!args.debug, false)?;
    let version = match &args.deb_version {
        Some(version) => version.clone(),
        None => workspace_version()?,
    };
    let package = make(!args.debug, &version)?;
    if !args.no_lint {
        lint(&package)?;
    }
    println!("{}", package.display());
    Ok(())
}

/// What [`for_tests`] makes: the package of this version, and one that dpkg takes for newer.
pub(crate) const FOR_TESTS: [&str; 2] = ["agentcore.deb", "agentcore-newer.deb"];

/// For `cargo xtask test`: packages of the debug build, in [`test_directory`].
pub(crate) fn for_tests() -> anyhow::Result<()> {
    setup::for_package()?;
    let version = workspace_version()?;
    let to = test_directory();
    fs::create_dir_all(&to)?;
    for (name, version) in FOR_TESTS
        .into_iter()
        .zip([version.clone(), format!("{version}+newer")])
    {
        fs::rename(make(false, &version)?, to.join(name))?;
    }
    lint(&to.join(FOR_TESTS[0]))
}

/// Where packages for tests are.
pub(crate) fn test_directory() -> PathBuf {
    root().join("target/package/test")
}

/// As every crate has it.
fn workspace_version() -> anyhow::Result<String> {
    let manifest = fs::read_to_string(root().join("Cargo.toml"))?;
    let manifest: toml::Table = toml::from_str(&manifest).context("Cargo.toml")?;
    let version = manifest["workspace"]["package"]["version"].as_str();
    Ok(version.context("workspace.package.version")?.to_owned())
}

/// Makes the package from programs that are built.
fn make(release: bool, version: &str) -> anyhow::Result<PathBuf> {
    let out = root().join("target/package");
    let tree = out.join("tree");
    if tree.exists() {
        fs::remove_dir_all(&tree)?;
    }
    let debian = tree.join("debian");
    copy_folder(&root().join("packaging/debian"), &debian)?;
    changelog(&debian.join("changelog"), version)?;
    lay_out(
        &Tree {
            stage: tree.join("stage"),
            debian,
        },
        &build::directory(release),
    )?;
    // Its own output is of interest only when it fails.
    let log = tree.join("log");
    let compression = match release {
        true => "-Zxz",
        false => "-Znone",
    };
    let status = Command::new("dpkg-buildpackage")
        // -nc: there is nothing to clean; -d: Build-Depends are what `setup` installs.
        .args(["-b", "-nc", "-d", "-us", "-uc"])
        .env("DEB_COMPRESSION", compression)
        .env("DEB_BUILD_OPTIONS", "noautodbgsym nocheck")
        .current_dir(&tree)
        .stdin(std::process::Stdio::null())
        .stdout(fs::File::create(&log)?)
        .stderr(fs::OpenOptions::new().append(true).open(&log)?)
        .status()
        .context("start dpkg-buildpackage")?;
    ensure!(
        status.success(),
        "dpkg-buildpackage ended with {status}:\n{}",
        fs::read_to_string(&log)?
    );
    // It is named as dpkg names it.
    let architecture = Command::new("dpkg").arg("--print-architecture").output()?;
    let architecture = String::from_utf8(architecture.stdout)?;
    let package = out.join(format!("agentcore_{version}_{}.deb", architecture.trim()));
    ensure!(package.exists(), "{} was not made", package.display());
    Ok(package)
}

const NO_COMPRESSION: &str =
    "uses-no-compression-for-control-tarball,uses-no-compression-for-data-tarball";

fn lint(package: &Path) -> anyhow::Result<()> {
    run_command(
        Command::new("lintian")
            // It wants to be no root, and is in CI; what it reads is ours.
            .args(["--allow-root", "--fail-on", "error,warning"])
            .args(["--tag-display-limit", "0"])
            // Those of the debug build.
            .args(["--suppress-tags", NO_COMPRESSION])
            .arg(package),
    )
}

/// Where things are laid out.
struct Tree {
    stage: PathBuf,
    debian: PathBuf,
}

fn lay_out(tree: &Tree, programs: &Path) -> anyhow::Result<()> {
    let stage = |path: &str| tree.stage.join(path);
    for (program, folder) in [
        ("agentcored", "usr/bin"),
        ("agentcore", "usr/bin"),
        ("agentcore-shim", "usr/lib/agentcore"),
    ] {
        place(&programs.join(program), &stage(folder).join(program), 0o755)?;
    }
    let units = root().join("systemd");
    for unit in [
        "agentcored.service",
        "agentcored.socket",
        "agentcore-sessions.service",
        "agentcore.slice",
    ] {
        place(
            &units.join(unit),
            &stage("lib/systemd/system").join(unit),
            0o644,
        )?;
    }
    for kind in ["sysusers", "tmpfiles"] {
        let from = units.join(format!("agentcore.{kind}.conf"));
        place(&from, &tree.debian.join(format!("agentcore.{kind}")), 0o644)?;
    }
    place(
        &units.join("agentcore.sysctl.conf"),
        &stage("usr/lib/sysctl.d/60-agentcore.conf"),
        0o644,
    )?;
    let example = root().join("docs/agentcored.toml");
    place(&example, &stage("etc/agentcore/agentcored.toml"), 0o644)?;
    python(&stage("usr/lib/python3/dist-packages"))?;
    let command = programs.join("agentcore");
    for (shell, file) in [
        ("bash", "usr/share/bash-completion/completions/agentcore"),
        ("zsh", "usr/share/zsh/vendor-completions/_agentcore"),
        ("fish", "usr/share/fish/vendor_completions.d/agentcore.fish"),
    ] {
        let script = said(Command::new(&command).args(["completion", shell]))?;
        write(&stage(file), &script)?;
    }
    let pages = tree.debian.join("pages");
    fs::create_dir_all(&pages)?;
    run_command(Command::new(&command).arg("manual").arg(&pages))?;
    let daemon = said(Command::new(programs.join("agentcored")).arg("--print-manual"))?;
    write(&pages.join("agentcored.8"), &daemon)?;
    let daemon = manual::of_keys(&fs::read_to_string(&example)?);
    write(&pages.join("agentcored.toml.5"), daemon.as_bytes())?;
    let agent = fs::read_to_string(root().join("docs/agentcore.toml"))?;
    write(
        &pages.join("agentcore.toml.5"),
        manual::of_example(&agent).as_bytes(),
    )?;
    documents(&tree.debian.join("documents"))
}

/// The client, and the built-in SDK in the folder that a `.pth` file appends to the path (`python/pyproject.toml` says why).
fn python(to: &Path) -> anyhow::Result<()> {
    let from = root().join("python");
    copy_folder(&from.join("agentcore_client"), &to.join("agentcore_client"))?;
    copy_folder(
        &from.join("bedrock_agentcore"),
        &to.join("agentcore_builtin/bedrock_agentcore"),
    )?;
    let path = "agentcore_builtin.pth";
    place(&from.join(path), &to.join(path), 0o644)
}

/// With their folders, so that links between them hold.
fn documents(to: &Path) -> anyhow::Result<()> {
    place(&root().join("README.md"), &to.join("README.md"), 0o644)?;
    for folder in ["docs", "systemd"] {
        for entry in fs::read_dir(root().join(folder))? {
            let from = entry?.path();
            if from.extension().is_some_and(|e| e == "md") || from.ends_with("docs/agentcore.toml")
            {
                let name = from.file_name().context("name")?;
                place(&from, &to.join(folder).join(name), 0o644)?;
            }
        }
    }
    for example in ["echo", "streaming"] {
        copy_folder(
            &root().join("examples").join(example),
            &to.join("examples").join(example),
        )?;
    }
    Ok(())
}

/// One entry, with the time of the last commit, so that the same sources give the same package.
fn changelog(path: &Path, version: &str) -> anyhow::Result<()> {
    let time = said(
        Command::new("git")
            .args(["log", "-1", "--format=%cD"])
            .current_dir(root()),
    )
    .or_else(|_no_repository| said(Command::new("date").arg("-R")))?;
    let time = String::from_utf8(time)?;
    let control = fs::read_to_string(root().join("packaging/debian/control"))?;
    let maintainer = control
        .lines()
        .find_map(|line| line.strip_prefix("Maintainer: "))
        .context("packaging/debian/control names no maintainer")?;
    let text = format!(
        "agentcore ({version}) unstable; urgency=medium\n\n  * This version; its history is the repository's.\n\n -- {maintainer}  {}\n",
        time.trim()
    );
    write(path, text.as_bytes())
}

/// Standard output of a program that succeeds.
fn said(command: &mut Command) -> anyhow::Result<Vec<u8>> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .with_context(|| format!("start {program}"))?;
    ensure!(
        output.status.success(),
        "{program}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output.stdout)
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    fs::create_dir_all(path.parent().context("parent")?)?;
    fs::write(path, bytes).with_context(|| format!("write {}", path.display()))
}

/// Copies one file.
fn place(from: &Path, to: &Path, mode: u32) -> anyhow::Result<()> {
    fs::create_dir_all(to.parent().context("parent")?)?;
    fs::copy(from, to).with_context(|| format!("{} ▸ {}", from.display(), to.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode))?;
    Ok(())
}

/// Copies what is in a folder, without caches of interpreters; programs stay programs.
fn copy_folder(from: &Path, to: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let entry = entry?;
        let (name, path) = (entry.file_name(), entry.path());
        let kind = entry.file_type()?;
        if kind.is_dir() && name != "__pycache__" {
            copy_folder(&path, &to.join(name))?;
        } else if kind.is_file() {
            let runs = entry.metadata()?.permissions().mode() & 0o111 != 0;
            place(&path, &to.join(name), if runs { 0o755 } else { 0o644 })?;
        }
    }
    Ok(())
}
