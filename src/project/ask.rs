//! Asks base and the arms of an opened project.

use std::path::Path;

use super::adapter::{self, LoadedAdapter};
use super::arms::{self, Tested};
use super::asked::{Checked, open_tokenizer};
use super::prepared::Prepared;
use super::{Events, TrainPolicy, backend, made};
use crate::backend::{Backend, ENGINE_REVISION};
use crate::config::BackendName;
use crate::error::Result;
use crate::model;
use crate::record::{Arm, BASE, Drift, ModelInfo, RunRecord, ScenarioRecord, TUNED};
use crate::run::{Inputs, Store, execute, measure_drift};
use crate::snapshot;

impl Prepared<'_> {
    /// The project's adapter, trained on the backend `name` if it has to be.
    ///
    /// # Errors
    /// As [`adapter::ready`].
    pub(super) fn adapter(
        &self,
        name: BackendName,
        policy: TrainPolicy,
        on_event: Events<'_>,
    ) -> Result<LoadedAdapter> {
        adapter::ready(self, name, policy, on_event)
    }

    /// All adapters that are asked: the project's own, then those of `[arms]`.
    ///
    /// # Errors
    /// As [`arms::further`].
    pub(super) fn arms(&self, name: BackendName, tuned: LoadedAdapter) -> Result<Vec<Tested>> {
        let further = arms::further(self.config, name, &self.base, &tuned)?;
        Ok(std::iter::once(Tested { name: TUNED.to_owned(), ready: tuned }).chain(further).collect())
    }

    /// A backend with base and these arms; nothing is loaded yet.
    ///
    /// # Errors
    /// It cannot take this base, or this program has none of that name.
    fn backend(&self, name: BackendName, arms: &[Tested]) -> Result<Box<dyn Backend>> {
        backend::open(self.config, name, &self.base, arms, self.server.as_ref())
    }

    /// Asks base and these arms every case on a backend.
    ///
    /// # Errors
    /// The model cannot be loaded or asked.
    pub(super) fn ask(&self, name: BackendName, arms: &[Tested], on_event: Events<'_>) -> Result<RunRecord> {
        self.ask_others(&self.checked, name, arms, on_event)
    }

    /// As [`Self::ask`], other cases than the project's.
    pub(super) fn ask_others(
        &self,
        checked: &Checked,
        name: BackendName,
        arms: &[Tested],
        on_event: Events<'_>,
    ) -> Result<RunRecord> {
        let inputs = self.inputs(checked, name, arms)?;
        let mut backend = self.backend(name, arms)?;
        let run = execute(&inputs, &mut *backend, &self.store(), on_event);
        // A backend knows no scenarios: of a prompt that does not fit, the check tells the file and the case.
        run.map_err(|error| open_tokenizer(self.config, &self.base.files, checked).err().unwrap_or(error))
    }

    /// Drift of these arms on base's answers in `records`, one each. Nothing is asked.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub(super) fn drift_of(
        &self,
        records: &[ScenarioRecord],
        name: BackendName,
        arms: &[Tested],
        on_event: Events<'_>,
    ) -> Result<Vec<Drift>> {
        let nothing = Checked::default();
        let inputs = self.inputs(&nothing, name, arms)?;
        let mut backend = self.backend(name, arms)?;
        measure_drift(&inputs, records, &mut *backend, &self.store(), on_event)
    }

    fn store(&self) -> Store {
        Store::new(self.config.store().join("store"))
    }

    fn inputs<'a>(&self, checked: &'a Checked, name: BackendName, arms: &[Tested]) -> Result<Inputs<'a>> {
        let Self { config, base, .. } = self;
        let (family, parameters) = match arms.first() {
            Some(arm) => (arm.ready.family.clone(), arm.ready.parameters),
            None => {
                let outline = model::outline(&base.files, &config.model)?;
                (outline.family, outline.parameters)
            }
        };
        let names = checked.scenarios.iter().map(|s| s.name.as_str());
        let arms_shown: Vec<&str> = std::iter::once(BASE).chain(arms.iter().map(|arm| arm.name.as_str())).collect();
        Ok(Inputs {
            project: config.project.clone(),
            made: made::made(config),
            model: ModelInfo {
                source: config.relative(Path::new(&config.model.source)),
                family,
                parameters,
                fingerprint: base.fingerprint.clone(),
                weights: base.weights.clone(),
            },
            arms: self.records(name, arms),
            scenarios: &checked.scenarios,
            drift_text: checked.drift_text.clone(),
            target_drift: config.run.target_drift,
            part: checked.part.clone(),
            approved: snapshot::approved(&config.run.snapshots, names, &arms_shown),
        })
    }

    fn records(&self, name: BackendName, arms: &[Tested]) -> Vec<Arm> {
        let config = self.config;
        let context = config.model.context.map_or_else(|| "default".to_owned(), |c| c.to_string());
        let fingerprint = |adapter: &str| {
            let engine = format!("{} revision {ENGINE_REVISION}", backend::version(config, name, self.server.as_ref()));
            let all = [self.base.fingerprint.as_str(), adapter, &engine, &context].join("\n");
            blake3::hash(all.as_bytes()).to_hex().to_string()
        };
        let base = Arm { name: BASE.into(), fingerprint: fingerprint("none"), adapter: None, scale: 1.0 };
        let record = |Tested { name, ready }: &Tested| Arm {
            name: name.clone(),
            fingerprint: fingerprint(&format!("{} × {}", ready.hash, ready.scale)),
            adapter: Some(config.relative(&ready.directory)),
            scale: ready.scale,
        };
        std::iter::once(base).chain(arms.iter().map(record)).collect()
    }
}
