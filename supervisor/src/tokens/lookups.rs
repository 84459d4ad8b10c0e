//! Names of issuers, and of whom callbacks tell, to addresses, by the host's resolver, which blocks a thread for as long as a name server is silent.

use http::Uri;
use session_core::egress::Target;
use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Semaphore;

/// Names being resolved at once: each holds a thread for as long as a name server is silent. An issuer has one of them, so
/// that no other waits for its name server.
const LOOKUPS: usize = 8;

/// Issuers whose place for a look-up is remembered; beyond that those that nobody uses are forgotten.
const ISSUERS: usize = 256;

/// Asks for the addresses of a name; blocks.
type LookUp = fn(&str, u16) -> io::Result<Vec<SocketAddr>>;

/// Names that are being resolved: a bound on all of them, and one for each issuer.
#[derive(Debug)]
pub(crate) struct Lookups {
    look_up: LookUp,
    all: Arc<Semaphore>,
    issuers: Mutex<HashMap<String, Arc<Semaphore>>>,
}

impl Default for Lookups {
    fn default() -> Self {
        Self::new(|host, port| (host, port).to_socket_addrs().map(Iterator::collect))
    }
}

impl Lookups {
    fn new(look_up: LookUp) -> Self {
        Self {
            look_up,
            all: Arc::new(Semaphore::new(LOOKUPS)),
            issuers: Mutex::default(),
        }
    }

    /// The addresses of `target`, which the issuer with metadata at `issuer` wants to have asked.
    pub(crate) async fn resolve(
        &self,
        issuer: &str,
        target: &Target,
    ) -> Result<Vec<SocketAddr>, String> {
        // In this order: who waits for its own issuer holds nothing of the others'.
        let own = self.of(issuer).acquire_owned().await;
        let all = Arc::clone(&self.all).acquire_owned().await;
        let places = own.and_then(|own| all.map(|all| (own, all)));
        let places = places.map_err(|_| "the daemon stops".to_owned())?;
        let (host, port, look_up) = (target.host.clone(), target.port, self.look_up);
        // Goes on when its caller has given up: so the places are its own.
        let resolved = tokio::task::spawn_blocking(move || {
            let resolved = look_up(&host, port);
            drop(places);
            resolved
        });
        match resolved.await {
            Ok(Ok(addresses)) => Ok(addresses),
            Ok(Err(error)) => Err(format!("could not be resolved: {error}")),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The one place of an issuer. Those at one host are one: whoever has the host has all their URLs.
    fn of(&self, issuer: &str) -> Arc<Semaphore> {
        let uri = issuer.parse::<Uri>().ok();
        let host = uri.as_ref().and_then(Uri::host).unwrap_or_default();
        let host = host.to_ascii_lowercase();
        let mut issuers = self.issuers.lock().unwrap_or_else(PoisonError::into_inner);
        if issuers.len() >= ISSUERS && !issuers.contains_key(&host) {
            // A look-up under way has a handle of its own.
            issuers.retain(|_, place| Arc::strong_count(place) > 1);
        }
        let place = issuers.entry(host);
        Arc::clone(place.or_insert_with(|| Arc::new(Semaphore::new(1))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Condvar;
    use std::time::Duration;

    /// Name servers of `*.silent.test` answer when this is true.
    static ANSWER: (Mutex<bool>, Condvar) = (Mutex::new(false), Condvar::new());

    fn look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if host.ends_with("silent.test") {
            let (answers, changed) = &ANSWER;
            let waiting = answers.lock().unwrap_or_else(PoisonError::into_inner);
            drop(changed.wait_while(waiting, |answers| !*answers));
        }
        Ok(vec![([192, 0, 2, 1], port).into()])
    }

    #[tokio::test]
    async fn an_issuer_that_nobody_can_resolve_holds_up_no_other() {
        let lookups = Arc::new(Lookups::new(look_up));
        let target = |host: &str| Target::parse(host, 443).expect("target");
        let mut waiting = Vec::new();
        // By many paths, in any letter case, and by whatever place it says that its keys are at.
        for number in 0..2 * LOOKUPS {
            let host = ["silent.test", "SILENT.test"][number % 2];
            let issuer = format!("https://{host}/{number}/.well-known/openid-configuration");
            let name = target(&format!("keys-{number}.silent.test"));
            let lookups = Arc::clone(&lookups);
            waiting.push(tokio::spawn(async move {
                lookups
                    .resolve(&issuer, &name)
                    .await
                    .map(|found| found.len())
            }));
        }
        while lookups.all.available_permits() == LOOKUPS {
            tokio::task::yield_now().await;
        }
        let good = "https://good.test/.well-known/openid-configuration";
        let name = target("good.test");
        let quick = lookups.resolve(good, &name);
        let quick = tokio::time::timeout(Duration::from_secs(20), quick).await;
        assert!(quick.is_ok_and(|found| found.is_ok()));
        assert_eq!(lookups.all.available_permits(), LOOKUPS - 1);

        let (answers, changed) = &ANSWER;
        *answers.lock().unwrap_or_else(PoisonError::into_inner) = true;
        changed.notify_all();
        for each in waiting {
            assert_eq!(each.await.expect("joined"), Ok(1));
        }
    }

    #[test]
    fn issuers_are_remembered_within_bounds() {
        let lookups = Lookups::new(look_up);
        let used = lookups.of("https://used.test/a");
        for number in 0..3 * ISSUERS {
            lookups.of(&format!("https://{number}.test/a"));
        }
        let known = lookups.issuers.lock().expect("lock").len();
        assert!(known <= ISSUERS + 1, "{known}");
        assert!(Arc::ptr_eq(&used, &lookups.of("https://USED.test/b")));
    }
}
