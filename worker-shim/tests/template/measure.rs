//! Development figures, not a promise's proof: without cgroups (the launcher's part) and without the daemon's relay, from the
//! moment at which a session is ordered to the first byte of its agent's first answer, against peers of the same run.
//! `AGENTCORE_MEASURE=<rounds>` asks for them.

use crate::ground::{Ground, Session};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Prints the figures of one SDK.
pub(crate) fn measure(ground: &Ground, name: &str, bundle: &Path, template: &mut Session) {
    let rounds = std::env::var("AGENTCORE_MEASURE").ok();
    let Some(rounds) = rounds.and_then(|text| text.parse::<usize>().ok()) else {
        return;
    };
    let mut parts: Vec<(&str, Vec<Duration>)> = Vec::new();
    let mut add = |name: &'static str, time: Duration| match parts.iter_mut().find(|p| p.0 == name)
    {
        Some((_, times)) => times.push(time),
        None => parts.push((name, vec![time])),
    };
    for _ in 0..rounds {
        let began = Instant::now();
        let (mut session, times) = ground.fork(bundle, template, ("OWN", "x")).serve(template);
        session.broker.invoke(b"1").expect("answer");
        add("fork: first answer", began.elapsed());
        for (name, time) in times {
            add(name, time);
        }
        drop(session);
        add("python3: first answer", plain_python(ground, bundle));
        add("bwrap --unshare-all true", bwrap());
    }
    for (part, mut times) in parts {
        times.sort();
        let (p50, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
        println!("{name:<9} {part:<26} p50 {p50:>10.2?}  p99 {p99:>10.2?}");
    }
}

fn plain_python(ground: &Ground, bundle: &Path) -> Duration {
    let began = Instant::now();
    let mut child = Command::new("/usr/bin/python3")
        .arg(bundle.join("main.py"))
        .env("PYTHONPATH", ground.builtin().join(""))
        .env_remove("DOCKER_CONTAINER")
        .stderr(Stdio::null())
        .spawn()
        .expect("python3");
    let request = "POST /invocations HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                   content-length: 1\r\nconnection: close\r\n\r\n1";
    let time = loop {
        if let Ok(mut link) = TcpStream::connect("127.0.0.1:8080") {
            link.write_all(request.as_bytes()).expect("request");
            link.read_exact(&mut [0]).expect("answer");
            break began.elapsed();
        }
        assert!(began.elapsed() < Duration::from_secs(20), "no answer");
        std::thread::sleep(Duration::from_micros(250));
    };
    child.kill().expect("kill");
    child.wait().expect("wait");
    time
}

fn bwrap() -> Duration {
    let began = Instant::now();
    let words = ["--unshare-all", "--ro-bind", "/", "/", "true"];
    let status = Command::new("bwrap").args(words).status();
    assert!(status.is_ok_and(|status| status.success()), "bwrap");
    began.elapsed()
}
