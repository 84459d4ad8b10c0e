//! The terminal while `top` has it: raw, on its other screen, and given back however this ends.

use super::view::Line;
use crate::failure::{Exit, Failure};
use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::event::{self, Event};
use crossterm::style::{Attribute, Print, SetAttribute};
use crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use crossterm::{execute, queue};
use std::io::{self, Write};
use tokio::sync::mpsc;

/// Keys that wait to be looked at. A reader that is behind loses none: the thread that reads them waits.
const QUEUE: usize = 64;

/// See the module.
#[derive(Debug)]
pub(super) struct Screen {
    events: mpsc::Receiver<Event>,
}

/// Columns and rows.
pub(super) fn size() -> (usize, usize) {
    match crossterm::terminal::size() {
        Ok((columns, rows)) if columns > 0 && rows > 0 => (columns.into(), rows.into()),
        Ok(_) | Err(_) => (80, 24),
    }
}

fn failed(error: io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("cannot use this terminal: {error}"))
}

impl Screen {
    pub(super) fn open() -> Result<Self, Failure> {
        enable_raw_mode().map_err(failed)?;
        let (keys, events) = mpsc::channel(QUEUE);
        let screen = Self { events };
        execute!(io::stdout(), EnterAlternateScreen, Hide).map_err(failed)?;
        // Ends with the process: a thread that waits for a key cannot be told to stop.
        std::thread::spawn(move || {
            while let Ok(event) = event::read() {
                if keys.blocking_send(event).is_err() {
                    return;
                }
            }
        });
        Ok(screen)
    }

    /// The next key or new size; `None` when the terminal is gone.
    pub(super) async fn event(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// Puts all lines there in one write, so that nothing flickers.
    pub(super) fn draw(&mut self, lines: &[Line]) -> Result<(), Failure> {
        let mut out = Vec::new();
        paint(&mut out, lines).map_err(failed)?;
        let mut terminal = io::stdout().lock();
        terminal
            .write_all(&out)
            .and_then(|()| terminal.flush())
            .map_err(failed)
    }
}

fn paint(out: &mut Vec<u8>, lines: &[Line]) -> io::Result<()> {
    for (row, line) in (0_u16..).zip(lines) {
        queue!(out, MoveTo(0, row), Clear(ClearType::CurrentLine))?;
        if line.chosen {
            queue!(
                out,
                SetAttribute(Attribute::Reverse),
                Print(&line.text),
                SetAttribute(Attribute::Reset)
            )?;
        } else {
            queue!(out, Print(&line.text))?;
        }
    }
    Ok(())
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _ = execute!(io::stdout(), Show, LeaveAlternateScreen);
        let _ = disable_raw_mode();
    }
}
