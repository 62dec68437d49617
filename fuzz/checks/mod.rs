//! What must hold for every input, whatever its bytes. The fuzz targets call these with libFuzzer's inputs, a test of
//! `wire` with a few thousand of its own on each run.

mod messages;
mod scram;
mod sql;

pub(crate) use messages::{backend, frontend, startup};
pub(crate) use scram::scram;
pub(crate) use sql::sql;
