//! Statements over ClickHouse's HTTP interface. Each is one request; what goes wrong is told, and nothing is tried twice.
//! User and password travel in a header, never in a URL.

use std::error::Error as _;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, Uri, body::Incoming};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client as HttpClient, Error as HttpError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::answer::Answer;
use super::body::{Form, Outgoing, Progress};
use super::error::Error;
use super::rows::Rows;
use crate::config::{ClickHouseConnection, SslMode};
use crate::tls::{Terms, client_config};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that isn't used for so long is given up, before the server does so (after 10 s in its own configuration).
const IDLE_TIMEOUT: Duration = Duration::from_secs(8);
/// How long a server may take nothing of a body, or work on a statement.
const SILENCE_MAX: Duration = Duration::from_secs(15 * 60);
/// The same for an answer in an order, of which nothing comes before all is sorted.
const SORTING_MAX: Duration = Duration::from_secs(60 * 60);
/// Answers are catalogs, checkpoints and counts.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Of an error, its words are enough.
const ERROR_BYTES_MAX: usize = 64 << 10;

const EXCEPTION_CODE: &str = "X-ClickHouse-Exception-Code";
/// Of queries whose answers are read as they come: sorted on disk where they are large, as values are written by the encoder, and
/// with all the time that the reader needs.
const READING: &[(&str, &str)] = &[
    ("select_sequential_consistency", "1"),
    ("max_bytes_before_external_sort", "268435456"),
    ("output_format_binary_write_json_as_string", "1"),
    ("http_send_timeout", "3600"),
];

/// Runs statements in one ClickHouse database. Clones share their connections.
#[derive(Clone)]
pub struct Client(Arc<Shared>);

struct Shared {
    http: HttpClient<HttpsConnector<HttpConnector>, Outgoing>,
    /// The connection's name in trucker.yml.
    name: String,
    /// `http://host:port`.
    origin: String,
    headers: HeaderMap,
}

/// What a request adds to its statement's settings.
struct Parts<'a> {
    /// Parameters of the URL, apart from settings.
    parameters: &'a [(&'a str, &'a str)],
    content_type: Option<String>,
    body: Vec<Bytes>,
    /// Whether the answer comes while the statement runs.
    is_streamed: bool,
}

