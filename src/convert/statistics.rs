//! What the quantizer needs to know about each tensor's input and rows, and the file that keeps it.
//!
//! The file is a GGUF file of F32 tensors: each covariance as its lower triangle, row after row, and the row weights
//! of each tensor; metadata arrays say which tensor uses which covariance. Computed once, it serves any rate, and can
//! be computed on one machine and used on another.

use super::error::ConvertError;
use crate::gguf::{Array, GgmlType, GgufFile, GgufWriter, Limits, Metadata, TensorSpec, Value};
use std::collections::HashMap;
use std::path::Path;

const TYPE: &str = "wsic-statistics";
const VERSION: u32 = 1;
const VERSION_KEY: &str = "wsic.statistics.version";
const MODEL_KEY: &str = "wsic.statistics.model";
const SOURCE_KEY: &str = "wsic.statistics.calibration";
const TENSORS_KEY: &str = "wsic.statistics.tensors";
const INPUTS_KEY: &str = "wsic.statistics.inputs";

/// Statistics of one tensor.
#[derive(Clone, Debug)]
pub struct TensorStatistics {
    /// Second moment of the input, `columns` x `columns`, row-major and symmetric.
    pub covariance: Vec<f32>,
    /// Influence of each row's squared error on the loss, in nats per squared unit of the output; absent if the loss
    /// was not differentiated.
    pub row_weights: Option<Vec<f32>>,
}

/// What a statistics file will hold, known before anything is computed.
#[derive(Clone, Debug, Default)]
pub(super) struct Contents {
    /// Name and width of each covariance, in the order they are written.
    pub(super) covariances: Vec<(String, usize)>,
    /// Name of each tensor with its covariance, and its rows if it has row weights.
    pub(super) tensors: Vec<(String, String, Option<usize>)>,
    /// What identifies the model.
    pub(super) model: String,
    /// Where the tokens come from.
    pub(super) source: String,
}

fn row_weights_name(tensor: &str) -> String {
    format!("{}.rows", tensor.trim_end_matches(".weight"))
}

/// Writes a statistics file: row weights first, then the covariances in the order of [`Contents`].
pub(super) struct StatisticsWriter {
    writer: GgufWriter,
}

impl StatisticsWriter {
    pub(super) fn create(path: &Path, contents: &Contents) -> Result<Self, ConvertError> {
        let mut metadata = Metadata::new(path);
        let text = |text: &str| Value::String(text.as_bytes().to_vec());
        metadata.set("general.type", text(TYPE));
        metadata.set(VERSION_KEY, Value::U32(VERSION));
        metadata.set(MODEL_KEY, text(&contents.model));
        metadata.set(SOURCE_KEY, text(&contents.source));
        let names = |part: fn(&(String, String, Option<usize>)) -> &String| {
            Value::Array(Array::from_strings(contents.tensors.iter().map(|entry| part(entry).as_bytes())))
        };
        metadata.set(TENSORS_KEY, names(|entry| &entry.0));
        metadata.set(INPUTS_KEY, names(|entry| &entry.1));
        let spec = |name: String, elements: usize| TensorSpec {
            name,
            dims: vec![elements as u64],
            ty: GgmlType::F32,
        };
        let rows = contents
            .tensors
            .iter()
            .filter_map(|(tensor, _, rows)| Some(spec(row_weights_name(tensor), (*rows)?)));
        let moments =
            contents.covariances.iter().map(|(name, width)| spec(name.clone(), width * (width + 1) / 2));
        let specs = rows.chain(moments).collect();
        Ok(Self { writer: GgufWriter::create(path, metadata, specs)? })
    }

    pub(super) fn row_weights(&mut self, tensor: &str, weights: &[f32]) -> Result<(), ConvertError> {
        let bytes: Vec<u8> = weights.iter().flat_map(|weight| weight.to_le_bytes()).collect();
        Ok(self.writer.write_tensor(&row_weights_name(tensor), &bytes)?)
    }

    /// `get(i, j)` is wanted for j <= i.
    pub(super) fn covariance(
        &mut self,
        name: &str,
        width: usize,
        get: impl Fn(usize, usize) -> f64,
    ) -> Result<(), ConvertError> {
        self.writer.begin_tensor(name)?;
        let mut bytes = Vec::with_capacity(width * 4);
        for i in 0..width {
            bytes.clear();
            bytes.extend((0..=i).flat_map(|j| (get(i, j) as f32).to_le_bytes()));
            self.writer.append(&bytes)?;
        }
        self.writer.end_tensor()?;
        Ok(())
    }

    pub(super) fn finish(self) -> Result<(), ConvertError> {
        self.writer.finish()?;
        Ok(())
    }
}

