//! HTTP beside the cores: the administration server, and the metrics for Prometheus.
//!
//! One thread with a runtime of its own serves both. It reads no core's state: like a four-letter
//! word it asks the pipeline, which asks every core, and writes out the report that comes back. A
//! busy or slow HTTP client costs the cores nothing but its questions, of which few are under way.

mod backup;
mod command;
mod json;
mod prometheus;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{Channel, Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::config::Config;
use crate::io::listener::ListenOptions;
use crate::pipeline::auth::AuthConfig;
use crate::server::background::Asking;
use crate::server::four_letter::Word;
use crate::server::http::command::{Command, NotServing};
use crate::server::report::{Question, ServerReport};

/// Connections at once, of both servers together. More wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 64;

/// How long an answer may take: long enough to gather a million watches.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long accepting pauses when there is no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A request's head, in bytes, at most.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Why HTTP is not served.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("the administration server cannot listen on {0} ({1}); see admin.serverPort")]
    Admin(SocketAddr, io::Error),
    #[error("/metrics cannot be served on {0} ({1}); see metricsProvider.httpPort")]
    Metrics(SocketAddr, io::Error),
    #[error("no thread for HTTP: {0}")]
    Thread(io::Error),
}

/// What one listener serves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Site {
    Admin,
    Metrics,
}

/// What both sites answer from.
struct Shared {
    asking: Asking,
    config: Arc<Config>,
    connections: Semaphore,
    auth: AuthConfig,
    backups: backup::Limiter,
}

/// A page, or the bytes of a backup as they are read.
type Page = Either<Full<Bytes>, Channel<Bytes, io::Error>>;
type Reply = Response<Page>;

/// The listeners of a configuration, bound and not yet served.
#[expect(clippy::disallowed_types, reason = "the runtime takes its sockets from std")]
pub struct Listeners(Vec<(Site, std::net::TcpListener)>);

/// Binds what `config` wants served.
///
/// An administration server that nobody asked for, whose port is taken, is left out with a
/// warning: it is on by default, and several servers on a machine are no reason not to start.
///
/// # Errors
/// An address that the configuration names cannot be listened on.
pub fn bind(config: &Config) -> Result<Listeners, HttpError> {
    let mut listeners = Vec::new();
    if let Some(address) = config.admin.address {
        let is_wanted = config.properties.keys().any(|key| key.starts_with("zookeeper.admin."));
        match listen(address) {
            Ok(listener) => listeners.push((Site::Admin, listener)),
            Err(error) if is_wanted => return Err(HttpError::Admin(address, error)),
            Err(error) => tracing::warn!(
                "no administration server: {address} cannot be listened on ({error}); \
                 admin.serverPort names another port, admin.enableServer=false wants none"
            ),
        }
    }
    if let Some(address) = config.metrics.prometheus {
        let listener = listen(address);
        let failed = |error| HttpError::Metrics(address, error);
        listeners.push((Site::Metrics, listener.map_err(failed)?));
    }
    for (site, listener) in &listeners {
        // A listener that has just been bound takes this, and knows its address.
        listener.set_nonblocking(true).map_err(HttpError::Thread)?;
        let address = listener.local_addr().map_err(HttpError::Thread)?;
        match site {
            Site::Admin => {
                tracing::info!("administration on http://{address}{}", config.admin.command_url);
            }
            Site::Metrics => tracing::info!("metrics on http://{address}/metrics"),
        }
    }
    Ok(Listeners(listeners))
}

#[expect(clippy::disallowed_types, reason = "the runtime takes its sockets from std")]
fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let options = ListenOptions { no_delay: false, ..ListenOptions::default() };
    crate::io::listener::bind(address, &options).map(std::net::TcpListener::from)
}

/// Starts to serve, on a thread that ends with the process.
///
/// # Errors
/// There is no thread to be had.
pub fn start(
    listeners: Listeners,
    asking: Asking,
    config: Arc<Config>,
    auth: AuthConfig,
) -> Result<(), HttpError> {
    let Listeners(listeners) = listeners;
    if listeners.is_empty() {
        return Ok(());
    }
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_io().enable_time().build().map_err(HttpError::Thread)?;
    let connections = Semaphore::new(CONNECTIONS_MAX);
    let backups = backup::Limiter::default();
    let shared = Arc::new(Shared { asking, config, connections, auth, backups });
    let serve_all = async move {
        let sites = listeners.into_iter().filter_map(|(site, listener)| {
            let listener = TcpListener::from_std(listener)
                .inspect_err(|error| tracing::error!("HTTP is not served: {error}"))
                .ok()?;
            Some(tokio::spawn(accept_all(site, listener, Arc::clone(&shared))))
        });
        for site in sites.collect::<Vec<_>>() {
            // It goes on until the process ends.
            site.await.ok();
        }
    };
    let thread = std::thread::Builder::new().name("http".to_owned());
    thread.spawn(move || runtime.block_on(serve_all)).map_err(HttpError::Thread)?;
    Ok(())
}

