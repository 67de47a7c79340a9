//! TLS as libpq does it: a question before the startup packet, and a handshake if the server says yes. Which
//! connection is tried with TLS, and when without, is decided in `connect`; what is checked of a certificate, in
//! `crate::tls`.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{CertificateError, Error as TlsError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::connect::{address, io_error};
use super::connect_error::ConnectError;
use super::socket::{PlainSocket, Wire};
use crate::config::PostgresConnection;
use crate::tls::{Terms, client_config};

/// The question, as a startup packet of its own: length 8, code 1234 5679.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xD2, 0x16, 0x2F];

/// Asks for TLS and shakes hands. Gives the stream back as it is where the server has no TLS.
pub(super) async fn negotiate(mut stream: TcpStream, to: &PostgresConnection) -> Result<Wire, ConnectError> {
    let terms = Terms {
        mode: to.sslmode,
        root_cert: to.ssl_root_cert.as_ref(),
        cert: to.ssl_cert.as_deref(),
        key: to.ssl_key.as_ref(),
    };
    let config = client_config(&terms).map_err(|bad| ConnectError::TlsFile {
        connection: to.name.clone(),
        key: bad.key,
        reason: bad.reason,
    })?;
    let connector = TlsConnector::from(Arc::new(config));
    let broken = |error: io::Error| io_error(to, &error);
    stream.write_all(&SSL_REQUEST).await.map_err(broken)?;
    // Exactly one byte: whoever sends more in the clear would have it taken as said under TLS.
    match stream.read_u8().await.map_err(broken)? {
        b'S' => {}
        b'N' => return Ok(Wire::Plain(PlainSocket::Tcp(stream))),
        // An old server, or one that could not even start a process for us.
        _ => {
            return Err(broken(io::Error::other("the server answered the question for TLS with an error")));
        }
    }
    // Any name will do where none is checked: an address isn't sent to the server.
    let name = ServerName::try_from(to.host.clone()).unwrap_or_else(|_| Ipv4Addr::UNSPECIFIED.into());
    connector
        .connect(name, PlainSocket::Tcp(stream))
        .await
        .map(|stream| Wire::Tls(Box::new(stream)))
        .map_err(broken)
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
