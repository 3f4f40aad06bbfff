//! A bearer token and the only server that may see it. Pure.
//!
//! Addresses come from many hands: approvals name mirrors, operators type addresses, outcomes go to a fleet host. A
//! token shown to one of them is that server's to use against the update server.

use reqwest::Url;
use reqwest::header::HeaderValue;

use super::error::FetchError;

/// The token of the update server.
#[derive(Debug, Clone)]
pub struct Bearer {
    /// Marked as sensitive, so that no log shows it.
    header: HeaderValue,
    home: Url,
}

impl Bearer {
    /// `token` for the server of `home`: its scheme, host and port.
    ///
    /// # Errors
    /// [`FetchError::Setup`]: the token holds what no header may hold.
    pub fn new(token: &str, home: Url) -> Result<Self, FetchError> {
        let mut header = HeaderValue::from_str(&format!("Bearer {}", token.trim()))
            .map_err(|error| FetchError::Setup(format!("the token: {error}")))?;
        header.set_sensitive(true);
        Ok(Self { header, home })
    }

    /// The header for a request to `url`; none for any other server. The scheme counts too, so that the token of an
    /// `https` server never crosses a line in the clear.
    #[must_use]
    pub fn header_for(&self, url: &Url) -> Option<HeaderValue> {
        (url.origin() == self.home.origin()).then(|| self.header.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_scheme_host_and_port_of_its_server_get_the_token() {
        let url = |text: &str| Url::parse(text).unwrap();
        let bearer = Bearer::new(" secret\n", url("https://updates.example/flipside")).unwrap();
        for ours in ["https://updates.example/x", "https://updates.example:443/flipside/y", "https://UPDATES.example/"]
        {
            assert_eq!(bearer.header_for(&url(ours)).unwrap(), "Bearer secret", "{ours}");
        }
        for foreign in [
            "http://updates.example/flipside/x",
            "https://updates.example:8443/flipside/x",
            "https://cdn.updates.example/x",
            "https://updates.example.evil/x",
        ] {
            assert_eq!(bearer.header_for(&url(foreign)), None, "{foreign}");
        }
        assert!(!format!("{bearer:?}").contains("secret"));
        Bearer::new("two\nlines", url("https://h/")).unwrap_err();
    }
}
