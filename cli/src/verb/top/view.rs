//! What the screen shows and what keys do. Pure: events and rows in, lines and commands out.
//!
//! | key | does |
//! |---|---|
//! | ↑ ↓ PgUp PgDn Home End | choose a session |
//! | `k` | stop it, `f` freeze or thaw it, after `y` |
//! | `s` `r` | sort by the next column, the other way round |
//! | `/` | show only what contains a text; Enter keeps it, Esc drops it |
//! | `q` Esc Ctrl-C | end |

use super::rows::{Row, Rows, Sort, table};
use crate::table::bytes;
use crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use proto::ids::SessionId;

/// Lines of a page of the keys that move by one.
const PAGE: usize = 10;

/// Longest filter.
const MAX_FILTER: usize = 64;

/// What the daemon is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    Quit,
    Stop(SessionId),
    Freeze(SessionId),
    Thaw(SessionId),
}

/// What keys mean just now.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Mode {
    Browse,
    Filter,
    /// Until this is confirmed or not.
    Ask {
        question: String,
        command: Command,
    },
}

/// One line, and whether it is the one that is chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) text: String,
    pub(super) chosen: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct View {
    sort: Sort,
    reverse: bool,
    filter: String,
    chosen: Option<SessionId>,
    mode: Mode,
    told: String,
}

impl View {
    pub(super) fn new(sort: Sort) -> Self {
        Self {
            sort,
            reverse: false,
            filter: String::new(),
            chosen: None,
            mode: Mode::Browse,
            told: String::new(),
        }
    }

    /// Something to say in the last line, until the next key.
    pub(super) fn tell(&mut self, text: String) {
        self.told = text;
    }

    fn rows(&self, rows: &Rows) -> Vec<Row> {
        rows.sorted(self.sort, self.reverse, &self.filter)
    }

    /// Takes a key; what is to be done about it.
    pub(super) fn event(&mut self, event: &Event, rows: &Rows) -> Option<Command> {
        // A new size is drawn with the next lines, like everything else.
        let Event::Key(key) = event else { return None };
        if key.kind == KeyEventKind::Release {
            return None;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return Some(Command::Quit);
        }
        self.told.clear();
        match std::mem::replace(&mut self.mode, Mode::Browse) {
            Mode::Browse => self.browse(*key, rows),
            Mode::Filter => {
                self.type_filter(*key);
                None
            }
            Mode::Ask { command, .. } => {
                let yes = matches!(key.code, KeyCode::Char('y' | 'Y'));
                if !yes {
                    self.told = "nothing was changed".to_owned();
                }
                yes.then_some(command)
            }
        }
    }

    fn browse(&mut self, key: KeyEvent, rows: &Rows) -> Option<Command> {
        let shown = self.rows(rows);
        let at = self.at(&shown);
        let last = shown.len().saturating_sub(1);
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Some(Command::Quit),
            KeyCode::Up => self.choose(&shown, at.saturating_sub(1)),
            KeyCode::Down => self.choose(&shown, (at + 1).min(last)),
            KeyCode::PageUp => self.choose(&shown, at.saturating_sub(PAGE)),
            KeyCode::PageDown => self.choose(&shown, (at + PAGE).min(last)),
            KeyCode::Home => self.choose(&shown, 0),
            KeyCode::End => self.choose(&shown, last),
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('r') => self.reverse = !self.reverse,
            KeyCode::Char('/') => self.mode = Mode::Filter,
            KeyCode::Char(what @ ('k' | 'f')) => {
                if let Some(row) = shown.get(at) {
                    self.ask(what, row);
                }
            }
            _ => {}
        }
        None
    }

    fn ask(&mut self, what: char, row: &Row) {
        self.chosen = Some(row.id.clone());
        let (verb, command) = match (what, row.frozen) {
            ('k', _) => ("Stop", Command::Stop(row.id.clone())),
            (_, true) => ("Thaw", Command::Thaw(row.id.clone())),
            (_, false) => ("Freeze", Command::Freeze(row.id.clone())),
        };
        self.mode = Mode::Ask {
            question: format!("{verb} {} of {}? y/n", row.id, row.runtime),
            command,
        };
    }

    fn type_filter(&mut self, key: KeyEvent) {
        self.mode = Mode::Filter;
        match key.code {
            KeyCode::Enter => self.mode = Mode::Browse,
            KeyCode::Esc => {
                self.filter.clear();
                self.mode = Mode::Browse;
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(c) if self.filter.len() < MAX_FILTER && !c.is_control() => {
                self.filter.push(c);
            }
            _ => {}
        }
    }

    fn choose(&mut self, shown: &[Row], at: usize) {
        self.chosen = shown.get(at).map(|row| row.id.clone());
    }

    /// Where the chosen one is; the first if it is gone.
    fn at(&self, shown: &[Row]) -> usize {
        let chosen = shown
            .iter()
            .position(|row| Some(&row.id) == self.chosen.as_ref());
        chosen.unwrap_or(0)
    }

    /// The screen, `size` columns and rows, no line longer than that.
    pub(super) fn draw(&self, rows: &Rows, size: (usize, usize)) -> Vec<Line> {
        let (columns, height) = size;
        let shown = self.rows(rows);
        let at = self.at(&shown);
        let text = table(&shown);
        let mut lines = text.lines();
        let plain = |text: String| Line {
            text: text.chars().take(columns).collect(),
            chosen: false,
        };
        let mut screen = vec![plain(self.summary(rows)), plain(self.keys())];
        screen.extend(lines.next().map(|heading| plain(heading.to_owned())));
        let room = height.saturating_sub(screen.len() + 1);
        // So many are above the first that is shown that the chosen one is among them.
        let above = at.saturating_sub(room.saturating_sub(1));
        for (number, line) in lines.enumerate().skip(above).take(room) {
            screen.push(Line {
                chosen: number == at,
                ..plain(line.to_owned())
            });
        }
        screen.resize(
            height.saturating_sub(1).max(screen.len().min(height)),
            plain(String::new()),
        );
        screen.push(plain(self.last_line(&shown)));
        screen.truncate(height);
        screen
    }

    fn summary(&self, rows: &Rows) -> String {
        let all = rows.all();
        let cpu: f64 = all.iter().filter_map(|row| row.cpu_percent).sum();
        let memory: u64 = all.iter().map(|row| row.memory_bytes).sum();
        let requests: u32 = all.iter().map(|row| row.requests).sum();
        let frozen = all.iter().filter(|row| row.frozen).count();
        format!(
            "agentcore top  {} sessions, {frozen} frozen  cpu {cpu:.1}%  memory {}  requests {requests}",
            all.len(),
            bytes(memory)
        )
    }

    fn keys(&self) -> String {
        let order = if self.reverse { ", reversed" } else { "" };
        let filter = match self.filter.as_str() {
            "" => String::new(),
            filter => format!("  only: {filter}"),
        };
        format!(
            "sort: {}{order}{filter}  [k]ill [f]reeze [s]ort [r]everse [/]filter [q]uit",
            self.sort.word()
        )
    }

    fn last_line(&self, shown: &[Row]) -> String {
        match &self.mode {
            Mode::Ask { question, .. } => question.clone(),
            Mode::Filter => format!("/{}", self.filter),
            Mode::Browse if self.told.is_empty() && shown.is_empty() => {
                "no session runs here".to_owned()
            }
            // What a daemon says may hold anything.
            Mode::Browse => self.told.chars().filter(|c| !c.is_control()).collect(),
        }
    }
}

#[cfg(test)]
mod tests;
