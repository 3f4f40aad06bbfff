//! What is kept on the data partition: the journal, the approvals seen last, indexes of installed releases, and the
//! lock that keeps two updaters from working at once.

pub mod copies;
pub mod durable;
pub mod lock;
pub mod releases;
pub mod reports;

pub use copies::Copies;
pub use releases::Releases;
