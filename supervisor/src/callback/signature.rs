//! Signatures in the form of Standard Webhooks: `v1,` and the base64 of an HMAC-SHA256 over `id.timestamp.body`.
//!
//! The secret is a runtime's own, derived from one file of this daemon, so that who verifies one runtime's callbacks cannot
//! make another's. A runtime that is deleted and made anew has another one; moving the file away gives all of them new ones.

use crate::key_file::{self, KeyFileError};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proto::ids::RuntimeId;
use ring::hmac;
use std::fmt;
use std::path::Path;

/// What the file is for.
const PURPOSE: &str = "The secrets of callbacks come from it; restore it from a backup, or move it away and give receivers the new secrets";

/// Sets these keys apart from all others that may ever come from the file.
const LABEL: &[u8] = b"agentcore callback secret v1\0";

/// Makes the secrets of runtimes.
pub struct Secrets(hmac::Key);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets")
    }
}

/// A runtime's secret.
pub struct Secret([u8; 32]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secrets {
    /// Opens the file at `path`, or makes it.
    pub fn open(path: &Path) -> Result<Self, KeyFileError> {
        let bytes = key_file::open(path, PURPOSE)?;
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
    }

    /// The secret of a runtime.
    #[must_use]
    pub fn of(&self, runtime: &RuntimeId) -> Secret {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(LABEL);
        context.update(runtime.as_str().as_bytes());
        let mut secret = [0; 32];
        for (into, from) in secret.iter_mut().zip(context.sign().as_ref()) {
            *into = *from;
        }
        Secret(secret)
    }
}

impl Secret {
    /// As libraries of Standard Webhooks take it: `whsec_` and base64.
    #[must_use]
    pub fn shown(&self) -> String {
        format!("whsec_{}", STANDARD.encode(self.0))
    }

    /// The value of `webhook-signature`.
    #[must_use]
    pub fn sign(&self, id: &str, timestamp: u64, body: &[u8]) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        let mut context = hmac::Context::with_key(&key);
        context.update(id.as_bytes());
        context.update(format!(".{timestamp}.").as_bytes());
        context.update(body);
        format!("v1,{}", STANDARD.encode(context.sign().as_ref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_that_of_the_standard() {
        // Made with the vector of the specification's own libraries: the secret below, this message, this time.
        let secret = STANDARD
            .decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
            .expect("base64");
        let body = br#"{"test": 2432232314}"#;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        let text = [b"msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.", body.as_slice()].concat();
        let expected = "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(STANDARD.encode(hmac::sign(&key, &text)), expected);
        // The same over our own secret.
        let ours = Secret([7; 32]);
        let key = hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]);
        assert_eq!(
            ours.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body),
            format!("v1,{}", STANDARD.encode(hmac::sign(&key, &text)))
        );
        assert_eq!(ours.shown(), format!("whsec_{}", STANDARD.encode([7; 32])));
    }

    #[test]
    fn each_runtime_has_a_secret_of_its_own_that_stays() {
        let ground = tempfile::tempdir().expect("directory");
        let path = ground.path().join("callback.key");
        let secrets = Secrets::open(&path).expect("made");
        let [one, two] =
            ["a-0123456789", "b-0123456789"].map(|id| RuntimeId::parse(id).expect("an id"));
        let again = Secrets::open(&path).expect("opened");
        assert_eq!(secrets.of(&one).shown(), again.of(&one).shown());
        assert_ne!(secrets.of(&one).shown(), secrets.of(&two).shown());
        std::fs::remove_file(&path).expect("removed");
        let other = Secrets::open(&path).expect("made");
        assert_ne!(secrets.of(&one).shown(), other.of(&one).shown());
    }
}
