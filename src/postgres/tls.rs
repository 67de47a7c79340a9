//! TLS as libpq does it: a question before the startup packet, a handshake if the server says yes, and a
//! certificate checked as far as `sslmode` asks. Which connection is tried with TLS, and when without, is
//! decided in `connect`.

use std::io;
use std::net::Ipv4Addr;
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
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::connect::{address, io_error};
use super::error::ConnectError;
use super::socket::Wire;
use crate::config::{PostgresConnection, RootCertificates, SslMode};

/// The question, as a startup packet of its own: length 8, code 1234 5679.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xD2, 0x16, 0x2F];

/// Asks for TLS and shakes hands. Gives the stream back as it is where the server has no TLS.
pub(super) async fn negotiate(mut stream: TcpStream, to: &PostgresConnection) -> Result<Wire, ConnectError> {
    let connector = TlsConnector::from(Arc::new(client_config(to)?));
    let broken = |error: io::Error| io_error(to, &error);
    stream.write_all(&SSL_REQUEST).await.map_err(broken)?;
    // Exactly one byte: whoever sends more in the clear would have it taken as said under TLS.
    match stream.read_u8().await.map_err(broken)? {
        b'S' => {}
        b'N' => return Ok(Wire::Tcp(stream)),
        // An old server, or one that could not even start a process for us.
        _ => {
            return Err(broken(io::Error::other("the server answered the question for TLS with an error")));
        }
    }
    // Any name will do where none is checked: an address isn't sent to the server.
    let name = ServerName::try_from(to.host.clone()).unwrap_or_else(|_| Ipv4Addr::UNSPECIFIED.into());
    connector.connect(name, stream).await.map(|stream| Wire::Tls(Box::new(stream))).map_err(broken)
}

/// What went wrong with TLS, on either side.
pub(super) fn error(to: &PostgresConnection, error: &TlsError) -> ConnectError {
    let (connection, address, reason) = (to.name.clone(), address(to), error.to_string());
    match error {
        TlsError::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => ConnectError::WrongName { connection, address, reason },
        TlsError::InvalidCertificate(_) => ConnectError::Untrusted { connection, address, reason },
        TlsError::AlertReceived(_) => {
            let reason =
                format!("{reason}. The server may want another certificate from us: ssl_cert, ssl_key");
            ConnectError::Handshake { connection, address, reason }
        }
        _ => ConnectError::Handshake { connection, address, reason },
    }
}

fn client_config(to: &PostgresConnection) -> Result<ClientConfig, ConnectError> {
    let bad = |key| move |reason: String| ConnectError::TlsFile { connection: to.name.clone(), key, reason };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Verifier {
        trust: trust(to).map_err(bad("ssl_root_cert"))?,
        is_name_checked: to.sslmode == SslMode::VerifyFull,
        provider: Arc::clone(&provider),
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| ConnectError::TlsFile {
            connection: to.name.clone(),
            key: "sslmode",
            reason: e.to_string(),
        })?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let (chain, key) = match (&to.ssl_cert, &to.ssl_key) {
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
fn trust(to: &PostgresConnection) -> Result<Option<Trust>, String> {
    let is_asked = matches!(to.sslmode, SslMode::VerifyCa | SslMode::VerifyFull);
    let mut roots = RootCertStore::empty();
    let given = match &to.ssl_root_cert {
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
