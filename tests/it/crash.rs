//! A command that is killed at each of its steps leaves a whole thing or nothing.

use crate::common::{Store, run};

#[track_caller]
fn kill_at(store: &Store, step: &str, args: &[&str]) {
    let mut command = store.command(args);
    command.env("COLOC_KILL_AT", step);
    let out = run(command);
    assert_eq!(out.code, 137, "{step}: {} {}", out.text(), out.stderr);
}

fn create_killed_at(step: &str, is_made: bool) {
    let store = Store::mini(&step.replace('.', "-"), 4);
    kill_at(&store, step, &["create", "victim", "--init", "builtin"]);
    store.ok(&["list"]);
    store.ok(&["create", "other", "--init", "builtin"]);
    store.assert_whole();
    let there = store.names_in("containers").contains(&"victim".to_string());
    assert_eq!(there, is_made, "{step}");
    if !is_made {
        store.ok(&["create", "victim", "--init", "builtin"]);
    }
    store.assert_whole();
    store.ok(&["start", "victim"]);
    store.ok(&["exec", "victim", "--", "true"]);
}

#[test]
fn create_killed_when_ids_are_claimed() {
    create_killed_at("create.claimed", false);
}

#[test]
fn create_killed_when_the_tree_is_copied() {
    create_killed_at("create.copied", false);
}

#[test]
fn create_killed_when_all_is_built() {
    create_killed_at("create.built", false);
}

#[test]
fn create_killed_when_it_is_in_its_place() {
    create_killed_at("create.placed", true);
}

fn delete_killed_at(step: &str, stays: bool) {
    let store = Store::mini(&step.replace('.', "-"), 4);
    store.ok(&["create", "victim", "--init", "builtin"]);
    kill_at(&store, step, &["delete", "victim", "--yes"]);
    store.ok(&["list"]);
    store.ok(&["create", "other", "--init", "builtin"]);
    store.assert_whole();
    let there = store.names_in("containers").contains(&"victim".to_string());
    assert_eq!(there, stays, "{step}");
    if stays {
        store.ok(&["start", "victim"]);
        store.ok(&["delete", "victim", "--force", "--yes"]);
    }
    store.ok(&["create", "victim", "--init", "builtin"]);
    store.assert_whole();
}

#[test]
fn delete_killed_when_it_has_begun() {
    delete_killed_at("delete.begun", true);
}

#[test]
fn delete_killed_when_it_has_left_its_place() {
    delete_killed_at("delete.moved", false);
}

#[test]
fn delete_killed_when_the_tree_is_gone() {
    delete_killed_at("delete.removed", false);
}

fn base_killed_at(step: &str, is_made: bool) {
    let store = Store::mini(&step.replace('.', "-"), 4);
    let tree = store.root.join("mini-tree").to_string_lossy().into_owned();
    kill_at(&store, step, &["base", "create", "victim", "--from", &tree]);
    store.ok(&["base", "list"]);
    store.ok(&["create", "other", "--init", "builtin", "--base", "mini"]);
    store.assert_whole();
    let there = store.names_in("bases").contains(&"victim".to_string());
    assert_eq!(there, is_made, "{step}");
    if !is_made {
        store.ok(&["base", "create", "victim", "--from", &tree]);
    }
    store.ok(&["base", "verify", "victim"]);
    store.ok(&["create", "over-it", "--init", "builtin", "--base", "victim"]);
    store.assert_whole();
}

#[test]
fn base_create_killed_when_the_tree_is_built() {
    base_killed_at("base.built", false);
}

#[test]
fn base_create_killed_when_it_is_published() {
    base_killed_at("base.published", false);
}

#[test]
fn base_create_killed_when_it_is_in_its_place() {
    base_killed_at("base.placed", true);
}

fn base_delete_killed_at(step: &str, stays: bool) {
    let store = Store::mini(&step.replace('.', "-"), 4);
    let tree = store.root.join("mini-tree").to_string_lossy().into_owned();
    store.ok(&["base", "create", "victim", "--from", &tree]);
    kill_at(&store, step, &["base", "delete", "victim", "--yes"]);
    store.ok(&["create", "other", "--init", "builtin", "--base", "mini"]);
    store.assert_whole();
    let there = store.names_in("bases").contains(&"victim".to_string());
    assert_eq!(there, stays, "{step}");
    if stays {
        store.ok(&["base", "verify", "victim"]);
        store.ok(&["base", "delete", "victim", "--yes"]);
    }
    store.ok(&["base", "create", "victim", "--from", &tree]);
    store.assert_whole();
}

#[test]
fn base_delete_killed_when_it_has_begun() {
    base_delete_killed_at("base-delete.begun", true);
}

#[test]
fn base_delete_killed_when_it_has_left_its_place() {
    base_delete_killed_at("base-delete.moved", false);
}
