//! `wsic retag`: another type id for the WSIC tensors of a file (spec section 2, "Collision of the type id").

use super::{output, outputs, Context};
use crate::convert::TYPE_ID_KEY;
use crate::gguf::{GgmlType, GgufFile, GgufModel, Limits, TensorInfo, Value, ValueType, WSIC_TYPE_ID};
use anyhow::{bail, ensure, Context as _, Result};
use std::path::PathBuf;

/// Give the WSIC tensors of a file another type id, for a runtime that uses one other than 704, or back.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  wsic retag model.gguf --type-id 910 -o model-910.gguf\n  wsic retag model-910.gguf --type-id 704 -o model.gguf"
)]
pub(crate) struct Arguments {
    /// GGUF file whose metadata has the key wsic.type_id.
    model: PathBuf,
    /// File to write; nothing but the ids differs.
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// The new type id.
    #[arg(long, value_name = "ID")]
    type_id: u32,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments, _context: &Context) -> Result<()> {
    outputs::check(&arguments.output, [arguments.model.as_path()])?;
    let name = arguments.model.display();
    let file = GgufFile::open(&arguments.model, &Limits::default())?;
    let Some(&Value::U32(old)) = file.metadata().get(TYPE_ID_KEY) else {
        bail!("{name}: has no key {TYPE_ID_KEY}: it holds no WSIC tensors, or was written by another tool");
    };
    let new = arguments.type_id;
    let free = new == WSIC_TYPE_ID || matches!(GgmlType::from_id(new), GgmlType::Unknown(_));
    ensure!(free, "--type-id {new} is the type {}: choose an id that is not taken", GgmlType::from_id(new));
    let mut bytes = std::fs::read(&arguments.model).with_context(|| format!("{name}: cannot read"))?;
    for tensor in file.tensors().iter().filter(|tensor| tensor.ty.id() == old) {
        put(&mut bytes, id_offset(tensor), new)
            .with_context(|| format!("{name}: tensor '{}'", tensor.name))?;
    }
    let key = [
        &(TYPE_ID_KEY.len() as u64).to_le_bytes()[..],
        TYPE_ID_KEY.as_bytes(),
        &(ValueType::U32 as u32).to_le_bytes(),
    ]
    .concat();
    let header = usize::try_from(file.data_start())?.min(bytes.len());
    let at = bytes[..header].windows(key.len()).position(|window| window == key);
    let at = at.with_context(|| format!("{name}: cannot find the key {TYPE_ID_KEY}"))?;
    put(&mut bytes, at + key.len(), new)?;

    // The changed bytes must read back as the same file with the other id.
    let changed = GgufFile::from_bytes(&arguments.model, bytes.clone(), &Limits::default())?;
    let same = changed.metadata().get(TYPE_ID_KEY) == Some(&Value::U32(new))
        && changed.tensors().len() == file.tensors().len()
        && changed.tensors().iter().zip(file.tensors()).all(|(a, b)| {
            a.name == b.name
                && a.offset == b.offset
                && a.ty.id() == if b.ty.id() == old { new } else { b.ty.id() }
        });
    ensure!(same, "{name}: the file is ambiguous and was not changed");
    outputs::write(&arguments.output, &bytes)?;
    let path = arguments.output.display().to_string();
    let value = serde_json::json!({ "output": path, "old_type_id": old, "type_id": new });
    output::print(arguments.json, &value, || format!("{path}: type id {old} is now {new}"))
}

/// Refuses a model whose WSIC tensors have another type id than ours.
pub(super) fn check(model: &GgufModel) -> Result<()> {
    let Some(&Value::U32(id)) = model.metadata().get(TYPE_ID_KEY) else { return Ok(()) };
    let retagged = id != WSIC_TYPE_ID && model.tensors().any(|tensor| tensor.ty.id() == id);
    ensure!(
        !retagged,
        "{0}: its WSIC tensors have the type id {id}: `wsic retag {0} --type-id {WSIC_TYPE_ID} -o NEW.gguf` first",
        model.files().first().map(GgufFile::path).unwrap_or(std::path::Path::new("the model")).display()
    );
    Ok(())
}

/// The same for a file that something else has been found wrong with.
pub(super) fn check_file(path: &std::path::Path) -> Result<()> {
    // Only the first error is of interest where it cannot even be opened.
    GgufModel::open(path, &Limits::default()).map_or(Ok(()), |model| check(&model))
}

/// Position of the type id of a tensor: after name, number of dimensions and dimensions.
fn id_offset(tensor: &TensorInfo) -> usize {
    tensor.info_offset as usize + 8 + tensor.name.len() + 4 + 8 * tensor.dims.len()
}

fn put(bytes: &mut [u8], at: usize, value: u32) -> Result<()> {
    let place = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<4>());
    *place.context("the header is too short")? = value.to_le_bytes();
    Ok(())
}
