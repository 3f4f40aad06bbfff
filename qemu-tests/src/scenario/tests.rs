//! Plans that are read, and plans that are refused.

use super::*;

const HEAD: &str = "title = 't'\nwhy = 'w'\nvariants = ['systemd-boot']\n";

#[test]
fn a_plan_is_read() {
    let text = format!(
        "{HEAD}steps = [\n{{ publish = {{ release = 'v2' }} }},\n{{ boot = {{}} }},\n\
         {{ wait = {{ until = {{ slot = 'b', confirmed = true }}, within = 90 }} }},\n\
         {{ fault = {{ path = '/bundles/*', fault = {{ drip = 1000 }} }} }},\n]\n"
    );
    let s = Scenario::parse(&text).unwrap();
    assert_eq!((s.from.as_str(), s.steps.len()), ("factory", 4));
    assert!(matches!(&s.steps[0].step, Step::Publish(p) if p.release == "v2" && p.key == "release"));
    assert!(matches!(&s.steps[2].step, Step::Wait(w) if w.within == 90 && w.until.confirmed == Some(true)));
}

#[test]
fn steps_are_told_as_written() {
    let text = format!("{HEAD}steps = [{{ boot = {{}} }}, {{ wait = {{ until = {{ slot = 'b' }}, within = 9 }} }}]");
    let told = Scenario::parse(&text).unwrap().steps[1].to_string();
    assert_eq!(told, r#"{"wait":{"until":{"slot":"b"},"within":9}}"#);
}

#[test]
fn slips_of_the_pen_are_errors() {
    for steps in [
        "[{ boot = {} }, { wiat = {} }]",
        "[{ boot = {}, look = {} }]",
        "[{ boot = { withn = 3 } }]",
        "[{ no_faults = {} }]",
        "[]",
    ] {
        assert!(Scenario::parse(&format!("{HEAD}steps = {steps}\n")).is_err(), "{steps}");
    }
    assert!(Scenario::parse("title = 't'\nwhy = 'w'\nvariants = []\nsteps = [{ boot = {} }]").is_err());
}

#[test]
fn a_step_names_its_machine() {
    let head = format!("{HEAD}from = 'running'\nmachines = {{ second = {{ bucket = 80 }} }}\n");
    let s = Scenario::parse(&format!("{head}steps = [{{ boot = {{}} }}, {{ on = 'second', boot = {{}} }}]")).unwrap();
    assert_eq!((s.steps[0].machine(), s.steps[1].machine()), ("first", "second"));
    assert_eq!(s.steps[1].to_string(), r#"second: {"boot":{"within":900}}"#);
    assert_eq!((s.machines().collect::<Vec<_>>(), s.bucket("second")), (vec!["first", "second"], Some(80)));
    for (steps, tells) in [
        ("[{ boot = {} }]", "no boot step for the second"),
        ("[{ boot = {} }, { on = 'second', boot = {} }, { on = 'third', look = {} }]", "no such machine: third"),
        ("[{ on = 'second' }]", "steps"),
    ] {
        let told = format!("{:#}", Scenario::parse(&format!("{head}steps = {steps}")).unwrap_err());
        assert!(told.contains(tells), "{told}");
    }
}

#[test]
fn all_shipped_scenarios_are_well_formed_and_their_starts_exist() {
    let all = load_all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios")).unwrap();
    let left: Vec<_> = all.iter().filter_map(|(_, s)| s.leaves.as_deref()).collect();
    for (name, scenario) in &all {
        let never = scenario.by_default.as_ref().is_some_and(Vec::is_empty);
        assert!(!never, "{name} would never run unless somebody asks for it: nobody notices what it would have found");
        assert!(scenario.from == FACTORY || left.contains(&scenario.from.as_str()), "{name} starts nowhere");
    }
}
