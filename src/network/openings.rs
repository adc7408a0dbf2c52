//! Ways through other people's firewalls.
//!
//! With nftables a packet passes every table, and one that drops it is enough. ufw, Docker and the
//! sample of nftables itself drop what is forwarded and not theirs. So a rule of ours goes first
//! into each such chain: it lets pass what has to do with the bridge, which our own table then
//! decides on. The rules carry a comment, by which they are found again and taken out. They are
//! made of nothing that iptables-nft could not read back.

use serde_json::Value;

use super::plan::Net;
use super::tool;
use crate::error::Result;
use crate::store::lock::Lock;

/// A chain in which something has to be let through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) family: String,
    pub(super) table: String,
    pub(super) name: String,
    /// Whether what goes to the host passes it, and not what is forwarded.
    pub(super) input: bool,
    /// Whether it drops what no rule of it has taken.
    pub(super) drops: bool,
}

impl Chain {
    /// As nft(8) takes it.
    pub(super) fn words(&self) -> String {
        format!("{} {} {}", self.family, self.table, self.name)
    }
}

/// The chains of others that may drop what is ours, by `nft -j list chains`.
fn foreign(list: &[Value]) -> Vec<Chain> {
    let mut found = Vec::new();
    for chain in list.iter().filter_map(|v| v.get("chain")) {
        let word = |key: &str| chain[key].as_str().unwrap_or_default().to_string();
        let (family, table, name) = (word("family"), word("table"), word("name"));
        let routed = ["ip", "ip6", "inet"].contains(&family.as_str());
        if !routed || table == "coloc" || table.starts_with("coloc-") {
            continue;
        }
        // iptables' own chains may end in a rule that rejects, whatever their policy is.
        let by_iptables = table == "filter" && ["FORWARD", "INPUT"].contains(&name.as_str());
        let drops = word("policy") == "drop";
        let hook = word("hook");
        let base = word("type") == "filter" && (hook == "forward" || hook == "input");
        // Docker's place for the admin's rules; nothing hooks it but Docker's jump.
        let docker = table == "filter" && name == "DOCKER-USER" && family != "inet";
        if (base && (drops || by_iptables)) || docker {
            found.push(Chain { family, table, name, input: hook == "input", drops });
        }
    }
    found
}

/// The rules of ours that `chain` should have.
fn wanted(chain: &Chain, net: &Net) -> Vec<String> {
    let (bridge, mark) = (&net.bridge, mark(net));
    let end = format!("counter accept comment \"{mark}\"");
    match chain.input {
        // What containers ask of the host: names.
        true => ["udp", "tcp"]
            .map(|proto| format!("iifname \"{bridge}\" {proto} dport 53 {end}"))
            .to_vec(),
        false => ["iifname", "oifname"].map(|way| format!("{way} \"{bridge}\" {end}")).to_vec(),
    }
}

fn mark(net: &Net) -> String {
    format!("{}: containers", net.table)
}

/// The handles of our rules in what `nft -j -a list chain` says.
fn ours(list: &[Value], net: &Net) -> Vec<u64> {
    let rules = list.iter().filter_map(|v| v.get("rule"));
    let is_ours = |r: &&Value| r["comment"] == mark(net) || is_restored(r, &net.bridge);
    rules.filter(is_ours).filter_map(|r| r["handle"].as_u64()).collect()
}

/// Whether it is one of our rules after iptables-save and iptables-restore: the comment has become
/// one of iptables' own then, whose text nft does not tell. What is left is what the rule does.
fn is_restored(rule: &Value, bridge: &str) -> bool {
    let parts = rule["expr"].as_array().map(Vec::as_slice).unwrap_or_default();
    let device = |part: &Value| {
        let key = part["match"]["left"]["meta"]["key"].as_str().unwrap_or_default();
        ["iifname", "oifname"].contains(&key) && part["match"]["right"] == bridge
    };
    let comment = |part: &Value| part["xt"]["name"] == "comment";
    let names = |part: &Value| part["match"]["right"] == 53;
    let plain = |part: &Value| part.get("counter").is_some() || part.get("accept").is_some();
    parts.iter().any(device)
        && parts.iter().any(comment)
        && parts.iter().any(|part| part.get("accept").is_some())
        && parts.iter().all(|part| device(part) || comment(part) || names(part) || plain(part))
}

