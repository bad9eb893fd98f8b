//! The command `wsic`.
fn main() {}
