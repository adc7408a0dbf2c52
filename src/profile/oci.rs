//! The `oci` of a profile: a fragment of an OCI runtime spec, checked and merged.
//!
//! | part | merged over what is there |
//! |---|---|
//! | an object | key by key |
//! | `mounts`, `linux.devices` | added; one of the same destination or path is replaced |
//! | `linux.seccomp.syscalls` | put before the others, as the first rule that matches counts |
//! | `hooks.*` | added after the others |
//! | all else | replaced |

use oci_spec::runtime::{
    Capability, Hooks, LinuxCapabilities, LinuxDevice, LinuxResources, LinuxSeccomp, Mount, Spec,
};
use serde_json::Value as Json;

use super::device::Device;
use super::item::MountPoint;
use super::json::{Data, Fault, Node};
use super::keys::nearest;
use super::spec::WITHOUT;

/// The parts that a fragment can have.
pub(super) const PARTS: [&str; 9] = [
    "process.capabilities",
    "process.selinuxLabel",
    "linux.mountLabel",
    "linux.seccomp",
    "linux.resources",
    "linux.devices",
    "mounts",
    "hooks",
    "annotations",
];

/// Checks a fragment: nothing in it that is not known, nothing that gives the host away.
pub(super) fn check(node: &Node) -> Result<(), Fault> {
    let Data::Object(pairs) = &node.data else {
        return Err(Fault::new(node.line, format!("it is {}, not an object", node.what())));
    };
    for (key, inner) in pairs {
        let deeper = PARTS.iter().any(|p| p.starts_with(&format!("{key}.")));
        match (&inner.data, deeper) {
            (Data::Object(inner_pairs), true) => {
                for (name, value) in inner_pairs {
                    part(&format!("{key}.{name}"), value)?;
                }
            }
            (_, true) => return Err(Fault::new(inner.line, format!("{key} is {}", inner.what()))),
            (_, false) => part(key, inner)?,
        }
    }
    Ok(())
}

fn part(path: &str, node: &Node) -> Result<(), Fault> {
    match path {
        "process.capabilities" => {
            known::<LinuxCapabilities>(path, node)?;
            capabilities(node)
        }
        "process.selinuxLabel" | "linux.mountLabel" => context(path, node),
        "linux.seccomp" => known::<LinuxSeccomp>(path, &with_default_action(node)),
        "linux.resources" => known::<LinuxResources>(path, node),
        "linux.devices" => {
            known::<Vec<LinuxDevice>>(path, node)?;
            each(node, device)
        }
        "mounts" => {
            known::<Vec<Mount>>(path, node)?;
            each(node, mount)
        }
        "hooks" => {
            known::<Hooks>(path, node)?;
            hooks(node)
        }
        "annotations" => known::<std::collections::HashMap<String, String>>(path, node),
        _ => {
            let fault = Fault::new(node.line, format!("{path} cannot be in oci"));
            let near = nearest(path, PARTS).map(|n| format!("did you mean {n}? "));
            let near = near.unwrap_or_default();
            Err(fault.hint(format!("{near}these can: {}", PARTS.join(", "))))
        }
    }
}

/// USER:ROLE:TYPE, and a LEVEL where the policy has levels; whether it knows them is its own to say.
fn context(path: &str, node: &Node) -> Result<(), Fault> {
    let Data::Plain(Json::String(text)) = &node.data else {
        return Err(Fault::new(node.line, format!("{path} is {}, not a text", node.what())));
    };
    let word = |w: &str| !w.is_empty() && w.chars().all(|c| c.is_ascii_graphic());
    let parts: Vec<&str> = text.splitn(4, ':').collect();
    if (3..=4).contains(&parts.len()) && parts.into_iter().all(word) && text.len() < 256 {
        return Ok(());
    }
    Err(Fault::new(node.line, format!("{path} is no SELinux label: {text:?}"))
        .hint("one is USER:ROLE:TYPE:LEVEL, such as system_u:system_r:container_t:s0"))
}

/// Reads `node` as a `T`, and finds keys that `T` dropped because it does not know them.
fn known<T>(path: &str, node: &Node) -> Result<(), Fault>
where
    T: serde::Serialize + serde::de::DeserializeOwned,
{
    let wrong = |e: serde_json::Error| {
        Fault::new(node.line, format!("{path} is not what the OCI runtime spec has there: {e}"))
    };
    let typed: T = serde_json::from_value(node.plain()).map_err(wrong)?;
    compare(path, node, &serde_json::to_value(typed).map_err(wrong)?)
}

