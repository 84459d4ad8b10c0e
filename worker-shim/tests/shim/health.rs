//! Cold start and `/ping`.

use crate::fake_agent::FakeAgent;
use crate::harness::{Session, TOKEN, boot, free_port, wait_for};
use nix::sys::signal::{Signal, kill};
use proto::shim::{ClockGap, HealthStatus};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn ping_agent(answer: Arc<Mutex<String>>) -> FakeAgent {
    FakeAgent::start_at("127.0.0.1:0", move |asked| {
        let text = answer.lock().expect("lock").clone();
        asked.say(format!(
            "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{text}"
        ));
        false
    })
}

#[test]
fn a_real_agent_gets_healthy() {
    let port = free_port();
    let mut boot = boot(port);
    boot.agent.argv = [
        "/usr/bin/python3",
        "-c",
        r#"
import http.server, os, sys
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        b = b'{"status":"HealthyBusy","time_of_last_update":12}'
        self.send_response(200); self.send_header("content-length", str(len(b))); self.end_headers()
        self.wfile.write(b)
http.server.HTTPServer(("0.0.0.0", int(os.environ["PORT"])), H).serve_forever()
"#,
    ]
    .map(str::to_owned)
    .to_vec();
    boot.agent.env.insert("PORT".to_owned(), port.to_string());
    let session = Session::start(&boot);
    let mut broker = session.attach();
    let health = broker.healthy();
    assert_eq!(health.status, HealthStatus::HealthyBusy);
    assert_eq!(health.time_of_last_update, Some(12));
}

#[test]
fn health_is_told_on_change_only() {
    let answer = Arc::new(Mutex::new(r#"{"status":"Healthy"}"#.to_owned()));
    let say = |text: &str| *answer.lock().expect("lock") = text.to_owned();
    let agent = ping_agent(Arc::clone(&answer));
    let session = Session::start(&boot(agent.port));
    let mut broker = session.attach();
    assert_eq!(broker.healthy().status, HealthStatus::Healthy);
    let asked = |n| {
        let connections = Arc::clone(&agent.connections);
        let before = connections.load(std::sync::atomic::Ordering::Relaxed);
        wait_for("more pings", move || {
            (connections.load(std::sync::atomic::Ordering::Relaxed) >= before + n).then_some(())
        });
    };
    asked(3);
    say(r#"{"status":"HealthyBusy"}"#);
    assert_eq!(broker.health().status, HealthStatus::HealthyBusy);
    asked(3);
    say(r#"{"status":"HealthyBusy","time_of_last_update":5}"#);
    assert_eq!(broker.health().time_of_last_update, Some(5));
    say(r#"{"status":"Sick"}"#);
    for n in 1..=3 {
        match broker.health().status {
            HealthStatus::Unhealthy { failures, detail } => {
                assert_eq!(failures, n);
                assert!(detail.contains("Sick"), "{detail}");
            }
            other => panic!("{other:?}"),
        }
    }
    say(r#"{"status":"Healthy"}"#);
    assert_eq!(broker.healthy().status, HealthStatus::Healthy);
}

#[test]
fn an_agent_that_answers_badly_while_starting_is_told_with_what_was_seen() {
    let answer = Arc::new(Mutex::new("warming up".to_owned()));
    let agent = ping_agent(Arc::clone(&answer));
    let session = Session::start(&boot(agent.port));
    let mut broker = session.attach();
    match broker.health().status {
        HealthStatus::Unhealthy { detail, .. } => {
            assert!(detail.contains("warming up"), "{detail}")
        }
        other => panic!("{other:?}"),
    }
    *answer.lock().expect("lock") = r#"{"status":"Healthy"}"#.to_owned();
    assert_eq!(broker.healthy().status, HealthStatus::Healthy);
}

#[test]
fn an_agent_that_never_answers_its_ping_becomes_unhealthy() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let mut boot = boot(listener.local_addr().expect("address").port());
    boot.limits.ping_timeout_ms = 200;
    let session = Session::start(&boot);
    let mut broker = session.attach();
    match broker.health().status {
        HealthStatus::Unhealthy { detail, .. } => {
            assert!(detail.contains("no answer within 200 ms"), "{detail}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_session_that_was_frozen_is_not_late() {
    // The whole session freezes: its agent, too, goes on with its answer only afterwards.
    let frozen = Arc::new(AtomicBool::new(false));
    let asked_frozen = Arc::new(AtomicUsize::new(0));
    let (ice, count) = (Arc::clone(&frozen), Arc::clone(&asked_frozen));
    let agent = FakeAgent::start_at("127.0.0.1:0", move |asked| {
        if ice.load(Ordering::Relaxed) {
            count.fetch_add(1, Ordering::Relaxed);
            while ice.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(Duration::from_millis(300));
        }
        asked.say(crate::fake_agent::HEALTHY);
        false
    });
    let mut boot = boot(agent.port);
    boot.limits.ping_timeout_ms = 600;
    let session = Session::start(&boot);
    let mut broker = session.attach();
    broker.healthy();
    for round in 1..=3 {
        frozen.store(true, Ordering::Relaxed);
        wait_for("a check under way", || {
            (asked_frozen.load(Ordering::Relaxed) == round).then_some(())
        });
        kill(session.shim, Signal::SIGSTOP).expect("freeze");
        std::thread::sleep(Duration::from_millis(1000));
        frozen.store(false, Ordering::Relaxed);
        kill(session.shim, Signal::SIGCONT).expect("thaw");
        std::thread::sleep(Duration::from_millis(500));
    }
    assert_eq!(broker.queued("health"), 0, "nothing changed");
}

#[test]
fn without_a_ping_path_an_open_port_is_health() {
    let listener = TcpListener::bind("[::1]:0").expect("bind");
    let mut boot = boot(listener.local_addr().expect("address").port());
    boot.wire.ping_path = None;
    let session = Session::start(&boot);
    assert_eq!(session.attach().healthy().status, HealthStatus::Healthy);
}

#[test]
fn the_last_health_is_part_of_the_attach_answer() {
    let agent = FakeAgent::start(|_| true);
    let session = Session::start(&boot(agent.port));
    session.attach().healthy();
    let mut second = crate::broker::Broker::connect(&session.socket());
    let attached = second.attach(crate::harness::TOKEN, 7).expect("attach");
    assert_eq!(
        attached.health.map(|health| health.status),
        Some(HealthStatus::Healthy)
    );
    assert!(attached.exited.is_none());
    assert!(Duration::from_millis(attached.uptime_ms) <= session.started.elapsed());
}

#[test]
fn a_session_that_stood_still_was_not_idle_meanwhile() {
    let agent = ping_agent(Arc::new(Mutex::new(r#"{"status":"Healthy"}"#.to_owned())));
    let session = Session::start(&boot(agent.port));
    let mut broker = session.attach();
    broker.healthy();
    std::thread::sleep(Duration::from_millis(600));
    let idle_of = |epoch: u64| {
        let mut next = crate::broker::Broker::connect(&session.socket());
        let idle = next.attach(TOKEN, epoch).expect("attached").idle_ms;
        (next, idle)
    };
    let (mut next, idle) = idle_of(8);
    assert!(idle >= 600, "{idle}");
    next.notify("clock-gap", &ClockGap { gap_ms: 400 });
    let (mut last, after) = idle_of(9);
    assert!(after >= 200 && after < idle, "{after} after {idle}");
    // More than it can have been is until now.
    last.notify("clock-gap", &ClockGap { gap_ms: u64::MAX });
    let (_, none) = idle_of(10);
    assert!(none < 200, "{none}");
}
