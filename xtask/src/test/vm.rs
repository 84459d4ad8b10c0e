//! The suites that say something else on another kernel: run in the virtual machines of `tests/vm`, with systemd as PID 1 and
//! cgroup v2 or v1, from the binaries that the host built.

use crate::command::{cargo, has, root};
use crate::stage::{Counts, skipped_themselves, tests};
use crate::{build, package};
use anyhow::{Context as _, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A suite's name, the bound of its seconds inside, and where its programs are.
type Suite = (&'static str, u32, Programs);

/// Which suites, in this order, in which machine.
const MACHINES: &[(Cgroup, &[Suite])] = &[
    (
        Cgroup::V2,
        &[
            ("sandbox", 300, Programs::Built),
            ("session", 120, Programs::Built),
            ("launcher", 120, Programs::Built),
            ("systemd", 900, Programs::Built),
            ("isolation", 1500, Programs::Installed),
            ("limits", 900, Programs::Installed),
            ("cross_session", 300, Programs::Installed),
            ("disk", 120, Programs::Installed),
            ("slice", 300, Programs::Installed),
            ("session_limits", 300, Programs::Installed),
            ("swap", 400, Programs::Installed),
        ],
    ),
    // All else runs on v1 on the host, which has neither systemd nor swap.
    (
        Cgroup::V1,
        &[
            ("systemd", 900, Programs::Built),
            ("swap", 400, Programs::Installed),
        ],
    ),
];

/// Where the machine has its controllers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cgroup {
    V1,
    V2,
}

impl Cgroup {
    const fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}

/// Which programs a suite starts daemons of its own from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Programs {
    /// Those that were built.
    Built,
    /// Those that the package installs, beside the service that it starts.
    Installed,
}

/// Installs the package, and gathers its programs in one folder, as the suites want them.
const INSTALL: &str = "\
dpkg -i /mnt/bin/agentcore.deb >/dev/null || exit 1
mkdir /run/installed
ln -s /usr/bin/agentcored /usr/bin/agentcore /usr/lib/agentcore/agentcore-shim /run/installed/
";

/// `suite NAME SECONDS PROGRAMS [FILTER]`. The machine is emulated, so one of its tests may miss its moment: those of a suite that
/// failed are tried once more, as end-to-end tests are on the host, and told as flaky. What was said first is shown further in, where
/// nothing is counted from it.
const SUITE: &str = r#"
failed=0
suite() {
  name=$1 seconds=$2 said=/mnt/out/$1.txt
  export AGENTCORE_BIN_DIR=$3
  shift 3
  echo "---- $name"
  if timeout "$seconds" "/mnt/bin/$name" --test-threads=1 "$@" >"$said" 2>&1; then cat "$said"; return; fi
  again=$(awk '/^failures:$/ { names = "" } /^    [^ ]+$/ { names = names " " $1 } /^test result: / { print names; exit }' "$said")
  if [ -z "$again" ]; then cat "$said"; failed=1; return; fi
  sed 's/^/    /' "$said"
  for test in $again; do echo "FLAKY $name::$test: failed once"; done
  sed -n 's/^test result: FAILED\. \([0-9]* passed\); [0-9]* failed; \([0-9]*\) ignored.*/\1, 0 failed, \2 skipped/p' "$said"
  timeout "$seconds" "/mnt/bin/$name" --test-threads=1 --exact $again 2>&1 || failed=1
}
"#;

/// Suites that run nowhere else, and would be green without having run at all.
const ONLY_HERE: &[&str] = &["systemd", "swap"];

