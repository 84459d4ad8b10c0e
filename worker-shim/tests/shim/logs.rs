//! The agent's output.

use crate::broker::Broker;
use crate::fake_agent::FakeAgent;
use crate::harness::{Session, boot, cpu_time, free_port, shell, wait_for};
use proto::shim::{LogLine, LogStream, MAX_LOG_LINE};
use std::time::{Duration, Instant};

/// Takes `log`s until the agent has exited (which is said after all of them); the lines and how many were dropped.
fn until_exit(broker: &mut Broker) -> (Vec<LogLine>, u64) {
    broker.notification("agent.exited");
    let (mut lines, mut dropped) = (Vec::new(), 0);
    while let Some(log) = broker.queued_log() {
        lines.extend(log.lines);
        dropped += log.dropped;
    }
    (lines, dropped)
}

fn texts(lines: &[LogLine], stream: LogStream) -> Vec<&str> {
    lines
        .iter()
        .filter(|line| line.stream == stream)
        .map(|line| line.text.as_str())
        .collect()
}

#[test]
fn lines_of_both_streams_arrive_before_the_exit() {
    let mut boot = boot(free_port());
    shell(
        &mut boot,
        r"echo one; echo two >&2; printf 'three\n\nb\377d\n'; printf 'no end'",
    );
    let session = Session::start(&boot);
    let mut broker = session.attach();
    let (lines, dropped) = until_exit(&mut broker);
    assert_eq!(
        texts(&lines, LogStream::Stdout),
        ["one", "three", "", "b\u{fffd}d", "no end"]
    );
    assert_eq!(texts(&lines, LogStream::Stderr), ["two"]);
    assert_eq!(dropped, 0);
    assert!(lines.iter().all(|line| line.at_ms < 20_000));
}

#[test]
fn output_from_before_the_broker_is_kept_within_the_burst() {
    let mut boot = boot(free_port());
    boot.limits.log_burst_bytes = 20_000;
    boot.limits.log_bytes_per_s = 0;
    shell(
        &mut boot,
        "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done; exec sleep 1000",
    );
    let session = Session::start(&boot);
    wait_for("the agent to have printed", || {
        (cpu_time(session.shim) > Duration::ZERO
            || session.started.elapsed() > Duration::from_secs(1))
        .then_some(())
    });
    std::thread::sleep(Duration::from_millis(300));
    let mut broker = session.attach();
    let mut lines = Vec::new();
    let mut dropped = 0;
    while lines.len() as u64 + dropped < 2000 {
        let log = broker.log();
        dropped += log.dropped;
        lines.extend(log.lines);
    }
    assert_eq!(
        lines.len() as u64 + dropped,
        2000,
        "every line is passed on or counted"
    );
    let bytes: usize = lines.iter().map(|line| line.text.len()).sum();
    assert!(dropped > 0 && bytes <= 20_000, "{bytes} bytes");
    // What was kept is the beginning, in order.
    for (n, line) in lines.iter().enumerate() {
        assert_eq!(line.text, format!("line {n}"));
    }
}

#[test]
fn a_line_without_end_is_split_and_bytes_that_json_escapes_fit() {
    let mut boot = boot(free_port());
    shell(
        &mut boot,
        "head -c 100000 /dev/zero | tr '\\0' 'x'; echo; head -c 40000 /dev/zero; echo; \
         head -c 40000 /dev/zero | tr '\\0' '\\377'",
    );
    let session = Session::start(&boot);
    let mut broker = session.attach();
    let (lines, dropped) = until_exit(&mut broker);
    assert_eq!(dropped, 0);
    assert!(lines.iter().all(|line| line.text.len() <= MAX_LOG_LINE));
    let all: String = lines.iter().map(|line| line.text.as_str()).collect();
    let count = |c: char| all.chars().filter(|found| *found == c).count();
    assert_eq!(
        (count('x'), count('\0'), count('\u{fffd}')),
        (100_000, 40_000, 40_000)
    );
}

#[test]
fn an_unfinished_line_is_shown_after_a_while() {
    let mut boot = boot(free_port());
    shell(
        &mut boot,
        "printf 'loading '; sleep 2; echo done; exec sleep 1000",
    );
    let session = Session::start(&boot);
    let mut broker = session.attach();
    assert_eq!(broker.log().lines[0].text, "loading ");
    assert_eq!(broker.log().lines[0].text, "done");
}

#[test]
fn a_flood_is_counted_and_delays_nobody() {
    let agent = FakeAgent::start(|asked| {
        let body = asked.body().expect("body");
        asked.answer(&body);
        true
    });
    let mut boot = boot(agent.port);
    boot.limits.log_bytes_per_s = 100_000;
    boot.limits.log_burst_bytes = 100_000;
    shell(&mut boot, "yes & exec yes 'to the other' >&2");
    let session = Session::start(&boot);
    let mut broker = session.attach();
    broker.healthy();
    let start = Instant::now();
    let mut slowest = Duration::ZERO;
    for n in 0..300 {
        let before = Instant::now();
        let body = format!("{n}");
        assert_eq!(broker.invoke(body.as_bytes()).expect("answer").text(), body);
        slowest = slowest.max(before.elapsed());
    }
    let (mut passed, mut dropped) = (0, 0);
    while dropped <= 1000 || start.elapsed() < Duration::from_secs(1) {
        let log = broker.log();
        dropped += log.dropped;
        passed += log
            .lines
            .iter()
            .map(|line| line.text.len() as u64 + 1)
            .sum::<u64>();
    }
    let most = 100_000 + 100_000 * (session.started.elapsed().as_secs() + 1);
    assert!(passed <= most, "{passed} bytes passed on, {most} allowed");
    assert!(
        slowest < Duration::from_millis(250),
        "{slowest:?} for one invocation"
    );
    let private = session.memory("Anonymous");
    assert!(private < 1024, "{private} KiB");
}

#[test]
fn the_last_words_of_a_flood_are_not_lost() {
    let mut boot = boot(free_port());
    boot.limits.log_bytes_per_s = 1000;
    boot.limits.log_burst_bytes = 1000;
    shell(
        &mut boot,
        "yes 'noise' | head -n 100000; echo 'ValueError: the reason' >&2; exit 1",
    );
    let session = Session::start(&boot);
    let mut broker = session.attach();
    let (lines, dropped) = until_exit(&mut broker);
    assert!(dropped > 90_000, "{dropped}");
    assert_eq!(texts(&lines, LogStream::Stderr), ["ValueError: the reason"]);
}
