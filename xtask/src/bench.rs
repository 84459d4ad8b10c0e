//! `cargo xtask bench`: every promise of speed and size, each measured beside its peer in the same run.
//!
//! Samples of ours and of the peer take turns, so that a busy machine slows both; medians are compared. One table for
//! people, one JSON file with every raw sample for machines. It judges (`held`, `BROKEN`) and still exits 0: a figure of
//! one run on a shared machine is for a person to weigh, and CI runs no timed tests.
//!
//! One daemon, of its own, with the optimised build; it is restarted where a measurement needs another configuration:
//!
//! ```text
//!  nothing warm ▸ launches, bodies      no prepared launches ▸ launches again      pools ▸ claims, templates ▸ forks, both ▸ parked forks
//!  fresh ▸ memory, fresh ▸ streams, fresh ▸ websockets   templates and pools as shipped ▸ herds, sustained   pinned to one core ▸ ready invocations
//! ```

mod adopt;
mod bodies;
mod burst;
mod dense;
mod direct;
mod facts;
mod fork;
mod launch;
mod memory;
mod metering;
mod peers;
pub(crate) mod pinned;
mod pool;
mod ready;
mod samples;
mod signed;
mod streams;
pub(crate) mod subject;
mod sustained;
mod table;
mod tasks;
mod thaw;
mod throughput;
mod websockets;
pub(crate) mod wire;

use crate::{build, setup};
use anyhow::{Context as _, ensure};
use std::path::PathBuf;
use std::time::Instant;
use subject::Subject;
use table::Table;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Fewer samples: under a minute instead of under five.
    #[arg(long)]
    quick: bool,
    /// Also write everything, raw samples included, to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only these measurements (launch, python, bodies, pool, fork, parked, exhausted, memory, streams, websockets, ready, throughput, burst, sustained, thaw, adopt, signed, tasks, metering, dense); all if none is named.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
}

/// How many samples of what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    launches: usize,
    python_launches: usize,
    sessions: usize,
    blocks: usize,
    calls_per_block: usize,
    bodies: usize,
    stream_seconds: u64,
    sustained_seconds: u64,
}

const FULL: Effort = Effort {
    launches: 120,
    python_launches: 20,
    sessions: 100,
    blocks: 30,
    calls_per_block: 300,
    bodies: 9,
    stream_seconds: 60,
    sustained_seconds: 600,
};

const QUICK: Effort = Effort {
    launches: 30,
    python_launches: 6,
    sessions: 100,
    blocks: 10,
    calls_per_block: 200,
    bodies: 3,
    stream_seconds: 10,
    sustained_seconds: 20,
};

/// What `--only` may name, in the order in which they run.
const MEASUREMENTS: [&str; 20] = [
    "launch",
    "python",
    "bodies",
    "pool",
    "fork",
    "parked",
    "exhausted",
    "memory",
    "streams",
    "websockets",
    "ready",
    "throughput",
    "burst",
    "sustained",
    "thaw",
    "adopt",
    "signed",
    "tasks",
    "metering",
    "dense",
];

/// What `docs/agentcored.toml` says of templates and pools: a daemon as it is installed. Elsewhere neither is there, but where it is what
/// is measured ([`subject`]).
const AS_SHIPPED: &str = "[template]\nfork = \"auto\"\n[pool]\nmax = 2\n";

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    ensure!(
        e2e::ground::missing(&[e2e::ground::Ground::Root]).is_none(),
        "the daemon's launcher makes namespaces and cgroups: run this as root"
    );
    for name in &args.only {
        ensure!(
            MEASUREMENTS.contains(&name.as_str()),
            "there is no measurement {name:?}; there are {}",
            MEASUREMENTS.join(", ")
        );
    }
    setup::for_bench()?;
    build::all(true, false)?;
    let wanted = |name: &str| args.only.is_empty() || args.only.iter().any(|only| only == name);
    let effort = if args.quick { QUICK } else { FULL };
    let began = Instant::now();
    let mut table = Table::default();
    let mut subject = Subject::start()?;
    let mut facts = facts::of_this_host(&subject)?;
    let measured = (|| -> anyhow::Result<()> {
        if wanted("launch") {
            launch::native(&subject, effort, &mut table)?;
        }
        if wanted("python") {
            launch::python(&subject, effort, &mut table)?;
        }
        if wanted("bodies") {
            bodies::measure(&subject, effort, &mut table)?;
        }
        if wanted("pool") {
            subject.restart(&pool::config())?;
            pool::measure(&subject, effort, &mut table)?;
            subject.restart("")?;
        }
        if wanted("fork") {
            subject.restart(fork::FORKED)?;
            fork::measure(&subject, effort, &mut table)?;
            subject.restart("")?;
        }
        if wanted("parked") {
            subject.restart(&fork::parked())?;
            fork::measure_parked(&subject, effort, &mut table)?;
            subject.restart("")?;
        }
        if wanted("exhausted") {
            subject.restart("[limits]\nprepared_launches = 0")?;
            launch::exhausted(&subject, effort, &mut table)?;
        }
        if wanted("memory") {
            subject.restart("")?;
            memory::measure(&subject, effort, &mut table)?;
        }
        if wanted("streams") {
            subject.restart("")?;
            streams::measure(&subject, effort, &mut table)?;
        }
        if wanted("websockets") {
            subject.restart("")?;
            websockets::measure(&subject, effort, &mut table)?;
        }
        if wanted("ready") {
            ready::measure(&mut subject, effort, &mut table)?;
        }
        if wanted("throughput") {
            throughput::measure(&mut subject, effort, &mut table)?;
        }
        if wanted("burst") {
            subject.restart(AS_SHIPPED)?;
            burst::measure(&subject, effort, &mut table)?;
        }
        if wanted("sustained") {
            subject.restart(&format!("{AS_SHIPPED}[limits]\nnew_session_rate = 0"))?;
            sustained::measure(&subject, "native", 100.0, effort, &mut table)?;
            sustained::measure(&subject, "aws_sdk", 40.0, effort, &mut table)?;
        }
        if wanted("thaw") {
            thaw::measure(&mut subject, effort, &mut table)?;
        }
        if wanted("adopt") {
            adopt::measure(&mut table)?;
        }
        if wanted("signed") {
            signed::measure(effort, &mut table)?;
        }
        if wanted("tasks") {
            tasks::measure(effort, &mut table)?;
        }
        if wanted("metering") {
            metering::measure(&mut table)?;
        }
        if wanted("dense") {
            dense::measure(&mut table)?;
        }
        Ok(())
    })();
    // Also where one has failed: what was measured before it is not measured again for it.
    facts.finish(began.elapsed())?;
    print!("{facts}\n{table}");
    if let Some(path) = &args.json {
        let all = serde_json::json!({"host": facts, "rows": table});
        std::fs::write(path, serde_json::to_vec_pretty(&all)?)
            .with_context(|| format!("write {}", path.display()))?;
    }
    if let Err(error) = measured {
        subject.print_log();
        return Err(error);
    }
    // After the figures: a fault here says nothing about them.
    subject.end()
}