pub(super) fn run(filter: Option<&str>, skips: &Path) -> anyhow::Result<Counts> {
    if !has("apt-get") {
        // build-image needs Debian.
        let line =
            "vm\tthe virtual machine's image is made with Debian's tools, which are not here\n";
        fs::write(skips, format!("{}{line}", fs::read_to_string(skips)?))?;
        return Ok(Counts::default());
    }
    let stage = root().join("target/vm");
    if stage.exists() {
        fs::remove_dir_all(&stage)?;
    }
    fs::create_dir_all(stage.join("bin"))?;
    let suites = executables()?;
    for (name, _, _) in MACHINES.iter().flat_map(|(_, suites)| suites.iter()) {
        let from = suites
            .get(*name)
            .with_context(|| format!("the suite {name} was not built"))?;
        let to = stage.join("bin").join(name);
        // A suite of both machines is there already.
        if !to.exists() {
            place(from, &to)?;
        }
    }
    for program in ["agentcored", "agentcore-shim", "agentcore"] {
        place(
            &build::directory(false).join(program),
            &stage.join("bin").join(program),
        )?;
    }
    for package in package::FOR_TESTS {
        place(
            &package::test_directory().join(package),
            &stage.join("bin").join(package),
        )?;
    }
    let mut all = Counts::default();
    for (cgroup, suites) in MACHINES {
        let out = stage.join(cgroup.name());
        fs::create_dir_all(&out)?;
        let counts = tests(&mut machine(
            *cgroup,
            suites,
            filter,
            &stage.join("bin"),
            &out,
        ));
        let inside = fs::read_to_string(out.join("skips")).unwrap_or_default();
        let listed: String = inside
            .lines()
            .map(|line| format!("vm, cgroup {}: {line}\n", cgroup.name()))
            .collect();
        fs::write(skips, format!("{}{listed}", fs::read_to_string(skips)?))?;
        let idle: Vec<&str> = inside
            .lines()
            .filter(|line| {
                let suite = line.split_once("::").map(|(suite, _)| suite);
                suite.is_some_and(|suite| ONLY_HERE.contains(&suite))
            })
            .collect();
        ensure!(idle.is_empty(), "runs nowhere else, and skips: {idle:?}");
        all.add(counts?.honest(skipped_themselves(&inside)));
    }
    Ok(all)
}

/// The machine, and what it runs.
fn machine(
    cgroup: Cgroup,
    suites: &[Suite],
    filter: Option<&str>,
    bin: &Path,
    out: &Path,
) -> Command {
    let mut script = String::from(SUITE);
    let mut installed = false;
    for (name, seconds, programs) in suites {
        if *programs == Programs::Installed && !installed {
            script.push_str(INSTALL);
            installed = true;
        }
        let programs = match programs {
            Programs::Built => "/mnt/bin",
            Programs::Installed => "/run/installed",
        };
        script.push_str(&format!(
            "suite {name} {seconds} {programs} {}\n",
            filter.unwrap_or_default()
        ));
    }
    script.push_str("exit $failed\n");
    let share = |dir: &Path, name: &str| format!("{}:{name}", dir.display());
    let mut command = Command::new(root().join("tests/vm/run"));
    command
        .args(["--cgroup", cgroup.name()])
        .args(["--mem", "3072", "--timeout", "3600"])
        .args(["--share", &share(bin, "bin:ro")])
        .args(["--share", &share(&root(), "src:ro")])
        .args(["--share", &share(out, "out")])
        .args(["--env", "AGENTCORE_SOURCE_DIR=/mnt/src"])
        .args(["--env", "AGENTCORE_SKIPS=/mnt/out/skips"])
        .args(["--env", "AGENTCORE_PATIENCE=10"])
        // It may install units there: the machine is thrown away.
        .args(["--env", "AGENTCORE_DISPOSABLE=1"])
        .args([
            "--env",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        ])
        .args(["--", "sh", "-c", &script]);
    command
}

/// Hard link, or copy where that is not possible.
fn place(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::hard_link(from, to)
        .or_else(|_| fs::copy(from, to).map(|_| ()))
        .with_context(|| format!("{} ▸ {}", from.display(), to.display()))
}

/// The test executables of `tests/`, `sandbox/` and `supervisor/`, by name, as cargo says.
fn executables() -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let output = cargo()
        .args([
            "test",
            "-p",
            "e2e",
            "-p",
            "sandbox",
            "-p",
            "supervisor",
            "--tests",
            "--no-run",
            "--locked",
            "--message-format=json",
        ])
        .stderr(std::process::Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "the suites do not build");
    let mut found = BTreeMap::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let message: Value = serde_json::from_str(line)?;
        if let (Some(name), Some(path)) = (
            message["target"]["name"].as_str(),
            message["executable"].as_str(),
        ) {
            found.insert(name.to_owned(), PathBuf::from(path));
        }
    }
    Ok(found)
}
