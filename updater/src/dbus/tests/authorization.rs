//! Who may change what: root, whom polkit allows, nobody else.

use std::process::Command as Process;

use super::super::testing::outcome;
use super::*;

#[tokio::test]
async fn strangers_read_and_change_nothing() {
    // The owner is somebody else, and there is no polkit on this bus.
    let mut s = set_up(me().wrapping_add(1)).await;
    for (method, texts) in [("Check", [].as_slice()), ("Reboot", &[]), ("Confirm", &[]), ("Activate", &["b"])] {
        let answer = s.client.change(method, texts).await;
        let error = answer.unwrap_err();
        assert!(matches!(error, ClientError::Refused { reason: Reason::NotAuthorized, .. }), "{method}: {error:?}");
    }
    let error = s.client.install("/x", None, &[]).await.unwrap_err();
    assert!(matches!(error, ClientError::Refused { reason: Reason::NotAuthorized, .. }), "{error:?}");
    assert_eq!(s.client.explain().await.unwrap().0.booted_slot, Some(SlotId::A));
    assert_eq!(s.client.history().await.unwrap(), [outcome()]);
    assert!(s.engine.seen.try_recv().is_err(), "the engine was asked");
}

/// polkit while a person types a password.
struct SlowPolkit {
    asked: std::sync::Arc<tokio::sync::Notify>,
    typed: std::sync::Arc<tokio::sync::Notify>,
}

#[zbus::interface(name = "org.freedesktop.PolicyKit1.Authority")]
impl SlowPolkit {
    async fn check_authorization(
        &self,
        _subject: (String, std::collections::HashMap<String, zbus::OwnedVariant>),
        _action: String,
        _details: std::collections::HashMap<String, String>,
        _flags: u32,
        _cancellation: String,
    ) -> (bool, bool, std::collections::HashMap<String, String>) {
        self.asked.notify_one();
        self.typed.notified().await;
        (true, false, std::collections::HashMap::new())
    }
}

#[tokio::test]
async fn the_daemon_stays_while_a_password_is_typed() {
    let mut s = set_up(me().wrapping_add(1)).await;
    let (asked, typed) = <(std::sync::Arc<tokio::sync::Notify>, std::sync::Arc<tokio::sync::Notify>)>::default();
    let polkit = SlowPolkit { asked: asked.clone(), typed: typed.clone() };
    let polkit = s.bus.builder().serve_at("/org/freedesktop/PolicyKit1/Authority", polkit);
    let _polkit = polkit.name("org.freedesktop.PolicyKit1").build().await.unwrap();
    let client = s.client.clone();
    let change = tokio::spawn(async move { client.change("Check", &[]).await });
    within(asked.notified()).await;
    let (quiet, longer) = (Duration::from_millis(50), Duration::from_millis(500));
    assert!(tokio::time::timeout(longer, s.service.quiet(quiet)).await.is_err(), "nobody is there for the answer");
    typed.notify_one();
    within(change).await.unwrap().unwrap();
    assert_eq!(s.engine.seen.recv().await, Some(Command::Check { by_operator: true }));
    within(s.service.quiet(quiet)).await;
}

/// polkit's authority, as far as we ask it.
struct PaperPolkit {
    grants: &'static str,
    asked: tokio::sync::mpsc::UnboundedSender<(String, String)>,
}

#[zbus::interface(name = "org.freedesktop.PolicyKit1.Authority")]
impl PaperPolkit {
    fn check_authorization(
        &self,
        subject: (String, std::collections::HashMap<String, zbus::OwnedVariant>),
        action: String,
        _details: std::collections::HashMap<String, String>,
        _flags: u32,
        _cancellation: String,
    ) -> (bool, bool, std::collections::HashMap<String, String>) {
        let name = <&str>::try_from(&subject.1["name"]).unwrap().to_owned();
        assert_eq!(subject.0, "system-bus-name");
        let granted = action == self.grants;
        self.asked.send((name, action)).unwrap();
        (granted, false, std::collections::HashMap::new())
    }
}

#[tokio::test]
async fn polkit_is_asked_about_the_sender_and_obeyed() {
    let mut s = set_up(me().wrapping_add(1)).await;
    let (asked, mut questions) = tokio::sync::mpsc::unbounded_channel();
    let polkit = PaperPolkit { grants: "org.flipside.updater1.check", asked };
    let _polkit = s
        .bus
        .builder()
        .serve_at("/org/freedesktop/PolicyKit1/Authority", polkit)
        .name("org.freedesktop.PolicyKit1")
        .build()
        .await
        .unwrap();
    s.client.change("Check", &[]).await.unwrap();
    assert_eq!(s.engine.seen.recv().await, Some(Command::Check { by_operator: true }));
    let me = s.client.unique_name();
    assert_eq!(questions.recv().await.unwrap(), (me.clone(), "org.flipside.updater1.check".into()));
    let error = s.client.change("Reject", &["b", "no"]).await.unwrap_err();
    assert!(matches!(error, ClientError::Refused { reason: Reason::NotAuthorized, .. }), "{error:?}");
    assert_eq!(questions.recv().await.unwrap(), (me, "org.flipside.updater1.rollback".into()));
}

