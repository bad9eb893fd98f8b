//! What the quantizer needs to know about each tensor's input and rows, and the file that keeps it.
//!
//! The file is a GGUF file of F32 tensors: each covariance as its lower triangle, row after row (or as its diagonal
//! alone), and the row weights of each tensor; metadata arrays say which tensor uses which covariance. A stack of
//! matrices (experts) has a covariance `NAME.0`, `NAME.1`, … for each of them, or one for all. Computed once, the file
//! serves any rate, and can be computed on one machine and used on another.

use super::error::ConvertError;
use super::identity::hexadecimal;
use crate::gguf::{Array, GgmlType, GgufFile, GgufWriter, Limits, Metadata, TensorSpec, Value};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::Path;

const TYPE: &str = "wsic-statistics";
const VERSION: u32 = 1;
const VERSION_KEY: &str = "wsic.statistics.version";
const MODEL_KEY: &str = "wsic.statistics.model";
const SOURCE_KEY: &str = "wsic.statistics.calibration";
const OWN_TEXT_KEY: &str = "wsic.statistics.own_text";
const SETTINGS_KEY: &str = "wsic.statistics.settings";
const TENSORS_KEY: &str = "wsic.statistics.tensors";
const INPUTS_KEY: &str = "wsic.statistics.inputs";
const TOKENS_KEY: &str = "wsic.statistics.tokens";
const LENGTHS_KEY: &str = "wsic.statistics.sequence_lengths";

/// Second moment of an input.
#[derive(Clone, Debug, PartialEq)]
pub enum Moment {
    /// `columns` x `columns`, row-major and symmetric.
    Full(Vec<f32>),
    /// Its diagonal, where no more is known.
    Diagonal(Vec<f32>),
}

/// Statistics of one matrix of a tensor.
#[derive(Clone, Debug)]
pub struct TensorStatistics {
    /// Second moment of the input.
    pub covariance: Moment,
    /// Influence of each row's squared error on the loss, in nats per squared unit of the output; absent if the loss
    /// was not differentiated.
    pub row_weights: Option<Vec<f32>>,
}

/// What a statistics file will hold, known before anything is computed.
#[derive(Clone, Debug, Default)]
pub(super) struct Contents {
    /// Name and width of each covariance, in the order they are written.
    pub(super) covariances: Vec<(String, usize)>,
    /// Whether the covariances are diagonals.
    pub(super) diagonal: bool,
    /// Name of each tensor with its covariance, and its rows if it has row weights.
    pub(super) tensors: Vec<(String, String, Option<usize>)>,
    /// What identifies the model.
    pub(super) model: String,
    /// Where the tokens come from.
    pub(super) source: String,
    /// Everything else that decides what the numbers are.
    pub(super) settings: String,
    /// Whether the model wrote the tokens itself.
    pub(super) own_text: bool,
    /// The calibration tokens, if the model was run.
    pub(super) sequences: Vec<Vec<u32>>,
}

fn row_weights_name(tensor: &str) -> String {
    format!("{}.rows", tensor.trim_end_matches(".weight"))
}