impl Client {
    /// Prepares connections; none is opened before the first statement.
    pub fn new(to: &ClickHouseConnection) -> Result<Self, Error> {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, basic(to)?);
        let database = HeaderValue::from_bytes(to.database.as_bytes());
        let database = database
            .map_err(|_| Error::setting(&to.name, "`database` holds a control character".to_owned()))?;
        headers.insert("X-ClickHouse-Database", database);
        let scheme = if to.sslmode == SslMode::Disable { "http" } else { "https" };
        let host = if to.host.contains(':') { format!("[{}]", to.host) } else { to.host.clone() };
        let origin = format!("{scheme}://{host}:{}", to.port);
        Uri::try_from(&origin)
            .map_err(|_| Error::setting(&to.name, format!("`{}` is no host that HTTP knows", to.host)))?;
        let http = HttpClient::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_timer(TokioTimer::new())
            .build(connector(to)?);
        Ok(Client(Arc::new(Shared { http, name: to.name.clone(), origin, headers })))
    }

    /// Runs a query without a FORMAT clause and reads all rows of its answer, which has to be small.
    pub async fn select(&self, sql: &str, settings: &[(&str, &str)]) -> Result<Answer, Error> {
        let parameters = &[("default_format", "TabSeparated")];
        let body = vec![Bytes::copy_from_slice(sql.as_bytes())];
        let answer =
            self.send(settings, Parts { parameters, content_type: None, body, is_streamed: false }).await?;
        Ok(Answer::decode(&answer))
    }

    /// Runs a statement that answers nothing.
    pub async fn execute(&self, sql: &str, settings: &[(&str, &str)]) -> Result<(), Error> {
        let body = vec![Bytes::copy_from_slice(sql.as_bytes())];
        self.send(settings, Parts { parameters: &[], content_type: None, body, is_streamed: false })
            .await
            .map(drop)
    }

    /// Runs `INSERT INTO … FORMAT …` with these bytes as its data. Cut off on the way, it may leave some of its blocks (of a
    /// million rows) behind: not one that was small, nor one that is sent again with its token.
    pub async fn insert(&self, sql: &str, settings: &[(&str, &str)], body: Bytes) -> Result<(), Error> {
        let parameters = &[("query", sql)];
        let parts = Parts { parameters, content_type: None, body: vec![body], is_streamed: false };
        self.send(settings, parts).await.map(drop)
    }

    /// Runs a statement that may read these rows as a table of the given name: `structure` as in `id UInt64, name String`,
    /// the rows as RowBinary. Both live as long as the statement.
    pub async fn execute_with_rows(
        &self,
        sql: &str,
        settings: &[(&str, &str)],
        relation: &str,
        structure: &str,
        rows: Bytes,
    ) -> Result<(), Error> {
        let (content_type, body) = with_rows(sql, relation, structure, rows);
        self.send(settings, Parts { parameters: &[], content_type, body, is_streamed: false }).await.map(drop)
    }

    /// Runs a query whose answer may be of any size, and may be read slowly. `given` is a relation that it reads: its name,
    /// structure and rows, as in [`Client::execute_with_rows`].
    pub async fn rows(&self, sql: &str, given: Option<(&str, &str, Bytes)>) -> Result<Rows, Error> {
        let parameters = &[("default_format", "TabSeparated")];
        let (content_type, body) = match given {
            Some((relation, structure, rows)) => with_rows(sql, relation, structure, rows),
            None => (None, vec![Bytes::copy_from_slice(sql.as_bytes())]),
        };
        let parts = Parts { parameters, content_type, body, is_streamed: true };
        let response =
            self.unless_silent(SORTING_MAX, |progress| self.respond(READING, parts, progress)).await?;
        if !response.status().is_success() || response.headers().contains_key(EXCEPTION_CODE) {
            let unexpected = Error::network(&self.0.name, "an error without words".to_owned());
            return Err(self.read(response).await.err().unwrap_or(unexpected));
        }
        let (connection, incoming) = (self.0.name.clone(), response.into_body());
        Ok(Rows { connection, incoming, read: BytesMut::new(), searched: 0, silence_max: SILENCE_MAX })
    }

    async fn send(&self, settings: &[(&str, &str)], parts: Parts<'_>) -> Result<Bytes, Error> {
        let answered = async |progress| {
            let response = self.respond(settings, parts, progress).await?;
            self.read(response).await
        };
        self.unless_silent(SILENCE_MAX, answered).await
    }

    /// What comes of it, unless the server does nothing for too long.
    async fn unless_silent<T>(
        &self,
        silence_max: Duration,
        answered: impl AsyncFnOnce(Progress) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let (shared, progress) = (&*self.0, Progress::new());
        tokio::select! {
            answer = answered(progress.clone()) => answer,
            () = progress.stalled(silence_max) => {
                let minutes = silence_max.as_secs() / 60;
                let message = format!("{} has said nothing for {minutes} minutes", shared.origin);
                Err(Error::network(&shared.name, message))
            }
        }
    }

    async fn respond(
        &self,
        settings: &[(&str, &str)],
        parts: Parts<'_>,
        progress: Progress,
    ) -> Result<Response<Incoming>, Error> {
        let shared = &*self.0;
        let own = [
            // The status is known only when all is done: an error can't come after a success.
            ("wait_end_of_query", if parts.is_streamed { "0" } else { "1" }),
            // As the encoder writes it.
            ("input_format_binary_read_json_as_string", "1"),
        ];
        let parameters = own.iter().chain(parts.parameters).chain(settings);
        let query: Vec<String> =
            parameters.map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
        // ClickHouse before 26.9 reads no form that is compressed.
        let is_compressed = parts.content_type.is_none();
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}/?{}", shared.origin, query.join("&")))
            .body(Outgoing::new(parts.body, is_compressed, progress))
            .map_err(|error| Error::setting(&shared.name, error.to_string()))?;
        *request.headers_mut() = shared.headers.clone();
        if is_compressed {
            request.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("lz4"));
        }
        if let Some(content_type) = parts.content_type.and_then(|text| HeaderValue::try_from(text).ok()) {
            request.headers_mut().insert(CONTENT_TYPE, content_type);
        }
        shared.http.request(request).await.map_err(|error| self.broken(&error))
    }

    async fn read(&self, response: Response<Incoming>) -> Result<Bytes, Error> {
        let shared = &*self.0;
        let status = response.status();
        let code = response.headers().get(EXCEPTION_CODE);
        let code = code.and_then(|value| value.to_str().ok()?.parse().ok());
        if status.is_success() && code.is_none() {
            let whole = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            return whole.map(|body| body.to_bytes()).map_err(|error| {
                Error::network(&shared.name, format!("the answer of {} broke off: {error}", shared.origin))
            });
        }
        let mut body = Vec::new();
        let mut incoming = response.into_body();
        while let Some(Ok(frame)) = incoming.frame().await {
            body.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
            if body.len() > ERROR_BYTES_MAX {
                break;
            }
        }
        Err(Error::from_answer(&shared.name, status.as_u16(), code, &body))
    }

    /// No answer, or none to the end.
    fn broken(&self, error: &HttpError) -> Error {
        let shared = &*self.0;
        let mut causes = Vec::new();
        let mut cause = error.source();
        while let Some(error) = cause {
            if let Some(tls) = find_tls(error) {
                return tls_error(&shared.name, &shared.origin, tls);
            }
            causes.push(error.to_string());
            cause = error.source();
        }
        let reason = causes.pop().unwrap_or_else(|| error.to_string());
        let message = match error.is_connect() {
            true => format!(
                "nothing answers at {}: {reason}. Is the server running, and reachable from here?",
                shared.origin
            ),
            false => format!("the connection to {} broke: {reason}", shared.origin),
        };
        Error::network(&shared.name, message)
    }
}

