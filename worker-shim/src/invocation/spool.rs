//! What is kept of one answer: the bytes that no broker has acknowledged, and how much of them has gone into the stream.
//!
//! ```text
//!   0 ──────── acked ───────── sent ───────── produced
//!   (safe with  (in the stream;  (for the       (the agent's next byte)
//!    the broker) held until acked) stream)
//!                └────────── held: at most KEPT_WINDOW ──────────┘
//! ```
//!
//! A stream that is lost takes nothing with it: the next one begins at any byte from `acked` on.

use crate::socket::{Socket, Written};
use proto::ids::InvocationId;
use proto::shim::{InvokeHead, KEPT_WINDOW, Kept, Resume};
use std::collections::VecDeque;
use std::time::Instant;

/// See the module.
pub(super) struct Spool {
    /// Its deadline.
    pub(super) until: Instant,
    /// The agent's head, once it is there.
    pub(super) head: Option<InvokeHead>,
    /// What comes first on the stream and was taken from an earlier one.
    pub(super) skip: u64,
    held: VecDeque<u8>,
    acked: u64,
    sent: u64,
    /// The stream's other end wants the answer.
    heard: bool,
}

impl Spool {
    pub(super) fn new(until: Instant) -> Self {
        Self {
            until,
            head: None,
            skip: 0,
            held: VecDeque::new(),
            acked: 0,
            sent: 0,
            heard: true,
        }
    }

    /// Bytes of the answer so far.
    pub(super) fn produced(&self) -> u64 {
        self.acked + self.held.len() as u64
    }

    /// How many more it takes now.
    pub(super) fn room(&self) -> usize {
        let window = usize::try_from(KEPT_WINDOW).unwrap_or(usize::MAX);
        window.saturating_sub(self.held.len())
    }

    /// Whether somebody wants the answer now.
    pub(super) fn is_heard(&self) -> bool {
        self.heard
    }

    /// Whether there is something for the stream.
    pub(super) fn is_waiting(&self) -> bool {
        self.heard && self.sent < self.produced()
    }

    /// Takes more of the answer.
    pub(super) fn give(&mut self, bytes: &[u8]) {
        self.held.extend(bytes);
    }

    /// Puts into the stream what it takes; whether anything moved. A stream that is broken is one that nobody hears.
    pub(super) fn send(&mut self, stream: &mut Socket) -> bool {
        let mut moved = false;
        while self.is_waiting() && stream.is_writable() {
            match stream.write(self.unsent()) {
                Written::Some(n) => self.sent += n as u64,
                Written::Blocked => break,
                Written::Failed(_) => self.heard = false,
            }
            moved = true;
        }
        moved
    }

    /// What comes before this byte is safe. More than was ever sent cannot be.
    pub(super) fn ack(&mut self, bytes: u64) {
        let safe = bytes.min(self.sent).saturating_sub(self.acked);
        if let Ok(count) = usize::try_from(safe) {
            self.held.drain(..count);
            self.acked += safe;
        }
        if self.held.is_empty() {
            // An answer may take hours; what one busy moment needed is not held for it.
            self.held = VecDeque::new();
        }
    }

    /// Nobody hears it any more, until it is resumed.
    pub(super) fn unheard(&mut self) {
        self.heard = false;
    }