async fn accept_all(site: Site, listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let permit = shared.connections.acquire().await.expect("nobody closes it");
        match listener.accept().await {
            Ok((socket, peer)) => {
                permit.forget();
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    serve(site, socket, peer, &shared)
                        .await
                        .unwrap_or_else(|error| tracing::debug!("HTTP with {peer}: {error}"));
                    shared.connections.add_permits(1);
                });
            }
            Err(error) => {
                tracing::warn!("HTTP: nobody can be accepted: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(
    site: Site,
    socket: TcpStream,
    peer: SocketAddr,
    shared: &Shared,
) -> hyper::Result<()> {
    let idle = Duration::from_millis(shared.config.admin.idle_timeout_ms);
    let service = service_fn(|request: Request<Incoming>| async move {
        Ok::<_, Infallible>(match site {
            Site::Admin => admin(&request, peer, shared).await,
            Site::Metrics => metrics(&request, shared).await,
        })
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(idle)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(socket), service)
        .await
}

/// Asks the cores; `None` when they do not answer in time.
async fn ask(shared: &Shared, word: Word) -> Option<Box<ServerReport>> {
    let answer = shared.asking.ask(Question { word, is_http: true });
    timeout(ANSWER_TIMEOUT, answer).await.ok()?.ok()
}

async fn metrics(request: &Request<Incoming>, shared: &Shared) -> Reply {
    if request.uri().path() != "/metrics" {
        return text(StatusCode::NOT_FOUND, "there is /metrics here\n");
    }
    if !is_read(request.method()) {
        return not_allowed();
    }
    match ask(shared, Word::Mntr).await {
        Some(report) => {
            let mut reply = text(StatusCode::OK, prometheus::page(&report));
            reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(prometheus::TYPE));
            reply
        }
        None => text(StatusCode::SERVICE_UNAVAILABLE, "the server does not answer\n"),
    }
}

async fn admin(request: &Request<Incoming>, peer: SocketAddr, shared: &Shared) -> Reply {
    let url = shared.config.admin.command_url.as_str();
    let Some(rest) = request.uri().path().strip_prefix(url) else {
        return text(StatusCode::NOT_FOUND, format!("the commands are under {url}\n"));
    };
    let name = match rest {
        "" | "/" => return links(url),
        rest => match rest.strip_prefix('/') {
            Some(name) => name,
            None => return text(StatusCode::NOT_FOUND, format!("the commands are under {url}\n")),
        },
    };
    match (request.method(), name) {
        (&Method::GET, "snapshot" | "snap") => return backup::take(request, peer, shared).await,
        (&Method::POST, "restore" | "rest") => return backup::restore(request, peer, shared).await,
        (method, _) if !is_read(method) => return not_allowed(),
        _ => {}
    }
    let body = match Command::named(name) {
        None => json::failed(name, &format!("Unknown command: {name}")),
        Some(command) => run(command, request.uri().query().unwrap_or(""), shared).await,
    };
    json_reply(StatusCode::OK, &body)
}

async fn run(command: Command, query: &str, shared: &Shared) -> json::Body {
    let word = match command.word(query) {
        Ok(word) => word,
        Err(error) => return json::refused(command.name(), &error),
    };
    let Some(report) = ask(shared, word).await else {
        return json::failed(command.name(), "the server does not answer");
    };
    match command.answer(&report, &shared.config) {
        Ok(body) => body,
        Err(NotServing) => json::failed(command.name(), NotServing::SENTENCE),
    }
}

fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

fn not_allowed() -> Reply {
    let mut reply = text(StatusCode::METHOD_NOT_ALLOWED, "GET reads\n");
    reply.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    reply
}

/// A page with a link to each command.
fn links(url: &str) -> Reply {
    let mut page = String::new();
    for name in command::names() {
        page += &format!("<a href=\"{url}/{name}\">{name}</a>\n<br/>\n");
    }
    let mut reply = text(StatusCode::OK, page);
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
    reply
}

fn json_reply(status: StatusCode, body: &json::Body) -> Reply {
    let page = serde_json::to_string_pretty(body).expect("maps with names as keys become JSON");
    let mut reply = text(status, page);
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}

fn text(status: StatusCode, page: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Page::Left(Full::new(page.into())));
    *reply.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    reply.headers_mut().insert(CONTENT_TYPE, plain);
    reply
}
