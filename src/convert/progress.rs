//! How a conversion tells what it does, without printing.

/// Listener of a conversion; all methods may be called from any thread.
pub trait Progress: Sync {
    /// A phase of `steps` steps begins.
    fn begin(&self, phase: &'static str, steps: u64);
    /// `steps` more steps of the phase are done; `item` says what is being worked on.
    fn advance(&self, steps: u64, item: &str);
    /// Something the user should know, that is no error.
    fn warn(&self, message: &str);
}

/// A listener that says nothing.
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _phase: &'static str, _steps: u64) {}
    fn advance(&self, _steps: u64, _item: &str) {}
    fn warn(&self, _message: &str) {}
}
