//! `cargo xtask chaos`: random work while random things break, and then the books are balanced.
//!
//! Callers invoke, stream, submit tasks, make and stop sessions, in runtimes whose sessions are started, wait in a pool and are
//! forked. Meanwhile broker, launcher, shims and agents are killed, frozen, and starved of memory, descriptors and disk.
//! Afterwards every acknowledged task must have exactly one outcome and every session an end, no answer may have been wrong, the
//! ledger must be whole and have the CPU time that the kernel counted, and nothing may be left. A run that did too little, or in
//! which no session of some origin was seen, is red as well.

mod balance;
mod books;
mod disk;
mod faults;
mod load;
mod scene;
mod witness;

use crate::build;
use anyhow::ensure;
use books::Books;
use faults::KINDS;
use load::Load;
use scene::{RUNTIMES, Scene};
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use witness::Watch;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What is drawn is drawn from this; the same seed asks and breaks the same, if not at the same moments. The time by default.
    #[arg(long)]
    seed: Option<u64>,
    /// How long.
    #[arg(long, default_value_t = 30.0)]
    minutes: f64,
    /// Callers at once.
    #[arg(long, default_value_t = 10)]
    callers: u64,
    /// The optimised build.
    #[arg(long)]
    release: bool,
}

impl Args {
    /// What CI runs: the same seed each time.
    pub(crate) const fn short() -> Self {
        Self {
            seed: Some(1),
            minutes: 1.5,
            callers: 10,
            release: false,
        }
    }
}

/// What a run of half an hour must have done at least; a shorter one its share.
const WHOLE: Duration = Duration::from_secs(30 * 60);
const FAULTS_OF_EACH: f64 = 30.0;
const TASKS: f64 = 1000.0;
const REQUESTS_PER_SECOND: f64 = 20.0;

/// Faults come somewhat faster than they must.
const HURRY: f64 = 1.4;

/// What the daemon logs of a request that failed by its own fault.
const FAILED: &str = "request failed";

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    ensure!(
        e2e::ground::missing(&[e2e::ground::Ground::Root]).is_none(),
        "the daemon's launcher makes namespaces and cgroups: run this as root"
    );
    ensure!(
        args.minutes > 0.0 && args.callers > 0,
        "--minutes and --callers must be above 0"
    );
    build::all(args.release, false)?;
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..));
    let length = Duration::from_secs_f64(args.minutes * 60.0);
    println!(
        "chaos: seed {seed}, {:.1} minutes, {} callers",
        args.minutes, args.callers
    );
    let share = length.as_secs_f64() / WHOLE.as_secs_f64();
    let wanted_faults = (FAULTS_OF_EACH * share).ceil();
    let gap = length.div_f64(wanted_faults * KINDS.len() as f64 * HURRY);

    let scene = Scene::set(build::directory(args.release))?;
    let books = Books::default();
    let over = AtomicBool::new(false);
    let began = Instant::now();
    let load = Load {
        scene: &scene,
        books: &books,
        over: &over,
        sessions: &Mutex::new(VecDeque::new()),
        seed,
    };
    let watch = Watch::begin(scene.daemon().instance());
    let toll = std::thread::scope(|scope| {
        let (scene, over, load) = (&scene, &over, &load);
        let faults = scope.spawn(move || faults::inflict(scene, seed, gap, over));
        let callers: Vec<_> = (0..args.callers)
            .map(|n| scope.spawn(move || load.call(n)))
            .collect();
        while began.elapsed() < length && !faults.is_finished() {
            std::thread::sleep(Duration::from_millis(100));
        }
        over.store(true, Ordering::Relaxed);
        for caller in callers {
            caller
                .join()
                .map_err(|_| anyhow::anyhow!("a caller panicked"))?;
        }
        faults
            .join()
            .map_err(|_| anyhow::anyhow!("the fault thread panicked"))?
    });
    let elapsed = began.elapsed().as_secs_f64();
    let mut pages = books.close();
    let ended = toll.and_then(|toll| Ok((toll, balance::balance(&scene, &mut pages, watch)?)));
    println!("requests:\n{pages}");
    let log = build::directory(false).with_file_name("chaos.log");
    let told = scene.daemon().log();
    std::fs::write(&log, &told)?;
    for line in told.lines().filter(|line| line.contains(FAILED)) {
        println!("  {line}");
    }
    println!("the daemon's log: {}", log.display());
    let (disk, daemon) = scene.strike();
    let (toll, ends) = ended?;
    println!(
        "faults:\n{toll}tasks: {} acknowledged, {ends:?}",
        pages.tasks.len()
    );
    let requests = pages.requests() as f64 / elapsed;
    println!("{requests:.1} requests/s for {elapsed:.0} s");
    let left = daemon.end();
    drop(disk);
    left?;
    ensure!(
        pages.wrong.is_empty(),
        "{} things are wrong (seed {seed})",
        pages.wrong.len()
    );
    ensure!(
        requests >= REQUESTS_PER_SECOND
            && toll.least() as f64 >= wanted_faults
            && pages.tasks.len() as f64 >= TASKS * share,
        "too little was done: at least {REQUESTS_PER_SECOND} requests/s, {wanted_faults} faults of each kind and {:.0} tasks",
        (TASKS * share).ceil()
    );
    for runtime in &RUNTIMES {
        ensure!(
            pages.origins(runtime.name, runtime.origin) > 0,
            "no session of runtime {} was seen that came to be by {:?} (seed {seed})",
            runtime.name,
            runtime.origin
        );
    }
    println!("chaos: all is well (seed {seed})");
    Ok(())
}
