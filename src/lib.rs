//! coloc: long-lived system containers on one shared, read-only base.
//!
//! Modules and their arrows are drawn in docs/architecture.md, and `tests/architecture.rs`
//! checks them.

pub mod adopt;
pub mod audit;
pub mod base;
pub mod broker;
pub mod cli;
pub mod engine;
pub mod error;
pub mod network;
pub mod profile;
pub mod request;
pub mod runtime;
pub mod status;
pub mod store;
pub mod sys;
pub mod tree;
