//! What a server's certificate is worth, by libpq's modes, and the certificate we show ourselves: one TLS configuration for
//! every kind of server. Opens no connection.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme,
};

use crate::config::{RootCertificates, Secret, SslMode};

/// What a connection says of TLS.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// How much is checked.
    pub mode: SslMode,
    /// `ssl_root_cert`
    pub root_cert: Option<&'a RootCertificates>,
    /// `ssl_cert`, in PEM.
    pub cert: Option<&'a [u8]>,
    /// `ssl_key`, in PEM.
    pub key: Option<&'a Secret>,
}

/// A setting that can't be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadSetting {
    /// The key in trucker.yml.
    pub key: &'static str,
    /// Why not.
    pub reason: String,
}

/// The terms as rustls takes them.
pub fn client_config(terms: &Terms<'_>) -> Result<ClientConfig, BadSetting> {
    let bad = |key| move |reason: String| BadSetting { key, reason };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Verifier {
        trust: trust(terms).map_err(bad("ssl_root_cert"))?,
        is_name_checked: terms.mode == SslMode::VerifyFull,
        provider: Arc::clone(&provider),
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| bad("sslmode")(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let (chain, key) = match (terms.cert, terms.key) {
        (None, _) => return Ok(builder.with_no_client_auth()),
        (Some(_), None) => return Err(bad("ssl_cert")("ssl_key is missing".to_owned())),
        (Some(chain), Some(key)) => (chain, key),
    };
    let chain = certificates(chain).map_err(bad("ssl_cert"))?;
    let key = PrivateKeyDer::from_pem_slice(key.expose()).map_err(|_| {
        bad("ssl_key")("it holds no private key in PEM (an encrypted one is of no use)".to_owned())
    })?;
    builder.with_client_auth_cert(chain, key).map_err(|error| bad("ssl_cert with ssl_key")(error.to_string()))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found =
        CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().map_err(|e| e.to_string())?;
    if found.is_empty() { Err("it holds no certificate in PEM".to_owned()) } else { Ok(found) }
}

/// Who may vouch for the server; None where nobody has to. As in libpq, a root certificate that is given is
/// used in every mode.
fn trust(terms: &Terms<'_>) -> Result<Option<Trust>, String> {
    let is_asked = matches!(terms.mode, SslMode::VerifyCa | SslMode::VerifyFull);
    let mut roots = RootCertStore::empty();
    let given = match terms.root_cert {
        None if !is_asked => return Ok(None),
        None | Some(RootCertificates::System) => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err("this machine has no certificate store; give a file".to_owned());
            }
            Vec::new()
        }
        Some(RootCertificates::Pem(pem)) => {
            let given = certificates(pem)?;
            for certificate in &given {
                roots.add(certificate.clone()).map_err(|error| error.to_string())?;
            }
            given
        }
    };
    Ok(Some(Trust { roots, given }))
}

#[derive(Debug)]
struct Trust {
    roots: RootCertStore,
    given: Vec<CertificateDer<'static>>,
}

impl Trust {
    fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        provider: &CryptoProvider,
    ) -> Result<(), TlsError> {
        let parsed = ParsedCertificate::try_from(certificate)?;
        let algorithms = provider.signature_verification_algorithms.all;
        let result =
            verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms);
        match result {
            // A self-signed certificate as `openssl req -x509` makes it, and as the Postgres documentation
            // shows, calls itself an authority, which webpki refuses in a server's certificate, after it
            // has checked the dates. Who gives that very certificate as root means it.
            Err(TlsError::InvalidCertificate(CertificateError::Other(_)))
                if self.given.iter().any(|given| given == certificate) =>
            {
                Ok(())
            }
            other => other,
        }
    }
}

/// Checks the server's certificate as far as `sslmode` asks. Its signature of the handshake is always
/// checked.
#[derive(Debug)]
struct Verifier {
    trust: Option<Trust>,
    is_name_checked: bool,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        if let Some(trust) = &self.trust {
            trust.verify(certificate, intermediates, now, &self.provider)?;
        }
        if self.is_name_checked {
            verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

    use super::*;

    fn certificate(names: &[&str], is_ca: bool, year_max: i32) -> (CertificateParams, KeyPair) {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.is_ca = if is_ca { IsCa::Ca(BasicConstraints::Unconstrained) } else { IsCa::NoCa };
        params.not_after = rcgen::date_time_ymd(year_max, 1, 1);
        (params, KeyPair::generate().unwrap())
    }

    fn self_signed((params, key): (CertificateParams, KeyPair)) -> CertificateDer<'static> {
        params.self_signed(&key).unwrap().der().clone()
    }

    fn verify(
        root: &CertificateDer<'static>,
        certificate: &CertificateDer<'_>,
        host: Option<&str>,
    ) -> String {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(root.clone()).unwrap();
        let trust = Trust { roots, given: vec![root.clone()] };
        let verifier = Verifier { trust: Some(trust), is_name_checked: host.is_some(), provider };
        let name = ServerName::try_from(host.unwrap_or("any").to_owned()).unwrap();
        match verifier.verify_server_cert(certificate, &[], &name, &[], UnixTime::now()) {
            Ok(_) => "trusted".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_certificate_is_trusted_if_the_root_vouches_for_it_now() {
        let (ca, ca_key) = certificate(&[], true, 4000);
        let root = ca.self_signed(&ca_key).unwrap().der().clone();
        let issuer = Issuer::new(ca, ca_key);
        let (good, key) = certificate(&["db.example.org", "10.0.0.1"], false, 4000);
        let good = good.signed_by(&key, &issuer).unwrap();
        let (expired, key) = certificate(&["db.example.org"], false, 2001);
        let expired = expired.signed_by(&key, &issuer).unwrap();
        for (host, expected) in [
            (None, "trusted"),
            (Some("db.example.org"), "trusted"),
            (Some("10.0.0.1"), "trusted"),
            (Some("10.0.0.2"), "certificate not valid for name"),
            (Some("example.org"), "certificate not valid for name"),
        ] {
            let found = verify(&root, good.der(), host);
            assert!(found.contains(expected), "{host:?}: {found}");
        }
        let found = verify(&root, expired.der(), None);
        assert!(found.contains("expired"), "{found}");
        let other = self_signed(certificate(&[], true, 4000));
        assert_ne!(verify(&other, good.der(), None), "trusted");
    }

    #[test]
    fn a_self_signed_certificate_may_be_its_own_root_until_it_expires() {
        for is_ca in [true, false] {
            let own = self_signed(certificate(&["db"], is_ca, 4000));
            assert_eq!(verify(&own, &own, Some("db")), "trusted");
            assert!(verify(&own, &own, Some("other")).contains("not valid for name"));
            let expired = self_signed(certificate(&["db"], is_ca, 2001));
            assert!(verify(&expired, &expired, None).contains("expired"));
            let other = self_signed(certificate(&["db"], is_ca, 4000));
            assert_ne!(verify(&own, &other, None), "trusted");
        }
    }
}
