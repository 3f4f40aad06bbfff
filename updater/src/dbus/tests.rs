//! The service on a private bus, with an engine made of paper behind it.

use std::io::Write as _;
use std::time::Duration;

use bundle::reason::Reason;
use updater_core::effect::Refusal;
use updater_core::event::Command;
use updater_core::slot::SlotId;
use updater_core::status::{Problem, Progress, ProgressPhase, StateName};
use zbus::fdo::{IntrospectableProxy, PropertiesProxy};

use super::announce::serve;
use super::authorize::Authorizer;
use super::client::{Client, ClientError};
use super::testing::{PaperEngine, PrivateBus};
use super::{NAME, PATH};
use crate::handed::Handed;

mod authorization;

const DEADLINE: Duration = Duration::from_secs(20);

struct Setup {
    bus: PrivateBus,
    engine: PaperEngine,
    client: Client,
    service: super::announce::Service,
    handed: Handed,
}

async fn set_up(owner: u32) -> Setup {
    let bus = PrivateBus::start();
    let engine = PaperEngine::start();
    let (handed, authorizer) = (Handed::default(), Authorizer::new(owner));
    let service = serve(bus.builder(), engine.handle.clone(), authorizer, handed.clone()).await.unwrap();
    let client = Client::connect(bus.builder()).await.unwrap();
    Setup { bus, engine, client, service, handed }
}

fn me() -> u32 {
    nix::unistd::getuid().as_raw()
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("nothing happened in time")
}

