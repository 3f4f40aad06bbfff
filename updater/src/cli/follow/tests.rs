//! What a picture means to somebody who waits, and waiting on a private bus with an engine made of paper.

use updater_core::event::Command;
use updater_core::slot::SlotId;

use super::*;
use crate::dbus::announce::{Service, serve};
use crate::dbus::authorize::Authorizer;
use crate::dbus::testing::{PaperEngine, PrivateBus};
use crate::handed::Handed;

struct Setup {
    engine: PaperEngine,
    client: Client,
    _service: Service,
    _bus: PrivateBus,
}

async fn set_up() -> Setup {
    let (bus, engine) = (PrivateBus::start(), PaperEngine::start());
    let authorizer = Authorizer::new(nix::unistd::getuid().as_raw());
    let service = serve(bus.builder(), engine.handle.clone(), authorizer, Handed::default()).await.unwrap();
    let client = Client::connect(bus.builder()).await.unwrap();
    Setup { engine, client, _service: service, _bus: bus }
}

fn problem(reason: Reason) -> Option<Problem> {
    Some(Problem { reason, detail: "x".into(), at: None, until: None })
}

/// What a daemon says that was started again in the middle of a check: at rest, and nothing of a check.
#[tokio::test]
async fn a_check_that_was_lost_is_asked_for_again_and_not_called_up_to_date() {
    let mut s = set_up().await;
    let daemon = async {
        assert_eq!(s.engine.seen.recv().await, Some(Command::Check { by_operator: true }));
        s.engine.status.send_modify(|status| status.waiting = problem(Reason::NoUpdate));
    };
    let mut bar = Bar::Silent;
    let (checked, ()) = tokio::join!(check(&s.client, &mut bar), daemon);
    assert_eq!(checked.unwrap().waiting, problem(Reason::NoUpdate));

    s.engine.status.send_modify(|status| (status.state, status.waiting) = (StateName::RolledBack, None));
    let failed = check(&s.client, &mut Bar::Silent).await.unwrap_err();
    assert_eq!(failed.exit, Exit::Failed, "{failed:?}");
    assert_eq!(s.engine.seen.recv().await, Some(Command::Check { by_operator: true }));
    assert!(s.engine.seen.try_recv().is_err(), "once is enough");
}

#[test]
fn a_switch_ends_armed_restarting_or_held() {
    let mut status = crate::dbus::testing::status();
    status.state = StateName::Staged;
    status.target = Some(SlotId::B);
    status.last_error = None;
    status.operation = Some("asking for approval".into());
    assert_eq!(switched(&status, Goal::Armed, None), None);
    let problem = Problem { reason: Reason::ApprovalStale, detail: "x".into(), at: None, until: None };
    status.waiting = Some(problem.clone());
    assert_eq!(switched(&status, Goal::Armed, None), None, "an older answer");
    status.operation = None;
    assert_eq!(switched(&status, Goal::Armed, None), Some(Err(problem.clone())));
    status.waiting = None;
    assert!(switched(&status, Goal::Armed, None).unwrap().is_err(), "taken back");
    // Noted in the journal, and the boot loader could not be written.
    status.state = StateName::Armed;
    status.slots.b.boot = SlotBoot::Empty;
    let error = Problem { reason: Reason::BootControlError, ..problem.clone() };
    status.last_error = Some(error.clone());
    assert_eq!(switched(&status, Goal::Armed, None), Some(Err(error.clone())));
    status.slots.b.boot = SlotBoot::Trying { left: 3, done: 0 };
    assert_eq!(switched(&status, Goal::Armed, None), Some(Ok(())));
    assert_eq!(switched(&status, Goal::Restarting, Some(&error)), Some(Ok(())), "an older error");
    assert!(switched(&status, Goal::Restarting, None).unwrap().is_err(), "the restart failed");
    status.waiting = Some(Problem { reason: Reason::WindowClosed, ..problem.clone() });
    assert_eq!(switched(&status, Goal::Armed, Some(&error)), Some(Ok(())));
    assert!(switched(&status, Goal::Restarting, Some(&error)).unwrap().is_err());
    status.operation = Some("rebooting".into());
    assert_eq!(switched(&status, Goal::Restarting, Some(&error)), None);
    status.operation = None;
    status.waiting = Some(Problem { reason: Reason::Recalled, ..problem });
    assert_eq!(switched(&status, Goal::Restarting, Some(&error)), Some(Ok(())), "a notice");
}

#[test]
fn rest_is_told_from_work() {
    let mut status = crate::dbus::testing::status();
    assert_eq!(rest(&status), Rest::Well);
    status.operation = Some("asking".into());
    assert_eq!(rest(&status), Rest::Busy);
    status.state = StateName::Armed;
    assert_eq!(rest(&status), Rest::Well);
    status.state = StateName::Offered;
    status.operation = None;
    let problem = Problem { reason: Reason::RolloutHalted, detail: "x".into(), at: None, until: None };
    status.waiting = Some(problem.clone());
    assert_eq!(rest(&status), Rest::Held(problem));
    // An update on its way goes on, unless it pauses after a failure.
    status.state = StateName::Writing;
    let problem = Problem { reason: Reason::Network, detail: "no route".into(), at: None, until: None };
    status.waiting = Some(problem.clone());
    assert_eq!(rest(&status), Rest::Held(problem));
    status.operation = Some("writing".into());
    assert_eq!(rest(&status), Rest::Busy);
    (status.operation, status.waiting) = (None, None);
    assert_eq!(rest(&status), Rest::Busy);
}

#[tokio::test]
async fn following_shows_changes_and_not_the_time_that_passes() {
    let s = set_up().await;
    let pass = |age: u32| {
        let now = jiff::Timestamp::from_nanosecond(i128::from(age)).unwrap();
        s.engine.status.send_modify(|status| {
            (status.approval_age, status.trial_seconds_left) = (Some(age.into()), Some(age.into()));
            (status.next_check, status.waiting) = (Some(now), problem(Reason::Held));
            status.waiting.as_mut().unwrap().at = Some(now);
        });
    };
    pass(0);
    let daemon = async {
        for age in 1..40 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            pass(age);
        }
        s.engine.status.send_modify(|status| status.state = StateName::Checking);
        std::future::pending().await
    };
    let (mut shown, enough) = (Vec::new(), tokio::sync::Notify::new());
    let following = forever(&s.client, |status| {
        shown.push(status.state);
        if status.state == StateName::Checking {
            enough.notify_one();
        }
    });
    tokio::select! {
        ended = following => panic!("{ended:?}"),
        () = daemon => {}
        () = enough.notified() => {}
    }
    assert_eq!(shown, [StateName::Idle, StateName::Checking]);
}
