//! Matrices too large to be held: their rows are read, quantized and packed part by part.
//!
//! Given the factor of the covariance, rows do not depend on each other, so a part needs nothing of the others but the
//! mean square of all weights, for which everything is read once before. Parts are made of whole groups of trellis
//! paths: the result is that of the whole matrix, bit for bit.

use super::factored::{Factored, Survey};
use super::scales::ColumnScales;
use super::search::{find, first_step, AtStep, MeasureError, RateTarget};
use super::viterbi::LANES;
use super::{pilot, sic, Covariance, Layer, Method, Prepared, QuantizeError, RateModel, Settings};
use crate::payload::encode::CompactColumn;
use crate::payload::{QuantizedMatrix, StreamColumn};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::ops::Range;

/// Reads the weights of some rows.
pub type ReadRows<'a> = dyn Fn(Range<usize>, &mut [f32]) -> Result<(), MeasureError> + Sync + 'a;

/// A linear layer, as [`Layer`], whose weights are read when they are needed. For [`Method::Trellis`], without drift.
pub struct PartedLayer<'a> {
    /// Everything but the weights.
    layer: Layer<'a>,
    settings: Settings,
    read: &'a ReadRows<'a>,
    /// Rows of a part; the last one may have fewer.
    part_rows: usize,
    survey: Survey,
}

impl<'a> PartedLayer<'a> {
    /// Reads and checks everything once. Parts have about `part_weights` weights, at least one group of tiles.
    ///
    /// # Errors
    /// Bad input, as for [`Layer::check`]; a method other than [`Method::Trellis`]; a failure of `read`.
    pub fn new(
        name: &'a str,
        (rows, columns): (usize, usize),
        covariance: Covariance<'a>,
        row_weights: Option<&'a [f32]>,
        settings: &Settings,
        part_weights: usize,
        read: &'a ReadRows<'a>,
    ) -> Result<Self, QuantizeError> {
        let layer = Layer { row_weights, ..Layer::new(name, rows, columns, &[], covariance) };
        layer.check_statistics()?;
        if settings.method != Method::Trellis || settings.whole_column_paths {
            let what = "only the trellis method, with tiles, goes by parts";
            return Err(QuantizeError::Unsupported { layer: name.to_owned(), what });
        }
        // Whole blocks of paths: what one block decides about its outliers must not depend on the cut.
        let group = settings.geometry.rows_per_tile() * LANES;
        let part_rows = (part_weights / columns / group).max(1) * group;
        let parts = |visit: &mut dyn FnMut(usize, &[f32])| {
            for part in cut(rows, part_rows) {
                let weights = read_part(&layer, read, part.clone())?;
                let here = Layer { rows: part.len(), weights: &weights, ..layer };
                here.check_weights().map_err(|error| error.behind(part.start * columns))?;
                visit(part.start, &weights);
            }
            Ok(())
        };
        let survey = Survey::by_parts(&layer, settings, parts)?;
        Ok(Self { layer, settings: *settings, read, part_rows, survey })
    }

    /// As [`RateModel::new`].
    ///
    /// # Errors
    /// A covariance that is far from positive semidefinite.
    pub fn rate_model(&self, bits: f64) -> Result<RateModel, QuantizeError> {
        RateModel::surveyed(&self.layer, &self.settings, &self.survey, bits)
    }

    /// Quantizes at step c, as [`Prepared::quantize`].
    ///
    /// # Errors
    /// As there, and a failure to read.
    pub fn quantize(&self, c: f64) -> Result<QuantizedMatrix<CompactColumn>, QuantizeError> {
        self.at(c)?.quantize(c)
    }

    /// As [`search`](super::search()): returns what `measure` made of the evaluation nearest to the target.
    ///
    /// # Errors
    /// As there, and a failure to read.
    pub fn search<T>(
        &self,
        target: &RateTarget,
        measure: impl FnMut(&QuantizedMatrix<CompactColumn>) -> Result<(f64, T), MeasureError>,
    ) -> Result<T, QuantizeError> {
        let first = first_step(&self.layer, &self.settings, &self.survey, target)?;
        let wrap = |factored| FactoredParts { parts: self, factored };
        let (found, _) = find(first, target, wrap, |c| self.at(c), measure)?;
        Ok(found.value)
    }

    fn at(&self, c: f64) -> Result<FactoredParts<'_, 'a>, QuantizeError> {
        let factored = Factored::surveyed(&self.layer, &self.settings, c, &self.survey)?;
        Ok(FactoredParts { parts: self, factored })
    }
}

fn cut(rows: usize, part_rows: usize) -> impl Iterator<Item = Range<usize>> {
    (0..rows).step_by(part_rows).map(move |start| start..(start + part_rows).min(rows))
}

