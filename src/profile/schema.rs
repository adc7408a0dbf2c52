//! The JSON schema of profiles, made from the table of keys.

use serde_json::{Map, Value as Json, json};

use super::keys::{KEYS, Key, Place};
use super::oci::PARTS;
use super::value::Kind;

/// The schema (<https://json-schema.org>, draft 2020-12) of a profile document, as people write it:
/// what has a `.` in its name is in an object.
pub fn schema() -> Json {
    let mut properties = Map::new();
    for key in KEYS.iter().filter(|k| k.place != Place::Container) {
        put(&mut properties, key.name, of_key(key));
        if matches!(key.kind, Kind::List(_)) {
            for (mark, what) in [("+", "Added to"), ("-", "Taken from")] {
                let mut more = of_kind(key.kind);
                more["description"] = json!(format!("{what} {}.", key.name));
                put(&mut properties, &format!("{}{mark}", key.name), more);
            }
        }
    }
    // The one object that can be a word.
    if let Some(network) = properties.get_mut("network") {
        *network = json!({"anyOf": [of_kind(Kind::Network), network.clone()]});
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "coloc profile",
        "description": "See coloc-profile(5).",
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    })
}

/// The schema of the object `name`'s property `inner`, put in its place.
fn put_inside(properties: &mut Map<String, Json>, name: &str, inner: &str, schema: Json) {
    let object = properties.entry(name).or_insert_with(
        || json!({"type": "object", "properties": {}, "additionalProperties": false}),
    );
    object["properties"][inner] = schema;
}

fn put(properties: &mut Map<String, Json>, name: &str, schema: Json) {
    match name.split_once('.') {
        Some((object, inner)) => put_inside(properties, object, inner, schema),
        None => {
            properties.insert(name.into(), schema);
        }
    }
}

fn of_key(key: &Key) -> Json {
    let mut schema = of_kind(key.kind);
    schema["description"] = json!(key.doc);
    // A list's default is the empty one; of a profile's own words there is none.
    if key.place == Place::Both {
        if let Ok(value) = key.kind.parse(key.default) {
            schema["default"] = key.kind.json(&value);
        }
    }
    schema
}

const SIZE: &str = r"^([0-9]+(\.[0-9]+)?[KMGTPkmgtp](i|iB)?|[0-9]+B?|max)$";
const CORES: &str = r"^([0-9]+(\.[0-9]+)?%?|max)$";
const CPUS: &str = r"^(all|[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*)$";
const NETWORK: &str = r"^(private|host|none|bridge=.+|macvlan=.+)$";
const NAME: &str = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$";

fn of_kind(kind: Kind) -> Json {
    let text = |pattern: &str| json!({"type": "string", "pattern": pattern});
    match kind {
        Kind::Flag => json!({"type": "boolean"}),
        Kind::Choice(words) => json!({"enum": words}),
        Kind::Network => text(NETWORK),
        Kind::Profile => text(NAME),
        Kind::Text => json!({"type": "string", "maxLength": 200}),
        Kind::Size { least } => {
            json!({"anyOf": [{"type": "integer", "minimum": least}, text(SIZE)]})
        }
        Kind::Count { least, most, none } => {
            let number = json!({"type": "integer", "minimum": least, "maximum": most});
            match none {
                "" => number,
                word => json!({"anyOf": [number, {"const": word}]}),
            }
        }
        Kind::Cores => json!({"anyOf": [{"type": "number", "minimum": 0.01}, text(CORES)]}),
        Kind::Cpus => text(CPUS),
        Kind::List(_) => json!({"type": "array", "items": {"type": "string"}}),
        Kind::Fragment => {
            let mut properties = Map::new();
            for part in PARTS {
                let kind = match part {
                    "mounts" | "linux.devices" => "array",
                    "process.selinuxLabel" | "linux.mountLabel" => "string",
                    _ => "object",
                };
                put(&mut properties, part, json!({"type": kind}));
            }
            json!({"type": "object", "properties": properties, "additionalProperties": false})
        }
    }
}
