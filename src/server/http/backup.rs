//! `snapshot`: the committed tree in Apache's snapshot format, for whoever may do everything to
//! the root. `restore` is not there, and says so.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use http_body_util::Channel;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode};
use tokio::runtime::Handle;

use crate::io::clock;
use crate::pipeline::auth::{AuthConfig, AuthIds};
use crate::server::four_letter::Word;
use crate::server::http::command::{NotServing, RESTORE, SNAPSHOT};
use crate::server::http::{Page, Reply, Shared, ask, json, json_reply};
use crate::server::report::ServerReport;
use crate::snapshot::backup::Backup;
use crate::wire::acl::{Acl, Id, Perms};

/// The size of the pieces that a backup is sent in, and how many may wait for the network.
const PIECE_BYTES: usize = 64 << 10;
const PIECES_MAX: usize = 4;

/// One backup in so much time (`admin.rateLimiterIntervalInMS`).
#[derive(Default)]
pub(super) struct Limiter {
    /// When the next one may be taken, in nanoseconds; 0 before the first.
    next: AtomicI64,
}

impl Limiter {
    fn admits(&self, now_nanos: i64, interval: Duration) -> bool {
        let next = now_nanos.saturating_add(i64::try_from(interval.as_nanos()).unwrap_or(i64::MAX));
        let take = |due: i64| (due <= now_nanos).then_some(next);
        self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

/// Takes a backup and sends it.
pub(super) async fn take(request: &Request<Incoming>, peer: SocketAddr, shared: &Shared) -> Reply {
    if let Err(refused) = admit(request, peer, shared).await {
        return refused.reply(SNAPSHOT);
    }
    let admin = &shared.config.admin;
    if !admin.snapshot {
        return Refused::new(StatusCode::SERVICE_UNAVAILABLE, "admin.snapshot.enabled is false")
            .reply(SNAPSHOT);
    }
    if request.uri().query().is_some_and(|query| query.split('&').any(|it| it == "streaming=false"))
    {
        let why = "this server takes snapshots for itself when they are due; only streaming=true";
        return Refused::new(StatusCode::BAD_REQUEST, why).reply(SNAPSHOT);
    }
    let now_nanos = i64::try_from(clock::now().as_nanos()).unwrap_or(i64::MAX);
    let interval = Duration::from_millis(admin.rate_limiter_interval_ms);
    if !shared.backups.admits(now_nanos, interval) {
        let why = "one snapshot in admin.rateLimiterIntervalInMS";
        return Refused::new(StatusCode::TOO_MANY_REQUESTS, why).reply(SNAPSHOT);
    }
    match shared.asking.back_up().await {
        Ok(Ok(backup)) => send(backup),
        Ok(Err(error)) => {
            tracing::error!("no backup: {error}");
            Refused::new(StatusCode::INTERNAL_SERVER_ERROR, "the snapshot failed").reply(SNAPSHOT)
        }
        Err(_) => {
            let why =
                "what was to be backed up was taken back by another leader, or the server stops";
            Refused::new(StatusCode::INTERNAL_SERVER_ERROR, why).reply(SNAPSHOT)
        }
    }
}

/// Says that a running server takes no snapshot in.
pub(super) async fn restore(
    request: &Request<Incoming>,
    peer: SocketAddr,
    shared: &Shared,
) -> Reply {
    if let Err(refused) = admit(request, peer, shared).await {
        return refused.reply(RESTORE);
    }
    let why = "a running server takes no snapshot in: stop it, and use `ringkeeper import`";
    Refused::new(StatusCode::SERVICE_UNAVAILABLE, why).reply(RESTORE)
}

fn send(mut backup: Backup) -> Reply {
    let (bytes, zxid) = (backup.bytes, backup.zxid);
    tracing::info!("a backup of zxid {zxid} is fetched: {bytes} bytes in Apache's format");
    let (mut pieces, body) = Channel::new(PIECES_MAX);
    let runtime = Handle::current();
    tokio::task::spawn_blocking(move || {
        loop {
            let piece = match backup.read_piece(PIECE_BYTES) {
                Ok(piece) => piece,
                Err(error) => return pieces.abort(error),
            };
            // The client has gone where it takes no more.
            if piece.is_empty() || runtime.block_on(pieces.send_data(piece.into())).is_err() {
                return;
            }
        }
    });
    let mut reply = Response::new(Page::Right(body));
    let stream = HeaderValue::from_static("application/octet-stream");
    let last_zxid = HeaderValue::from_str(&format!("0x{:x}", zxid.raw()));
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, stream);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes));
    headers.insert(HeaderName::from_static("snapshot_size"), HeaderValue::from(bytes));
    headers.insert(HeaderName::from_static("last_zxid"), last_zxid.expect("digits are a value"));
    reply
}

/// Why a request is not carried out.
#[derive(Debug, PartialEq, Eq)]
struct Refused {
    status: StatusCode,
    why: &'static str,
}

impl Refused {
    const fn new(status: StatusCode, why: &'static str) -> Refused {
        Refused { status, why }
    }

    fn reply(&self, command: &str) -> Reply {
        tracing::warn!("{command} over HTTP is refused: {}", self.why);
        json_reply(self.status, &json::failed(command, self.why))
    }
}

