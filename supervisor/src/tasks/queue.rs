//! Tasks that wait, in memory: their numbers only, so that a hundred thousand of them cost some megabytes. The store has the
//! truth; what is here was read from there.
//!
//! Within a runtime the order is that of submission. Runtimes take turns, so that a runtime with a long queue holds up nobody
//! else's. A task that waits for a moment of its own (a retry) keeps its place for when it comes.
//!
//! Pure: the clock is an argument.

use crate::store::Timestamp;
use proto::ids::RuntimeId;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// What is known of each.
    entries: HashMap<i64, Entry>,
    /// Those whose moment has come, by runtime.
    ready: BTreeMap<RuntimeId, BTreeSet<i64>>,
    /// Those whose moment has not.
    later: BTreeSet<(i64, i64)>,
    /// When each is over.
    deadlines: BTreeSet<(i64, i64)>,
    /// Whose turn was the last.
    last: Option<RuntimeId>,
}

#[derive(Debug)]
struct Entry {
    runtime: RuntimeId,
    not_before: i64,
    deadline: i64,
}

impl Queue {
    /// One more; one that is there already stays as it was.
    pub(super) fn push(
        &mut self,
        seq: i64,
        runtime: RuntimeId,
        not_before: Timestamp,
        deadline: Timestamp,
        now: Timestamp,
    ) {
        if self.entries.contains_key(&seq) {
            return;
        }
        if not_before <= now {
            self.ready.entry(runtime.clone()).or_default().insert(seq);
        } else {
            self.later.insert((not_before.0, seq));
        }
        self.deadlines.insert((deadline.0, seq));
        let entry = Entry {
            runtime,
            not_before: not_before.0,
            deadline: deadline.0,
        };
        self.entries.insert(seq, entry);
    }

    /// How many there are.
    #[must_use]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How long the one has waited that has waited longest since it may begin. Looks at all: for a person, not for a loop.
    #[must_use]
    pub(super) fn longest_wait(&self, now: Timestamp) -> Duration {
        let first = self.entries.values().map(|entry| entry.not_before).min();
        let waited = first.map_or(0, |first| now.0 - first);
        Duration::from_millis(u64::try_from(waited).unwrap_or(0))
    }

    /// Takes one out, wherever it stands; false if it is not here.
    pub(super) fn remove(&mut self, seq: i64) -> bool {
        let Some(entry) = self.entries.remove(&seq) else {
            return false;
        };
        self.later.remove(&(entry.not_before, seq));
        self.deadlines.remove(&(entry.deadline, seq));
        if let Some(ready) = self.ready.get_mut(&entry.runtime) {
            ready.remove(&seq);
            if ready.is_empty() {
                self.ready.remove(&entry.runtime);
            }
        }
        true
    }

    /// Takes out the next one whose turn it is, of a runtime that may have one more.
    pub(super) fn next(
        &mut self,
        now: Timestamp,
        mut may_have_one: impl FnMut(&RuntimeId) -> bool,
    ) -> Option<(i64, RuntimeId)> {
        self.ripen(now);
        let after = self.last.clone();
        let seen = |runtime: &RuntimeId| after.as_ref().is_some_and(|last| runtime <= last);
        // From the one after the last one's, once around.
        let later = self.ready.iter().filter(|(runtime, _)| !seen(runtime));
        let earlier = self.ready.iter().filter(|(runtime, _)| seen(runtime));
        let (runtime, seq) = later
            .chain(earlier)
            .find(|(runtime, _)| may_have_one(runtime))
            .and_then(|(runtime, ready)| Some((runtime.clone(), *ready.first()?)))?;
        self.remove(seq);
        self.last = Some(runtime.clone());
        Some((seq, runtime))
    }

    /// Takes out one whose deadline is over.
    pub(super) fn overdue(&mut self, now: Timestamp) -> Option<i64> {
        let (deadline, seq) = *self.deadlines.first()?;
        (deadline <= now.0 && self.remove(seq)).then_some(seq)
    }

