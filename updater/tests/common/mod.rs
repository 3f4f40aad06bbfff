//! Shared by the integration tests.
#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests may fail loudly"
)]
#![allow(missing_docs, reason = "test helpers")]

pub mod folder;
pub mod held;
pub mod loops;
pub mod server;
pub mod site;
pub mod skip;
pub mod slow_link;
pub mod update;
