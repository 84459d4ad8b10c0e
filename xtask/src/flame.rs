//! `cargo xtask flame launch|relay`: where the time of a launch and of a relayed call goes, as a picture and as shares.
//!
//! ```text
//!  client, daemon, sessions ── one processor      perf(1) ── the others
//!  a call: sent ▸ … ▸ first byte of the answer  =  a span;  a sample counts if it fell into a span
//! ```
//!
//! All that takes part is kept on one processor, and that processor is sampled by the clock. So each moment of a span belongs to
//! exactly one process (or to nobody: idle), and shares of samples are shares of the caller's time. What happens between
//! calls, such as preparing the next launch, is not in it. Samples of foreign processes are left out by descent.
//!
//! Beside the picture: `stacks.txt`, one line per stack with its count, which other tools read as well.

mod picture;
mod recorder;
mod shares;
mod stacks;

use crate::bench::pinned::Pinned;
use crate::bench::subject::Subject;
use crate::bench::wire::{self, Wire};
use crate::{build, setup};
use anyhow::{Context as _, ensure};
use e2e::client::{SESSION_HEADER, session_name};
use e2e::host;
use recorder::Recorder;
use stacks::{Span, as_f64};
use std::path::PathBuf;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to look at.
    what: What,
    /// Where the picture and the stacks go.
    #[arg(long, value_name = "DIR", default_value = "target/flame")]
    out: PathBuf,
    /// How many launches or calls; by default 200 launches, or 20,000 calls.
    #[arg(long, value_name = "N")]
    count: Option<usize>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum What {
    /// A new session of a native agent: request in, to the first byte of the answer.
    Launch,
    /// A call of a session that is ready.
    Relay,
}

impl What {
    fn name(self) -> &'static str {
        match self {
            Self::Launch => "launch",
            Self::Relay => "relay",
        }
    }
}

const BODY: &[u8] = br#"{"prompt": "hello"}"#;

/// Calls that only fill caches.
const WARM_UP: usize = 5;

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    ensure!(
        e2e::ground::missing(&[e2e::ground::Ground::Root]).is_none(),
        "the daemon's launcher makes namespaces and cgroups: run this as root"
    );
    setup::for_flame()?;

    build::all(true, false)?;
    std::fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    let pinned = Pinned::to_last()?;
    let mut subject = Subject::start()?;
    // A new session for every launch: the rate at which a caller may make them is not what is looked at.
    subject.restart("[limits]\nnew_session_rate = 0")?;
    subject.rest()?;
    pinned.holds(subject.daemon().pid())?;
    let mut recorder = Recorder::start(&pinned, &args.out)?;
    let mut family = vec![subject.daemon().pid(), std::process::id().cast_signed()];
    let spans = match args.what {
        What::Launch => launches(
            &subject,
            &mut recorder,
            &mut family,
            args.count.unwrap_or(200),
        ),
        What::Relay => calls(&subject, &mut recorder, args.count.unwrap_or(20_000)),
    };
    let record = recorder.stop()?;
    let spans = spans.inspect_err(|_| subject.print_log())?;
    let text = record.text()?;
    let folded = stacks::fold(&text, &spans, &family)?;
    let mut sorted: Vec<f64> = spans.iter().map(Span::milliseconds).collect();
    sorted.sort_by(f64::total_cmp);
    // Of a machine that has other work, too, this is what can be compared.
    let count = as_f64(u64::try_from(sorted.len())?);
    let busy = recorder::PERIOD.as_secs_f64() * 1e3 * as_f64(folded.busy()) / count;
    let title = format!(
        "{} {}: p50 {:.3} ms; {busy:.3} ms of processor time each; {} samples",
        spans.len(),
        match args.what {
            What::Launch => "launches of a native agent",
            What::Relay => "calls of a ready session",
        },
        sorted[sorted.len() / 2],
        folded.total(),
    );
    let file = |ending: &str| args.out.join(format!("{}{ending}", args.what.name()));
    let (svg, txt) = (file(".svg"), file("-stacks.txt"));
    std::fs::write(&svg, picture::draw(&title, &folded))
        .with_context(|| svg.display().to_string())?;
    std::fs::write(&txt, folded.to_string()).with_context(|| txt.display().to_string())?;
    println!("{title}\n\n{}", shares::table(&folded));
    println!("{}\n{}", svg.display(), txt.display());
    // After the figures: a fault here says nothing about them.
    subject.end()
}

fn launches(
    subject: &Subject,
    recorder: &mut Recorder,
    family: &mut Vec<i32>,
    count: usize,
) -> anyhow::Result<Vec<Span>> {
    let mut spans = Vec::with_capacity(count);
    for round in 0..count + WARM_UP {
        let session = session_name("flame");
        let request = request(&session);
        subject.rest()?;
        // While perf waits it does not hear of forks, such as those of the next prepared launches.
        family.extend(host::tree(subject.daemon().pid()));
        let span = recorder.while_in(|| {
            let from = recorder::now()?;
            Ok(Span::new(from, wire::cold(&subject.unix(), &request)?))
        })?;
        if round >= WARM_UP {
            spans.push(span);
        }
        subject.client().stop(&session)?;
    }
    Ok(spans)
}

fn calls(subject: &Subject, recorder: &mut Recorder, count: usize) -> anyhow::Result<Vec<Span>> {
    let session = session_name("flame");
    let request = request(&session);
    let mut wire = Wire::connect(&subject.tcp()?)?;
    // Recorded, because that is when perf hears which programs the session's processes are; no span is in it.
    recorder.while_in(|| (0..WARM_UP).try_for_each(|_| wire.call(&request).map(drop)))?;
    subject.rest()?;
    recorder.while_in(|| {
        let call = |_| {
            let from = recorder::now()?;
            Ok(Span::new(from, wire.call(&request)?.whole))
        };
        (0..count).map(call).collect()
    })
}

fn request(session: &str) -> Vec<u8> {
    wire::post(
        "/runtimes/native/invocations",
        &[(SESSION_HEADER, session)],
        BODY,
    )
}
