//! Where a bundle or document is: a web address, a local file, or a pipe.

use std::fmt;
use std::path::PathBuf;

use reqwest::Url;

use super::error::FetchError;

/// A place to fetch from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// `http://…` or `https://…`.
    Web(Url),
    /// `file:///…` or a plain path; a pipe or device, too.
    File(PathBuf),
    /// `-`: standard input.
    Stdin,
}

impl Location {
    /// Reads what an operator, a config or a channel index says.
    ///
    /// # Errors
    /// [`FetchError::Address`] for other schemes, relative paths and addresses that carry a user name or password
    /// (they end in logs).
    pub fn parse(text: &str) -> Result<Self, FetchError> {
        let refuse = || FetchError::Address(text.to_owned());
        if text == "-" {
            return Ok(Self::Stdin);
        }
        if text.starts_with('/') {
            return Ok(Self::File(text.into()));
        }
        let url = Url::parse(text).map_err(|_| refuse())?;
        match url.scheme() {
            "http" | "https" if url.username().is_empty() && url.password().is_none() => Ok(Self::Web(url)),
            "file" => url.to_file_path().map(Self::File).map_err(|()| refuse()),
            _ => Err(refuse()),
        }
    }

    /// A place named in a document that came from `base`: relative ones are below its folder.
    ///
    /// # Errors
    /// As [`Location::parse`]; also when a document from the web names a local file.
    pub fn join(base: &str, relative: &str) -> Result<Self, FetchError> {
        let refuse = || FetchError::Address(relative.to_owned());
        let mut folder = match Self::parse(base)? {
            Self::Web(url) => url,
            Self::File(path) => Url::from_file_path(path).map_err(|()| refuse())?,
            Self::Stdin => return Err(refuse()),
        };
        if !folder.path().ends_with('/') {
            let path = format!("{}/", folder.path());
            folder.set_path(&path);
        }
        let joined = folder.join(relative).map_err(|_| refuse())?;
        // A signed document may name mirrors anywhere on the web, but not files of the device.
        if joined.scheme() == "file" && folder.scheme() != "file" {
            return Err(refuse());
        }
        Self::parse(joined.as_str())
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Web(url) => write!(f, "{url}"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Stdin => f.write_str("standard input"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Location;

    #[test]
    fn places() {
        for (text, shown) in [
            ("http://h:8000/x", "http://h:8000/x"),
            ("file:///srv/x.bundle", "/srv/x.bundle"),
            ("/srv/x.bundle", "/srv/x.bundle"),
            ("-", "standard input"),
        ] {
            assert_eq!(Location::parse(text).unwrap().to_string(), shown);
        }
        for bad in ["ftp://h/x", "x.bundle", "", "https://me:secret@h/x"] {
            Location::parse(bad).unwrap_err();
        }
    }

    #[test]
    fn relative_to_the_web_root() {
        let join = |base: &str, relative: &str| Location::join(base, relative).map(|l| l.to_string()).ok();
        assert_eq!(join("http://h/root", "bundles/x.bundle").as_deref(), Some("http://h/root/bundles/x.bundle"));
        assert_eq!(join("http://h/root/", "https://cdn/x").as_deref(), Some("https://cdn/x"));
        assert_eq!(join("/srv/www", "bundles/x").as_deref(), Some("/srv/www/bundles/x"));
        assert_eq!(join("https://h/", "file:///etc/shadow"), None);
        assert_eq!(join("-", "x"), None);
    }
}
