//! The models that a server lists at `/v1/models`: base, and adapters on it.

use serde_json::Value;

use super::http::Client;
use super::server::{count, malformed};
use crate::config::RemoteConfig;
use crate::error::{Error, Result};
use crate::shown::plain;

pub(super) struct Models {
    listed: Vec<Value>,
    url: String,
}

impl Models {
    /// Asks which there are.
    ///
    /// # Errors
    /// The server cannot be reached, or lists none.
    pub(super) fn of(client: &Client) -> Result<Self> {
        let fail = |failure: super::http::Failure| Error::failed(failure.why());
        let answer = client.get("/v1/models").map_err(fail)?;
        let listed = answer["data"].as_array().ok_or_else(|| fail(malformed("data", &answer)))?;
        Ok(Self { listed: listed.clone(), url: client.url().to_owned() })
    }

    /// The name of base: the one that the manifest gives, or the only one.
    ///
    /// # Errors
    /// There is no such model, or several and none is named.
    pub(super) fn base(&self, config: &RemoteConfig) -> Result<String> {
        let bases: Vec<&str> = self.listed.iter().filter(|model| parent(model).is_empty()).map(id).collect();
        match (&config.model, bases.as_slice()) {
            (Some(name), _) if self.listed.iter().any(|model| id(model) == name) => Ok(name.clone()),
            (Some(name), _) => {
                Err(Error::failed(format!("{}: it has no model {name:?}; it has {}", self.url, shown(&bases))))
            }
            (None, [one]) => Ok((*one).to_owned()),
            (None, several) => Err(Error::failed(format!(
                "{}: which model is base is not said; it has {}; name it: [backend] model = \"…\"",
                self.url,
                shown(several)
            ))),
        }
    }

    /// The name of an arm's adapter, which has to be on `base`. `option` is how the server is started with it.
    ///
    /// # Errors
    /// There is no such model, or it is on another base.
    pub(super) fn adapter(&self, config: &RemoteConfig, arm: &str, base: &str, option: &str) -> Result<String> {
        let name = config.adapters.get(arm).map_or(arm, String::as_str);
        match self.listed.iter().find(|model| id(model) == name).map(parent) {
            Some(parent) if parent == base => Ok(name.to_owned()),
            Some(parent) => Err(Error::failed(format!(
                "{}: {name:?}, {arm}'s adapter, is on {parent:?} and not on base, {base:?}",
                self.url
            ))),
            None => {
                let adapters: Vec<&str> = self.listed.iter().filter(|model| parent(model) == base).map(id).collect();
                Err(Error::failed(format!(
                    "{}: it has no model {name:?} for {arm}; its adapters are {}; start it with {option} {name}=DIR, or name another: [backend.adapters] {arm} = \"…\"",
                    self.url,
                    shown(&adapters)
                )))
            }
        }
    }

    /// Tokens of the longest text of a model.
    ///
    /// # Errors
    /// The server does not tell.
    pub(super) fn context(&self, name: &str) -> Result<usize> {
        let model = self.find(name);
        count(&model["max_model_len"]).ok_or_else(|| Error::failed(malformed("max_model_len", model).why()))
    }

    /// There is a model of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.listed.iter().any(|model| id(model) == name)
    }

    /// Where a model was loaded from.
    pub(super) fn root(&self, name: &str) -> String {
        plain(self.find(name)["root"].as_str().unwrap_or("unknown"), 200)
    }

    fn find(&self, name: &str) -> &Value {
        self.listed.iter().find(|model| id(model) == name).unwrap_or(&Value::Null)
    }
}

fn id(model: &Value) -> &str {
    model["id"].as_str().unwrap_or_default()
}

fn parent(model: &Value) -> &str {
    model["parent"].as_str().unwrap_or_default()
}

fn shown(names: &[&str]) -> String {
    match names {
        [] => "none".to_owned(),
        names => names.iter().map(|name| plain(name, 100)).collect::<Vec<_>>().join(", "),
    }
}
