//! `coloc spec`: a container as a bundle of any OCI runtime's.

use oci_spec::runtime::{Mount, MountBuilder, RootBuilder};
use serde_json::Value as Json;

use super::Engine;
use crate::error::{Error, Result};
use crate::runtime::{InitKind, plan, seccomp};
use crate::store::Record;

/// What a room's init does, for runtimes that do not have coloc's.
const WAIT: &str = "trap 'exit 0' TERM INT RTMIN+3; while :; do sleep 3600 & wait; done";

impl Engine {
    /// The spec of `record`'s container as another runtime takes it, in a bundle whose `rootfs` is
    /// the private tree.
    pub fn portable_spec(&self, record: &Record) -> Result<Json> {
        let (mut spec, _, kind) = self.plan(record)?;
        let failed = |e: oci_spec::OciSpecError| Error::failed(format!("cannot make a spec: {e}"));
        let root = RootBuilder::default().path("rootfs").readonly(false).build();
        spec.set_root(Some(root.map_err(failed)?));
        if let Some(process) = spec.process_mut() {
            let mut env = process.env().clone().unwrap_or_default();
            // Nobody listens there.
            env.retain(|e| !e.starts_with("NOTIFY_SOCKET="));
            process.set_env(Some(env));
            // It is loaded for as long as the container runs here.
            process.set_apparmor_profile(None);
            if kind == InitKind::Builtin {
                process.set_args(Some(["/bin/sh", "-c", WAIT].map(String::from).to_vec()));
            }
        }
        if let Some(linux) = spec.linux_mut() {
            let filter = linux.seccomp().as_ref().map(seccomp::portable).transpose()?;
            linux.set_seccomp(filter);
        }
        if kind == InitKind::Systemd {
            let own_network = plan::own_network(&spec);
            let masks = plan::masked_units(own_network).map(mask);
            let masks = masks.collect::<std::result::Result<Vec<_>, _>>().map_err(failed)?;
            let mut mounts = spec.mounts().clone().unwrap_or_default();
            mounts.extend(masks);
            spec.set_mounts(Some(mounts));
        }
        let json = serde_json::to_value(&spec);
        json.map(sorted).map_err(|e| Error::failed(format!("cannot make a spec: {e}")))
    }
}

/// `spec` with its sets in order, so that two of the same settings are the same text.
fn sorted(mut spec: Json) -> Json {
    if let Some(sets) = spec.pointer_mut("/process/capabilities").and_then(Json::as_object_mut) {
        for set in sets.values_mut().filter_map(Json::as_array_mut) {
            set.sort_by_key(Json::to_string);
        }
    }
    if let Some(notes) = spec.get_mut("annotations").and_then(Json::as_object_mut) {
        notes.sort_keys();
    }
    spec
}

/// A unit that cannot work inside, covered.
fn mask(unit: &str) -> std::result::Result<Mount, oci_spec::OciSpecError> {
    MountBuilder::default()
        .destination(format!("{}/{unit}", plan::MASKED_UNITS_DIR))
        .typ("bind")
        .source("/dev/null")
        .options(["bind", "ro"].map(String::from))
        .build()
}
