//! jsonwebtoken's cryptography, done by ring: the asymmetric algorithms, verifying only. There is no way to verify an HMAC
//! here, so no public key can be taken for a secret.

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, Result, new_error};
use jsonwebtoken::signature;
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, EncodingKey};
use ring::signature as algorithms;
use ring::signature::{RsaParameters, RsaPublicKeyComponents, VerificationAlgorithm};

/// The one provider of this process.
static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: no_signer,
    verifier_factory: verifier,
    // Used for making and naming JWKs, which nobody does here.
    key_utils: KeyUtils::new_unimplemented(),
};

/// Installs it; once is enough.
pub(super) fn install() {
    // Somebody in this process was first: it was us.
    let _ = PROVIDER.install_default();
}

/// How an algorithm verifies.
#[derive(Clone, Copy)]
enum Method {
    /// RSA by modulus and exponent, 2048 to 8192 bits.
    Rsa(&'static RsaParameters),
    /// A curve's point.
    Point(&'static dyn VerificationAlgorithm),
}

struct Check {
    algorithm: Algorithm,
    method: Method,
    key: DecodingKey,
}

fn no_signer(_: &Algorithm, _: &EncodingKey) -> Result<Box<dyn JwtSigner>> {
    Err(new_error(ErrorKind::UnsupportedAlgorithm))
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    let (family, method) = match algorithm {
        Algorithm::RS256 => (
            AlgorithmFamily::Rsa,
            Method::Rsa(&algorithms::RSA_PKCS1_2048_8192_SHA256),
        ),
        Algorithm::RS384 => (
            AlgorithmFamily::Rsa,
            Method::Rsa(&algorithms::RSA_PKCS1_2048_8192_SHA384),
        ),
        Algorithm::RS512 => (
            AlgorithmFamily::Rsa,
            Method::Rsa(&algorithms::RSA_PKCS1_2048_8192_SHA512),
        ),
        Algorithm::PS256 => (
            AlgorithmFamily::Rsa,
            Method::Rsa(&algorithms::RSA_PSS_2048_8192_SHA256),
        ),
        Algorithm::PS384 => (
            AlgorithmFamily::Rsa,
            Method::Rsa(&algorithms::RSA_PSS_2048_8192_SHA384),
        ),
        Algorithm::PS512 => (
            AlgorithmFamily::Rsa,
            Method::Rsa(&algorithms::RSA_PSS_2048_8192_SHA512),
        ),
        Algorithm::ES256 => (
            AlgorithmFamily::Ec,
            Method::Point(&algorithms::ECDSA_P256_SHA256_FIXED),
        ),
        Algorithm::ES384 => (
            AlgorithmFamily::Ec,
            Method::Point(&algorithms::ECDSA_P384_SHA384_FIXED),
        ),
        Algorithm::EdDSA => (AlgorithmFamily::Ed, Method::Point(&algorithms::ED25519)),
        _ => return Err(new_error(ErrorKind::UnsupportedAlgorithm)),
    };
    if key.family() != family {
        return Err(new_error(ErrorKind::InvalidKeyFormat));
    }
    Ok(Box::new(Check {
        algorithm: *algorithm,
        method,
        key: key.clone(),
    }))
}

impl signature::Verifier<Vec<u8>> for Check {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> signature::Result<()> {
        let verified = match (self.method, self.key.kind()) {
            (Method::Rsa(parameters), DecodingKeyKind::RsaModulusExponent { n, e }) => {
                RsaPublicKeyComponents { n, e }.verify(parameters, message, signature)
            }
            (Method::Point(algorithm), DecodingKeyKind::SecretOrDer(point)) => {
                algorithms::UnparsedPublicKey::new(algorithm, point).verify(message, signature)
            }
            (Method::Rsa(_), DecodingKeyKind::SecretOrDer(_))
            | (Method::Point(_), DecodingKeyKind::RsaModulusExponent { .. }) => {
                return Err(signature::Error::new());
            }
        };
        verified.map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for Check {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}