/// Writes a statistics file: the covariances, then the row weights, each in the order of [`Contents`].
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
        metadata.set(SETTINGS_KEY, text(&contents.settings));
        metadata.set(OWN_TEXT_KEY, Value::Bool(contents.own_text));
        if !contents.sequences.is_empty() {
            let lengths: Vec<u32> = contents.sequences.iter().map(|tokens| tokens.len() as u32).collect();
            metadata.set(TOKENS_KEY, Value::Array(Array::from_u32(&contents.sequences.concat())));
            metadata.set(LENGTHS_KEY, Value::Array(Array::from_u32(&lengths)));
        }
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
        let numbers = |width: usize| if contents.diagonal { width } else { width * (width + 1) / 2 };
        let moments = contents.covariances.iter().map(|(name, width)| spec(name.clone(), numbers(*width)));
        let specs = moments.chain(rows).collect();
        Ok(Self { writer: GgufWriter::create(path, metadata, specs)? })
    }

    pub(super) fn row_weights(&mut self, tensor: &str, weights: &[f32]) -> Result<(), ConvertError> {
        self.floats(&row_weights_name(tensor), weights)
    }

    fn floats(&mut self, name: &str, values: &[f32]) -> Result<(), ConvertError> {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Ok(self.writer.write_tensor(name, &bytes)?)
    }

    /// A covariance known on its diagonal alone.
    pub(super) fn diagonal(&mut self, name: &str, values: &[f32]) -> Result<(), ConvertError> {
        self.floats(name, values)
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

/// Bytes at either end of a tensor that enter the fingerprint.
const HASHED_BYTES: usize = 4096;

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

    /// Whether the model wrote the text itself that the statistics were taken on.
    pub fn own_text(&self) -> bool {
        matches!(self.file.metadata().get(OWN_TEXT_KEY), Some(Value::Bool(true)))
    }

    /// The calibration tokens; `None` if the statistics were not taken from a model that ran.
    ///
    /// # Errors
    /// Tokens and lengths that do not belong together, tokens that a vocabulary of `vocabulary` tokens does not have.
    pub fn sequences(&self, vocabulary: usize) -> Result<Option<Vec<Vec<u32>>>, ConvertError> {
        let metadata = self.file.metadata();
        let list = |key| -> Option<Vec<u32>> {
            match metadata.get(key)? {
                Value::Array(array) => array.to_integers(),
                _ => None,
            }
        };
        if !metadata.contains(TOKENS_KEY) {
            return Ok(None);
        }
        let damaged = || ConvertError::Statistics {
            path: self.file.path().to_owned(),
            problem: "holds tokens and lengths of sequences that do not belong together; compute it again"
                .into(),
        };
        let (tokens, lengths) = list(TOKENS_KEY).zip(list(LENGTHS_KEY)).ok_or_else(damaged)?;
        if let Some(token) = tokens.iter().find(|&&token| token as usize >= vocabulary) {
            return Err(ConvertError::Statistics {
                path: self.file.path().to_owned(),
                problem: format!(
                    "holds token {token}, the model's vocabulary has {vocabulary}; compute it again"
                ),
            });
        }
        let mut rest = tokens.as_slice();
        let mut sequences = Vec::new();
        for length in lengths {
            let (sequence, after) = rest.split_at_checked(length as usize).ok_or_else(damaged)?;
            sequences.push(sequence.to_vec());
            rest = after;
        }
        rest.is_empty().then_some(Some(sequences)).ok_or_else(damaged)
    }

    /// Tells these statistics from others: a hash of everything that decides what the numbers are, and of both ends of
    /// each tensor, as another version of wsic may compute other numbers from the same. It does not find damage.
    ///
    /// # Errors
    /// Tensors that the file does not hold.
    pub fn fingerprint(&self) -> Result<String, ConvertError> {
        let mut hash = Sha256::new();
        let mut bytes = Vec::new();
        for (key, value) in self.file.metadata().iter() {
            bytes.clear();
            bytes.extend_from_slice(key.as_bytes());
            bytes.push(0);
            value.encode(&mut bytes);
            hash.update(&bytes);
        }
        hash.update(self.file.file_len().to_le_bytes());
        for info in self.file.tensors() {
            let bytes = self.file.tensor_bytes(info)?;
            let end = bytes.len().min(HASHED_BYTES);
            hash.update(&bytes[..end]);
            hash.update(&bytes[bytes.len() - end..]);
        }
        Ok(hexadecimal(&hash.finalize()))
    }

    /// Fails unless the statistics are those of the model with this identity.
    ///
    /// # Errors
    /// They are of another model.
    pub fn check_model(&self, identity: &str) -> Result<(), ConvertError> {
        match self.model()? {
            found if found == identity => Ok(()),
            found => Err(ConvertError::Statistics {
                path: self.file.path().to_owned(),
                problem: format!(
                    "holds statistics of another model (fingerprint {found:.16}…, that of the input is {identity:.16}…); \
                     compute them again with `wsic calibrate`"
                ),
            }),
        }
    }

    /// Whether rows are weighed by their influence on the loss.
    pub fn has_row_weights(&self) -> bool {
        self.inputs.keys().any(|tensor| self.file.get_tensor(&row_weights_name(tensor)).is_some())
    }

    /// Whether there are statistics of this tensor.
    pub fn has(&self, tensor: &str) -> bool {
        self.inputs.contains_key(tensor)
    }

    /// Statistics of matrix `matrix` of a tensor whose matrices have `rows` rows of `columns` weights.
    ///
    /// # Errors
    /// The file has none, or of another shape.
    pub fn of(
        &self,
        tensor: &str,
        matrix: usize,
        rows: usize,
        columns: usize,
    ) -> Result<TensorStatistics, ConvertError> {
        let problem =
            |problem: String| ConvertError::Statistics { path: self.file.path().to_owned(), problem };
        let Some(input) = self.inputs.get(tensor) else {
            return Err(problem(format!("has no statistics for tensor '{tensor}'; compute them again")));
        };
        let own = self.file.get_tensor(&format!("{input}.{matrix}"));
        let info = own.map_or_else(|| self.file.tensor(input), Ok)?;
        let stored = self.file.tensor_f32(info)?;
        self.file.release(info);
        let packed =
            columns.checked_add(1).and_then(|next| columns.checked_mul(next)).map(|double| double / 2);
        let covariance = if stored.len() == columns {
            Moment::Diagonal(stored)
        } else if Some(stored.len()) == packed {
            Moment::Full(unpack(&stored, columns))
        } else {
            return Err(problem(format!(
                "holds {} numbers for '{}', not those of {columns} columns",
                stored.len(),
                info.name
            )));
        };
        let row_weights = match self.file.get_tensor(&row_weights_name(tensor)) {
            Some(info) => {
                let all = self.file.tensor_f32(info)?;
                let own = rows.checked_mul(matrix).and_then(|first| all.get(first..first.checked_add(rows)?));
                let own = own.ok_or_else(|| {
                    problem(format!("holds {} row weights for '{tensor}', too few", all.len()))
                })?;
                Some(own.to_vec())
            }
            None => None,
        };
        Ok(TensorStatistics { covariance, row_weights })
    }
}

