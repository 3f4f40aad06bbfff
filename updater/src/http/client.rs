//! The HTTP client: reqwest over rustls with ring, with the limits that reqwest leaves to us.
//!
//! reqwest has no time-out for connecting or for a body unless told, and a server that sends one byte a second
//! defeats an idle time-out: so there are three limits here, and each has a test against a server that breaks it.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url, redirect};

use super::bearer::Bearer;
use super::body::{Body, Limits};
use super::error::FetchError;
use super::throttle::Throttle;

/// Redirects followed for one request; the field's usual is one or two.
const MAX_REDIRECTS: usize = 5;

/// How to talk to servers.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Time to get a connection, TLS included.
    pub connect_timeout: Duration,
    /// Longest silence while waiting for an answer or in the middle of one.
    pub idle_timeout: Duration,
    /// Below this many bytes per second (averaged over `rate_window`) a transfer is given up and resumed elsewhere.
    pub min_bytes_per_second: u64,
    /// The time over which the rate is averaged.
    pub rate_window: Duration,
    /// Bytes per second that all transfers together keep below; none: as fast as it goes.
    pub max_bytes_per_second: Option<u64>,
    /// PEM file with the only certificate authorities to trust; none: those of the system.
    pub ca_file: Option<PathBuf>,
    /// PEM file with a client certificate and its key.
    pub identity_file: Option<PathBuf>,
    /// Proxy for all requests, `http://host:port`; none: no proxy, whatever the environment says.
    pub proxy: Option<String>,
    /// Token for the `Authorization` header of requests to its own server.
    pub bearer: Option<Bearer>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(20),
            // A satellite link pauses for seconds, an LTE address change for good: a minute tells them apart.
            idle_timeout: Duration::from_secs(60),
            min_bytes_per_second: 512,
            rate_window: Duration::from_secs(60),
            max_bytes_per_second: None,
            ca_file: None,
            identity_file: None,
            proxy: None,
            bearer: None,
        }
    }
}

/// A client with its limits. Cheap to clone; connections are shared and kept.
#[derive(Debug, Clone)]
pub struct Client {
    /// None: only local files.
    inner: Option<reqwest::Client>,
    /// What is wrong with the settings; nothing goes over `https` then.
    broken: Option<String>,
    bearer: Option<Bearer>,
    limits: Limits,
    throttle: Option<Arc<Throttle>>,
}

