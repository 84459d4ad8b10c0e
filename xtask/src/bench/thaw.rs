//! What a call pays for a session that was frozen for idleness: its time to the first byte, less that of the next call of the
//! same session, which is ready then.

use super::samples::Samples;
use super::subject::Subject;
use super::table::{Peer, Promise, Row, Table};
use super::wire::{self, Wire};
use super::{Effort, peers};
use anyhow::ensure;
use e2e::client::{SESSION_HEADER, session_name};
use e2e::wait;
use proto::api::{FreezeCause, Phase};

const BODY: &[u8] = br#"{"prompt": "hello"}"#;

/// Sessions that sleep side by side: each has to be idle for seconds before a sample.
const SLEEPERS: usize = 20;

pub(crate) fn measure(
    subject: &mut Subject,
    effort: Effort,
    table: &mut Table,
) -> anyhow::Result<()> {
    subject.restart("[defaults]\nfreeze_after = 1\n[ping]\ninterval = 5")?;
    let sessions: Vec<String> = (0..SLEEPERS).map(|_| session_name("thaw")).collect();
    let requests: Vec<Vec<u8>> = sessions
        .iter()
        .map(|session| {
            wire::post(
                "/runtimes/native/invocations",
                &[(SESSION_HEADER, session.as_str())],
                BODY,
            )
        })
        .collect();
    let mut wire = Wire::connect(&subject.unix())?;
    for request in &requests {
        wire.call(request)?;
    }
    let [mut extra, mut asleep, mut ready, mut bwrap] = [(); 4].map(|()| Samples::default());
    for round in 0..=effort.launches / SLEEPERS {
        all_asleep(subject)?;
        subject.rest()?;
        // A connection of which nobody has heard for too long is closed.
        let mut wire = Wire::connect(&subject.unix())?;
        wire.call(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")?;
        for request in &requests {
            let frozen = wire.call(request)?.first;
            let awake = wire.call(request)?.first;
            let peer = peers::bwrap()?;
            // The first round fills page caches.
            if round > 0 {
                extra.push((frozen.as_secs_f64() - awake.as_secs_f64()) * 1e3);
                asleep.push_ms(frozen);
                ready.push_ms(awake);
                bwrap.push_ms(peer);
            }
        }
    }
    table.add(Row {
        what: "thaw on request, over a ready session's invocation".to_owned(),
        unit: "ms",
        ours: extra,
        peer: Some(Peer {
            name: "bwrap --unshare-all … true".to_owned(),
            samples: bwrap,
        }),
        promise: Promise::RatioAtMost(0.2),
    });
    table.add(Row {
        what: "… the whole invocation of a frozen session".to_owned(),
        unit: "ms",
        ours: asleep,
        peer: Some(Peer {
            name: "of the same session, ready".to_owned(),
            samples: ready,
        }),
        promise: Promise::Context,
    });
    Ok(())
}

fn all_asleep(subject: &Subject) -> anyhow::Result<()> {
    wait::until_true(60, "all of them to be frozen", || {
        let sessions = subject.client().live_sessions()?;
        ensure!(sessions.len() == SLEEPERS, "{} sessions", sessions.len());
        Ok(sessions.iter().all(|session| {
            let causes = session.frozen.as_ref().map(|frozen| &frozen.causes[..]);
            session.phase == Phase::Frozen && causes == Some(&[FreezeCause::Idle])
        }))
    })
}
