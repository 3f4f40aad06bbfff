//! What goes wrong between here and a server, and whether trying again can help.

use std::time::Duration;

use bundle::reason::Reason;

/// Why a fetch failed. The variant is what was being done or what came back.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The HTTP client could not be set up from the configuration.
    #[error("setting up HTTP: {0}")]
    Setup(String),
    /// What is configured for the update server can not be used, so that nobody is asked.
    #[error("nothing is fetched, because the settings of the update server can not be used: {0}")]
    Unusable(String),
    /// Not an address this updater can fetch from.
    #[error("{0} is no http, https or file address")]
    Address(String),
    /// No connection, or it broke.
    #[error("talking to {host}")]
    Connect {
        /// Host of the server.
        host: String,
        /// The library's word for it.
        #[source]
        source: reqwest::Error,
    },
    /// Connected, then silence.
    #[error("nothing came from {host} for {seconds} s")]
    Stalled {
        /// Host of the server.
        host: String,
        /// The limit, seconds.
        seconds: u64,
    },
    /// Bytes came, but too few to ever finish.
    #[error("{host} sends less than {floor} bytes per second")]
    TooSlow {
        /// Host of the server.
        host: String,
        /// The floor, bytes per second.
        floor: u64,
    },
    /// The server answered with an error status.
    #[error("{host} answered {status}")]
    Status {
        /// Host of the server.
        host: String,
        /// The HTTP status code.
        status: u16,
        /// What the server asked for in `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// Fewer bytes than announced.
    #[error("{host} ended {missing} bytes early")]
    Truncated {
        /// Host of the server.
        host: String,
        /// Bytes that did not come.
        missing: u64,
    },
    /// More bytes than a document may have.
    #[error("more than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// A web page where a document should be: somebody stands between.
    #[error("{host} answered with a web page: a captive portal?")]
    Portal {
        /// Host of the server.
        host: String,
    },
    /// The file was exchanged between two requests.
    #[error("the file on {host} changed while it was being fetched")]
    Changed {
        /// Host of the server.
        host: String,
    },
    /// Another part than asked for.
    #[error("{host} sent another range than asked for")]
    WrongRange {
        /// Host of the server.
        host: String,
    },
    /// A redirect that must not be followed.
    #[error("refusing a redirect: {0}")]
    Redirect(String),
    /// A local file or pipe.
    #[error("reading {path}")]
    File {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Somebody cancelled.
    #[error("cancelled")]
    Cancelled,
}

impl FetchError {
    /// The code for journals and people.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Setup(_) | Self::Unusable(_) | Self::Address(_) => Reason::Internal,
            // Somebody stands between us and the server: as good as no network.
            Self::Connect { .. } | Self::Stalled { .. } | Self::TooSlow { .. } | Self::Portal { .. } => Reason::Network,
            Self::Status { .. } | Self::Changed { .. } | Self::WrongRange { .. } | Self::Redirect(_) => {
                Reason::ServerError
            }
            Self::Truncated { .. } | Self::File { .. } => Reason::Truncated,
            Self::TooLarge { .. } => Reason::Malformed,
            Self::Cancelled => Reason::Cancelled,
        }
    }

    /// Whether the same request may succeed in a moment, here or on a mirror.
    #[must_use]
    pub fn transient(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::Stalled { .. }
            | Self::TooSlow { .. }
            | Self::Truncated { .. }
            | Self::Portal { .. }
            | Self::WrongRange { .. }
            | Self::Changed { .. } => true,
            // 408, 425 and 429 are the client errors that ask for another try.
            Self::Status { status, .. } => *status >= 500 || matches!(status, 408 | 425 | 429),
            _ => false,
        }
    }

    /// Whether this file can not be had from here, however long one waits.
    #[must_use]
    pub fn is_final(&self) -> bool {
        !self.transient() && !matches!(self, Self::Cancelled)
    }

    /// How long the server asked to be left alone.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}
