use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Mutex;

use bundle::dsse;
use bundle::keys::{KeySet, PublicKey};
use updater_core::history::{Outcome, OutcomeKind};

use super::*;
use crate::http::Settings;
use crate::seams::ReportSpool as _;

/// A fleet host that answers with these statuses in turn and keeps the bodies.
struct Host {
    url: Url,
    bodies: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Host {
    fn answering(statuses: &'static [u16]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/reports", listener.local_addr().unwrap()).parse().unwrap();
        let bodies = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&bodies);
        std::thread::spawn(move || {
            for status in statuses {
                let (stream, _) = listener.accept().unwrap();
                let mut reader = BufReader::new(stream);
                let mut length = 0;
                loop {
                    let mut line = String::new();
                    reader.read_line(&mut line).unwrap();
                    let lower = line.to_ascii_lowercase();
                    if let Some(value) = lower.strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                    if line.trim().is_empty() {
                        break;
                    }
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                kept.lock().unwrap().push(body);
                let head =
                    format!("HTTP/1.1 {status} x\r\nretry-after: 7\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                reader.get_mut().write_all(head.as_bytes()).unwrap();
            }
        });
        Self { url, bodies }
    }
}

fn report(sequence: u64) -> Report {
    let outcome = Outcome {
        at: "2026-01-01T00:00:00Z".parse().unwrap(),
        clock_trusted: true,
        kind: OutcomeKind::Healthy,
        release: None,
        from: None,
        slot: None,
        reason: None,
        detail: String::new(),
        seconds: Some(90),
        approval: Some((3, 412)),
    };
    Report { sequence, outcome }
}

fn poster(folder: &Path, url: &Url) -> Poster {
    Poster {
        client: Client::new(&Settings::default()).unwrap(),
        url: url.clone(),
        spool: Arc::new(Spool::new(&folder.join("reports.jsonl"))),
        key_file: folder.join("report-key.pem"),
        device: "dev-0001".into(),
    }
}

fn opened(body: &[u8]) -> Batch {
    let unverified: Batch = serde_json::from_slice(&Envelope::parse(body).unwrap().payload).unwrap();
    let mut keys = KeySet::default();
    keys.insert(PublicKey::from_pem(&unverified.key).unwrap());
    serde_json::from_slice(&dsse::verify(body, REPORTS_TYPE, &keys, 1).unwrap().payload).unwrap()
}

#[tokio::test]
async fn what_was_not_taken_is_sent_again_and_signed_by_the_same_key() {
    let folder = tempfile::tempdir().unwrap();
    let host = Host::answering(&[503, 200, 204]);
    let posting = poster(folder.path(), &host.url);
    posting.post_all().await.unwrap();
    assert!(host.bodies.lock().unwrap().is_empty(), "nothing to say");

    posting.spool.append(&report(1)).await.unwrap();
    posting.spool.append(&report(2)).await.unwrap();
    let error = posting.post_all().await.unwrap_err();
    assert_eq!(retry_after(&error), Some(Duration::from_secs(7)));
    assert_eq!(posting.spool.oldest(9).unwrap().len(), 2, "kept");

    posting.post_all().await.unwrap();
    assert!(posting.spool.oldest(9).unwrap().is_empty());
    // Another process: the same key.
    let posting = poster(folder.path(), &host.url);
    posting.spool.append(&report(3)).await.unwrap();
    posting.post_all().await.unwrap();

    let batches: Vec<Batch> = host.bodies.lock().unwrap().iter().map(|body| opened(body)).collect();
    assert_eq!(batches[0], batches[1]);
    assert_eq!(batches[0].reports, [report(1), report(2)]);
    assert_eq!(batches[2].reports, [report(3)]);
    assert_eq!((&batches[2].key, &batches[2].device), (&batches[0].key, &"dev-0001".to_owned()));
    let mode = fs::metadata(folder.path().join("report-key.pem")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_host_that_is_away_costs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let posting = poster(folder.path(), &format!("http://{nobody}/").parse().unwrap());
    posting.spool.append(&report(1)).await.unwrap();
    assert!(posting.post_all().await.is_err());
    assert_eq!(posting.spool.oldest(9).unwrap(), [report(1)]);
}

#[tokio::test]
async fn a_long_absence_is_told_in_batches() {
    let folder = tempfile::tempdir().unwrap();
    let host = Host::answering(&[200, 200, 200]);
    let posting = poster(folder.path(), &host.url);
    for sequence in 0..70 {
        posting.spool.append(&report(sequence)).await.unwrap();
    }
    posting.post_all().await.unwrap();
    let sizes: Vec<usize> = host.bodies.lock().unwrap().iter().map(|body| opened(body).reports.len()).collect();
    assert_eq!(sizes, [32, 32, 6]);
}
