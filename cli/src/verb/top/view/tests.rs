use super::super::rows::Rows;
use super::*;
use proto::api::Session;
use serde_json::json;
use std::time::{Duration, Instant};

fn session(number: u32, phase: &str, cpu: f64) -> Session {
    serde_json::from_value(json!({
        "id": format!("s{number:09}"),
        "sessionId": format!("{number:033}"),
        "runtime": if number.is_multiple_of(2) { "even" } else { "odd" },
        "version": 1,
        "phase": phase,
        "inFlight": number,
        "createdAt": format!("2026-01-01T00:00:{number:02}Z"),
        "lastActivityAt": "2026-01-01T00:00:00Z",
        "usage": {"cpuSeconds": cpu, "memoryBytes": u64::from(number) << 20, "memoryPeakBytes": 0, "pids": 2, "oomKills": 0},
        "egressRefused": 0,
        "logLinesDropped": 0,
    }))
    .expect("a session")
}

fn rows() -> Rows {
    let mut rows = Rows::default();
    let then = Instant::now();
    let first = (1..=4).map(|n| session(n, "ready", 1.0)).collect();
    rows.take(first, then);
    let next = vec![
        session(1, "busy", 1.5),
        session(2, "frozen", 1.0),
        session(3, "ready", 3.0),
        session(4, "ready", 1.1),
    ];
    rows.take(next, then + Duration::from_secs(1));
    rows
}

fn key(code: KeyCode) -> Event {
    Event::Key(KeyEvent::new(code, KeyModifiers::NONE))
}

fn text(view: &View, rows: &Rows, size: (usize, usize)) -> Vec<String> {
    let lines = view.draw(rows, size);
    assert!(lines.len() <= size.1, "{lines:?}");
    for line in &lines {
        assert!(line.text.chars().count() <= size.0, "{line:?}");
    }
    lines.into_iter().map(|line| line.text).collect()
}

#[test]
fn the_busiest_come_first_and_shares_are_of_the_time_between_two_looks() {
    let rows = rows();
    let view = View::new(Sort::Cpu);
    let screen = text(&view, &rows, (120, 24));
    assert!(
        screen[0].contains("4 sessions, 1 frozen  cpu 260.0%"),
        "{screen:?}"
    );
    assert!(
        screen[3].starts_with("s000000003") && screen[3].contains("200.0"),
        "{screen:?}"
    );
    assert!(
        screen[4].starts_with("s000000001") && screen[4].contains("50.0"),
        "{screen:?}"
    );
    assert!(screen[6].contains("frozen"), "{screen:?}");
}

#[test]
fn a_session_is_stopped_or_frozen_only_after_a_yes() {
    let rows = rows();
    let mut view = View::new(Sort::Cpu);
    let id = |n: u32| SessionId::parse(format!("s{n:09}")).expect("an id");
    assert_eq!(view.event(&key(KeyCode::Down), &rows), None);
    assert_eq!(view.event(&key(KeyCode::Char('k')), &rows), None);
    let screen = text(&view, &rows, (120, 24));
    let last = screen.last().expect("a line");
    assert!(last.contains("Stop s000000001 of odd? y/n"), "{screen:?}");
    assert_eq!(view.event(&key(KeyCode::Char('n')), &rows), None);
    assert_eq!(
        view.event(&key(KeyCode::Char('y')), &rows),
        None,
        "asked no more"
    );
    assert_eq!(view.event(&key(KeyCode::Char('k')), &rows), None);
    assert_eq!(
        view.event(&key(KeyCode::Char('y')), &rows),
        Some(Command::Stop(id(1)))
    );
    assert_eq!(view.event(&key(KeyCode::End), &rows), None);
    assert_eq!(view.event(&key(KeyCode::Char('f')), &rows), None);
    assert_eq!(
        view.event(&key(KeyCode::Char('y')), &rows),
        Some(Command::Thaw(id(2))),
        "it is frozen"
    );
}

#[test]
fn what_is_chosen_stays_chosen_and_in_sight_wherever_it_moves() {
    let rows = rows();
    let mut view = View::new(Sort::Name);
    view.event(&key(KeyCode::End), &rows);
    let chosen = |view: &View| {
        let lines = view.draw(&rows, (100, 6));
        let mut chosen = lines.into_iter().filter(|line| line.chosen);
        chosen.next().expect("in sight").text
    };
    assert!(chosen(&view).starts_with("s000000003"));
    for _ in 0..6 {
        view.event(&key(KeyCode::Char('s')), &rows);
        assert!(chosen(&view).starts_with("s000000003"));
    }
}

#[test]
fn a_filter_is_typed_kept_and_dropped() {
    let rows = rows();
    let mut view = View::new(Sort::Cpu);
    for c in "/even".chars() {
        view.event(&key(KeyCode::Char(c)), &rows);
    }
    view.event(&key(KeyCode::Enter), &rows);
    let screen = text(&view, &rows, (120, 24)).join("\n");
    assert!(
        screen.contains("only: even") && !screen.contains("s000000001"),
        "{screen}"
    );
    // `q` is a letter in there.
    for c in "/q".chars() {
        assert_eq!(view.event(&key(KeyCode::Char(c)), &rows), None);
    }
    view.event(&key(KeyCode::Esc), &rows);
    assert!(
        text(&view, &rows, (120, 24))
            .join("\n")
            .contains("s000000001")
    );
    assert_eq!(
        view.event(&key(KeyCode::Char('q')), &rows),
        Some(Command::Quit)
    );
}

#[test]
fn it_fits_into_any_size() {
    let rows = rows();
    let mut view = View::new(Sort::Cpu);
    view.tell("a\u{1b}[2Jb".to_owned());
    for size in [(1, 1), (3, 2), (10, 4), (200, 60)] {
        text(&view, &rows, size);
    }
    assert!(text(&view, &rows, (80, 24)).join("").contains("a[2Jb"));
}
