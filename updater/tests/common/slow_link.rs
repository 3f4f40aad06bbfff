//! A long line in front of a server: latency, the slow start of each connection, and a shared capacity.
//!
//! For machines whose kernel has no netem. Models what makes small requests expensive: a connection costs a round trip,
//! an answer comes half of one later, and a connection begins with ten segments per round trip and doubles.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// First window of a connection: ten segments (RFC 6928).
const FIRST_WINDOW: usize = 14_600;

/// The line.
#[derive(Clone)]
pub struct Line {
    pub round_trip: Duration,
    pub bytes_per_second: f64,
    /// When the shared line is free again.
    free: Arc<Mutex<Instant>>,
}

/// Puts a line before `server`; gives the address of its near end.
pub fn before(server: SocketAddr, round_trip: Duration, bytes_per_second: f64) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let line = Line { round_trip, bytes_per_second, free: Arc::new(Mutex::new(Instant::now())) };
    thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let far = TcpStream::connect(server).unwrap();
            for stream in [&near, &far] {
                stream.set_nodelay(true).unwrap();
            }
            let (line_up, up) = (line.clone(), (near.try_clone().unwrap(), far.try_clone().unwrap()));
            // The handshake took a round trip before the first byte went out.
            thread::spawn(move || forward(up.0, up.1, &line_up, line_up.round_trip));
            let line = line.clone();
            thread::spawn(move || forward(far, near, &line, Duration::ZERO));
        }
    });
    address
}

fn forward(mut from: TcpStream, mut to: TcpStream, line: &Line, late: Duration) {
    let (sender, pieces) = mpsc::channel::<(Instant, Vec<u8>)>();
    let delivery = thread::spawn(move || {
        for (due, piece) in pieces {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&piece).is_err() {
                return;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
    let born = Instant::now();
    let (mut window, mut left, mut next) = (FIRST_WINDOW, FIRST_WINDOW, Instant::now() + line.round_trip);
    let mut buffer = vec![0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let mut piece = &buffer[..count];
        while !piece.is_empty() {
            if left == 0 {
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            if Instant::now() >= next {
                (window, next) = (window * 2, Instant::now() + line.round_trip);
                left = window;
            }
            let (now, rest) = piece.split_at(piece.len().min(left));
            left -= now.len();
            piece = rest;
            let sent = {
                let mut free = line.free.lock().unwrap();
                let spent = Duration::from_secs_f64(now.len() as f64 / line.bytes_per_second);
                *free = (*free).max(Instant::now()) + spent;
                *free
            };
            let due = (sent + line.round_trip / 2).max(born + late + line.round_trip / 2);
            if sender.send((due, now.to_vec())).is_err() {
                return;
            }
        }
    }
    drop(sender);
    let _ = delivery.join();
}