impl Client {
    /// Sets the client up.
    ///
    /// Without a CA file and without any certificate authority on the system, `https` fails but `http` and files
    /// work: a device in a closed network must still get its update.
    ///
    /// # Errors
    /// [`FetchError::Setup`]: a file can not be read or does not hold what it should.
    pub fn new(settings: &Settings) -> Result<Self, FetchError> {
        // reqwest panics without a provider. The error means another part of the process was faster, with the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let inner = match &settings.ca_file {
            Some(path) => {
                let pem = fs::read(path).map_err(|error| setup(&format!("reading {}", path.display()), &error))?;
                let certificates =
                    reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| setup("the CA file", &error))?;
                if certificates.is_empty() {
                    return Err(FetchError::Setup(format!("{} holds no certificate", path.display())));
                }
                builder(settings)?.tls_certs_only(certificates).build()
            }
            None => builder(settings)?.build().or_else(|error| {
                tracing::warn!(%error, "no certificate authorities on this system: https will fail");
                builder(settings).map_or(Err(error), |builder| builder.tls_certs_only([]).build())
            }),
        };
        let inner = inner.map_err(|error| setup("building the client", &error))?;
        Ok(Self::of(Some(inner), settings, None))
    }

    /// A client for settings that can not be used, because of `why`: it fails closed. Nothing goes over `https`, where it
    /// would believe other authorities than the configured ones or not show who it is, and nothing past a proxy that is
    /// configured. Time-outs and rate limit hold. Local files, and `http` where it is reached as configured, still bring
    /// what repairs the settings.
    #[must_use]
    pub fn closed(settings: &Settings, why: &FetchError) -> Self {
        let usable = Settings { ca_file: None, identity_file: None, ..settings.clone() };
        let inner = builder(&usable).ok().and_then(|builder| builder.tls_certs_only([]).build().ok());
        Self::of(inner, settings, Some(why.to_string()))
    }

    fn of(inner: Option<reqwest::Client>, settings: &Settings, broken: Option<String>) -> Self {
        let limits =
            Limits { idle: settings.idle_timeout, floor: settings.min_bytes_per_second, window: settings.rate_window };
        let throttle = settings.max_bytes_per_second.map(|rate| Arc::new(Throttle::new(rate)));
        Self { inner, broken, bearer: settings.bearer.clone(), limits, throttle }
    }

    /// Hands `body` to `url`; any successful status will do, and what the answer says does not matter.
    ///
    /// # Errors
    /// [`FetchError`]: no answer in time, an error status or a refused redirect.
    pub async fn post(&self, url: &Url, kind: &'static str, body: Vec<u8>) -> Result<(), FetchError> {
        let host = url.host_str().unwrap_or_default().to_owned();
        let request = self.request(Method::POST, url)?.header(CONTENT_TYPE, kind).body(body).send();
        check_status(&host, &self.answer(&host, request).await?)
    }

    /// Asks for `url` with extra headers and gives the answer's head and body, whatever the successful status.
    ///
    /// # Errors
    /// [`FetchError`]: no answer in time, an error status, a refused redirect, or a web page.
    pub async fn get(&self, url: &Url, headers: HeaderMap) -> Result<(Head, Body), FetchError> {
        let host = url.host_str().unwrap_or_default().to_owned();
        let request = self.request(Method::GET, url)?.headers(headers).send();
        let response = self.answer(&host, request).await?;
        check_status(&host, &response)?;
        let head = Head { status: response.status(), headers: response.headers().clone() };
        let body = Body::new(host, response, self.limits, self.throttle.clone());
        Ok((head, body))
    }

    fn request(&self, method: Method, url: &Url) -> Result<RequestBuilder, FetchError> {
        let refused = || FetchError::Unusable(self.broken.clone().unwrap_or_default());
        let usable = self.broken.is_none() || url.scheme() != "https";
        let inner = self.inner.as_ref().filter(|_| usable).ok_or_else(refused)?;
        let request = inner.request(method, url.clone());
        Ok(match self.bearer.as_ref().and_then(|bearer| bearer.header_for(url)) {
            Some(token) => request.header(AUTHORIZATION, token),
            None => request,
        })
    }

    async fn answer(
        &self,
        host: &str,
        request: impl Future<Output = reqwest::Result<Response>>,
    ) -> Result<Response, FetchError> {
        let host = host.to_owned();
        match tokio::time::timeout(self.limits.idle, request).await {
            Err(_) => Err(FetchError::Stalled { host, seconds: self.limits.idle.as_secs() }),
            Ok(Err(error)) if error.is_redirect() => Err(FetchError::Redirect(innermost(&error))),
            Ok(Err(source)) => Err(FetchError::Connect { host, source: source.without_url() }),
            Ok(Ok(response)) => Ok(response),
        }
    }
}

/// The head of an answer.
#[derive(Debug)]
pub struct Head {
    /// Status, always a success.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
}

fn setup(what: &str, error: &dyn std::error::Error) -> FetchError {
    FetchError::Setup(format!("{what}: {error}"))
}

/// The last error of the chain: reqwest wraps the text of a redirect policy several times.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

fn builder(settings: &Settings) -> Result<reqwest::ClientBuilder, FetchError> {
    let mut headers = HeaderMap::new();
    // A bundle is compressed already, and ranges count bytes as stored.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("flipside/", env!("CARGO_PKG_VERSION")))
        .default_headers(headers)
        .connect_timeout(settings.connect_timeout)
        .read_timeout(settings.idle_timeout)
        .pool_idle_timeout(Duration::from_secs(30))
        .redirect(redirect::Policy::custom(follow))
        .referer(false);
    builder = match &settings.proxy {
        Some(proxy) => builder.proxy(reqwest::Proxy::all(proxy).map_err(|error| setup("the proxy", &error))?),
        None => builder.no_proxy(),
    };
    if let Some(path) = &settings.identity_file {
        let pem = fs::read(path).map_err(|error| setup(&format!("reading {}", path.display()), &error))?;
        builder = builder
            .identity(reqwest::Identity::from_pem(&pem).map_err(|error| setup("the client certificate", &error))?);
    }
    Ok(builder)
}

