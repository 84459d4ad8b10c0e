//! What a signature costs: the same call of a ready session, signed to a daemon that checks and unsigned to one that does not,
//! on one core. botocore signs it, once: a signature holds for 15 minutes.

use super::Effort;
use super::pinned::Pinned;
use super::samples::Samples;
use super::subject::Subject;
use super::table::{Peer, Promise, Row, Table};
use super::wire::{self, Wire};
use anyhow::{Context as _, ensure};
use e2e::client::{SESSION_HEADER, session_name};
use e2e::http::Target;
use e2e::venv;
use proto::api::NewAccessKey;
use std::process::Command;

const BODY: &str = r#"{"prompt": "hello"}"#;

const PATH: &str = "/runtimes/native/invocations";

/// Prints the headers of the signed request, a line each.
const SIGN: &str = "import sys\n\
    from botocore.auth import SigV4Auth\n\
    from botocore.awsrequest import AWSRequest\n\
    from botocore.credentials import Credentials\n\
    url, body, key, secret, name, value = sys.argv[1:]\n\
    request = AWSRequest('POST', url, {'content-type': 'application/json', name: value}, body)\n\
    SigV4Auth(Credentials(key, secret), 'bedrock-agentcore', 'us-local-1').add_auth(request)\n\
    for pair in request.headers.items(): print(': '.join(pair))\n";

pub(crate) fn measure(effort: Effort, table: &mut Table) -> anyhow::Result<()> {
    let pinned = Pinned::to_last()?;
    let open = Subject::start()?;
    let checked = Subject::checked()?;
    let session = session_name("signed");
    let plain = wire::post(PATH, &[(SESSION_HEADER, session.as_str())], BODY.as_bytes());
    let signed = sign(&checked, &session)?;
    let mut ways = [
        (Wire::connect(&checked.tcp()?)?, &signed),
        (Wire::connect(&open.tcp()?)?, &plain),
    ];
    let mut samples = [(); 2].map(|()| Samples::default());
    for (wire, request) in &mut ways {
        for _ in 0..effort.calls_per_block {
            wire.call(request)?;
        }
    }
    for subject in [&open, &checked] {
        subject.rest()?;
        pinned.holds(subject.daemon().pid())?;
    }
    for _ in 0..effort.blocks {
        for ((wire, request), samples) in ways.iter_mut().zip(&mut samples) {
            for _ in 0..effort.calls_per_block {
                samples.push_us(wire.call(request)?.whole);
            }
        }
    }
    let [ours, theirs] = samples;
    table.add(Row {
        what: "invocation of a ready session, signed (SigV4)".to_owned(),
        unit: "µs",
        ours,
        peer: Some(Peer {
            name: "the same call, unsigned".to_owned(),
            samples: theirs,
        }),
        promise: Promise::RatioAtMost(1.3),
    });
    open.end()?;
    checked.end()
}

/// The request, signed with a key of the daemon's.
fn sign(subject: &Subject, session: &str) -> anyhow::Result<Vec<u8>> {
    let out = subject
        .daemon()
        .cli()
        .args(["--json", "keys", "create", "bench"])
        .output()?;
    ensure!(
        out.status.success(),
        "keys create: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    let key: NewAccessKey = serde_json::from_slice(&out.stdout)?;
    let Target::Tcp(address) = subject.tcp()? else {
        anyhow::bail!("not TCP");
    };
    let out = Command::new(venv::bin()?.join("python"))
        .args(["-c", SIGN])
        .arg(format!("http://{address}{PATH}"))
        .args([BODY, &key.key.access_key_id, &key.secret_access_key])
        .args([SESSION_HEADER, session])
        .output()?;
    ensure!(
        out.status.success(),
        "botocore: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    let text = String::from_utf8(out.stdout)?;
    let headers = text
        .lines()
        .map(|line| line.split_once(": ").context("a header"))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut request = format!("POST {PATH} HTTP/1.1\r\nhost: {address}\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str(&format!("content-length: {}\r\n\r\n{BODY}", BODY.len()));
    Ok(request.into_bytes())
}