/// An open statistics file.
#[derive(Debug)]
pub struct StatisticsFile {
    file: GgufFile,
    inputs: HashMap<String, String>,
}

impl StatisticsFile {
    /// Opens a file and checks that it is one of statistics.
    ///
    /// # Errors
    /// No GGUF file, another type or version, or arrays that do not belong together.
    pub fn open(path: &Path) -> Result<Self, ConvertError> {
        let file = GgufFile::open(path, &Limits::default())?;
        let metadata = file.metadata();
        let problem =
            |problem: &str| ConvertError::Statistics { path: path.to_owned(), problem: problem.to_owned() };
        if metadata.optional("general.type", Metadata::bytes)? != Some(TYPE.as_bytes()) {
            return Err(problem("is no file of statistics; `wsic calibrate` makes one"));
        }
        if metadata.u32(VERSION_KEY)? != VERSION {
            return Err(problem("is of another version; compute the statistics again"));
        }
        let list = |key| -> Result<Vec<String>, ConvertError> {
            Ok(metadata.strings(key)?.map(|name| String::from_utf8_lossy(name).into_owned()).collect())
        };
        let (tensors, inputs) = (list(TENSORS_KEY)?, list(INPUTS_KEY)?);
        if tensors.len() != inputs.len() {
            return Err(problem("has lists of different length; compute the statistics again"));
        }
        let inputs = tensors.into_iter().zip(inputs).collect();
        Ok(Self { file, inputs })
    }

    /// What identifies the model the statistics were taken from.
    pub fn model(&self) -> Result<&str, ConvertError> {
        Ok(self.file.metadata().str(MODEL_KEY)?)
    }

    /// Where the tokens come from, as a sentence.
    pub fn source(&self) -> Result<&str, ConvertError> {
        Ok(self.file.metadata().str(SOURCE_KEY)?)
    }

    /// Statistics of a tensor with rows of `columns` weights.
    ///
    /// # Errors
    /// The file has none, or of another width.
    pub fn of(&self, tensor: &str, columns: usize) -> Result<TensorStatistics, ConvertError> {
        let problem =
            |problem: String| ConvertError::Statistics { path: self.file.path().to_owned(), problem };
        let Some(input) = self.inputs.get(tensor) else {
            return Err(problem(format!("has no statistics for tensor '{tensor}'; compute them again")));
        };
        let packed = self.file.tensor_f32(self.file.tensor(input)?)?;
        if packed.len() != columns * (columns + 1) / 2 {
            return Err(problem(format!(
                "holds {} numbers for '{input}', not those of {columns} columns",
                packed.len()
            )));
        }
        let mut covariance = vec![0.0; columns * columns];
        let mut rest = packed.as_slice();
        for i in 0..columns {
            let (row, after) = rest.split_at(i + 1);
            covariance[i * columns..][..=i].copy_from_slice(row);
            for (j, &value) in row.iter().enumerate() {
                covariance[j * columns + i] = value;
            }
            rest = after;
        }
        let row_weights = match self.file.get_tensor(&row_weights_name(tensor)) {
            Some(info) => Some(self.file.tensor_f32(info)?),
            None => None,
        };
        Ok(TensorStatistics { covariance, row_weights })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.gguf");
        let contents = Contents {
            covariances: vec![("blk.0.attention".into(), 3), ("head".into(), 2)],
            tensors: vec![
                ("blk.0.attn_q.weight".into(), "blk.0.attention".into(), Some(2)),
                ("output.weight".into(), "head".into(), None),
            ],
            model: "m".into(),
            source: "text x".into(),
        };
        let mut writer = StatisticsWriter::create(&path, &contents).unwrap();
        writer.row_weights("blk.0.attn_q.weight", &[0.5, 2.0]).unwrap();
        writer.covariance("blk.0.attention", 3, |i, j| (10 * i + j) as f64).unwrap();
        writer.covariance("head", 2, |i, j| (i * j) as f64).unwrap();
        writer.finish().unwrap();
        let file = StatisticsFile::open(&path).unwrap();
        let q = file.of("blk.0.attn_q.weight", 3).unwrap();
        assert_eq!(q.covariance, [0.0, 10.0, 20.0, 10.0, 11.0, 21.0, 20.0, 21.0, 22.0]);
        assert_eq!(q.row_weights.as_deref(), Some([0.5, 2.0].as_slice()));
        assert!(file.of("output.weight", 2).unwrap().row_weights.is_none());
        assert!(file.of("output.weight", 3).is_err());
        assert!(file.of("blk.1.attn_q.weight", 3).is_err());
        assert_eq!((file.model().unwrap(), file.source().unwrap()), ("m", "text x"));
    }
}