/// Follows a redirect unless it leaves https or is one too many. reqwest itself drops `Authorization` when the host
/// or port changes.
fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    match refusal(attempt.previous(), attempt.url()) {
        Some(why) => attempt.error(why),
        None => attempt.follow(),
    }
}

/// Why a redirect is not followed.
fn refusal(previous: &[Url], next: &Url) -> Option<&'static str> {
    if previous.len() > MAX_REDIRECTS {
        return Some("too many");
    }
    let from_https = previous.last().is_some_and(|url| url.scheme() == "https");
    (from_https && next.scheme() != "https").then_some("it leaves https")
}

/// A success that is what it seems to be.
fn check_status(host: &str, response: &Response) -> Result<(), FetchError> {
    let status = response.status();
    if !status.is_success() {
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| retry_after(value.to_str().ok()?));
        return Err(FetchError::Status { host: host.to_owned(), status: status.as_u16(), retry_after });
    }
    // Nothing we ever ask for is a web page, so this is a portal or somebody's friendly error page with a 200.
    let html = |value: &HeaderValue| value.as_bytes().to_ascii_lowercase().starts_with(b"text/html");
    if response.headers().get(CONTENT_TYPE).is_some_and(html) {
        return Err(FetchError::Portal { host: host.to_owned() });
    }
    Ok(())
}

/// `Retry-After`: seconds, or a date (RFC 9110, 10.2.3). A date in the past is zero.
fn retry_after(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text.trim()).ok()?;
    let seconds = date.timestamp().as_second() - jiff::Timestamp::now().as_second();
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_never_leave_https_and_end() {
        let url = |text: &str| Url::parse(text).unwrap();
        let (plain, secure) = (url("http://h/x"), url("https://h/x"));
        let after = |url: &Url, hops: usize| vec![url.clone(); hops];
        assert_eq!(refusal(&after(&plain, 1), &secure), None);
        assert_eq!(refusal(&after(&plain, 1), &plain), None);
        assert_eq!(refusal(&after(&secure, 1), &secure), None);
        assert_eq!(refusal(&after(&secure, 1), &plain), Some("it leaves https"));
        assert_eq!(refusal(&after(&secure, MAX_REDIRECTS), &secure), None);
        assert_eq!(refusal(&after(&secure, MAX_REDIRECTS + 1), &secure), Some("too many"));
    }

    #[tokio::test]
    async fn settings_that_can_not_be_used_close_what_depends_on_them() {
        let folder = tempfile::tempdir().unwrap();
        let junk = folder.path().join("junk.pem");
        fs::write(&junk, "no certificate").unwrap();
        let limited = || Settings { max_bytes_per_second: Some(1000), ..Settings::default() };
        let open = |scheme: &str| Url::parse(&format!("{scheme}://127.0.0.1:1/x")).unwrap();
        for (settings, http_too) in [
            (Settings { ca_file: Some("/nonexistent".into()), ..limited() }, false),
            (Settings { ca_file: Some(junk.clone()), ..limited() }, false),
            (Settings { identity_file: Some(junk.clone()), ..limited() }, false),
            (Settings { proxy: Some("no address".into()), ..limited() }, true),
        ] {
            let client = Client::closed(&settings, &Client::new(&settings).unwrap_err());
            assert!(client.throttle.is_some(), "{settings:?}");
            let error = client.get(&open("https"), HeaderMap::new()).await.unwrap_err();
            assert!(matches!(error, FetchError::Unusable(_)), "{settings:?}: {error:?}");
            let error = client.get(&open("http"), HeaderMap::new()).await.unwrap_err();
            assert_eq!(matches!(error, FetchError::Unusable(_)), http_too, "{settings:?}: {error:?}");
        }
    }

    #[test]
    fn retry_after_in_seconds_and_as_a_date() {
        assert_eq!(retry_after("120"), Some(Duration::from_secs(120)));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert!(retry_after("Fri, 31 Dec 2100 23:59:59 GMT").unwrap() > Duration::from_secs(86_400));
        assert_eq!(retry_after("soon"), None);
    }
}
