//! Encrypted connections: what `sslmode` and `sslrootcert` of a URL say, as libpq has it.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::error::{Error, Result};

/// How a connection is protected.
#[derive(Debug, PartialEq)]
pub(super) enum TlsMode {
    /// Not at all.
    Disable,
    /// Encrypted if the server can, whoever it is.
    Prefer,
    /// Encrypted, whoever the server is.
    Require,
    /// Encrypted, and the server has a certificate of an authority that is trusted: of the file, or of the
    /// system's. `named`: the certificate is for the name that was connected to.
    Verify { authorities: Option<String>, named: bool },
}

impl TlsMode {
    /// What `url` says of it, and the rest of the URL.
    pub(super) fn take(url: &str) -> Result<(Self, String)> {
        let (mut mode, mut authorities) = (None, None);
        let mut keep = |part: &str| {
            let Some((name, value)) = part.split_once('=') else { return true };
            let into = match name.trim() {
                "sslmode" => &mut mode,
                "sslrootcert" => &mut authorities,
                _ => return true,
            };
            let value = percent_encoding::percent_decode_str(value.trim_matches('\''));
            *into = Some(value.decode_utf8_lossy().into_owned());
            false
        };
        let rest = if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            let (place, query) = url.split_once('?').unwrap_or((url, ""));
            let query: Vec<&str> = query.split('&').filter(|part| !part.is_empty() && keep(part)).collect();
            if query.is_empty() { place.to_string() } else { format!("{place}?{}", query.join("&")) }
        } else {
            url.split_whitespace().filter(|part| keep(part)).collect::<Vec<_>>().join(" ")
        };
        let mode = match (mode.as_deref(), authorities) {
            (Some("disable"), _) => Self::Disable,
            (None | Some("prefer" | "allow"), None) => Self::Prefer,
            (Some("require"), None) => Self::Require,
            // As in libpq: who names authorities wants to know who the server is.
            (None | Some("prefer" | "allow" | "require" | "verify-ca"), authorities) => {
                Self::Verify { authorities, named: false }
            }
            (Some("verify-full"), authorities) => Self::Verify { authorities, named: true },
            (Some(other), _) => {
                return Err(Error::option(
                    "sslmode",
                    other,
                    "expected disable, prefer, require, verify-ca or verify-full",
                ));
            }
        };
        Ok((mode, rest))
    }

    /// What the client and the server agree on before anything else.
    pub(super) fn negotiated(&self) -> SslMode {
        match self {
            Self::Disable => SslMode::Disable,
            Self::Prefer => SslMode::Prefer,
            Self::Require | Self::Verify { .. } => SslMode::Require,
        }
    }

    /// What makes connections encrypted.
    pub(super) fn connector(&self) -> Result<Option<MakeRustlsConnect>> {
        let provider = Arc::new(ring::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = match self {
            Self::Disable => return Ok(None),
            Self::Prefer | Self::Require => Arc::new(Anyone(provider.clone())),
            Self::Verify { authorities: None, named: true } => return of_the_system().map(Some),
            Self::Verify { authorities: None, named: false } => {
                return Err(Error::option(
                    "sslmode",
                    "verify-ca",
                    "it needs sslrootcert, a file with the certificates of the authorities; or use verify-full",
                ));
            }
            Self::Verify { authorities: Some(path), named } => {
                let known =
                    WebPkiServerVerifier::builder_with_provider(roots(path)?.into(), provider.clone());
                let known = known.build().map_err(|error| wrong_file(path, error))?;
                if *named { known } else { Arc::new(AnyName(known)) }
            }
        };
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::Invalid(format!("TLS cannot be set up: {error}")))?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        Ok(Some(MakeRustlsConnect::new(config)))
    }
}

fn of_the_system() -> Result<MakeRustlsConnect> {
    // Fails if the program has chosen one itself, which is as good.
    let _ = ring::default_provider().install_default();
    MakeRustlsConnect::with_native_certs().map(|(connector, _)| connector).map_err(|errors| {
        let reasons: Vec<String> = errors.iter().map(ToString::to_string).collect();
        Error::option(
            "sslmode",
            "verify-full",
            format!(
                "the system has no certificates of authorities ({}); name a file with sslrootcert",
                reasons.join("; ")
            ),
        )
    })
}

fn wrong_file(path: &str, error: impl std::fmt::Display) -> Error {
    Error::option("sslrootcert", path, format!("it holds no certificates of authorities: {error}"))
}

fn roots(path: &str) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| wrong_file(path, error))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| wrong_file(path, error))?;
        roots.add(certificate).map_err(|error| wrong_file(path, error))?;
    }
    Ok(roots)
}

/// Takes every certificate.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Takes certificates of the authorities for any name.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.0.verify_server_cert(certificate, others, name, ocsp, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_those_of_libpq() {
        let verify = |file: Option<&str>, named| TlsMode::Verify { authorities: file.map(Into::into), named };
        for (url, mode, rest) in [
            ("postgres://h/d", TlsMode::Prefer, "postgres://h/d"),
            ("postgres://h/d?sslmode=disable", TlsMode::Disable, "postgres://h/d"),
            ("postgres://h/d?a=b&sslmode=require", TlsMode::Require, "postgres://h/d?a=b"),
            ("host=h sslmode=verify-full user=u", verify(None, true), "host=h user=u"),
            ("postgres://h/d?sslrootcert=%2Fca%20.pem", verify(Some("/ca .pem"), false), "postgres://h/d"),
            ("postgres://h/d?sslmode=verify-full&sslrootcert=a", verify(Some("a"), true), "postgres://h/d"),
        ] {
            assert_eq!(TlsMode::take(url).unwrap(), (mode, rest.to_string()), "{url}");
        }
    }
}