fn compare(path: &str, given: &Node, kept: &Json) -> Result<(), Fault> {
    match (&given.data, kept) {
        (Data::Object(pairs), Json::Object(map)) => pairs.iter().try_for_each(|(key, node)| {
            let path = format!("{path}.{key}");
            match map.get(key) {
                Some(kept) => compare(&path, node, kept),
                None => Err(Fault::new(node.line, format!("the OCI runtime spec has no {path}"))),
            }
        }),
        (Data::List(list), Json::Array(kept)) => {
            list.iter().zip(kept).try_for_each(|(node, kept)| compare(path, node, kept))
        }
        _ => Ok(()),
    }
}

/// A whole filter must say what its default is; a fragment need not.
fn with_default_action(node: &Node) -> Node {
    let mut whole = node.clone();
    if let Data::Object(pairs) = &mut whole.data {
        if pairs.iter().all(|(key, _)| key != "defaultAction") {
            let data = Data::Plain(Json::String("SCMP_ACT_ERRNO".into()));
            pairs.push(("defaultAction".into(), Node { line: node.line, data }));
        }
    }
    whole
}

fn each(node: &Node, check: fn(&Json) -> Result<(), String>) -> Result<(), Fault> {
    let Data::List(list) = &node.data else { return Ok(()) };
    list.iter().try_for_each(|n| check(&n.plain()).map_err(|why| Fault::new(n.line, why)))
}

fn capabilities(node: &Node) -> Result<(), Fault> {
    let Data::Object(sets) = &node.data else { return Ok(()) };
    for (_, set) in sets {
        let Data::List(names) = &set.data else { continue };
        for name in names {
            let cap = serde_json::from_value::<Capability>(name.plain());
            if cap.is_ok_and(|c| WITHOUT.contains(&c)) {
                let why = format!("{} reaches past the container", name.plain());
                return Err(Fault::new(name.line, why).hint("no profile can give it"));
            }
        }
    }
    Ok(())
}

fn text<'a>(value: &'a Json, key: &str) -> &'a str {
    value.get(key).and_then(Json::as_str).unwrap_or_default()
}

fn device(value: &Json) -> Result<(), String> {
    if text(value, "type") == "b" {
        return Err("a block device is given by the key devices, with ,block after it".into());
    }
    let number = |key| value.get(key).and_then(Json::as_i64).unwrap_or(0);
    Device::parse(&format!("c:{}:{}", number("major"), number("minor")))?;
    Device::parse(text(value, "path")).map(drop)
}

fn mount(value: &Json) -> Result<(), String> {
    let (kind, source, target) =
        (text(value, "type"), text(value, "source"), text(value, "destination"));
    match kind {
        "bind" => MountPoint::parse(&format!("{source}:{target}")).map(drop),
        "tmpfs" => MountPoint::parse(&format!("/srv:{target}")).map(drop),
        _ => Err(format!("{kind:?} mounts are not for profiles: bind and tmpfs are")),
    }
}

fn hooks(node: &Node) -> Result<(), Fault> {
    let Data::Object(points) = &node.data else { return Ok(()) };
    for (point, list) in points {
        if point == "prestart" {
            return Err(Fault::new(list.line, "prestart hooks are deprecated by the OCI spec")
                .hint("use createRuntime"));
        }
        each(list, |hook| match text(hook, "path").starts_with('/') {
            true => Ok(()),
            false => Err(format!("the path of a hook is absolute, not {:?}", text(hook, "path"))),
        })?;
    }
    Ok(())
}

/// Whether a fragment has hooks: programs that root of the host runs.
pub(super) fn has_hooks(fragment: &Json) -> bool {
    fragment.get("hooks").is_some()
}

/// Merges `over` into `base`; see the table above.
pub(super) fn merge(base: &mut Json, over: &Json) {
    merge_at("", base, over);
}

