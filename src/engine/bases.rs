//! `coloc base create`, `list`, `show`, `verify`, `delete`.

use std::path::{Path, PathBuf};

use super::Engine;
use crate::base::{self, BuildSpec, Said, build, diff, publish};
use crate::error::{Context, Error, Kind, Result};
use crate::profile::shipped_dir;
use crate::store::journal::{self, Work};
use crate::store::lock::{self, Subject};
use crate::store::record::{Origin, bases, current_generation, generations};
use crate::store::{BaseRecord, Name, atomic};
use crate::tree::{self, manifest};

/// Where a new base comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// mmdebstrap builds it; what is None comes from the package list.
    Suite {
        /// `--suite`
        suite: String,
        /// `--mirror`
        mirror: Option<String>,
        /// `--components`
        components: Option<String>,
        /// `--include`, beside the package list's
        include: Vec<String>,
        /// `--variant`
        variant: Option<String>,
    },
    /// `--from`
    Tree(PathBuf),
}

/// A base as `base list` and `base show` show it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct BaseView {
    /// Its name.
    pub name: Name,
    /// Where it came from.
    pub origin: Origin,
    /// The generation that new containers get.
    pub generation: u64,
    /// All generations that there are.
    pub generations: Vec<u64>,
    /// How many packages the current one has.
    pub packages: usize,
    /// When the base was made, RFC 3339.
    pub created: String,
    /// The containers over it.
    pub containers: Vec<Name>,
    /// Where the current generation's tree is.
    pub path: String,
}

impl Engine {
    /// Builds the base `name` and publishes it as generation 1.
    pub fn create_base(
        &self,
        name: &Name,
        source: &Source,
        progress: &mut dyn FnMut(Said),
    ) -> Result<publish::Published> {
        let _lock = lock::exclusive(&self.layout, &Subject::Base(name.clone()))?;
        let place = self.layout.base(name);
        if place.exists() {
            return Err(Error::new(Kind::State, format!("there is a base {name} already"))
                .hint("choose another name; coloc base list shows those that are taken"));
        }
        let work = Work::CreateBase { name: name.clone() };
        let staging = work.staging(&self.layout);
        work.begin(&self.layout)?;
        let result = self.build_base(name, source, &staging, progress);
        if result.is_err() {
            let _ = tree::remove(&staging);
        }
        // If the tree could not be removed, the journal stays for whoever comes next.
        if result.is_ok() || !staging.exists() {
            work.end(&self.layout)?;
        }
        result.context(|| format!("cannot create base {name}"))
    }

