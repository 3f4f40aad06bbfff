//! `bundle-tool serve`: a small static HTTP server for trying things out. Not for the Internet.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result};

mod connection;
mod request;

const EXAMPLE: &str = "Example:
  bundle-tool serve --root /srv/updates --listen 127.0.0.1:8000

Ranges, ETag, If-None-Match and If-Range as devices use them. For trying things out: in production any web
server or object store does.";

/// Threads at once: each connection has one.
const MAX_CONNECTIONS: usize = 64;

/// Serve a folder over HTTP, with ranges and ETags
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// Folder to serve
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    /// Address and port; port 0 takes a free one and prints it
    #[arg(long, default_value = "127.0.0.1:8000", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Do not print requests
    #[arg(long, short)]
    quiet: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let root = std::fs::canonicalize(&args.root).with_context(|| format!("folder {}", args.root.display()))?;
    let listener = TcpListener::bind(args.listen).with_context(|| format!("listening on {}", args.listen))?;
    println!("serving {} on http://{}", root.display(), listener.local_addr()?);
    if !args.listen.ip().is_loopback() {
        eprintln!("warning: everybody who reaches {} can read this folder", args.listen.ip());
    }
    serve(&listener, Arc::new(root), !args.quiet);
    Ok(())
}

fn serve(listener: &TcpListener, root: Arc<PathBuf>, log: bool) {
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        // Dropped at once when there are too many: a client that tries again is better than a thread each.
        if open.fetch_add(1, Ordering::AcqRel) >= MAX_CONNECTIONS {
            open.fetch_sub(1, Ordering::AcqRel);
            continue;
        }
        let (root, open) = (Arc::clone(&root), Arc::clone(&open));
        std::thread::spawn(move || {
            // A client that hangs up is no news.
            let _ = connection::handle(stream, &root, log);
            open.fetch_sub(1, Ordering::AcqRel);
        });
    }
}

#[cfg(test)]
mod tests;