/// A form: the statement, and rows that it reads.
fn with_rows(sql: &str, relation: &str, structure: &str, rows: Bytes) -> (Option<String>, Vec<Bytes>) {
    let mut form = Form::new(format!("trucker-{}", unique()));
    form.field("query", sql);
    form.field(&format!("{relation}_format"), "RowBinary");
    form.field(&format!("{relation}_structure"), structure);
    (Some(form.content_type()), form.with_file(relation, rows))
}

fn connector(to: &ClickHouseConnection) -> Result<HttpsConnector<HttpConnector>, Error> {
    let terms = Terms {
        mode: to.sslmode,
        root_cert: to.ssl_root_cert.as_ref(),
        cert: to.ssl_cert.as_deref(),
        key: to.ssl_key.as_ref(),
    };
    let config = client_config(&terms)
        .map_err(|bad| Error::setting(&to.name, format!("{} can't be used: {}", bad.key, bad.reason)))?;
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp.set_keepalive(Some(Duration::from_secs(10)));
    tcp.set_keepalive_interval(Some(Duration::from_secs(5)));
    tcp.set_keepalive_retries(Some(3));
    #[cfg(target_os = "linux")]
    tcp.set_tcp_user_timeout(Some(Duration::from_secs(30)));
    Ok(HttpsConnectorBuilder::new()
        .with_tls_config(config)
        .https_or_http()
        .enable_http1()
        .wrap_connector(tcp))
}

/// An io error holds another in a place of its own, beside its cause.
fn find_tls<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return Some(tls);
    }
    find_tls(error.downcast_ref::<io::Error>()?.get_ref()?)
}

fn tls_error(connection: &str, origin: &str, error: &rustls::Error) -> Error {
    use rustls::CertificateError::{NotValidForName, NotValidForNameContext};
    let advice = match error {
        rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. }) => {
            "Use the name that the certificate has as `host`, or `sslmode: verify-ca`"
        }
        rustls::Error::InvalidCertificate(_) => {
            "Name the certificate authority that signed it in ssl_root_cert"
        }
        rustls::Error::AlertReceived(_) => {
            "The server may want another certificate from us: ssl_cert, ssl_key"
        }
        _ => "Is it a port for HTTPS? Without TLS it is `sslmode: disable`",
    };
    Error::tls(connection, format!("no TLS with {origin}: {error}. {advice}"))
}

/// Base64, so that a password may hold any byte.
fn basic(to: &ClickHouseConnection) -> Result<HeaderValue, Error> {
    let mut plain = to.user.clone().into_bytes();
    plain.push(b':');
    plain.extend_from_slice(to.pass.as_ref().map_or(&[], |pass| pass.expose()));
    let mut value = HeaderValue::try_from(format!("Basic {}", BASE64_STANDARD.encode(&plain)))
        .map_err(|error| Error::setting(&to.name, error.to_string()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn encoded(text: &str) -> impl std::fmt::Display {
    utf8_percent_encode(text, NON_ALPHANUMERIC)
}

/// What no row can be expected to hold: each state of a hasher begins with keys of its own, from the system's randomness.
fn unique() -> String {
    let random = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", random(), random())
}
