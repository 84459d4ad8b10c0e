//! An issuer of bearer tokens of a test's own: `tests/fixtures/issuer.py`, which says what it can do. Needs PyPI.

use crate::http::{Request, Target};
use crate::{Options, places, venv};
use anyhow::Context as _;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

/// A running issuer; ends with this.
#[derive(Debug)]
pub struct Issuer {
    child: Child,
    /// On loopback.
    pub port: u16,
    /// The public key of its key `one`.
    pub pem: String,
}

impl Issuer {
    /// Starts one, with keys of its own.
    pub fn start() -> anyhow::Result<Self> {
        let mut child = Command::new(venv::bin()?.join("python"))
            .arg(places::source().join("tests/fixtures/issuer.py"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().context("stdout")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let told: Value = serde_json::from_str(&line).context("the issuer's first line")?;
        Ok(Self {
            child,
            port: u16::try_from(told["port"].as_u64().context("port")?)?,
            pem: told["pem"].as_str().context("pem")?.to_owned(),
        })
    }

    /// Where its metadata is; of one that misbehaves, by its folder.
    #[must_use]
    pub fn url(&self, folder: &str) -> String {
        let base = format!("http://127.0.0.1:{}", self.port);
        match folder {
            "" => format!("{base}/.well-known/openid-configuration"),
            folder => format!("{base}/{folder}/.well-known/openid-configuration"),
        }
    }

    /// A token with these claims beside the usual ones; `null` takes one of those away.
    pub fn mint(&self, claims: Value) -> anyhow::Result<String> {
        let asked = json!({"key": "one", "claims": claims});
        let target = Target::Tcp(([127, 0, 0, 1], self.port).into());
        target
            .send(Request::post("/mint", asked.to_string()))?
            .expect(200)?
            .text()
    }

    /// For a daemon with this `auth` that may ask it.
    #[must_use]
    pub fn options(&self, auth: &str) -> Options {
        Options {
            dev: false,
            ..Options::default()
        }
        .config(&format!(
            "listen = [\"127.0.0.1:0\"]\nauth = {auth}\n[tokens]\nallow_private = [\"127.0.0.1:{}\", \"127.0.0.1:1\"]",
            self.port
        ))
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In a runtime's configuration: takes its tokens for `agents`.
#[must_use]
pub fn authorizer(url: &str) -> Value {
    json!({"authorizer": {"discovery_url": url, "allowed_audience": ["agents"]}})
}
