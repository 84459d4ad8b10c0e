//! `agentcore top`: what live sessions do just now.
//!
//! On a terminal a table that renews itself, with keys ([`view`] says which); elsewhere, with `--json` or `-n`, so many tables one
//! after another. Shares of a processor are of the time between two looks.

mod rows;
mod screen;
mod view;

pub(crate) use rows::Sort;

use super::Desk;
use crate::args::Top;
use crate::daemon::{Daemon, DaemonError, empty, encode};
use crate::failure::Failure;
use crate::target;
use hyper::Method;
use proto::api::Session;
use rows::{Rows, table};
use std::io::IsTerminal;
use std::time::{Duration, Instant};
use view::{Command, View};

/// Two looks that are closer together would see the same reading: the daemon keeps one for a second.
const LEAST_PAUSE: Duration = Duration::from_millis(1100);

/// Does what the verb says.
pub(super) async fn run(desk: &Desk, args: &Top) -> Result<(), Failure> {
    let pause = args.delay.max(LEAST_PAUSE);
    let shown = desk.screen.out_terminal && std::io::stdin().is_terminal();
    if !shown || desk.screen.json || desk.screen.quiet || args.number.is_some() {
        return print(desk, args, pause).await;
    }
    show(desk, args, pause).await
}

/// So many tables.
async fn print(desk: &Desk, args: &Top, pause: Duration) -> Result<(), Failure> {
    let agent = args.target.agent.as_deref();
    let mut rows = Rows::default();
    rows.take(look(&desk.daemon, agent).await?, Instant::now());
    for number in 0..args.number.unwrap_or(1) {
        tokio::time::sleep(pause).await;
        rows.take(look(&desk.daemon, agent).await?, Instant::now());
        let all = rows.sorted(args.sort, false, "");
        if desk.screen.json {
            desk.screen.record(&all)?;
        } else if desk.screen.quiet {
            for row in all {
                desk.screen.line(row.id.as_str())?;
            }
        } else {
            if number > 0 {
                desk.screen.line("")?;
            }
            desk.screen.line(table(&all))?;
        }
    }
    Ok(())
}

/// Until the user has seen enough.
async fn show(desk: &Desk, args: &Top, pause: Duration) -> Result<(), Failure> {
    let agent = args.target.agent.as_deref();
    let mut rows = Rows::default();
    // Before the screen is taken: a daemon that is not there is told as everywhere.
    rows.take(look(&desk.daemon, agent).await?, Instant::now());
    let mut view = View::new(args.sort);
    let mut screen = screen::Screen::open()?;
    let mut next = tokio::time::interval(pause);
    next.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // The first tick is at once.
    next.tick().await;
    loop {
        screen.draw(&view.draw(&rows, screen::size()))?;
        tokio::select! {
            event = screen.event() => {
                let Some(event) = event else { return Ok(()) };
                match view.event(&event, &rows) {
                    None => {}
                    Some(Command::Quit) => return Ok(()),
                    Some(command) => {
                        let told = carry_out(&desk.daemon, &command).await;
                        view.tell(told.unwrap_or_else(|error| Failure::from(error).what));
                        refresh(&desk.daemon, agent, &mut rows, &mut view).await;
                    }
                }
            }
            _ = next.tick() => refresh(&desk.daemon, agent, &mut rows, &mut view).await,
        }
    }
}

/// A daemon that is being restarted is waited for, with its last figures on the screen.
async fn refresh(daemon: &Daemon, agent: Option<&str>, rows: &mut Rows, view: &mut View) {
    match look(daemon, agent).await {
        Ok(sessions) => rows.take(sessions, Instant::now()),
        Err(error) => view.tell(Failure::from(error).what),
    }
}

/// All live sessions, with how much they wait.
async fn look(daemon: &Daemon, agent: Option<&str>) -> Result<Vec<Session>, DaemonError> {
    let mut path = "/v1/sessions?live=true&pressure=true".to_owned();
    if let Some(name) = agent {
        path.push_str("&runtime=");
        path.push_str(&encode(target::plain_name(name)));
    }
    daemon.list(&path).await
}

/// Asks the daemon; what to tell of it.
async fn carry_out(daemon: &Daemon, command: &Command) -> Result<String, DaemonError> {
    let (method, id, tail, done) = match command {
        Command::Quit => return Ok(String::new()),
        Command::Stop(id) => (Method::DELETE, id, "", "is being stopped"),
        Command::Freeze(id) => (Method::POST, id, "/freeze", "is frozen"),
        Command::Thaw(id) => (Method::POST, id, "/thaw", "goes on"),
    };
    let path = target::session_path(id.as_str(), tail, None);
    let answer = daemon
        .call(daemon.request(method.clone(), &path, empty()))
        .await?;
    let _: Session = daemon.document(method, &path, answer).await?;
    Ok(format!("{id} {done}"))
}
