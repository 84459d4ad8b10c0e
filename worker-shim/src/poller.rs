//! Waiting: one epoll instance, and a typed token for everything that can become ready.
//!
//! Sockets that carry bodies are registered once, edge-triggered, for both directions: their owners remember what is
//! ready ([`crate::socket`]) and no further `epoll_ctl` is needed. The link and the listeners are level-triggered: they are
//! read one packet at a time and left alone when there is no room.

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

/// What became ready. Serials are never reused, so a late event for something gone finds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token {
    /// SIGCHLD or SIGTERM.
    Signals,
    /// A broker connects.
    Listener,
    /// A connection that has not said `attach` yet.
    Pending(u64),
    /// The attached broker.
    Link(u64),
    /// The agent's standard output (0) or error (1).
    Output(u64),
    /// The broker's stream of an invocation.
    Stream(u64),
    /// A connection to the agent.
    Agent(u64),
    /// The egress listener.
    Egress,
    /// The broker's stream of an exec with a terminal.
    ExecStream(u64),
    /// The terminal of an exec.
    ExecTerminal(u64),
    /// A template's interpreter.
    Template,
    /// The channel of a fork.
    Fork,
    /// The pidfd of a fork.
    Life,
}

const SERIAL_BITS: u32 = 56;

impl Token {
    fn encode(self) -> u64 {
        let (kind, serial) = match self {
            Self::Signals => (0, 0),
            Self::Listener => (1, 0),
            Self::Pending(serial) => (2, serial),
            Self::Link(serial) => (3, serial),
            Self::Output(serial) => (4, serial),
            Self::Stream(serial) => (5, serial),
            Self::Agent(serial) => (6, serial),
            Self::Egress => (7, 0),
            Self::ExecStream(serial) => (8, serial),
            Self::ExecTerminal(serial) => (9, serial),
            Self::Template => (10, 0),
            Self::Fork => (11, 0),
            Self::Life => (12, 0),
        };
        kind << SERIAL_BITS | serial
    }

    fn decode(word: u64) -> Option<Self> {
        let serial = word & ((1 << SERIAL_BITS) - 1);
        Some(match word >> SERIAL_BITS {
            0 => Self::Signals,
            1 => Self::Listener,
            2 => Self::Pending(serial),
            3 => Self::Link(serial),
            4 => Self::Output(serial),
            5 => Self::Stream(serial),
            6 => Self::Agent(serial),
            7 => Self::Egress,
            8 => Self::ExecStream(serial),
            9 => Self::ExecTerminal(serial),
            10 => Self::Template,
            11 => Self::Fork,
            12 => Self::Life,
            _ => return None,
        })
    }
}

/// In which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ready {
    /// Bytes, end of file or an error can be read.
    pub(crate) readable: bool,
    /// There is room, or an error.
    pub(crate) writable: bool,
    /// The other end has finished writing: no further edge will say so.
    pub(crate) ended: bool,
    /// Both directions are gone.
    pub(crate) hung_up: bool,
}

/// How something is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Watch {
    /// Both directions, once per change.
    Edges,
    /// As long as there is something to read.
    Reading,
    /// As long as there is something to read, or room to write.
    ReadingAndWriting,
    /// As long as there is room to write.
    Writing,
    /// Not at all for now.
    Nothing,
}

impl Watch {
    fn flags(self) -> EpollFlags {
        match self {
            Self::Edges => {
                EpollFlags::EPOLLIN
                    | EpollFlags::EPOLLOUT
                    | EpollFlags::EPOLLRDHUP
                    | EpollFlags::EPOLLET
            }
            Self::Reading => EpollFlags::EPOLLIN,
            Self::ReadingAndWriting => EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT,
            Self::Writing => EpollFlags::EPOLLOUT,
            Self::Nothing => EpollFlags::empty(),
        }
    }
}

/// Most events of one wake-up; more come with the next.
const BATCH: usize = 64;

/// Timeouts shorter than this are kept to the microsecond; epoll alone counts milliseconds.
const PRECISE: Duration = Duration::from_millis(20);