    fn build_base(
        &self,
        name: &Name,
        source: &Source,
        staging: &Path,
        progress: &mut dyn FnMut(Said),
    ) -> Result<publish::Published> {
        tree::remove(staging)?;
        let generation = staging.join("generations/1");
        std::fs::create_dir_all(&generation)
            .context(|| format!("cannot make {}", generation.display()))?;
        let origin = self.fill(source, staging, &generation.join("tree"), progress)?;
        journal::step("base.built");
        progress(Said::Phase("publishing generation 1".into()));
        let published = publish::publish(&generation)?;
        let mut record = BaseRecord::new(name.clone(), origin);
        record.moved_ids = published.moved_ids.clone();
        record.save_in(staging)?;
        std::os::unix::fs::symlink("generations/1", staging.join("current"))?;
        std::fs::set_permissions(staging, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        journal::step("base.published");
        let place = self.layout.base(name);
        std::fs::rename(staging, &place).context(|| "cannot put it in its place")?;
        atomic::sync_parent(&place)?;
        journal::step("base.placed");
        Ok(published)
    }

    fn fill(
        &self,
        source: &Source,
        staging: &Path,
        tree: &Path,
        progress: &mut dyn FnMut(Said),
    ) -> Result<Origin> {
        match source {
            Source::Tree(from) => {
                progress(Said::Phase(format!("copying {}", from.display())));
                build::import(from, tree)?;
                Ok(Origin::Import { from: from.display().to_string() })
            }
            Source::Suite { suite, mirror, components, include, variant } => {
                let defaults = base::defaults(&self.layout, &shipped_dir().join("bases"))?;
                let mut packages = defaults.include;
                packages.extend(include.iter().filter(|p| !p.is_empty()).cloned());
                let spec = BuildSpec {
                    suite: suite.clone(),
                    mirror: mirror.clone(),
                    components: components.clone().unwrap_or(defaults.components),
                    include: packages,
                    variant: variant.clone().unwrap_or(defaults.variant),
                };
                let sources = self.bootstrap(&spec, staging, tree, progress)?;
                Ok(Origin::Mmdebstrap {
                    suite: spec.suite,
                    sources,
                    variant: spec.variant,
                    include: spec.include,
                })
            }
        }
    }

    /// Builds, with a log that outlives the staging directory if it fails.
    fn bootstrap(
        &self,
        spec: &BuildSpec,
        staging: &Path,
        tree: &Path,
        progress: &mut dyn FnMut(Said),
    ) -> Result<Vec<String>> {
        let name = staging.file_name().unwrap_or_default().to_string_lossy();
        let log = self.layout.state().join(format!("{name}.log"));
        let sources = build::bootstrap(spec, tree, &staging.join("tmp"), &log, progress)?;
        std::fs::rename(&log, staging.join("build.log")).context(|| "cannot keep the log")?;
        Ok(sources)
    }

    /// One base.
    pub fn base_view(&self, name: &Name) -> Result<BaseView> {
        let record = BaseRecord::load(&self.layout, name)?;
        let generation = current_generation(&self.layout, name)?;
        let dir = self.layout.generation(name, generation);
        Ok(BaseView {
            name: name.clone(),
            origin: record.origin,
            generation,
            generations: generations(&self.layout, name)?,
            packages: publish::packages(&dir)?.len(),
            created: record.created,
            containers: self.containers_of(name)?.into_iter().map(|r| r.name).collect(),
            path: dir.join("tree").display().to_string(),
        })
    }

    /// All bases, or why one cannot be read.
    pub fn base_views(&self) -> Result<Vec<Result<BaseView>>> {
        Ok(bases(&self.layout)?.iter().map(|name| self.base_view(name)).collect())
    }

    /// What in a generation is not as it was published; the current one if None.
    pub fn verify_base(
        &self,
        name: &Name,
        generation: Option<u64>,
    ) -> Result<(u64, Vec<manifest::Difference>)> {
        BaseRecord::load(&self.layout, name)?;
        let _lock = lock::shared(&self.layout, &Subject::Base(name.clone()))?;
        let generation = match generation {
            Some(n) => self.known_generation(name, n)?,
            None => current_generation(&self.layout, name)?,
        };
        Ok((generation, manifest::verify(&self.layout.generation(name, generation))?))
    }

    /// What differs between two generations of a base; the newer is the current one if None.
    pub fn diff_base(&self, name: &Name, old: u64, new: Option<u64>) -> Result<diff::Diff> {
        BaseRecord::load(&self.layout, name)?;
        let _lock = lock::shared(&self.layout, &Subject::Base(name.clone()))?;
        let old = self.known_generation(name, old)?;
        let new = match new {
            Some(n) => self.known_generation(name, n)?,
            None => current_generation(&self.layout, name)?,
        };
        diff::diff(&self.layout.generation(name, old), &self.layout.generation(name, new))
    }

    /// Deletes a base that no container uses.
    pub fn delete_base(&self, name: &Name) -> Result<()> {
        let _transaction = self.transaction_lock(name)?;
        let _lock = lock::exclusive(&self.layout, &Subject::Base(name.clone()))?;
        self.check_delete_base(name)?;
        let work = Work::DeleteBase { name: name.clone() };
        let gone = work.staging(&self.layout);
        tree::remove(&gone)?;
        work.begin(&self.layout)?;
        journal::step("base-delete.begun");
        let place = self.layout.base(name);
        std::fs::rename(&place, &gone).context(|| format!("cannot delete base {name}"))?;
        atomic::sync_parent(&place)?;
        journal::step("base-delete.moved");
        tree::remove(&gone)?;
        work.end(&self.layout)
    }

    /// Whether a base may be deleted: a container whose record cannot be read may be over it.
    pub fn check_delete_base(&self, name: &Name) -> Result<()> {
        if !self.layout.base(name).exists() {
            BaseRecord::load(&self.layout, name)?;
        }
        let mut users: Vec<String> =
            self.containers_of(name)?.into_iter().map(|r| r.name.to_string()).collect();
        for (container, record) in crate::store::record::all(&self.layout)? {
            if record.is_err() {
                users.push(format!("{container} (damaged)"));
            }
        }
        if users.is_empty() {
            return Ok(());
        }
        Err(Error::new(Kind::State, format!("base {name} is in use by {}", users.join(", ")))
            .hint("delete those containers first"))
    }
}
