//! `wsic unpack`: our tensors as ordinary ones, for runtimes that do not know the type.

use super::{output, outputs, progress, units, Context};
use crate::convert;
use crate::gguf::{self, GgmlType, GgufModel, GgufModelWriter, TensorSpec, Value};
use crate::runtime::dequantize_rows;
use anyhow::{bail, Result};
use std::path::PathBuf;

/// Turn WSIC tensors (and other quantized ones that were kept) into one ordinary type: a GGUF file that stock
/// llama.cpp loads.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  wsic unpack model.gguf --type f16 -o model-f16.gguf\n  wsic unpack model.gguf --type q8_0 -o model-q8.gguf"
)]
pub(crate) struct Arguments {
    /// GGUF file with WSIC tensors (the first one of a split model).
    model: PathBuf,
    /// File to write.
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Type of the tensors that were quantized.
    #[arg(long = "type", value_name = "TYPE", default_value = "f16", value_parser = ["f16", "bf16", "f32", "q8_0"])]
    ty: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Whether the type is ours or one of ggml's quantized ones.
fn is_quantized(ty: GgmlType) -> bool {
    ty == GgmlType::Wsic || ty.block_elements().is_some_and(|elements| elements > 1)
}

/// Elements converted at a time.
const BLOCK: u64 = 1 << 22;

pub(crate) fn run(arguments: &Arguments, context: &Context) -> Result<()> {
    let Some(target) = GgmlType::from_name(&arguments.ty) else { bail!("unknown type {}", arguments.ty) };
    outputs::check(&arguments.output, [arguments.model.as_path()])?;
    let model = GgufModel::open(&arguments.model, &gguf::Limits::default())?;
    let mut specs = Vec::new();
    for tensor in model.tensors() {
        let mut spec = TensorSpec::from(tensor);
        if is_quantized(tensor.ty) {
            // Rows that a block type cannot hold stay half floats, as llama.cpp does.
            spec.ty = if target.row_bytes(tensor.columns()).is_some() { target } else { GgmlType::F16 };
        }
        specs.push(spec);
    }
    let mut metadata = model.joined_metadata();
    convert::remove_format_keys(&mut metadata);
    metadata.set("general.file_type", Value::U32(convert::file_type(target)));
    let bar = progress::bar(specs.len() as u64, "unpacking", context.quiet);
    let mut writer = GgufModelWriter::create(&arguments.output, &metadata, vec![specs.clone()])?;
    for file in model.files() {
        for tensor in file.tensors() {
            bar.set_message(tensor.name.clone());
            let Some(spec) = specs.iter().find(|spec| spec.name == tensor.name) else { continue };
            if tensor.ty == spec.ty {
                writer.write_tensor(&tensor.name, file.tensor_bytes(tensor)?)?;
            } else {
                writer.begin_tensor(&tensor.name)?;
                let step = (BLOCK / tensor.columns()).max(1);
                let (mut floats, mut bytes) = (Vec::new(), Vec::new());
                for first in (0..tensor.rows()).step_by(step as usize) {
                    let last = (first + step).min(tensor.rows());
                    floats.resize(((last - first) * tensor.columns()) as usize, 0.0);
                    dequantize_rows(file, tensor, first..last, &mut floats)?;
                    bytes.clear();
                    gguf::encode(spec.ty, &floats, &mut bytes)?;
                    writer.append(&bytes)?;
                }
                writer.end_tensor()?;
            }
            bar.inc(1);
        }
    }
    let size = writer.finish()?;
    bar.finish_and_clear();
    let path = arguments.output.display().to_string();
    let value = serde_json::json!({ "output": path, "bytes": size, "type": arguments.ty });
    output::print(arguments.json, &value, || format!("{path}: {} ({})", units::bytes(size), arguments.ty))
}