/// Whether whoever asks may do everything to the root.
///
/// What a proxy says of him (`X-Forwarded-For`) counts for nothing: his address is the socket's.
async fn admit(
    request: &Request<Incoming>,
    peer: SocketAddr,
    shared: &Shared,
) -> Result<(), Refused> {
    let Some(report) = ask(shared, Word::Ruok).await else {
        return Err(Refused::new(StatusCode::SERVICE_UNAVAILABLE, "the server does not answer"));
    };
    if !report.serving {
        return Err(Refused::new(StatusCode::OK, NotServing::SENTENCE));
    }
    let header = request.headers().get(AUTHORIZATION);
    let credentials = header.map(|header| header.to_str().unwrap_or_default());
    authorise(credentials, peer, &report, &shared.auth)
}

/// Apache's order: who he is, then what he may (`Commands.runCommand`).
fn authorise(
    credentials: Option<&str>,
    peer: SocketAddr,
    report: &ServerReport,
    auth: &AuthConfig,
) -> Result<(), Refused> {
    let why = "Auth info is missing for the command";
    let credentials = credentials.ok_or(Refused::new(StatusCode::UNAUTHORIZED, why))?;
    let ids = authenticate(credentials, peer, auth)
        .ok_or(Refused::new(StatusCode::UNAUTHORIZED, "Not authenticated"))?;
    let may_all = |acl: &[Acl]| {
        let each = [Perms::READ, Perms::WRITE, Perms::CREATE, Perms::DELETE, Perms::ADMIN];
        each.into_iter().all(|wanted| auth.check_acl(acl, wanted, &ids))
    };
    match report.root_acl.as_deref().is_none_or(may_all) {
        true => Ok(()),
        false => Err(Refused::new(StatusCode::FORBIDDEN, "Not authorized")),
    }
}

/// The ids that `SCHEME` or `SCHEME DATA` proves.
fn authenticate(credentials: &str, peer: SocketAddr, auth: &AuthConfig) -> Option<Vec<Id>> {
    let mut words = credentials.split(' ');
    let (scheme, data) = (words.next()?, words.next().unwrap_or_default());
    if words.next().is_some() {
        return None;
    }
    let mut ids = AuthIds::new(peer.ip());
    ids.handle_auth(auth, scheme, data.as_bytes()).ok()?;
    // The address counts only where it is what was offered.
    let is_proven = |id: &&Id| id.scheme != "ip" || scheme == "ip";
    Some(ids.ids().iter().filter(is_proven).cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::auth::DigestAlgorithm;

    fn auth() -> AuthConfig {
        let super_digest = Some(DigestAlgorithm::Sha1.id("super:test"));
        AuthConfig { super_digest, digest_enabled: true, digest_algorithm: DigestAlgorithm::Sha1 }
    }

    fn status(credentials: Option<&str>, root: &[(&str, &str, Perms)]) -> StatusCode {
        let acl = |(scheme, id, perms): &(&str, &str, Perms)| Acl {
            perms: *perms,
            id: Id { scheme: (*scheme).to_owned(), id: (*id).to_owned() },
        };
        let root_acl = (!root.is_empty()).then(|| root.iter().map(acl).collect());
        let report = ServerReport { serving: true, root_acl, ..ServerReport::default() };
        let peer = "10.1.2.3:4".parse().unwrap();
        match authorise(credentials, peer, &report, &auth()) {
            Ok(()) => StatusCode::OK,
            Err(refused) => refused.status,
        }
    }

    #[test]
    fn only_who_may_do_everything_to_the_root_is_admitted() {
        let ann = DigestAlgorithm::Sha1.id("ann:secret");
        let of_ann = |perms| [("digest", ann.as_str(), perms)];
        let all = of_ann(Perms::ALL);
        assert_eq!(status(Some("digest ann:secret"), &all), StatusCode::OK);
        assert_eq!(status(Some("digest super:test"), &all), StatusCode::OK);
        assert_eq!(status(Some("digest ann:wrong"), &all), StatusCode::FORBIDDEN);
        assert_eq!(status(Some("ip"), &all), StatusCode::FORBIDDEN);
        let reads = of_ann(Perms::READ);
        assert_eq!(status(Some("digest ann:secret"), &reads), StatusCode::FORBIDDEN);
        let without = of_ann(Perms(Perms::ALL.0 & !Perms::ADMIN.0));
        assert_eq!(status(Some("digest ann:secret"), &without), StatusCode::FORBIDDEN);
    }

    #[test]
    fn who_does_not_say_who_he_is_is_not_admitted_anywhere() {
        for wrong in
            [None, Some(""), Some("basic YTpi"), Some("digest a:b c"), Some("world anyone")]
        {
            assert_eq!(status(wrong, &[]), StatusCode::UNAUTHORIZED, "{wrong:?}");
        }
        assert_eq!(status(Some("digest any:body"), &[]), StatusCode::OK);
        assert_eq!(status(Some("ip"), &[("ip", "10.1.2.3", Perms::ALL)]), StatusCode::OK);
        assert_eq!(status(Some("ip"), &[("ip", "10.9.9.9", Perms::ALL)]), StatusCode::FORBIDDEN);
    }

    #[test]
    fn backups_keep_their_distance() {
        let limiter = Limiter::default();
        let interval = Duration::from_secs(1);
        assert!(limiter.admits(5, interval));
        assert!(!limiter.admits(1_000_000_004, interval));
        assert!(limiter.admits(1_000_000_005, interval));
    }
}
