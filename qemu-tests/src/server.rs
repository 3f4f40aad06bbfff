//! A file server for releases that can be told to misbehave, counts what it sent, and takes reports.
//!
//! HTTP/1.1 with single ranges and ETags, a thread per connection, on the loopback interface only (a guest with user
//! networking reaches it at 10.0.2.2). Our own, because the point of it is to be a bad server in exact ways.

mod connection;
pub mod fault;
mod reports;
mod request;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use connection::Connection;
use fault::Rule;
use reports::Reports;

/// How often waiting threads look whether the server was stopped.
const TICK: Duration = Duration::from_millis(20);

/// What was asked of one path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Requests, bad answers included.
    pub requests: u64,
    /// Body bytes handed to the kernel.
    pub bytes: u64,
}

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    rules: Mutex<Vec<Rule>>,
    counts: Mutex<BTreeMap<String, Count>>,
    reports: Mutex<Reports>,
    /// Ends every connection and the listener.
    stop: AtomicBool,
    /// Raised with every response under [`fault::Fault::NewEtag`].
    etag_salt: AtomicU64,
}

/// The server; it ends with the value.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
    listener: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves the files under `root` on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// No port to be had.
    pub fn start(root: &Path) -> Result<Self> {
        Self::start_at(root, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
    }

    fn start_at(root: &Path, address: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            root: root.to_owned(),
            rules: Mutex::default(),
            counts: Mutex::default(),
            reports: Mutex::default(),
            stop: AtomicBool::new(false),
            etag_salt: AtomicU64::new(0),
        });
        let listener = Some(spawn_listener(listener, Arc::clone(&shared))?);
        Ok(Self { shared, address, listener })
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Its base URL as a guest with user networking sees it.
    #[must_use]
    pub fn guest_url(&self) -> String {
        format!("http://10.0.2.2:{}", self.port())
    }

    /// Adds a fault. The first rule that matches a path decides.
    pub fn add_fault(&self, rule: Rule) {
        lock(&self.shared.rules).push(rule);
    }

    /// Is good again, for new requests.
    pub fn clear_faults(&self) {
        lock(&self.shared.rules).clear();
    }

    /// Vanishes: connections break, new ones are refused.
    pub fn vanish(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.listener.take() {
            let _ = thread.join();
        }
    }

    /// Comes back at the same address.
    ///
    /// # Errors
    /// The port was taken by somebody else.
    pub fn come_back(&mut self) -> Result<()> {
        if self.listener.is_some() {
            return Ok(());
        }
        let again = Self::start_at(&self.shared.root, self.address)?;
        *lock(&again.shared.rules) = lock(&self.shared.rules).clone();
        *lock(&again.shared.counts) = lock(&self.shared.counts).clone();
        *lock(&again.shared.reports) = lock(&self.shared.reports).clone();
        *self = again;
        Ok(())
    }

    /// What was asked and sent, over all paths matching `pattern`.
    #[must_use]
    pub fn count(&self, pattern: &str) -> Count {
        let counts = lock(&self.shared.counts);
        counts.iter().filter(|(path, _)| fault::glob(pattern, path)).fold(Count::default(), |sum, (_, c)| Count {
            requests: sum.requests + c.requests,
            bytes: sum.bytes + c.bytes,
        })
    }

    /// Bytes of the files that are there under a path pattern.
    ///
    /// # Errors
    /// The tree can not be read.
    pub fn size(&self, pattern: &str) -> Result<u64> {
        let (mut folders, mut bytes) = (vec![self.shared.root.clone()], 0);
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder)? {
                let (path, meta) = entry.and_then(|e| Ok((e.path(), e.metadata()?)))?;
                let served = format!("/{}", path.strip_prefix(&self.shared.root)?.display());
                if meta.is_dir() {
                    folders.push(path);
                } else if fault::glob(pattern, &served) {
                    bytes += meta.len();
                }
            }
        }
        Ok(bytes)
    }

    /// What a device, or any, has posted to `/reports`, in the order it came; only what was rightly signed.
    #[must_use]
    pub fn reports(&self, device: Option<&str>) -> Vec<Value> {
        lock(&self.shared.reports).of(device)
    }

    /// What was asked and sent, by path.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<String, Count> {
        lock(&self.shared.counts).clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.vanish();
    }
}

/// A thread that panicked leaves valid data behind here: every change is one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn spawn_listener(listener: TcpListener, shared: Arc<Shared>) -> Result<JoinHandle<()>> {
    let accept = move || {
        let mut connections: Vec<JoinHandle<()>> = Vec::new();
        while !shared.stop.load(Ordering::SeqCst) {
            match listener.accept() {
                Ok((stream, _)) => {
                    let shared = Arc::clone(&shared);
                    connections.push(thread::spawn(move || Connection { stream, shared }.serve()));
                    connections.retain(|c| !c.is_finished());
                }
                Err(_) => thread::sleep(TICK),
            }
        }
        for connection in connections {
            let _ = connection.join();
        }
    };
    Ok(thread::Builder::new().name("server".into()).spawn(accept)?)
}

#[cfg(test)]
mod tests;