/// The epoll instance.
pub(crate) struct Poller {
    epoll: Epoll,
    events: [EpollEvent; BATCH],
    ready: usize,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            events: [EpollEvent::empty(); BATCH],
            ready: 0,
        })
    }

    /// Starts to watch. A descriptor is forgotten by itself when it is closed.
    pub(crate) fn add(&self, fd: impl AsFd, token: Token, watch: Watch) -> io::Result<()> {
        Ok(self
            .epoll
            .add(fd, EpollEvent::new(watch.flags(), token.encode()))?)
    }

    /// Watches differently.
    pub(crate) fn change(&self, fd: impl AsFd, token: Token, watch: Watch) -> io::Result<()> {
        let mut event = EpollEvent::new(watch.flags(), token.encode());
        Ok(self.epoll.modify(fd, &mut event)?)
    }

    /// Waits until something is ready or `timeout` is over (`None`: no limit).
    pub(crate) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.ready = 0;
        let timeout = match timeout {
            Some(short) if !short.is_zero() && short < PRECISE => {
                let mut this = [PollFd::new(self.epoll.0.as_fd(), PollFlags::POLLIN)];
                match ppoll(&mut this, Some(TimeSpec::from_duration(short)), None) {
                    Ok(0) => return Ok(()),
                    Ok(_) | Err(nix::Error::EINTR) => EpollTimeout::ZERO,
                    Err(error) => return Err(error.into()),
                }
            }
            // Rounded up: waking early would only mean to wait again.
            Some(long) => EpollTimeout::try_from(long + Duration::from_micros(999))
                .unwrap_or(EpollTimeout::MAX),
            None => EpollTimeout::NONE,
        };
        self.ready = match self.epoll.wait(&mut self.events, timeout) {
            // Stopped and continued, or frozen and thawed: what has happened meanwhile counts before what is due by now.
            Err(nix::Error::EINTR) => self.epoll.wait(&mut self.events, EpollTimeout::ZERO)?,
            other => other?,
        };
        Ok(())
    }

    /// How many events the last wait brought.
    pub(crate) fn ready(&self) -> usize {
        self.ready
    }

    /// One of them.
    pub(crate) fn event(&self, index: usize) -> Option<(Token, Ready)> {
        let event = self.events.get(index)?;
        let flags = event.events();
        let broken = flags.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP);
        let ended = broken || flags.contains(EpollFlags::EPOLLRDHUP);
        let ready = Ready {
            readable: ended || flags.contains(EpollFlags::EPOLLIN),
            ended,
            writable: broken || flags.contains(EpollFlags::EPOLLOUT),
            hung_up: flags.contains(EpollFlags::EPOLLHUP),
        };
        Some((Token::decode(event.data())?, ready))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn tokens_round_trip() {
        for token in [
            Token::Signals,
            Token::Listener,
            Token::Pending(1),
            Token::Link(2),
            Token::Output(1),
            Token::Stream(77),
            Token::Agent((1 << SERIAL_BITS) - 1),
            Token::Egress,
            Token::ExecStream(3),
            Token::ExecTerminal(4),
        ] {
            assert_eq!(Token::decode(token.encode()), Some(token));
        }
        assert_eq!(Token::decode(u64::MAX), None);
    }

    #[test]
    fn short_waits_are_precise_and_still_bring_events() {
        let mut poller = Poller::new().expect("epoll");
        let before = Instant::now();
        poller.wait(Some(Duration::from_micros(300))).expect("wait");
        assert!(before.elapsed() >= Duration::from_micros(300));
        assert_eq!(poller.ready(), 0);
        let (reader, writer) = std::io::pipe().expect("pipe");
        poller
            .add(&reader, Token::Output(1), Watch::Reading)
            .expect("add");
        drop(writer);
        poller.wait(Some(Duration::from_millis(5))).expect("wait");
        let (token, ready) = poller.event(0).expect("an event");
        assert_eq!((poller.ready(), token), (1, Token::Output(1)));
        assert!(ready.readable && ready.hung_up);
    }
}
