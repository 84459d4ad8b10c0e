//! Room that many share, so that none of them can have all of it: bytes of bodies that wait, on disk or in memory, of callers; starts of
//! sessions, of runtimes.
//!
//! The rule has no number for each: **whoever takes some must leave at least as much free as is theirs then**. One caller alone has
//! up to half, the next up to half of what is left, and so on: whoever has nothing finds half of what others have left free.
//! What is larger than half of all gets in when nobody else has anything.
//!
//! Who finds no room waits, no longer than it likes to; what is given back goes to whoever of those asks first.

use crate::owner::Principal;
use bytes::Bytes;
use proto::ids::RuntimeId;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// Who takes room.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Holder {
    /// Whoever is at the other end, while nobody knows who it is: an address, of IPv6 the network that one user has.
    Peer(IpAddr),
    /// A caller.
    Caller(Principal),
    /// A runtime.
    Runtime(RuntimeId),
}

impl Holder {
    /// A peer at this address.
    #[must_use]
    pub fn at(address: IpAddr) -> Self {
        Self::Peer(match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = u128::from(address) >> 64 << 64;
                Ipv6Addr::from(network).into()
            }
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

/// There was no room in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRoom;

/// See the module.
#[derive(Debug)]
pub struct Room {
    all: u64,
    state: Mutex<State>,
    /// Told whenever some is given back, or becomes somebody else's.
    freed: Notify,
}

#[derive(Debug)]
struct State {
    free: u64,
    /// Those who have some.
    held: HashMap<Holder, u64>,
}

/// Room that is taken. Dropping it gives it back.
#[derive(Debug)]
pub struct Taken {
    room: Arc<Room>,
    holder: Holder,
    bytes: u64,
}

impl Room {
    /// So many bytes, all of them free.
    #[must_use]
    pub fn new(all: u64) -> Arc<Self> {
        Arc::new(Self {
            all,
            state: Mutex::new(State {
                free: all,
                held: HashMap::new(),
            }),
            freed: Notify::new(),
        })
    }

    /// Takes room for `bytes`; for more than there is at all, all of it. Where it is to be passed to another holder soon
    /// (`then`), that one must have room for it too: who waits for that, holds nothing meanwhile.
    pub async fn take(
        self: &Arc<Self>,
        holder: &Holder,
        then: Option<&Holder>,
        bytes: u64,
        patience: Duration,
    ) -> Result<Taken, NoRoom> {
        let bytes = bytes.min(self.all);
        let attempt = |state: &mut State| {
            then.is_none_or(|then| state.fits(then, bytes, self.all))
                && state.take(holder, bytes, self.all)
        };
        self.in_time(patience, attempt).await?;
        Ok(Taken {
            room: Arc::clone(self),
            holder: holder.clone(),
            bytes,
        })
    }

    /// Tries until it goes, or time is up.
    async fn in_time(
        &self,
        patience: Duration,
        mut attempt: impl FnMut(&mut State) -> bool,
    ) -> Result<(), NoRoom> {
        if attempt(&mut self.state()) {
            return Ok(());
        }
        let until = Instant::now() + patience;
        loop {
            let mut freed = pin!(self.freed.notified());
            // Before the look, or what is given back between the two would be missed.
            freed.as_mut().enable();
            if attempt(&mut self.state()) {
                return Ok(());
            }
            timeout_at(until, freed).await.map_err(|_late| NoRoom)?;
        }
    }

    /// Bytes that nobody has.
    #[must_use]
    pub fn free(&self) -> u64 {
        self.state().free
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock; the numbers are whole in any case.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether there is room for so much more of a holder's.
    fn fits(&self, holder: &Holder, bytes: u64, all: u64) -> bool {
        let held = self.held.get(holder).copied().unwrap_or(0);
        let alone = self.free == all;
        let left = self.free.checked_sub(bytes);
        left.is_some_and(|left| alone || held + bytes <= left)
    }

    fn take(&mut self, holder: &Holder, bytes: u64, all: u64) -> bool {
        let fits = self.fits(holder, bytes, all);
        if fits {
            self.free -= bytes;
            *self.held.entry(holder.clone()).or_default() += bytes;
        }
        fits
    }

    /// As if `from` gave it back and `to` took it in the same moment.
    fn pass(&mut self, from: &Holder, to: &Holder, bytes: u64, all: u64) -> bool {
        self.free += bytes;
        let taken = self.take(to, bytes, all);
        if taken {
            self.forget(from, bytes);
        } else {
            self.free -= bytes;
        }
        taken
    }

    fn forget(&mut self, holder: &Holder, bytes: u64) {
        if let Some(held) = self.held.get_mut(holder) {
            *held = held.saturating_sub(bytes);
            if *held == 0 {
                self.held.remove(holder);
            }
        }
    }
}

impl Taken {
    /// Gives back what is more than `bytes`.
    pub fn shrink(&mut self, bytes: u64) {
        let unused = self.bytes.saturating_sub(bytes);
        self.bytes -= unused;
        self.give_back(unused);
    }

    /// Makes it another holder's, who must have room for it as for anything.
    pub async fn pass_to(&mut self, holder: Holder, patience: Duration) -> Result<(), NoRoom> {
        if holder == self.holder {
            return Ok(());
        }
        let passed = self.room.in_time(patience, |state| {
            state.pass(&self.holder, &holder, self.bytes, self.room.all)
        });
        passed.await?;
        self.holder = holder;
        // There is more now that may be the old one's.
        self.room.freed.notify_waiters();
        Ok(())
    }

    /// The bytes that it was taken for, which give it back when the last of them is dropped.
    #[must_use]
    pub fn hold(self, bytes: Bytes) -> Bytes {
        struct Held(
            Bytes,
            #[expect(dead_code, reason = "held for its drop")] Taken,
        );
        impl AsRef<[u8]> for Held {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        Bytes::from_owner(Held(bytes, self))
    }

    fn give_back(&self, bytes: u64) {
        let mut state = self.room.state();
        state.free += bytes;
        state.forget(&self.holder, bytes);
        drop(state);
        self.room.freed.notify_waiters();
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    const NOW: Duration = Duration::ZERO;

    fn user(uid: u32) -> Holder {
        Holder::Caller(Principal::user(uid))
    }

    /// Takes tens until there is no room for one more.
    async fn greedy(room: &Arc<Room>, holder: &Holder) -> Vec<Taken> {
        let mut all = Vec::new();
        while let Ok(taken) = room.take(holder, None, 10, NOW).await {
            all.push(taken);
        }
        all
    }

    #[tokio::test(start_paused = true)]
    async fn however_greedy_some_are_others_find_room() {
        let room = Room::new(1000);
        let mut held = Vec::new();
        let mut shares = Vec::new();
        for uid in 0..5 {
            let theirs = greedy(&room, &user(uid)).await;
            shares.push(theirs.len());
            held.extend(theirs);
        }
        assert_eq!(shares, [50, 25, 12, 6, 3]);
        drop(held);
        assert_eq!(room.free(), 1000);
        assert!(room.state().held.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_larger_than_half_of_all_gets_in_alone() {
        let room = Room::new(100);
        let small = room.take(&user(1), None, 1, NOW).await.expect("room");
        assert!(room.take(&user(2), None, 5000, NOW).await.is_err());
        drop(small);
        let large = room.take(&user(2), None, 5000, NOW).await.expect("alone");
        assert_eq!(room.free(), 0);
        assert!(room.take(&user(1), None, 1, NOW).await.is_err());
        drop(large);
        assert_eq!(room.free(), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_none_waits_and_no_longer_than_it_likes() {
        let room = Room::new(100);
        let first = room.take(&user(1), None, 50, NOW).await.expect("room");
        let begun = Instant::now();
        let second = room.take(&user(1), None, 20, Duration::from_secs(5)).await;
        assert_eq!(second.err(), Some(NoRoom));
        assert_eq!(begun.elapsed(), Duration::from_secs(5));
        let holder = user(1);
        let mut second = pin!(room.take(&holder, None, 20, Duration::from_secs(5)));
        assert!((&mut second).now_or_never().is_none());
        drop(first);
        let mut second = second.await.expect("the first one's");
        second.shrink(5);
        assert_eq!(room.free(), 95);
        second.shrink(50);
        assert_eq!(room.free(), 95);
        let bytes = second.hold(Bytes::from_static(b"12345"));
        let some = bytes.slice(1..3);
        drop(bytes);
        assert_eq!((room.free(), &some[..]), (95, &b"23"[..]));
        drop(some);
        assert_eq!(room.free(), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_passed_on_counts_for_its_new_holder() {
        let room = Room::new(1000);
        let peer = Holder::at(IpAddr::from([10, 0, 0, 1]));
        let mut mine = Vec::new();
        for _ in 0..2 {
            let mut taken = room.take(&peer, None, 200, NOW).await.expect("room");
            taken.pass_to(user(1), NOW).await.expect("theirs");
            mine.push(taken);
        }
        assert!(!room.state().held.contains_key(&peer));
        // 400 are theirs; 200 more would leave 400 free for 600. Who waits for that, holds nothing.
        assert!(room.take(&peer, Some(&user(1)), 200, NOW).await.is_err());
        assert_eq!(room.free(), 600);
        let mut third = room.take(&peer, None, 200, NOW).await.expect("room");
        assert!(third.pass_to(user(1), NOW).await.is_err());
        assert_eq!(room.state().held[&peer], 200);
        // Who waits behind its own is woken by that.
        let mut fourth = pin!(room.take(&peer, None, 150, Duration::from_secs(5)));
        assert!((&mut fourth).now_or_never().is_none());
        third.pass_to(user(2), NOW).await.expect("somebody else's");
        let fourth = fourth.now_or_never().expect("woken").expect("room");
        drop((mine, third, fourth));
        assert_eq!(room.free(), 1000);
        assert!(room.state().held.is_empty());
    }

    #[test]
    fn a_peer_is_an_address_and_of_ipv6_its_network() {
        let at = |text: &str| Holder::at(text.parse().expect("address"));
        assert_eq!(at("2001:db8:0:1::1"), at("2001:db8:0:1:ffff::2"));
        assert_ne!(at("2001:db8:0:1::1"), at("2001:db8:0:2::1"));
        assert_eq!(at("::ffff:10.0.0.1"), at("10.0.0.1"));
        assert_ne!(at("10.0.0.2"), at("10.0.0.1"));
    }
}
