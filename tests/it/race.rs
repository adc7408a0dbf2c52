//! Several admins at work on the same names at the same time.

use crate::common::{Store, sh, turn};

const NAMES: [&str; 3] = ["race-a", "race-b", "race-c"];
const ROUNDS: usize = 15;

fn admin(store: &Store, number: usize) {
    for round in 0..ROUNDS {
        let name = NAMES[(number + round) % NAMES.len()];
        for args in [
            &["create", name, "--init", "builtin"][..],
            &["start", name],
            &["stop", name, "--timeout", "0"],
            &["delete", name, "--force", "--yes"],
        ] {
            let out = store.run(args);
            // Another admin may have been faster; anything else is a failure.
            assert!([0, 3, 4].contains(&out.code), "{args:?}: {} {}", out.code, out.stderr);
        }
    }
}

#[test]
fn four_admins_on_the_same_names_leave_nothing_half_done() {
    let store = &Store::mini("race", 5);
    std::thread::scope(|scope| {
        for number in 0..4 {
            scope.spawn(move || admin(store, number));
        }
    });
    store.ok(&["stop", "--all", "--timeout", "0"]);
    store.assert_whole();
    store.ok(&["delete", "--all", "--force", "--yes"]);
    store.assert_whole();
    assert_eq!(store.claims(), [""; 0]);
    let left = sh("pgrep -fa 'supervise race-[abc]'").text();
    assert!(!left.contains(&store.root.display().to_string()), "{left}");
}

#[test]
fn containers_made_at_once_share_no_ids() {
    let store = &Store::mini("at-once", 12);
    std::thread::scope(|scope| {
        for number in 0..8 {
            scope.spawn(move || {
                store.ok(&["create", &format!("c{number}"), "--init", "builtin"]);
            });
        }
    });
    store.assert_whole();
    assert_eq!(store.containers().len(), 8);
}

#[test]
fn stores_set_up_at_once_get_pools_that_do_not_overlap() {
    let stores: Vec<Store> = (0..6).map(|n| Store::empty(&format!("setup{n}"))).collect();
    let turn = turn();
    std::thread::scope(|scope| {
        for store in &stores {
            scope.spawn(move || store.ok(&["init", "--containers", "2"]));
        }
    });
    let claims: Vec<String> = stores.iter().map(Store::claim).collect();
    let text = std::fs::read_to_string("/etc/subuid").unwrap();
    for (store, claim) in stores.iter().zip(&claims) {
        std::fs::write(store.root.join("claim"), claim).unwrap();
    }
    drop(turn);
    for claim in &claims {
        assert_eq!(text.lines().filter(|l| *l == claim).count(), 1, "{claim} in {text}");
        assert_eq!(claims.iter().filter(|c| *c == claim).count(), 1, "{claim} twice");
    }
}
