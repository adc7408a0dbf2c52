//! Black-box tests: they drive the installed program, as root, over a real Debian base and over
//! a tiny one of busybox.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// What tests write need not survive a crash.
#![allow(clippy::disallowed_methods)]

mod admin;
mod attack;
mod attack_member;
mod change;
mod common;
mod crash;
mod enter;
mod escape;
mod filter;
mod given;
mod home;
mod keys;
mod life;
mod limits;
mod member;
mod network;
mod profile;
mod race;
mod ssh;
mod swap;
mod trees;
mod update;
