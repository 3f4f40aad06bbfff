//! Prints a saved history of the property test step by step: `cargo run -p updater-core --example replay -- FILE`.

#[path = "../tests/world/mod.rs"]
mod world;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: replay FILE (a saved world-failure.json)")?;
    let actions: Vec<world::Action> = serde_json::from_slice(&std::fs::read(&path)?)?;
    match world::play(&actions, Some(&mut |line: &str| println!("{line}"))) {
        Ok(()) => println!("every invariant held"),
        Err(violation) => println!("VIOLATION {violation}"),
    }
    Ok(())
}
