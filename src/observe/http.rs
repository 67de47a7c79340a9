//! The address where a run can be looked at: metrics, health, status, a page. Read-only, no more than a few small
//! answers to GET; whatever comes in is bounded in size and time, and nothing that asks can make the engine wait.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::board::Board;
use super::snapshot::{RunState, Snapshot, Time};
use super::{metrics, page};

/// Connections at a time; more wait.
const CONNECTIONS_MAX: usize = 64;
const HEAD_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;
/// How long a request's head may take.
const HEAD_TIME_MAX: Duration = Duration::from_secs(5);
/// How long a connection may last.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(300);
/// While it runs, things are put on the board every second.
const STILL_MAX: Duration = Duration::from_secs(30);

const SECURITY: [(header::HeaderName, &str); 4] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
];

/// Answers on the listener until it is dropped.
pub async fn serve(listener: TcpListener, board: Arc<Board>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(converse(stream, board.clone(), place));
            }
            // Too many open files, say: it gets better or it doesn't, and is no reason to stop loading.
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

async fn converse(stream: TcpStream, board: Arc<Board>, _place: OwnedSemaphorePermit) {
    let answering = service_fn(move |request| {
        let answer = answer(&request, &board);
        async move { Ok::<_, Infallible>(answer) }
    });
    let conversation = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), answering);
    // How a conversation ends is the other side's business.
    tokio::time::timeout(CONNECTION_TIME_MAX, conversation).await.ok();
}

fn answer(request: &Request<Incoming>, board: &Board) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".to_owned());
        answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    let snapshot = board.latest();
    match request.uri().path() {
        "/" => typed("text/html; charset=utf-8", page::render(board, &snapshot)),
        "/page.css" => typed("text/css; charset=utf-8", page::CSS.to_owned()),
        "/page.js" => typed("text/javascript; charset=utf-8", page::JS.to_owned()),
        "/metrics" => typed(metrics::CONTENT_TYPE, metrics::encode(&snapshot)),
        "/status" => match serde_json::to_string_pretty(&*snapshot) {
            Ok(json) => typed("application/json", json + "\n"),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        },
        "/livez" => live(&snapshot, Time(std::time::SystemTime::now())),
        "/readyz" => ready(&snapshot),
        _ => {
            let paths = "there is /, /metrics, /status, /livez and /readyz\n";
            text(StatusCode::NOT_FOUND, paths.to_owned())
        }
    }
}

/// Whether the engine's loop and all of its tasks turn. Says nothing of how its pipelines are.
fn live(snapshot: &Snapshot, now: Time) -> Response<Full<Bytes>> {
    let still = snapshot.taken_at.before(now);
    // While it starts or stands by, servers are waited for, and that this is answered is all that there is to know.
    if matches!(snapshot.state, RunState::Running | RunState::Stopping) && still > STILL_MAX {
        let why = format!("the engine's loop hasn't turned for {} s\n", still.as_secs());
        return text(StatusCode::SERVICE_UNAVAILABLE, why);
    }
    if !snapshot.turns {
        let why = "one of the engine's tasks is stuck: that is a bug of trucker's\n";
        return text(StatusCode::SERVICE_UNAVAILABLE, why.to_owned());
    }
    text(StatusCode::OK, "ok\n".to_owned())
}

fn ready(snapshot: &Snapshot) -> Response<Full<Bytes>> {
    let unready = snapshot.unready();
    if unready.is_empty() {
        return text(StatusCode::OK, "ok\n".to_owned());
    }
    text(StatusCode::SERVICE_UNAVAILABLE, unready.join("\n") + "\n")
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut answer = typed("text/plain; charset=utf-8", body);
    *answer.status_mut() = status;
    answer
}

fn typed(content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    for (name, value) in SECURITY {
        headers.insert(name, HeaderValue::from_static(value));
    }
    answer
}

/// Takes the address.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_live_while_its_loop_turns_and_whatever_it_waits_for() {
        let mut snapshot = Snapshot::begin("p");
        let later = Time(snapshot.taken_at.0 + STILL_MAX + Duration::from_secs(1));
        for (state, status) in [
            (RunState::Starting, StatusCode::OK),
            (RunState::Standby, StatusCode::OK),
            (RunState::Running, StatusCode::SERVICE_UNAVAILABLE),
            (RunState::Stopping, StatusCode::SERVICE_UNAVAILABLE),
        ] {
            snapshot.state = state;
            assert_eq!(live(&snapshot, later).status(), status, "{state:?}");
            assert_eq!(live(&snapshot, snapshot.taken_at).status(), StatusCode::OK, "{state:?}");
        }
        snapshot.turns = false;
        assert_eq!(live(&snapshot, snapshot.taken_at).status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
