//! When the service manager's watchdog is fed, on a clock that jumps to the next thing that is due.

use tokio::sync::{mpsc, watch};

use super::*;

/// Longer than any pause in what is tested.
const LONG: Duration = Duration::from_secs(600);

#[tokio::test(start_paused = true)]
async fn an_engine_that_does_not_answer_ends_the_feeding() {
    let (commands, requests) = mpsc::channel(4);
    let (_status, status) = watch::channel(crate::dbus::testing::status());
    let (_idle, idle) = watch::channel(true);
    let engine = Handle { commands, status, idle };
    let notifier = Notifier::from_env();
    let feeding = feed_watchdog(&engine, &notifier, Some(Duration::from_secs(60)));
    tokio::time::timeout(LONG, feeding).await.expect("it goes on feeding for an engine that hangs");
    drop(requests);
}

/// Flash that takes a minute for a write holds the engine's loop, and is no reason to end it.
#[tokio::test(start_paused = true)]
async fn an_engine_that_is_slow_is_fed_in_time() {
    let (commands, mut requests) = mpsc::channel::<(Command, tokio::sync::oneshot::Sender<engine::Reply>)>(4);
    let (_status, status) = watch::channel(crate::dbus::testing::status());
    let (_idle, idle) = watch::channel(true);
    let engine = Handle { commands, status, idle };
    tokio::spawn(async move {
        while let Some((_, reply)) = requests.recv().await {
            tokio::time::sleep(Duration::from_secs(70)).await;
            let _ = reply.send(engine::Reply::History(Vec::new()));
        }
    });
    let notifier = Notifier::from_env();
    let feeding = feed_watchdog(&engine, &notifier, Some(Duration::from_secs(60)));
    assert!(tokio::time::timeout(LONG, feeding).await.is_err(), "given up after less than the service manager waits");
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_answers_is_fed_for_as_long_as_it_does() {
    let engine = crate::dbus::testing::PaperEngine::start();
    let notifier = Notifier::from_env();
    let feeding = feed_watchdog(&engine.handle, &notifier, Some(Duration::from_secs(60)));
    assert!(tokio::time::timeout(LONG, feeding).await.is_err(), "an engine that answers was given up");
}

#[tokio::test(start_paused = true)]
async fn without_a_watchdog_nothing_is_fed_and_nothing_ends() {
    let engine = crate::dbus::testing::PaperEngine::start();
    let notifier = Notifier::from_env();
    let feeding = feed_watchdog(&engine.handle, &notifier, None);
    assert!(tokio::time::timeout(LONG, feeding).await.is_err());
}
