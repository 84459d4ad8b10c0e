//! Many WebSockets at once: a hundred, fifty frames a second each, said back by a native agent, and none may be lost. What is
//! measured is how long a frame is on its way there and back, and the daemon's memory.

use super::Effort;
use super::samples::Samples;
use super::subject::Subject;
use super::table::{Promise, Row, Table};
use e2e::{Client, sockets};

const SESSIONS: usize = 2;
const SOCKETS_PER_SESSION: usize = 50;

pub(crate) fn measure(subject: &Subject, effort: Effort, table: &mut Table) -> anyhow::Result<()> {
    let client = Client {
        target: subject.unix(),
    };
    let pids = [subject.daemon().pid(), subject.launcher()?];
    let (mut trips, mut memory) = (Samples::default(), Samples::default());
    sockets::echo(
        &client,
        "native",
        (SESSIONS, SOCKETS_PER_SESSION),
        effort.stream_seconds * 50,
        |trip| trips.push_ms(trip),
        || {
            let mut resident = 0;
            for pid in pids {
                resident += e2e::host::rss(pid)?;
            }
            memory.push(f64::from(u32::try_from(resident >> 10)?) / 1024.0);
            Ok(())
        },
    )?;
    table.add(Row {
        what: format!(
            "{} WebSockets at 50 frames/s, {} s, none lost: a frame there and back",
            SESSIONS * SOCKETS_PER_SESSION,
            effort.stream_seconds
        ),
        unit: "ms",
        ours: trips,
        peer: None,
        promise: Promise::Context,
    });
    table.add(Row {
        what: "… daemon's memory".to_owned(),
        unit: "MiB RSS",
        ours: memory,
        peer: None,
        promise: Promise::Context,
    });
    Ok(())
}