/// The symmetric matrix of a lower triangle.
fn unpack(triangle: &[f32], columns: usize) -> Vec<f32> {
    let mut covariance = vec![0.0; columns * columns];
    let mut rest = triangle;
    for i in 0..columns {
        let (row, after) = rest.split_at(i + 1);
        covariance[i * columns..][..=i].copy_from_slice(row);
        for (j, &value) in row.iter().enumerate() {
            covariance[j * columns + i] = value;
        }
        rest = after;
    }
    covariance
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
            sequences: vec![vec![3, 1], vec![4]],
            ..Contents::default()
        };
        let mut writer = StatisticsWriter::create(&path, &contents).unwrap();
        writer.covariance("blk.0.attention", 3, |i, j| (10 * i + j) as f64).unwrap();
        writer.covariance("head", 2, |i, j| (i * j) as f64).unwrap();
        writer.row_weights("blk.0.attn_q.weight", &[0.5, 2.0]).unwrap();
        writer.finish().unwrap();
        let file = StatisticsFile::open(&path).unwrap();
        let other = folder.path().join("other.gguf");
        let mut writer = StatisticsWriter::create(&other, &contents).unwrap();
        writer.covariance("blk.0.attention", 3, |i, j| (10 * i + j) as f64).unwrap();
        writer.covariance("head", 2, |i, j| (i * j) as f64).unwrap();
        writer.row_weights("blk.0.attn_q.weight", &[0.5, 2.5]).unwrap();
        writer.finish().unwrap();
        let other = StatisticsFile::open(&other).unwrap();
        assert_eq!(file.fingerprint().unwrap(), StatisticsFile::open(&path).unwrap().fingerprint().unwrap());
        assert_ne!(file.fingerprint().unwrap(), other.fingerprint().unwrap(), "other numbers");
        let q = file.of("blk.0.attn_q.weight", 0, 2, 3).unwrap();
        let full = Moment::Full(vec![0.0, 10.0, 20.0, 10.0, 11.0, 21.0, 20.0, 21.0, 22.0]);
        assert_eq!(q.covariance, full);
        assert_eq!(q.row_weights.as_deref(), Some([0.5, 2.0].as_slice()));
        assert!(file.of("blk.0.attn_q.weight", 1, 2, 3).is_err(), "row weights of one matrix only");
        assert!(file.of("output.weight", 0, 4, 2).unwrap().row_weights.is_none());
        assert!(file.of("output.weight", 0, 4, 5).is_err());
        assert!(file.of("blk.1.attn_q.weight", 0, 2, 3).is_err());
        assert_eq!((file.model().unwrap(), file.source().unwrap()), ("m", "text x"));
        assert!(file.has_row_weights());
        assert_eq!(file.sequences(5).unwrap(), Some(vec![vec![3, 1], vec![4]]));
        assert!(file.check_model("m").is_ok());
        assert!(file.check_model("n").unwrap_err().to_string().contains("another model"));
    }

    #[test]
    fn matrices_of_a_stack_have_their_own_statistics_or_share_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.gguf");
        let contents = Contents {
            covariances: vec![("a.0".into(), 2), ("a".into(), 2)],
            diagonal: true,
            tensors: vec![("a.weight".into(), "a".into(), Some(2))],
            ..Contents::default()
        };
        let mut writer = StatisticsWriter::create(&path, &contents).unwrap();
        writer.diagonal("a.0", &[1.0, 2.0]).unwrap();
        writer.diagonal("a", &[3.0, 4.0]).unwrap();
        writer.row_weights("a.weight", &[0.5, 2.0]).unwrap();
        writer.finish().unwrap();
        let file = StatisticsFile::open(&path).unwrap();
        let of = |matrix| file.of("a.weight", matrix, 1, 2).unwrap();
        assert_eq!(of(0).covariance, Moment::Diagonal(vec![1.0, 2.0]));
        assert_eq!(of(1).covariance, Moment::Diagonal(vec![3.0, 4.0]));
        assert_eq!(of(1).row_weights, Some(vec![2.0]));
    }
}
