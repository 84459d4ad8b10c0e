//! Stops that were asked for with a `clientToken` (contract §2.4): an SDK that gets no answer asks again with the same token.
//! By then the session is over, or there is another one of its id, which is not what was meant: the answer is the first one
//! again, and nothing is done.
//!
//! Only stops of sessions that lived are remembered, in memory: to the next daemon a retry is a stop of a session that is gone.

use super::reply::ApiError;
use crate::owner::Principal;
use crate::session::handle::SessionKey;
use proto::ids::SessionId;
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a token is remembered: an SDK's attempts take as many read timeouts, of a minute unless its caller says more.
const REMEMBERED: Duration = Duration::from_secs(15 * 60);

/// Tokens that are remembered, some 700 bytes each; beyond it the oldest are forgotten. Each has cost its caller a live session.
const MOST: usize = 10_000;

/// Shortest and longest token (contract §2.4).
const LENGTHS: std::ops::RangeInclusive<usize> = 33..=256;

/// See the module.
#[derive(Debug, Default)]
pub struct Stops(Mutex<Table>);

/// Whose token it is: tokens of different callers have nothing to do with each other.
type Token = (Principal, String);

#[derive(Debug, Default)]
struct Table {
    by_token: HashMap<Token, Stop>,
    /// By age.
    order: VecDeque<(Instant, Token)>,
}

#[derive(Debug)]
struct Stop {
    key: SessionKey,
    session: SessionId,
}

impl Stops {
    /// The session that this token stopped before, if it is the token of a stop of the same session id.
    pub fn before(
        &self,
        caller: &Principal,
        token: &str,
        key: &SessionKey,
        now: Instant,
    ) -> Result<Option<SessionId>, ApiError> {
        let mut table = self.table();
        table.forget(now);
        match table.by_token.get(&(caller.clone(), token.to_owned())) {
            None => Ok(None),
            Some(stop) if stop.key == *key => Ok(Some(stop.session.clone())),
            Some(_) => Err(ApiError::field(
                "clientToken",
                "was used to stop another session; a new request has a new one",
            )
            .because("IdempotentParameterMismatchException")),
        }
    }

    /// Remembers that this token stops this session.
    pub fn remember(
        &self,
        caller: &Principal,
        token: &str,
        key: &SessionKey,
        session: &SessionId,
        now: Instant,
    ) {
        let token = (caller.clone(), token.to_owned());
        let stop = Stop {
            key: key.clone(),
            session: session.clone(),
        };
        let mut table = self.table();
        // Two attempts that come at once are one stop.
        if table.by_token.insert(token.clone(), stop).is_none() {
            table.order.push_back((now, token));
        }
        table.forget(now);
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Forgets what is old, or too much.
    fn forget(&mut self, now: Instant) {
        while let Some((at, _)) = self.order.front()
            && (self.order.len() > MOST || now.saturating_duration_since(*at) > REMEMBERED)
        {
            if let Some((_, token)) = self.order.pop_front() {
                self.by_token.remove(&token);
            }
        }
    }
}

/// Refuses what is no token: `[a-zA-Z0-9](-*[a-zA-Z0-9]){0,256}`, 33 to 256 characters.
pub fn check(token: &str) -> Result<(), ApiError> {
    let found = token.chars().count();
    if !LENGTHS.contains(&found) {
        let (least, most) = (LENGTHS.start(), LENGTHS.end());
        return Err(ApiError::field(
            "clientToken",
            format!("must have {least} to {most} characters, has {found}"),
        ));
    }
    let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    let ends = [token.bytes().next(), token.bytes().next_back()];
    let ends_ok = ends.iter().flatten().all(|end| end.is_ascii_alphanumeric());
    if ends_ok && token.bytes().all(inner) {
        return Ok(());
    }
    Err(ApiError::field(
        "clientToken",
        "must be letters, digits and hyphens, a letter or digit at both ends",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::owner::Owner;
    use proto::ids::{ClientSessionId, EndpointName, RuntimeId};

    fn key(client: &str) -> SessionKey {
        SessionKey {
            runtime: RuntimeId::parse("echo-AbCdEf1234").expect("id"),
            endpoint: EndpointName::parse("DEFAULT").expect("name"),
            client: ClientSessionId::parse(client.repeat(33)).expect("id"),
            owner: Owner::everybody(),
        }
    }

    fn session(id: &str) -> SessionId {
        SessionId::parse(id).expect("id")
    }

    #[test]
    fn a_token_is_its_callers_and_its_sessions_for_a_while() {
        let stops = Stops::default();
        let (alice, bob) = (Principal::user(1), Principal::user(2));
        let begun = Instant::now();
        stops.remember(&alice, "t", &key("a"), &session("one1"), begun);
        let found = |caller, client: &str, now| {
            stops
                .before(caller, "t", &key(client), now)
                .map(|found| found.map(|id| id.as_str().to_owned()))
        };
        assert_eq!(
            found(&alice, "a", begun).expect("the same"),
            Some("one1".to_owned())
        );
        assert_eq!(found(&bob, "a", begun).expect("another's"), None);
        let error = found(&alice, "b", begun).expect_err("another session");
        assert_eq!(error.fields[0].name, "clientToken");
        assert_eq!(error.reason, Some("IdempotentParameterMismatchException"));
        let late = begun + REMEMBERED + Duration::from_secs(1);
        assert_eq!(found(&alice, "a", late).expect("old"), None);
        assert!(stops.table().by_token.is_empty() && stops.table().order.is_empty());
    }

    #[test]
    fn the_oldest_of_too_many_are_forgotten() {
        let stops = Stops::default();
        let (caller, now) = (Principal::user(1), Instant::now());
        for n in 0..MOST + 2 {
            stops.remember(&caller, &n.to_string(), &key("a"), &session("one1"), now);
        }
        assert_eq!(stops.table().by_token.len(), MOST);
        let found = |token| {
            stops
                .before(&caller, token, &key("a"), now)
                .expect("the same")
        };
        assert_eq!((found("1"), found("2").is_some()), (None, true));
    }

    #[test]
    fn tokens_keep_to_the_models_pattern() {
        for good in [
            "a".repeat(33),
            "a".repeat(256),
            format!("a{}1", "-".repeat(40)),
        ] {
            assert!(check(&good).is_ok(), "{good}");
        }
        for bad in [
            String::new(),
            "a".repeat(32),
            "a".repeat(257),
            format!("-{}", "a".repeat(40)),
            format!("{}-", "a".repeat(40)),
            format!("{} {}", "a".repeat(20), "a".repeat(20)),
            "ü".repeat(40),
        ] {
            let error = check(&bad).expect_err(&bad);
            assert_eq!(error.fields[0].name, "clientToken");
        }
    }
}