fn read_part(layer: &Layer<'_>, read: &ReadRows<'_>, rows: Range<usize>) -> Result<Vec<f32>, QuantizeError> {
    let mut weights = vec![0.0; rows.len() * layer.columns];
    read(rows, &mut weights)
        .map_err(|source| QuantizeError::Read { layer: layer.name.to_owned(), source })?;
    Ok(weights)
}

/// A parted layer with the factor for one step.
struct FactoredParts<'p, 'a> {
    parts: &'p PartedLayer<'a>,
    factored: Factored<'a>,
}

impl FactoredParts<'_, '_> {
    /// Reach of the pairs of each live column, from a pilot on rows of all parts.
    fn reaches(&self, c: f64) -> Result<Vec<f32>, QuantizeError> {
        let PartedLayer { layer, settings, read, .. } = self.parts;
        if !pilot::is_of_use(settings) {
            return Ok(vec![f32::INFINITY; self.factored.live.len()]);
        }
        let rows = pilot::rows(layer.rows);
        let mut weights = Vec::with_capacity(rows.len() * layer.columns);
        for &row in &rows {
            weights.extend(read_part(layer, read, row..row + 1)?);
        }
        let sample = Prepared::from_factored(self.factored.part(&rows, &weights));
        pilot::reaches(&sample, &(0..rows.len()).collect::<Vec<_>>(), layer.rows, c)
    }
}

impl AtStep for FactoredParts<'_, '_> {
    type Matrix = QuantizedMatrix<CompactColumn>;

    fn quantize(&self, c: f64) -> Result<Self::Matrix, QuantizeError> {
        let PartedLayer { layer, read, part_rows, .. } = self.parts;
        let mut whole: Option<Gathered> = None;
        let reaches = self.reaches(c)?;
        for rows in cut(layer.rows, *part_rows) {
            let weights = read_part(layer, read, rows.clone())?;
            let part =
                Prepared::from_factored(self.factored.part(&rows.clone().collect::<Vec<_>>(), &weights));
            let matrix = sic::quantize_within(&part, c, &reaches)?;
            let fine = part.column_scales(c)?;
            whole.get_or_insert_with(|| Gathered::new(&matrix)).add(rows.start, &part.live, &fine, matrix);
        }
        match whole {
            Some(gathered) => Ok(gathered.finish(layer.rows)),
            None => Err(QuantizeError::NoLiveColumns { layer: layer.name.to_owned() }),
        }
    }

    fn predicted_bits(&self, c: f64) -> f64 {
        self.factored.predicted_bits(c)
    }

    fn mu(&self) -> f64 {
        self.factored.mu
    }
}

/// Where a stream column stands among the others: fine parts first, then the coarse ones, by input and scale.
type Place = (bool, u32, u16);

/// The parts done so far.
struct Gathered {
    matrix: QuantizedMatrix<CompactColumn>,
    columns: BTreeMap<Place, CompactColumn>,
}

impl Gathered {
    fn new(first: &QuantizedMatrix) -> Self {
        let mut matrix = first.with_stream(Vec::new());
        if let Some((_, codes)) = &mut matrix.row_scales {
            codes.clear();
        }
        Self { matrix, columns: BTreeMap::new() }
    }

    /// Adds a part whose first row is `start`. A column that one part has and another lacks is zero there.
    fn add(&mut self, start: usize, live: &[u32], scales: &ColumnScales, part: QuantizedMatrix) {
        let is_fine = |column: &StreamColumn| {
            live.binary_search(&column.input).is_ok_and(|index| scales.codes[index] == column.scale)
        };
        for column in &part.stream {
            let place = (!is_fine(column), column.input, column.scale);
            self.columns.entry(place).or_insert_with(|| CompactColumn::new(column.input, column.scale));
        }
        let new: BTreeMap<Place, &StreamColumn> = part
            .stream
            .iter()
            .map(|column| ((!is_fine(column), column.input, column.scale), column))
            .collect();
        self.columns.par_iter_mut().for_each(|(place, column)| {
            column.resize(start);
            match new.get(place) {
                Some(part) => column.extend(&part.integers),
                None => column.resize(start + part.rows),
            }
        });
        if let (Some((_, codes)), Some((_, new))) = (&mut self.matrix.row_scales, part.row_scales) {
            codes.extend(new);
        }
    }

    fn finish(self, rows: usize) -> QuantizedMatrix<CompactColumn> {
        let Self { mut matrix, columns } = self;
        matrix.rows = rows;
        matrix.stream = columns.into_values().collect();
        matrix
    }
}
