//! x
#[path = "../../../aext4/layout/mod.rs"]
pub mod layout;
