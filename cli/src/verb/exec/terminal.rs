//! This side's terminal: raw while a remote one is shown on it, and its size.

use crate::failure::{Exit, Failure};
use proto::shim::TtySize;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// The terminal in raw mode; dropping it brings the former mode back.
#[derive(Debug)]
pub(super) struct Raw(Termios);

impl Raw {
    /// Every key goes to the command, Ctrl-C included; its terminal does the echoing.
    pub(super) fn enter() -> Result<Self, Failure> {
        let failed =
            |error| Failure::new(Exit::Failed, format!("cannot set the terminal: {error}"));
        let before = tcgetattr(std::io::stdin()).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Flush, &raw).map_err(failed)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, &self.0);
    }
}

/// Its size; 24 × 80 where it does not say (some serial lines and pseudo-terminals report 0 × 0).
pub(super) fn size() -> TtySize {
    match tcgetwinsize(std::io::stdout()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => TtySize {
            rows: size.ws_row,
            cols: size.ws_col,
        },
        Ok(_) | Err(_) => TtySize { rows: 24, cols: 80 },
    }
}
