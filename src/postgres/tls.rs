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

use super::error::ConnectError;
use super::socket::Wire;
use crate::config::{PostgresConnection, RootCertificates, SslMode};

/// The question, as a startup packet of its own: length 8, code 1234 5679.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xD2, 0x16, 0x2F];

/// Asks for TLS and shakes hands. Gives the stream back as it is where the server has no TLS.
pub(super) async fn negotiate(mut stream: TcpStream, to: &PostgresConnection) -> Result<Wire, ConnectError> {
    let connector = TlsConnector::from(Arc::new(client_config(to)?));
    let unreachable = |source| ConnectError::Unreachable {
        connection: to.name.clone(),
        address: super::connect::address(to),
        source,
    };
    stream.write_all(&SSL_REQUEST).await.map_err(unreachable)?;
    // Exactly one byte: whoever sends more in the clear would have it taken as said under TLS.
    match stream.read_u8().await.map_err(unreachable)? {
        b'S' => {}
        b'N' => return Ok(Wire::Tcp(stream)),
        // An old server, or one that could not even start a process for us.
        _ => {
            return Err(unreachable(io::Error::other(
                "the server answered the question for TLS with an error",
            )));
        }
    }
    // Any name will do where none is checked: an address isn't sent to the server.
    let name = ServerName::try_from(to.host.clone()).unwrap_or_else(|_| Ipv4Addr::UNSPECIFIED.into());
    match connector.connect(name, stream).await {
        Ok(stream) => Ok(Wire::Tls(Box::new(stream))),
        Err(error) => Err(handshake_error(to, error)),
    }
}

fn handshake_error(to: &PostgresConnection, error: io::Error) -> ConnectError {
    let (connection, address) = (to.name.clone(), super::connect::address(to));
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>()) else {
        return ConnectError::Unreachable { connection, address, source: error };
    };
    let reason = tls.to_string();
    match tls {
        TlsError::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => ConnectError::WrongName { connection, address, reason },
        TlsError::InvalidCertificate(_) => ConnectError::Untrusted { connection, address, reason },
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
