//! The standard class tables: `spec/standard-tables.txt` and `spec/standard-pair-tables.txt`, read once.
//!
//! A byte or two in a payload name one of them. They are fitted to generalised normal distributions (shapes 2.2, 1.8,
//! 1.4 and 1; standard deviations in eighths of an octave) and to no model's weights.

use super::table::{ClassTable, PairGrid, Run};
use std::sync::OnceLock;

const TEXT: &str = include_str!("../../spec/standard-tables.txt");
const PAIR_TEXT: &str = include_str!("../../spec/standard-pair-tables.txt");

/// First lines of the file.
#[cfg(test)]
pub(crate) const HEADING: &str = "\
# Standard class tables of the WSIC tensor type. One line is one table; the first has identifier 0.
# raw_bits / smallest index of parity 0 : runs / smallest index of parity 1 : runs; a run is symbol*length.
";

/// First lines of the file of pair tables.
#[cfg(test)]
pub(crate) const PAIR_HEADING: &str = "\
# Standard pair tables of the WSIC tensor type. One line is one table; the first has identifier 0.
# smallest index of parity 0, side : frequencies row by row / the same of parity 1.
";

/// The standard table `identifier`, or `None` if there is no such table.
pub fn standard_table(identifier: u8) -> Option<&'static ClassTable> {
    standard_tables().get(usize::from(identifier))
}

/// All standard tables, by identifier.
pub fn standard_tables() -> &'static [ClassTable] {
    static TABLES: OnceLock<Vec<ClassTable>> = OnceLock::new();
    TABLES.get_or_init(|| {
        let lines = TEXT.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        lines
            .map(|line| parse_table(line).expect("spec/standard-tables.txt is checked by the tests"))
            .collect()
    })
}

/// The standard pair table `identifier`, or `None` if there is no such table.
pub fn standard_pair_table(identifier: u8) -> Option<&'static ClassTable> {
    standard_pair_tables().get(usize::from(identifier))
}

/// All standard pair tables, by identifier.
pub fn standard_pair_tables() -> &'static [ClassTable] {
    static TABLES: OnceLock<Vec<ClassTable>> = OnceLock::new();
    TABLES.get_or_init(|| {
        let lines = PAIR_TEXT.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        lines
            .map(|line| {
                parse_pair_table(line).expect("spec/standard-pair-tables.txt is checked by the tests")
            })
            .collect()
    })
}

fn parse_pair_table(line: &str) -> Option<ClassTable> {
    let mut grids = line.split('/').map(|grid| {
        let (head, list) = grid.split_once(':')?;
        let (smallest, side) = head.trim().split_once(' ')?;
        let frequencies = list.split_whitespace().map(|f| f.parse().ok()).collect::<Option<Vec<u8>>>()?;
        PairGrid::new(smallest.parse().ok()?, side.parse().ok()?, frequencies).ok()
    });
    let grids = [grids.next()??, grids.next()??];
    ClassTable::of_pairs(grids).ok()
}

#[cfg(test)]
pub(crate) fn format_pair_table(table: &ClassTable) -> String {
    let grid = |grid: &PairGrid| {
        let frequencies: Vec<String> = grid.frequencies().iter().map(u8::to_string).collect();
        format!("{} {}: {}", grid.smallest(), grid.side(), frequencies.join(" "))
    };
    table.pairs().map(|[even, odd]| format!("{} / {}\n", grid(even), grid(odd))).unwrap_or_default()
}

fn parse_table(line: &str) -> Option<ClassTable> {
    let mut fields = line.split('/').map(str::trim);
    let raw_bits = fields.next()?.parse().ok()?;
    let mut smallest = [0i8; 2];
    let mut runs = [Vec::new(), Vec::new()];
    for q in 0..2 {
        let (first, list) = fields.next()?.split_once(':')?;
        smallest[q] = first.trim().parse().ok()?;
        for run in list.split_whitespace() {
            let (symbol, length) = run.split_once('*')?;
            runs[q].push(Run { symbol: symbol.parse().ok()?, length: length.parse().ok()? });
        }
    }
    fields.next().is_none().then_some(())?;
    ClassTable::new(raw_bits, smallest, runs).ok()
}

#[cfg(test)]
pub(crate) fn format_table(table: &ClassTable) -> String {
    let mut line = table.raw_bits().to_string();
    for q in 0..2 {
        line += &format!(" / {}:", table.smallest()[q]);
        for run in table.runs(q) {
            line += &format!(" {}*{}", run.symbol, run.length);
        }
    }
    line + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_holds_legal_tables_in_canonical_form() {
        let text: String = standard_tables().iter().map(format_table).collect();
        assert_eq!(format!("{HEADING}{text}"), TEXT);
        assert_eq!(standard_tables().len(), 252);
        assert!(standard_table(252).is_none());
        let text: String = standard_pair_tables().iter().map(format_pair_table).collect();
        assert_eq!(format!("{PAIR_HEADING}{text}"), PAIR_TEXT);
        assert_eq!(standard_pair_tables().len(), 104);
    }
}
