//! The supported model classes: one file for each family, and a line in [`FAMILIES`].

mod common;
mod gemma3;
mod llama;
mod phi3;
mod qwen;

use super::config::Config;
use super::error::ImportError;
use super::plan::Plan;
use super::tokenizer::Preference;
use crate::gguf::Metadata;

/// How one kind of model becomes metadata and tensors.
#[derive(Debug)]
pub(crate) struct Family {
    /// Values of `architectures` in config.json.
    pub classes: &'static [&'static str],
    /// Value of `general.architecture`.
    pub name: &'static str,
    /// How the folder's tokenizer is to be read.
    pub tokenizer: Preference,
    /// Adds tensors to the plan and hyperparameters to the metadata. `general.file_type` has its place among them.
    pub describe: fn(&Config, &mut Plan<'_>, &mut Metadata) -> Result<(), ImportError>,
}

const FAMILIES: &[Family] =
    &[llama::DENSE, llama::MIXTRAL, qwen::QWEN2, qwen::QWEN3, qwen::QWEN3_MOE, gemma3::GEMMA3, phi3::PHI3];

/// Names of all model classes that can be imported (values of `architectures` in config.json).
pub fn supported() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().flat_map(|family| family.classes.iter().copied())
}

/// The family of a configuration's model class.
pub(crate) fn find(config: &Config) -> Result<&'static Family, ImportError> {
    let classes = config.classes();
    let family = FAMILIES.iter().find(|family| classes.iter().any(|class| family.classes.contains(class)));
    family.ok_or_else(|| {
        let name = match classes.as_slice() {
            [] => {
                config.text("model_type").map_or("(none named)".to_owned(), |kind| format!("of type {kind}"))
            }
            classes => classes.join(", "),
        };
        let supported: Vec<&str> = supported().collect();
        ImportError::Architecture { path: config.path().to_owned(), name, supported: supported.join(", ") }
    })
}