    /// What a broker is told of it.
    pub(super) fn kept(&self, id: InvocationId, uploaded: u64, now: Instant) -> Kept {
        let left = self.until.saturating_duration_since(now);
        Kept {
            id,
            acked: self.acked,
            produced: self.produced(),
            uploaded,
            ended: false,
            left_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// A new stream: whether it can go on as the order has it, with so much of the request taken.
    pub(super) fn resume(&mut self, order: &Resume, uploaded: u64) -> Result<(), String> {
        let (acked, produced) = (self.acked, self.produced());
        if !(acked..=produced).contains(&order.from) {
            return Err(format!(
                "from is {}, but the answer is here from byte {acked} to {produced}",
                order.from
            ));
        }
        let skip = uploaded.checked_sub(order.request_from);
        self.skip = skip.ok_or_else(|| {
            format!(
                "request_from is {}, but only {uploaded} bytes of the request are here",
                order.request_from
            )
        })?;
        self.sent = order.from;
        self.ack(order.from);
        self.heard = true;
        Ok(())
    }

    /// The next bytes for the stream that lie together.
    fn unsent(&self) -> &[u8] {
        let (front, back) = self.held.as_slices();
        let at = usize::try_from(self.sent - self.acked).unwrap_or(usize::MAX);
        match front.get(at..) {
            Some(rest) if !rest.is_empty() => rest,
            _ => back.get(at - front.len()..).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Read as _;
    use std::os::unix::net::UnixStream;

    fn order(from: u64, request_from: u64) -> Resume {
        Resume {
            id: InvocationId(1),
            from,
            request_from,
        }
    }

    #[derive(Debug, Clone)]
    enum Op {
        Give(usize),
        Send,
        /// Of what was read, this share (in 256ths) is safe.
        Ack(u8),
        /// The stream breaks; the next one begins at this share of what may be.
        Lose(u8),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => (1_usize..100_000).prop_map(Op::Give),
            4 => Just(Op::Send),
            3 => any::<u8>().prop_map(Op::Ack),
            1 => any::<u8>().prop_map(Op::Lose),
        ]
    }

    fn share(of: u64, share: u8) -> u64 {
        of * u64::from(share) / 255
    }

    fn stream() -> (Socket, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("pair");
        theirs.set_nonblocking(true).expect("nonblocking");
        (Socket::new(ours.into()), theirs)
    }

    fn byte(at: u64) -> u8 {
        (at % 251).to_le_bytes()[0]
    }

    proptest! {
        /// Whatever is lost and acknowledged: a reader that keeps what it has acknowledged gets every byte once, in order.
        #[test]
        fn no_byte_is_lost_or_said_twice(ops in prop::collection::vec(op(), 1..80)) {
            let mut spool = Spool::new(Instant::now());
            let (mut socket, mut reader) = stream();
            // Bytes that the agent has given; that the reader has; that are safe with it.
            let (mut given, mut read, mut safe) = (0_u64, 0_u64, 0_u64);
            for op in ops {
                match op {
                    Op::Give(count) => {
                        let count = count.min(spool.room());
                        let bytes: Vec<u8> = (given..given + count as u64).map(byte).collect();
                        spool.give(&bytes);
                        given += count as u64;
                    }
                    Op::Send => {
                        // Without epoll nobody says that there is room again.
                        socket.note(crate::poller::Ready { readable: false, writable: true, ended: false, hung_up: false });
                        spool.send(&mut socket);
                        let mut buffer = vec![0; 512 * 1024];
                        let count = reader.read(&mut buffer).unwrap_or(0);
                        for found in &buffer[..count] {
                            prop_assert_eq!(*found, byte(read), "byte {}", read);
                            read += 1;
                        }
                    }
                    Op::Ack(part) => {
                        safe = safe.max(share(read, part));
                        spool.ack(safe);
                        prop_assert_eq!(spool.acked, safe);
                    }
                    Op::Lose(part) => {
                        spool.unheard();
                        prop_assert!(!spool.is_waiting());
                        (socket, reader) = stream();
                        safe += share(given - safe, part);
                        if safe > 0 {
                            prop_assert!(spool.resume(&order(spool.acked.wrapping_sub(1), 0), 0).is_err());
                        }
                        prop_assert!(spool.resume(&order(given + 1, 0), 0).is_err());
                        spool.resume(&order(safe, 0), 0).expect("in bounds");
                        read = safe;
                    }
                }
                prop_assert_eq!(spool.produced(), given);
                prop_assert!(given - spool.acked <= KEPT_WINDOW);
            }
        }
    }

    #[test]
    fn what_was_taken_of_the_request_is_skipped() {
        let mut spool = Spool::new(Instant::now());
        assert!(spool.resume(&order(0, 11), 10).is_err());
        spool.resume(&order(0, 10), 10).expect("as it was");
        assert_eq!(spool.skip, 0);
        spool.resume(&order(0, 3), 10).expect("earlier");
        assert_eq!(spool.skip, 7);
    }

    #[test]
    fn nothing_is_held_for_an_answer_that_is_safe() {
        let mut spool = Spool::new(Instant::now());
        let (mut socket, _reader) = stream();
        spool.give(&[1; 100]);
        spool.ack(100);
        assert_eq!(spool.acked, 0, "it was never sent");
        assert!(spool.send(&mut socket));
        spool.ack(u64::MAX);
        assert_eq!((spool.acked, spool.held.capacity()), (100, 0));
    }
}