fn merge_at(path: &str, base: &mut Json, over: &Json) {
    match (base, over) {
        (Json::Object(base), Json::Object(over)) => {
            for (key, value) in over {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match base.get_mut(key) {
                    Some(there) => merge_at(&path, there, value),
                    None => {
                        base.insert(key.clone(), value.clone());
                    }
                }
            }
        }
        (Json::Array(base), Json::Array(over)) => match path {
            "mounts" => replace_or_add(base, over, "destination"),
            "linux.devices" => replace_or_add(base, over, "path"),
            "linux.seccomp.syscalls" => {
                base.splice(0..0, over.iter().cloned());
            }
            _ if path.starts_with("hooks.") => base.extend(over.iter().cloned()),
            _ => base.clone_from(over),
        },
        (base, over) => base.clone_from(over),
    }
}

fn replace_or_add(base: &mut Vec<Json>, over: &[Json], key: &str) {
    for item in over {
        match base.iter().position(|b| text(b, key) == text(item, key)) {
            Some(at) => base[at] = item.clone(),
            None => base.push(item.clone()),
        }
    }
}

/// `spec` with `fragment` merged over it.
pub(super) fn apply(spec: &Spec, fragment: &Json) -> Result<Spec, serde_json::Error> {
    let mut json = serde_json::to_value(spec)?;
    merge(&mut json, fragment);
    serde_json::from_value(json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fault(text: &str) -> Fault {
        check(&Node::parse(text).unwrap()).unwrap_err()
    }

    #[test]
    fn what_is_not_known_is_named_with_its_line() {
        let f = fault("{\"linux\": {\n\"resources\": {\"memory\": {\n\"limt\": 5}}}}");
        assert_eq!((f.line, f.message.contains("linux.resources.memory.limt")), (3, true), "{f:?}");
        let f = fault("{\n\"linux\": {\n\"sysctl\": {}}}");
        assert!(f.line == 3 && f.message.contains("linux.sysctl"), "{f:?}");
        let f = fault("{\"linux\": {\"secomp\": {}}}");
        assert!(f.hint.unwrap().contains("did you mean linux.seccomp?"));
        assert!(
            fault("{\"hooks\": {\"poststart\": [{\"path\": \"x\"}]}}").message.contains("absolute")
        );
        assert!(fault("{\"mounts\": 5}").message.contains("mounts"));
        assert!(fault("[]").message.contains("a list"));
    }

    #[test]
    fn what_gives_the_host_away_is_refused() {
        for bad in [
            json!({"process": {"capabilities": {"bounding": ["CAP_SYS_MODULE"]}}}),
            json!({"linux": {"devices": [{"path": "/dev/sda", "type": "b", "major": 8, "minor": 0}]}}),
            json!({"linux": {"devices": [{"path": "/dev/x", "type": "c", "major": 1, "minor": 1}]}}),
            json!({"mounts": [{"destination": "/mnt", "type": "bind", "source": "/proc"}]}),
            json!({"mounts": [{"destination": "/usr", "type": "tmpfs"}]}),
            json!({"mounts": [{"destination": "/mnt", "type": "proc"}]}),
            json!({"process": {"selinuxLabel": "container_t"}}),
            json!({"linux": {"mountLabel": "a:b:c d"}}),
        ] {
            assert!(check(&Node::from(&bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn fragments_merge_by_their_table() {
        let mut base = json!({
            "linux": {"seccomp": {"syscalls": [{"names": ["a"]}]}, "resources": {"pids": {"limit": 5}}},
            "mounts": [{"destination": "/a", "source": "1"}],
            "hooks": {"poststart": [{"path": "/one"}]},
            "annotations": {"k": "1", "j": "1"}
        });
        merge(
            &mut base,
            &json!({
                "linux": {"seccomp": {"syscalls": [{"names": ["b"]}]}, "resources": {"pids": {"limit": 9}}},
                "mounts": [{"destination": "/a", "source": "2"}, {"destination": "/b"}],
                "hooks": {"poststart": [{"path": "/two"}]},
                "annotations": {"k": "2"}
            }),
        );
        assert_eq!(
            base,
            json!({
                "linux": {"seccomp": {"syscalls": [{"names": ["b"]}, {"names": ["a"]}]}, "resources": {"pids": {"limit": 9}}},
                "mounts": [{"destination": "/a", "source": "2"}, {"destination": "/b"}],
                "hooks": {"poststart": [{"path": "/one"}, {"path": "/two"}]},
                "annotations": {"k": "2", "j": "1"}
            })
        );
    }
}