/// Each chain of others that matters, with the handles of our rules in it.
pub(super) fn look(net: &Net) -> Result<Vec<(Chain, Vec<u64>)>> {
    let mut all = Vec::new();
    for chain in foreign(&tool::nft_list(&["chains"])?) {
        let list = tool::nft_list(&["chain", &chain.family, &chain.table, &chain.name])?;
        let handles = ours(&list, net);
        all.push((chain, handles));
    }
    Ok(all)
}

/// Whether all is let through `chain` that is to be, with that many rules of ours in it.
pub(super) fn is_open(chain: &Chain, net: &Net, rules: usize) -> bool {
    rules >= wanted(chain, net).len()
}

/// Lets what is ours through every such chain; gives how many changes of the rules that took. One
/// that cannot be changed keeps no container from starting: `coloc check` tells of it.
pub(super) fn open(lock: &Lock, net: &Net) -> Result<u32> {
    let mut changes = 0;
    for (chain, handles) in look(net)? {
        if !is_open(&chain, net, handles.len()) {
            let lines = wanted(&chain, net).into_iter();
            let text: String =
                lines.map(|rule| format!("insert rule {} {rule}\n", chain.words())).collect();
            let done = tool::nft_load(lock, &format!("{}{text}", removal(&chain, &handles)));
            changes += u32::from(done.is_ok());
        }
    }
    Ok(changes)
}

fn removal(chain: &Chain, handles: &[u64]) -> String {
    let line = |handle: &u64| format!("delete rule {} handle {handle}\n", chain.words());
    handles.iter().map(line).collect()
}

/// Takes our rules out of every such chain.
pub(super) fn close(lock: &Lock, net: &Net) -> Result<()> {
    for (chain, handles) in look(net)? {
        if !handles.is_empty() {
            tool::nft_load(lock, &removal(&chain, &handles))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn chains_that_drop_are_found_and_ours_are_not_theirs() {
        let chain = |family: &str, table: &str, name: &str, hook: &str, policy: &str| {
            json!({"chain": {"family": family, "table": table, "name": name, "type": "filter",
                "hook": hook, "policy": policy}})
        };
        let list = [
            chain("ip", "filter", "FORWARD", "forward", "accept"),
            chain("ip6", "filter", "INPUT", "input", "drop"),
            chain("inet", "filter", "forward", "forward", "drop"),
            chain("inet", "filter", "output", "output", "drop"),
            chain("inet", "mine", "forward", "forward", "accept"),
            chain("inet", "coloc", "passing", "forward", "drop"),
            chain("bridge", "filter", "FORWARD", "forward", "drop"),
            json!({"chain": {"family": "ip", "table": "filter", "name": "DOCKER-USER"}}),
            json!({"chain": {"family": "ip", "table": "filter", "name": "ufw-user-forward"}}),
            json!({"metainfo": {}}),
        ];
        let words: Vec<String> = foreign(&list).iter().map(Chain::words).collect();
        let want = [
            "ip filter FORWARD",
            "ip6 filter INPUT",
            "inet filter forward",
            "ip filter DOCKER-USER",
        ];
        assert_eq!(words, want);
    }

    #[test]
    fn only_our_rules_are_taken_out() {
        let device = |key: &str, name: &str| json!({"match": {"op": "==", "left": {"meta": {"key": key}}, "right": name}});
        let comment = json!({"xt": {"type": "match", "name": "comment"}});
        let (counter, accept) = (json!({"counter": {"packets": 0}}), json!({"accept": null}));
        let restored = |more: &[Value]| {
            let expr = [&[device("iifname", "coloc0")], more].concat();
            json!({"rule": {"handle": 7, "expr": expr}})
        };
        let list = [
            json!({"rule": {"handle": 4, "comment": "coloc: containers"}}),
            json!({"rule": {"handle": 5, "comment": "coloc-1a: containers"}}),
            json!({"rule": {"handle": 6}}),
            restored(&[comment.clone(), counter.clone(), accept.clone()]),
        ];
        let layout = crate::store::Layout::new("/");
        let net =
            Net::new(&layout, &crate::store::config::NetworkConfig::default(), "m", None).unwrap();
        assert_eq!(ours(&list, &net), [4, 7]);
        let others = [
            restored(&[counter.clone(), accept.clone()]),
            restored(&[device("oifname", "eth0"), comment.clone(), counter, accept]),
            restored(&[comment, json!({"drop": null})]),
        ];
        assert_eq!(ours(&others, &net), [0; 0]);
    }
}
