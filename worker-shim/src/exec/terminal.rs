//! A pseudo-terminal between a process and the broker's stream.

use crate::poller::{Poller, Ready, Token, Watch};
use crate::socket::{self, Read, Socket, Written};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::unistd::{Uid, read, setfsuid, write};
use proto::shim::TtySize;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// Pieces moved in one turn, each way.
const PIECES_PER_TURN: usize = 16;

/// Most bytes of one piece: a terminal line discipline takes 4 KiB at once.
const PIECE: usize = 4096;

/// Outcome of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pumped {
    /// For an event.
    Waits,
    /// Another turn, at once.
    More,
    /// All output has been passed on, or nobody takes it any more.
    Over,
}

/// See the module.
pub(super) struct Terminal {
    master: OwnedFd,
    master_readable: bool,
    master_writable: bool,
    /// No process has the terminal open any more.
    master_ended: bool,
    process_ended: bool,
    stream: Socket,
    stream_ended: bool,
    /// Typed, but not yet taken by the terminal.
    input: Vec<u8>,
    /// Shown, but not yet taken by the broker.
    output: Vec<u8>,
}

impl Terminal {
    /// Opens one for a process of `uid`; also returns the process's side.
    pub(super) fn open(size: TtySize, uid: u32, stream: OwnedFd) -> io::Result<(Self, OwnedFd)> {
        let size = winsize(size);
        // devpts gives a terminal to the file system uid of its opener: programs that open their terminal by name
        // (ssh, gpg) need it to be theirs. The shim could not chown it.
        let own = setfsuid(Uid::from_raw(uid));
        let opened = openpty(&size, None);
        setfsuid(own);
        let OpenptyResult { master, slave } = opened?;
        fcntl(
            &master,
            FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK),
        )?;
        let terminal = Self {
            master,
            master_readable: true,
            master_writable: true,
            master_ended: false,
            process_ended: false,
            stream: Socket::new(stream),
            stream_ended: false,
            input: Vec::new(),
            output: Vec::new(),
        };
        Ok((terminal, slave))
    }

    pub(super) fn watch(&mut self, poller: &Poller, serial: u64) -> io::Result<()> {
        poller.add(&self.master, Token::ExecTerminal(serial), Watch::Edges)?;
        self.stream.watch(poller, Token::ExecStream(serial))
    }

    pub(super) fn note_stream(&mut self, ready: Ready) {
        self.stream.note(ready);
    }

    pub(super) fn note_master(&mut self, ready: Ready) {
        self.master_readable |= ready.readable;
        self.master_writable |= ready.writable;
    }

    pub(super) fn resize(&self, size: TtySize) {
        // A terminal that is hung up has no size to set.
        let _ = sandbox::sys::terminal::set_size(self.master.as_fd(), size.rows, size.cols);
    }

    /// Moves what can be moved. `process_ended`: what is in the terminal now is all that counts.
    pub(super) fn pump(&mut self, scratch: &mut [u8], process_ended: bool) -> Pumped {
        if process_ended && !self.process_ended {
            // The kernel moves output through a work queue and may not have announced the last of it; reading waits for
            // the queue, so one read more settles it.
            self.process_ended = true;
            self.master_readable = true;
        }
        for _ in 0..PIECES_PER_TURN {
            let typed = self.pump_input(scratch);
            let shown = self.pump_output(scratch);
            // The broker is gone: dropping the master hangs the terminal up.
            if self.stream.is_hung_up() {
                return Pumped::Over;
            }
            let drained = self.output.is_empty() && (self.master_ended || !self.master_readable);
            if drained && (process_ended || self.master_ended) {
                return Pumped::Over;
            }
            if !typed && !shown {
                return Pumped::Waits;
            }
        }
        Pumped::More
    }

    fn pump_input(&mut self, scratch: &mut [u8]) -> bool {
        if !self.input.is_empty() {
            return self.write_input();
        }
        if self.stream_ended || !self.stream.is_readable() {
            return false;
        }
        match self.stream.read(&mut scratch[..PIECE]) {
            Read::Data(n) => {
                self.input.extend_from_slice(&scratch[..n]);
                self.write_input();
                true
            }
            Read::Blocked => false,
            Read::End | Read::Failed(_) => {
                self.stream_ended = true;
                true
            }
        }
    }

    fn write_input(&mut self) -> bool {
        if !self.master_writable {
            return false;
        }
        match socket::again(|| write(&self.master, &self.input)) {
            Ok(n) => {
                self.input.drain(..n);
                true
            }
            Err(Errno::EAGAIN) => {
                self.master_writable = false;
                false
            }
            // Nobody reads it any more.
            Err(_) => {
                self.input.clear();
                false
            }
        }
    }

    fn pump_output(&mut self, scratch: &mut [u8]) -> bool {
        if !self.output.is_empty() {
            return self.write_output();
        }
        if self.master_ended || !self.master_readable {
            return false;
        }
        match socket::again(|| read(&self.master, &mut scratch[..PIECE])) {
            Err(Errno::EAGAIN) => {
                self.master_readable = false;
                false
            }
            // EIO is a terminal's end of file.
            Ok(0) | Err(_) => {
                self.master_ended = true;
                true
            }
            Ok(n) => {
                self.output.extend_from_slice(&scratch[..n]);
                self.write_output();
                true
            }
        }
    }

    fn write_output(&mut self) -> bool {
        if !self.stream.is_writable() {
            return false;
        }
        match self.stream.write(&self.output) {
            Written::Some(n) => {
                self.output.drain(..n);
                true
            }
            Written::Blocked => false,
            Written::Failed(_) => {
                self.output.clear();
                false
            }
        }
    }
}

fn winsize(size: TtySize) -> Winsize {
    Winsize {
        ws_row: size.rows,
        ws_col: size.cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}
