//! Whom this daemon believes when it calls somebody over TLS: this host's own authorities. An operator adds a private one there.

use std::sync::{Arc, OnceLock};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

/// Read with the first call that needs it.
#[derive(Debug, Default)]
pub(crate) struct Trust(OnceLock<Arc<ClientConfig>>);

impl Trust {
    /// For a connection; why there is none, for people.
    pub(crate) async fn config(&self) -> Result<Arc<ClientConfig>, String> {
        if let Some(config) = self.0.get() {
            return Ok(Arc::clone(config));
        }
        let config = tokio::task::spawn_blocking(|| {
            let mut roots = RootCertStore::empty();
            // Those that cannot be read are not trusted, which is all that is to be said about them here.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            let provider = Arc::new(crypto::ring::default_provider());
            ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .map(|builder| builder.with_root_certificates(roots).with_no_client_auth())
        });
        let config = config.await.map_err(|error| error.to_string())?;
        let config = config.map_err(|error| format!("TLS: {error}"))?;
        Ok(Arc::clone(self.0.get_or_init(|| Arc::new(config))))
    }
}
