//! Draws the guide's page about the state machine: `cargo run -p updater-core --example state_machine`.

fn main() -> std::io::Result<()> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/src/state-machine.md");
    std::fs::write(path, updater_core::machine::transitions::guide_page())
}
