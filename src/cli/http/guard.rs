//! Who may ask what.
//!
//! A browser sends requests for any page that its user looks at. So the address that a request was sent to has to
//! be one that only this process can have (or the page of a stranger, whose name was made to lead here, could
//! read along), and what changes something has to come with the token, or from the page itself.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::problem;

/// The variable of the environment with the token of requests that change something.
pub(in crate::cli) const TOKEN: &str = "TIDEMILL_TOKEN";

/// Says which requests are answered.
#[derive(Debug)]
pub(super) struct Guard {
    /// Where requests are taken.
    address: SocketAddr,
    token: Option<String>,
}

impl Guard {
    pub(super) fn new(address: SocketAddr, token: Option<String>) -> Self {
        Self { address, token: token.filter(|token| !token.is_empty()) }
    }

    /// Whether a request may name `host` as its address. Names of several parts can be anybody's; those of one, and
    /// numbers, cannot be made to lead here by a stranger.
    fn knows(&self, host: &str) -> bool {
        let name = without_port(host);
        let number = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        if let Ok(address) = number.parse::<IpAddr>() {
            return !self.address.ip().is_loopback() || address.is_loopback();
        }
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let is_local = name == "localhost" || name.ends_with(".localhost");
        match self.address.ip().is_loopback() {
            true => is_local,
            false => is_local || (!name.is_empty() && !name.contains('.')),
        }
    }

    /// Whether a request may change something; the reason if it may not.
    fn allows_change(&self, peer: SocketAddr, headers: &HeaderMap) -> Result<(), &'static str> {
        let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let given = text(header::AUTHORIZATION).and_then(|given| given.split_once(' '));
        if let Some((_, given)) = given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")) {
            return match &self.token {
                Some(token) if is_same(given.trim(), token) => Ok(()),
                _ => Err("the token is not the one in TIDEMILL_TOKEN"),
            };
        }
        let is_local = self.address.ip().is_loopback() && peer.ip().is_loopback();
        let own = text(header::HOST).map(|host| format!("http://{host}"));
        let is_own_page = own.is_some() && text(header::ORIGIN).map(str::to_string) == own;
        match (is_local && is_own_page, &self.token) {
            (true, _) => Ok(()),
            (false, Some(_)) => Err("it needs the token in TIDEMILL_TOKEN, as Authorization: Bearer …"),
            (false, None) => {
                Err("start tidemill with a token in TIDEMILL_TOKEN, and send it as Authorization: Bearer …")
            }
        }
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) && !name.ends_with(':') => {
            name
        }
        _ => host,
    }
}

/// Compares in a time that does not tell how much of it is right.
fn is_same(given: &str, token: &str) -> bool {
    let differences = given.bytes().zip(token.bytes()).fold(0, |found, (a, b)| found | (a ^ b));
    given.len() == token.len() && differences == 0
}

/// Lets through what is allowed, and tells browsers to keep to what the page needs.
pub(super) async fn check(
    State(guard): State<Arc<Guard>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let mut response = match host {
        Some(host) if guard.knows(host) => {
            let changes = !matches!(*request.method(), Method::GET | Method::HEAD);
            match guard.allows_change(peer, request.headers()) {
                Err(reason) if changes => problem(StatusCode::FORBIDDEN, reason).into_response(),
                _ => next.run(request).await,
            }
        }
        _ => {
            let reason = "the request names another host; ask by the address that tidemill listens on";
            problem(StatusCode::MISDIRECTED_REQUEST, reason).into_response()
        }
    };
    let headers = [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    for (name, value) in headers {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(address: &str, token: Option<&str>) -> Guard {
        Guard::new(address.parse().unwrap(), token.map(str::to_string))
    }

    #[test]
    fn a_stranger_cannot_have_a_name_of_his_lead_here() {
        let loopback = guard("127.0.0.1:8080", None);
        for host in ["127.0.0.1:8080", "localhost", "localhost:8080", "[::1]:8080", "a.localhost:8080"] {
            assert!(loopback.knows(host), "{host}");
        }
        for host in
            ["evil.example:8080", "localhost.evil.example", "10.0.0.1:8080", "", "[::1", "tidemill:80"]
        {
            assert!(!loopback.knows(host), "{host}");
        }
        let open = guard("0.0.0.0:8080", None);
        for host in ["10.0.0.1:8080", "tidemill:8080", "localhost", "[fe80::1]:80"] {
            assert!(open.knows(host), "{host}");
        }
        for host in ["evil.example:8080", "", "tidemill.evil.example"] {
            assert!(!open.knows(host), "{host}");
        }
    }

    #[test]
    fn changes_need_the_token_or_the_page_itself() {
        let local: SocketAddr = "127.0.0.1:50000".parse().unwrap();
        let allows = |guard: &Guard, peer, headers: &[(header::HeaderName, &'static str)]| {
            let headers = headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
            guard.allows_change(peer, &headers.collect()).is_ok()
        };
        let own = [(header::HOST, "localhost:8080"), (header::ORIGIN, "http://localhost:8080")];
        let foreign = [(header::HOST, "localhost:8080"), (header::ORIGIN, "http://evil.example")];
        let null = [(header::HOST, "localhost:8080"), (header::ORIGIN, "null")];
        let with_token = [(header::HOST, "localhost:8080"), (header::AUTHORIZATION, "bearer abc")];
        let loopback = guard("127.0.0.1:8080", None);
        assert!(allows(&loopback, local, &own));
        for headers in [&foreign, &null, &with_token] {
            assert!(!allows(&loopback, local, headers), "{headers:?}");
        }
        assert!(!allows(&loopback, local, &own[..1]), "a script that is not the page");
        assert!(!allows(&loopback, "10.0.0.1:5".parse().unwrap(), &own));
        let open = guard("0.0.0.0:8080", Some("abc"));
        assert!(!allows(&open, local, &own), "others may have the page, too");
        assert!(allows(&open, local, &with_token));
        assert!(!allows(&guard("0.0.0.0:8080", Some("abd")), local, &with_token));
        assert!(!allows(&guard("0.0.0.0:8080", Some("")), local, &with_token));
    }
}