    /// Takes out all of a runtime.
    pub(super) fn of_runtime(&mut self, runtime: &RuntimeId) -> Vec<i64> {
        let theirs: Vec<i64> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.runtime == *runtime)
            .map(|(seq, _)| *seq)
            .collect();
        for seq in &theirs {
            self.remove(*seq);
        }
        theirs
    }

    /// When something happens here by itself.
    #[must_use]
    pub(super) fn next_moment(&self) -> Option<Timestamp> {
        let later = self.later.first().map(|(at, _)| *at);
        let deadline = self.deadlines.first().map(|(at, _)| *at);
        later.into_iter().chain(deadline).min().map(Timestamp)
    }

    /// Those whose moment has come are ready.
    fn ripen(&mut self, now: Timestamp) {
        while let Some((at, seq)) = self.later.first().copied()
            && at <= now.0
        {
            self.later.remove(&(at, seq));
            if let Some(entry) = self.entries.get(&seq) {
                let ready = self.ready.entry(entry.runtime.clone()).or_default();
                ready.insert(seq);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER: Timestamp = Timestamp(1_000_000);

    fn runtime(letter: char) -> RuntimeId {
        RuntimeId::parse(format!("{letter}-0123456789")).expect("id")
    }

    fn push(queue: &mut Queue, seq: i64, letter: char, not_before: i64) {
        queue.push(
            seq,
            runtime(letter),
            Timestamp(not_before),
            NEVER,
            Timestamp(0),
        );
    }

    fn drain(queue: &mut Queue, now: i64) -> Vec<i64> {
        std::iter::from_fn(|| queue.next(Timestamp(now), |_| true))
            .map(|(seq, _)| seq)
            .collect()
    }

    #[test]
    fn runtimes_take_turns_and_their_tasks_stand_in_line() {
        let mut queue = Queue::default();
        for (seq, letter) in [(1, 'a'), (2, 'a'), (3, 'a'), (4, 'b'), (5, 'c'), (6, 'b')] {
            push(&mut queue, seq, letter, 0);
        }
        assert_eq!(drain(&mut queue, 0), [1, 4, 5, 2, 6, 3]);
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn a_runtime_that_may_have_no_more_holds_up_nobody() {
        let mut queue = Queue::default();
        push(&mut queue, 1, 'a', 0);
        push(&mut queue, 2, 'b', 0);
        let next = queue.next(Timestamp(0), |id| *id != runtime('a'));
        assert_eq!(next, Some((2, runtime('b'))));
        assert_eq!(queue.next(Timestamp(0), |id| *id != runtime('a')), None);
        assert_eq!(queue.len(), 1);
    }

    #[test]
    fn one_that_waits_comes_when_its_moment_does_at_its_old_place() {
        let mut queue = Queue::default();
        push(&mut queue, 1, 'a', 50);
        push(&mut queue, 2, 'a', 0);
        assert_eq!(drain(&mut queue, 49), [2]);
        assert_eq!(queue.next_moment(), Some(Timestamp(50)));
        let waited = |now| queue.longest_wait(Timestamp(now)).as_millis();
        assert_eq!((waited(49), waited(53)), (0, 3));
        push(&mut queue, 3, 'a', 0);
        assert_eq!(drain(&mut queue, 50), [1, 3]);
        assert_eq!(queue.next_moment(), None);
    }

    #[test]
    fn one_that_is_over_or_taken_out_is_not_run() {
        let mut queue = Queue::default();
        queue.push(1, runtime('a'), Timestamp(0), Timestamp(10), Timestamp(0));
        queue.push(2, runtime('a'), Timestamp(90), Timestamp(20), Timestamp(0));
        push(&mut queue, 3, 'b', 0);
        push(&mut queue, 4, 'b', 30);
        assert_eq!(queue.next_moment(), Some(Timestamp(10)));
        assert_eq!(queue.overdue(Timestamp(9)), None);
        assert_eq!(queue.overdue(Timestamp(20)), Some(1));
        assert_eq!(queue.overdue(Timestamp(20)), Some(2));
        assert_eq!(queue.overdue(Timestamp(20)), None);
        assert!(queue.remove(3) && !queue.remove(3));
        assert_eq!(queue.of_runtime(&runtime('b')), [4]);
        assert_eq!((drain(&mut queue, 99), queue.next_moment()), (vec![], None));
    }
}
