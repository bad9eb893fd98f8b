//! `wsic skeleton`: what an unpatched llama.cpp has to be told of a model whose weights it gets from our library
//! (`integrations/llama.cpp`).

use super::{output, outputs, units, Context};
use crate::convert;
use crate::gguf::{self, GgmlType, GgufModel, GgufWriter, TensorSpec, Value};
use anyhow::{ensure, Result};
use std::path::PathBuf;

/// Write the skeleton of a model for an unpatched llama.cpp: the same metadata and plain tensors, and tensors without
/// data in place of the WSIC ones, which libggml-wsic.so supplies. Without that library it is a model of zeros.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  wsic skeleton model.gguf -o model-skeleton.gguf\n  GGML_BACKEND_PATH=libggml-wsic.so WSIC_MODEL=model.gguf \\\n      llama-cli -m model-skeleton.gguf"
)]
pub(crate) struct Arguments {
    /// GGUF file with WSIC tensors (the first one of a split model).
    model: PathBuf,
    /// File to write. Its length is about that of a 4-bit model, but zeros take no room on disk.
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Key of a skeleton: true.
const SKELETON_KEY: &str = "wsic.skeleton";

/// The smallest ordinary type with rows of `columns`: nothing reads the data, but its length is address space, and
/// memory if the file is read instead of mapped.
fn stand_in(columns: u64) -> GgmlType {
    let fits = |ty: &GgmlType| ty.row_bytes(columns).is_some();
    [GgmlType::TQ1_0, GgmlType::Q4_0].into_iter().find(fits).unwrap_or(GgmlType::F16)
}

pub(crate) fn run(arguments: &Arguments, _context: &Context) -> Result<()> {
    outputs::check(&arguments.output, [arguments.model.as_path()])?;
    let model = GgufModel::open(&arguments.model, &gguf::Limits::default())?;
    let name = arguments.model.display();
    let mut specs: Vec<TensorSpec> = model.tensors().map(TensorSpec::from).collect();
    let coded = specs.iter().filter(|spec| spec.ty == GgmlType::Wsic).count();
    ensure!(coded > 0, "{name}: has no WSIC tensors: llama.cpp can load it as it is");
    for spec in specs.iter_mut().filter(|spec| spec.ty == GgmlType::Wsic) {
        spec.ty = stand_in(spec.dims.first().copied().unwrap_or(1));
    }
    let mut metadata = model.joined_metadata();
    convert::remove_format_keys(&mut metadata);
    metadata.set(SKELETON_KEY, Value::Bool(true));
    let mut writer = GgufWriter::create(&arguments.output, metadata, specs.clone())?;
    let mut stored = 0;
    let tensors =
        model.files().iter().flat_map(|file| file.tensors().iter().map(move |tensor| (file, tensor)));
    for ((file, tensor), spec) in tensors.zip(&specs) {
        if tensor.ty == GgmlType::Wsic {
            let row = spec.ty.row_bytes(tensor.columns()).unwrap_or(0);
            writer.begin_tensor(&tensor.name)?;
            writer.append_zeros(row.saturating_mul(tensor.rows()))?;
            writer.end_tensor()?;
        } else {
            let bytes = file.tensor_bytes(tensor)?;
            stored += bytes.len() as u64;
            writer.write_tensor(&tensor.name, bytes)?;
        }
    }
    let size = writer.finish()?;
    let path = arguments.output.display().to_string();
    let value = serde_json::json!({
        "output": path, "bytes": size, "stored_bytes": stored, "tensors_without_data": coded
    });
    output::print(arguments.json, &value, || {
        let (stored, size) = (units::bytes(stored), units::bytes(size));
        let coded = units::counted(coded, "tensor");
        format!("{path}: {stored} of plain tensors, {coded} without data, length {size}")
    })
}
