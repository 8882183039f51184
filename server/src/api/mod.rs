//! What the HTTP API is made of: routes by name, what stands in a target, problems, reasons to turn
//! a request away. It knows no engine's state and answers nothing itself.

pub(crate) mod object;
pub mod problem;
pub mod rejected;
pub mod route;
pub mod target;
