//! Traces to an OpenTelemetry collector: OTLP over HTTP, where the environment names one, and nothing otherwise. Sending
//! happens on a thread of its own, with a bounded queue: a collector that is slow or gone costs spans, never rows. What
//! the spans are, the layers that do the work say; this file only sends them, without secrets.

use std::env;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry::{KeyValue, StringValue, Value};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter as OtlpExporter, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter, Tracer};
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

use crate::config::SecretMask;

/// How long the end of the process may wait for the last spans.
const FLUSH_MAX: Duration = Duration::from_secs(2);
/// The specification's default for one request.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A variable of the specification, for traces or else for all signals. Empty is unset.
fn variable(name: &str) -> Option<String> {
    let get = |name: String| env::var(name).ok().filter(|value| !value.trim().is_empty());
    get(format!("OTEL_EXPORTER_OTLP_TRACES_{name}")).or_else(|| get(format!("OTEL_EXPORTER_OTLP_{name}")))
}

fn is_wanted() -> bool {
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|v| v.trim().eq_ignore_ascii_case(value));
    variable("ENDPOINT").is_some() && !is("OTEL_SDK_DISABLED", "true") && !is("OTEL_TRACES_EXPORTER", "none")
}

/// What of the environment nobody may see: the values of headers, which usually hold a token, and a name and password
/// within the endpoint.
pub fn secrets() -> Vec<String> {
    let mut secrets = Vec::new();
    for header in variable("HEADERS").iter().flat_map(|headers| headers.split(',')) {
        let Some((_, value)) = header.split_once('=') else { continue };
        let value = value.trim();
        secrets.push(value.to_owned());
        secrets.push(percent_decoded(value));
        // `Bearer TOKEN`, of which a server may repeat the token alone.
        secrets.extend(percent_decoded(value).split_whitespace().nth(1).map(str::to_owned));
    }
    if let Some((user, _)) =
        variable("ENDPOINT").as_deref().and_then(|url| url.split_once("://")?.1.split_once('@'))
    {
        secrets.push(user.to_owned());
        secrets.extend(user.split_once(':').map(|(_, password)| percent_decoded(password)));
    }
    secrets
}

fn percent_decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match digits.filter(|_| first == b'%').and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(byte) => (bytes.push(byte), rest = &after[2..]).1,
            None => (bytes.push(first), rest = after).1,
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The sending of traces, or that there is none. Ends with [`Traces::end`].
pub struct Traces {
    provider: Option<SdkTracerProvider>,
    problem: Option<String>,
}

impl Traces {
    /// As the environment says. A mistake there is no reason not to run: see [`Traces::tell_problem`].
    pub fn from_environment(mask: &SecretMask) -> Traces {
        if !is_wanted() {
            return Traces { provider: None, problem: None };
        }
        match provider(mask) {
            Ok(provider) => Traces { provider: Some(provider), problem: None },
            Err(problem) => Traces { provider: None, problem: Some(problem) },
        }
    }

    /// Where spans go; None where nobody wants them.
    pub fn tracer(&self) -> Option<Tracer> {
        self.provider.as_ref().map(|provider| provider.tracer("trucker"))
    }

    /// Logs what is wrong with the environment, once there is a log.
    pub fn tell_problem(&self) {
        if let Some(problem) = &self.problem {
            tracing::warn!(event = "traces_off", "no traces are sent: {problem}");
        }
    }

    /// Sends what is left, for two seconds at most.
    pub fn end(self) {
        if let Some(provider) = self.provider {
            provider.shutdown_with_timeout(FLUSH_MAX).ok();
        }
    }
}

fn provider(mask: &SecretMask) -> Result<SdkTracerProvider, String> {
    if let Some(protocol) = variable("PROTOCOL").filter(|protocol| protocol != "http/protobuf") {
        return Err(format!(
            "OTEL_EXPORTER_OTLP_PROTOCOL is {protocol}, and trucker speaks http/protobuf alone"
        ));
    }
    let client = Client::from_environment()?;
    let exporter = OtlpExporter::builder().with_http().with_http_client(client).build();
    let exporter = exporter.map_err(|error| mask.mask(&error.to_string()).into_owned())?;
    let resource = Resource::builder();
    let is_named = env::var("OTEL_SERVICE_NAME").is_ok_and(|name| !name.is_empty())
        || env::var("OTEL_RESOURCE_ATTRIBUTES").is_ok_and(|all| all.contains("service.name="));
    let resource = if is_named { resource } else { resource.with_service_name("trucker") };
    let resource =
        resource.with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))).build();
    let exporter = Masked { exporter, mask: mask.clone() };
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