/// Waits for a condition of the client's, at every change.
async fn until<F: Future<Output = bool>>(condition: impl Fn() -> F) {
    within(async {
        while !condition().await {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Whoever listens and never accepts: a bus that is stopped, or hangs.
#[tokio::test(start_paused = true)]
async fn a_bus_that_never_answers_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("bus");
    let _listening = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let address = format!("unix:path={}", socket.display());
    // The clock jumps as soon as everyone waits: nothing takes real time.
    let connecting = Client::connect(zbus::connection::Builder::address(address.as_str()));
    let result = tokio::time::timeout(Duration::from_secs(600), connecting).await.expect("it waits for ever");
    assert!(matches!(result, Err(ClientError::NoBus(_))));
}

#[tokio::test]
async fn changes_reach_the_engine_and_refusals_come_back_typed() {
    let mut s = set_up(me()).await;
    s.client.change("Check", &[]).await.unwrap();
    assert_eq!(s.engine.seen.recv().await, Some(Command::Check { by_operator: true }));
    s.client.change("Rollback", &["because"]).await.unwrap();
    assert_eq!(s.engine.seen.recv().await, Some(Command::Rollback { reason: "because".into() }));
    s.client.change("Activate", &["b"]).await.unwrap();
    assert_eq!(s.engine.seen.recv().await, Some(Command::Activate { slot: SlotId::B }));

    s.engine.refuse.send_replace(Some(Refusal { reason: Reason::BlockedAfterFallback, detail: "57 failed".into() }));
    let error = s.client.change("Reboot", &[]).await.unwrap_err();
    let ClientError::Refused { reason, detail } = error else { panic!("{error:?}") };
    assert_eq!((reason, detail.as_str()), (Reason::BlockedAfterFallback, "57 failed"));
    let error = s.client.change("Activate", &["c"]).await.unwrap_err();
    assert!(matches!(error, ClientError::Refused { reason: Reason::SlotUnknown, .. }), "{error:?}");
}

#[tokio::test]
async fn an_install_is_a_job_and_reading_goes_on_meanwhile() {
    let mut s = set_up(me()).await;
    let mut changes = s.client.changes().await.unwrap();
    s.engine.status.send_modify(|p| p.state = StateName::Writing);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"a bundle").unwrap();
    let job = s.client.install("/tmp/x.bundle", Some(file), &[("reboot", true)]).await.unwrap();
    let handed = s.handed.open("/tmp/x.bundle").unwrap().expect("the file came along");
    assert_eq!(handed.metadata().unwrap().len(), 8);
    let Some(Command::Install { source: Some(_), intent }) = s.engine.seen.recv().await else { panic!() };
    assert!(intent.stage && intent.activate && intent.reboot && !intent.force);
    assert_eq!(s.client.job_end(&job).await.unwrap(), None);

    s.engine.status.send_modify(|p| {
        p.progress = Some(Progress {
            phase: ProgressPhase::Writing,
            bytes_done: 5,
            bytes_total: 10,
            bytes_reused: 1,
            bytes_per_second: 2,
        });
    });
    within(changes.next(DEADLINE)).await;
    assert_eq!(s.client.explain().await.unwrap().0.progress.unwrap().bytes_done, 5);

    s.client.cancel(&job).await.unwrap();
    assert_eq!(s.engine.seen.recv().await, Some(Command::Cancel));
    s.engine.status.send_modify(|p| {
        p.state = StateName::Idle;
        p.last_error = Some(updater_core::status::Problem {
            reason: Reason::Cancelled,
            detail: "by an operator".into(),
            at: None,
            until: None,
        });
    });
    until(async || s.client.job_end(&job).await.unwrap().is_some()).await;
    assert_eq!(s.client.job_end(&job).await.unwrap().unwrap(), ("cancelled".into(), "by an operator".into()));
}

#[tokio::test]
async fn a_reply_is_read_however_many_changes_nobody_looked_at() {
    let s = set_up(me()).await;
    let mut changes = s.client.changes().await.unwrap();
    let nothing = (NAME, std::collections::HashMap::<&str, zbus::Variant<'_>>::new(), [""; 0]);
    // More than any queue on the way holds.
    for _ in 0..2000 {
        let told = s.service.connection().emit_signal(
            None::<()>,
            PATH,
            "org.freedesktop.DBus.Properties",
            "PropertiesChanged",
            &nothing,
        );
        told.await.unwrap();
    }
    within(s.client.explain()).await.unwrap();
    within(changes.next(DEADLINE)).await;
}

#[tokio::test]
async fn progress_alone_disturbs_nobody_who_looks_away() {
    let s = set_up(me()).await;
    let mut changes = s.client.changes().await.unwrap();
    let tell = async |names: &[&'static str]| {
        let changed = names.iter().map(|name| (*name, zbus::Variant::from("x"))).collect();
        let body: (_, std::collections::HashMap<_, _>, _) = (NAME, changed, Vec::<&str>::new());
        let (interface, member) = ("org.freedesktop.DBus.Properties", "PropertiesChanged");
        s.service.connection().emit_signal(None::<()>, PATH, interface, member, &body).await.unwrap();
    };
    tell(&["Progress", "ApprovalAge"]).await;
    within(changes.next(DEADLINE)).await;
    let short = std::time::Duration::from_millis(200);
    assert!(tokio::time::timeout(short, changes.pause(DEADLINE)).await.is_err());
    tell(&["Progress", "State"]).await;
    let began = std::time::Instant::now();
    within(changes.pause(DEADLINE)).await;
    assert!(began.elapsed() < DEADLINE / 2);
}

#[tokio::test]
async fn an_unknown_option_is_refused() {
    let mut s = set_up(me()).await;
    let error = s.client.install("", None, &[("forse", true)]).await.unwrap_err();
    assert!(matches!(error, ClientError::Refused { reason: Reason::Malformed, .. }), "{error:?}");
    assert!(s.engine.seen.try_recv().is_err());
}

#[tokio::test]
async fn only_what_changed_is_announced() {
    let s = set_up(me()).await;
    let listener = s.bus.builder().build().await.unwrap();
    let properties = PropertiesProxy::builder(&listener).destination(NAME).path(PATH).build().await.unwrap();
    let mut signals = properties.receive_properties_changed().await.unwrap();
    s.engine.status.send_modify(|p| p.state = StateName::Checking);
    let signal = within(std::future::poll_fn(|cx| {
        zbus::export::futures_core::Stream::poll_next(std::pin::Pin::new(&mut signals), cx)
    }));
    let signal = signal.await.unwrap();
    let arguments = signal.args().unwrap();
    let names: Vec<_> = arguments.changed_properties().keys().collect();
    assert_eq!(names, [&"State"]);
}

/// A bar needs a few pictures a second; each signal wakes every listener.
#[tokio::test]
async fn progress_is_announced_a_few_times_a_second_and_a_change_of_state_at_once() {
    let s = set_up(me()).await;
    let listener = s.bus.builder().build().await.unwrap();
    let properties = PropertiesProxy::builder(&listener).destination(NAME).path(PATH).build().await.unwrap();
    let mut signals = properties.receive_properties_changed().await.unwrap();
    let progress = |bytes_done| {
        let phase = ProgressPhase::Writing;
        Some(Progress { phase, bytes_done, bytes_total: 1000, bytes_reused: 0, bytes_per_second: 1 })
    };
    let began = std::time::Instant::now();
    for done in 0..200 {
        s.engine.status.send_modify(|status| status.progress = progress(done));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    s.engine.status.send_modify(|status| status.state = StateName::Verifying);
    let mut pictures = 0;
    loop {
        let next = std::future::poll_fn(|cx| {
            zbus::export::futures_core::Stream::poll_next(std::pin::Pin::new(&mut signals), cx)
        });
        let signal = within(next).await.unwrap();
        let arguments = signal.args().unwrap();
        let changed = arguments.changed_properties();
        pictures += usize::from(changed.contains_key("Progress"));
        if changed.contains_key("State") {
            break;
        }
    }
    let most = usize::try_from(began.elapsed().as_millis() / 250).unwrap() + 2;
    assert!((2..=most).contains(&pictures), "{pictures} signals, {most} at most");
}

/// The checked-in interface is the one served. `FLIPSIDE_BLESS=1` writes the file anew.
#[tokio::test]
async fn the_introspection_is_the_checked_in_one() {
    let mut s = set_up(me()).await;
    s.engine.status.send_modify(|p| p.state = StateName::Writing);
    let job = s.client.install("", None, &[]).await.unwrap();
    let _ = s.engine.seen.recv().await;
    let listener = s.bus.builder().build().await.unwrap();
    let mut served = "<!DOCTYPE node PUBLIC \"-//freedesktop//DTD D-BUS Object Introspection 1.0//EN\"\n \
         \"http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd\">\n<node>\n"
        .to_owned();
    for (path, interface) in [(PATH, NAME.to_owned()), (job.as_str(), format!("{NAME}.Job"))] {
        let node = IntrospectableProxy::builder(&listener).destination(NAME).path(path).build().await.unwrap();
        let xml = node.introspect().await.unwrap();
        let from = xml.find(&format!("  <interface name=\"{interface}\">")).unwrap();
        let to = from + xml[from..].find("</interface>\n").unwrap() + "</interface>\n".len();
        served.push_str(&xml[from..to]);
    }
    served.push_str("</node>\n");
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../systemd/usr/share/dbus-1/interfaces/org.flipside.Updater1.xml");
    if std::env::var_os("FLIPSIDE_BLESS").is_some() {
        std::fs::write(file, &served).unwrap();
    }
    let checked_in = std::fs::read_to_string(file).unwrap_or_default();
    assert_eq!(served, checked_in, "the interface changed: see {file}");
}

#[tokio::test]
async fn a_name_that_is_taken_is_an_error() {
    let s = set_up(me()).await;
    let other = PaperEngine::start();
    let again = serve(s.bus.builder(), other.handle.clone(), Authorizer::new(me()), Handed::default()).await;
    assert!(again.is_err());
}

#[tokio::test]
async fn leaving_gives_the_name_back() {
    let bus = PrivateBus::start();
    let engine = PaperEngine::start();
    let service = serve(bus.builder(), engine.handle.clone(), Authorizer::new(me()), Handed::default()).await.unwrap();
    within(service.quiet(Duration::from_millis(50))).await;
    within(service.leave()).await;
    let again = serve(bus.builder(), engine.handle.clone(), Authorizer::new(me()), Handed::default()).await;
    assert!(again.is_ok());
}

/// systemd's manager, as far as health asks it.
struct PaperSystemd;

#[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
impl PaperSystemd {
    fn list_jobs(&self) -> Vec<(u32, String, String, String, zbus::OwnedObjectPath, zbus::OwnedObjectPath)> {
        let path = || zbus::OwnedObjectPath::try_from("/x").unwrap();
        vec![(1, "app.service".into(), "start".into(), "running".into(), path(), path())]
    }
}

/// Without a bus systemd is asked over its own socket, which speaks the same without a bus daemon's names.
#[tokio::test]
async fn systemd_answers_without_a_bus() {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let server = zbus::connection::Builder::unix_stream(theirs)
        .server(zbus::Guid::generate())
        .p2p()
        .serve_at("/org/freedesktop/systemd1", PaperSystemd)
        .build();
    let client = super::Bus::connect(zbus::connection::Builder::unix_stream(ours).p2p());
    let (server, bus) = tokio::join!(server, client);
    let (_server, bus) = (server.unwrap(), bus.unwrap());
    assert_eq!(bus.jobs().await.unwrap()[0].unit, "app.service");
    assert!(!bus.has_owner("org.freedesktop.login1").await);
}

#[tokio::test]
async fn time_that_passes_keeps_no_daemon_awake() {
    let s = set_up(me()).await;
    // A watchdog asks the engine, which has a newer picture each time.
    let passing = async {
        loop {
            tokio::time::sleep(Duration::from_millis(20)).await;
            s.engine.status.send_modify(|status| {
                status.approval_age = Some(status.approval_age.unwrap_or(0) + 1);
                // Why it waits is told anew, too.
                let at = Some(jiff::Timestamp::now());
                status.waiting = Some(Problem { reason: Reason::Recalled, detail: String::new(), at, until: None });
            });
        }
    };
    tokio::select! {
        () = within(s.service.quiet(Duration::from_secs(2))) => {}
        () = passing => {}
    }
}