/// Serves polkit, which grants one action, and tells what it was asked.
async fn polkit(
    bus: &PrivateBus,
    grants: &'static str,
) -> (zbus::Connection, tokio::sync::mpsc::UnboundedReceiver<(String, String)>) {
    let (asked, questions) = tokio::sync::mpsc::unbounded_channel();
    let polkit = bus.builder().serve_at("/org/freedesktop/PolicyKit1/Authority", PaperPolkit { grants, asked });
    (polkit.name("org.freedesktop.PolicyKit1").build().await.unwrap(), questions)
}

/// Every method that changes something, with arguments and the polkit action it needs.
const CHANGES: [(&str, &[&str], &str); 9] = [
    ("Check", &[], "check"),
    ("Install", &[], "install"),
    ("Activate", &["b"], "activate"),
    ("Reboot", &[], "reboot"),
    ("Confirm", &[], "confirm"),
    ("Rollback", &["because"], "rollback"),
    ("Reject", &["b", "because"], "rollback"),
    ("Cancel", &[], "cancel"),
    ("Retry", &[""], "install"),
];

/// Methods that only read, and so are open to all.
const READS: [&str; 2] = ["Explain", "History"];

#[tokio::test]
async fn every_change_asks_for_its_own_action_and_a_no_reaches_no_engine() {
    let interface = include_str!("../../../../systemd/usr/share/dbus-1/interfaces/org.flipside.Updater1.xml");
    let own = interface.split("</interface>").next().unwrap();
    let methods = own.split("<method name=\"").skip(1).map(|rest| rest.split('"').next().unwrap());
    let known = CHANGES.iter().map(|(method, ..)| *method).chain(READS);
    assert_eq!(
        methods.collect::<std::collections::BTreeSet<_>>(),
        known.collect(),
        "a method that no row above tells about"
    );

    let mut s = set_up(me().wrapping_add(1)).await;
    let (_polkit, mut questions) = polkit(&s.bus, "nothing").await;
    for (method, texts, action) in CHANGES {
        let refused = match method {
            "Install" => s.client.install("/x", None, &[]).await.map(drop),
            _ => s.client.change(method, texts).await,
        };
        let error = refused.unwrap_err();
        assert!(matches!(error, ClientError::Refused { reason: Reason::NotAuthorized, .. }), "{method}: {error:?}");
        let (asked_about, asked_for) = questions.recv().await.unwrap();
        assert_eq!(asked_about, s.client.unique_name());
        assert_eq!(asked_for, format!("org.flipside.updater1.{action}"), "{method}");
        assert!(questions.try_recv().is_err(), "{method}: asked twice");
    }
    assert!(s.engine.seen.try_recv().is_err(), "the engine was asked");
}

#[tokio::test]
async fn who_may_install_may_not_therefore_cancel() {
    let mut s = set_up(me().wrapping_add(1)).await;
    let (_polkit, mut questions) = polkit(&s.bus, "org.flipside.updater1.install").await;
    s.engine.status.send_modify(|status| status.state = StateName::Writing);
    let job = s.client.install("/x", None, &[]).await.unwrap();
    assert!(matches!(s.engine.seen.recv().await, Some(Command::Install { .. })));
    let _install = questions.recv().await;
    let error = s.client.cancel(&job).await.unwrap_err();
    assert!(matches!(error, ClientError::Refused { reason: Reason::NotAuthorized, .. }), "{error:?}");
    assert_eq!(questions.recv().await.unwrap().1, "org.flipside.updater1.cancel");
    assert!(s.engine.seen.try_recv().is_err(), "the engine was asked");
    assert_eq!(s.client.job_end(&job).await.unwrap(), None, "it goes on");
}

/// As a real other user, with busctl, the way an operator would try it. Needs root to become somebody else.
#[tokio::test]
async fn busctl_of_an_ordinary_user_reads_and_is_refused() {
    if me() != 0 {
        eprintln!("NOT RUN: needs root to become another user");
        return;
    }
    let s = set_up(0).await;
    let busctl = |arguments: &'static [&'static str]| {
        let address = s.bus.address.clone();
        tokio::task::spawn_blocking(move || {
            let mut command = Process::new("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "busctl"]);
            command.arg(format!("--address={address}")).args(arguments).output().unwrap()
        })
    };
    let read = busctl(&["get-property", NAME, PATH, NAME, "State"]).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&read.stdout), "s \"idle\"\n");
    let change = busctl(&["call", NAME, PATH, NAME, "Reboot"]).await.unwrap();
    assert!(!change.status.success());
    assert!(String::from_utf8_lossy(&change.stderr).contains("org.flipside.updater1.reboot"), "{change:?}");
}