/// Hides secrets in what is sent, as the log does: a host's name may have come from a secret file.
#[derive(Debug)]
struct Masked {
    exporter: OtlpExporter,
    mask: SecretMask,
}

impl SpanExporter for Masked {
    async fn export(&self, mut batch: Vec<SpanData>) -> OTelSdkResult {
        for span in &mut batch {
            span.name = self.mask.mask(&span.name).into_owned().into();
            for attribute in &mut span.attributes {
                if let Value::String(text) = &attribute.value {
                    attribute.value =
                        Value::String(StringValue::from(self.mask.mask(text.as_str()).into_owned()));
                }
            }
        }
        self.exporter.export(batch).await
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// Posts one request after another on the exporter's thread, and tells when the collector goes and comes.
#[derive(Debug)]
struct Client {
    agent: ureq::Agent,
    is_failing: AtomicBool,
}

impl Client {
    fn from_environment() -> Result<Client, String> {
        let milliseconds = match variable("TIMEOUT").map(|text| text.trim().parse()) {
            Some(Err(_)) => {
                return Err("OTEL_EXPORTER_OTLP_TIMEOUT is not a number of milliseconds".to_owned());
            }
            Some(Ok(milliseconds)) => Duration::from_millis(milliseconds),
            None => TIMEOUT,
        };
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_global(Some(milliseconds))
            .user_agent(concat!("trucker/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls()?);
        Ok(Client { agent: config.build().new_agent(), is_failing: AtomicBool::new(false) })
    }

    fn tell(&self, trouble: Option<String>) {
        let was_failing = self.is_failing.swap(trouble.is_some(), Ordering::Relaxed);
        match trouble {
            Some(trouble) if !was_failing => tracing::warn!(
                event = "traces_lost",
                "traces can't be sent: {trouble}; they are dropped until they can, and nothing else is disturbed"
            ),
            None if was_failing => tracing::info!(event = "traces_sent", "traces are sent again"),
            _ => {}
        }
    }

    fn post(&self, request: Request<Bytes>) -> Result<Response<Bytes>, ureq::Error> {
        let (parts, body) = request.into_parts();
        let response = self.agent.run(Request::from_parts(parts, body.as_ref()))?;
        let (parts, mut body) = response.into_parts();
        // An answer is a few bytes; whatever more somebody sends is not one.
        let bytes = body.with_config().limit(1 << 20).read_to_vec()?;
        Ok(Response::from_parts(parts, bytes.into()))
    }
}

#[async_trait::async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let uri = request.uri();
        let collector = format!(
            "{}:{}",
            uri.host().unwrap_or_default(),
            uri.port_u16().map_or(String::new(), |p| p.to_string())
        );
        let outcome = self.post(request);
        self.tell(match &outcome {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("{collector} answers {}", response.status())),
            Err(error) => Some(format!("{collector}: {error}")),
        });
        outcome.map_err(Into::into)
    }
}

/// The machine's certificates, or those that the environment names.
fn tls() -> Result<TlsConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = TlsConfig::builder().unversioned_rustls_crypto_provider(provider);
    let roots: Vec<Certificate<'static>> = match variable("CERTIFICATE") {
        Some(path) => certificates(&path)?,
        None => {
            let native = rustls_native_certs::load_native_certs().certs;
            native.iter().map(|der| Certificate::from_der(der).to_owned()).collect()
        }
    };
    let client = match (variable("CLIENT_CERTIFICATE"), variable("CLIENT_KEY")) {
        (Some(chain), Some(key)) => {
            let pem = read("CLIENT_KEY", &key)?;
            let key = PrivateKey::from_pem(&pem).map_err(|_| format!("{key} holds no private key in PEM"))?;
            Some(ClientCert::new_with_certs(&certificates(&chain)?, key))
        }
        (None, None) => None,
        _ => return Err("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and _CLIENT_KEY go together".to_owned()),
    };
    Ok(builder.root_certs(RootCerts::new_with_certs(&roots)).client_cert(client).build())
}

fn certificates(path: &str) -> Result<Vec<Certificate<'static>>, String> {
    let pem = read("CERTIFICATE", path)?;
    let certificate =
        |item| if let Ok(PemItem::Certificate(certificate)) = item { Some(certificate) } else { None };
    let found: Vec<_> = parse_pem(&pem).filter_map(certificate).collect();
    if found.is_empty() { Err(format!("{path} holds no certificate in PEM")) } else { Ok(found) }
}

fn read(name: &str, path: &str) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("OTEL_EXPORTER_OTLP_{name} names {path}: {error}"))
}
