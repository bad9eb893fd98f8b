//! Invalid payloads: at least one for every check of the text, each wrong in one place only (`order`: in two), checksums
//! made right again except where they are the point.

mod header;
mod order;
mod side;
mod tables;
mod tiles;

use crate::common::forge::{
    payload, unsigned, write_escapes, write_side, Bits, Class, Context, PairTable, Plan, Section, Side,
    Table, Tile,
};
use crate::common::resign::resign;
use crate::draw::{blocks, class, empty, fill, many_classes, one_class, pair_class, pairs, set};

/// An invalid payload and how it has to be refused.
pub struct Invalid {
    pub name: &'static str,
    /// Section of the text that has the check.
    pub section: &'static str,
    /// Class that a verifier reports.
    pub class: &'static str,
    /// Whether a decoder that does not look at the checksums of tiles refuses it too.
    pub decoder: bool,
    pub bytes: Vec<u8>,
}

struct Cases(Vec<Invalid>);

impl Cases {
    fn add(&mut self, name: &'static str, section: &'static str, class: &'static str, bytes: Vec<u8>) {
        self.0.push(Invalid { name, section, class, decoder: true, bytes });
    }

    /// Damages the base payload without touching its checksums.
    fn raw(
        &mut self,
        name: &'static str,
        section: &'static str,
        class: &'static str,
        edit: impl Fn(&mut Vec<u8>),
    ) {
        let mut bytes = base_bytes();
        edit(&mut bytes);
        self.add(name, section, class, bytes);
    }

    /// Damages the base payload and makes checksums right.
    fn signed(
        &mut self,
        name: &'static str,
        section: &'static str,
        class: &'static str,
        edit: impl Fn(&mut Vec<u8>),
    ) {
        self.raw(name, section, class, |bytes| {
            edit(bytes);
            resign(bytes, false);
        });
    }

    /// Changes the parts of the base matrix.
    fn parts(
        &mut self,
        name: &'static str,
        section: &'static str,
        class: &'static str,
        edit: impl Fn(&mut Section),
    ) {
        let mut parts = base().section();
        edit(&mut parts);
        self.add(name, section, class, payload(20, 10, &[parts.bytes()]));
    }

    /// Changes the calls of the side information of a plan.
    fn side(
        &mut self,
        name: &'static str,
        section: &'static str,
        class: &'static str,
        plan: &Plan,
        edit: impl Fn(&mut Vec<Side>),
    ) {
        let mut parts = plan.section();
        edit(&mut parts.side);
        self.add(name, section, class, payload(plan.rows, plan.columns, &[parts.bytes()]));
    }

    /// A matrix with an illegal inline table; its tiles are those of a legal one.
    fn table(&mut self, name: &'static str, table: Table) {
        let mut plan = empty(20, 10, 16, 4);
        plan.classes.push(Class::Inline(blocks(
            table.raw_bits.min(4),
            [-1, -1],
            [&[64, 128, 64], &[128, 128]],
        )));
        fill(&mut plan, 1.0, 3);
        let mut parts = plan.section();
        plan.classes = vec![Class::Inline(table)];
        parts.side = plan.side();
        self.add(name, "4.3", "bad-table", payload(20, 10, &[parts.bytes()]));
    }
}

/// 20 x 10, one chunk of 16 positions of which 6 are padding, two tiles of 4 and 1 steps, one escape in the second.
fn base() -> Plan {
    let mut plan = one_class((20, 10), (16, 4), 2.0, 1);
    set(&mut plan.first[9], 19, 300);
    plan
}

fn base_bytes() -> Vec<u8> {
    payload(20, 10, &[base().section().bytes()])
}

/// The same shape with an inline table.
fn inline() -> Plan {
    let mut plan = empty(20, 10, 16, 4);
    plan.classes.push(Class::Inline(blocks(0, [-1, -1], [&[64, 128, 64], &[128, 128]])));
    fill(&mut plan, 1.0, 3);
    plan
}

/// The same shape with an inline pair table.
fn inline_pairs() -> Plan {
    let table = PairTable { smallest: [-1, -1], side: [2, 2], frequencies: [vec![64; 4], vec![64; 4]] };
    pairs((20, 10), (16, 4), Class::InlinePairs(table), 0.8, 6)
}

/// The calls of a number that is too long, and bytes for a decoder that reads on.
fn too_long(context: Context) -> [Side; 2] {
    [Side::Number { context, value: (1 << 24) - 1 }, Side::Direct { value: 0, bits: 31 }]
}

const MATRIX: usize = 44;

fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn get32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// Offset of the base payload's directory.
fn directory(bytes: &[u8]) -> usize {
    MATRIX + 24 + get32(bytes, MATRIX + 20) as usize
}

/// All invalid payloads.
pub fn all() -> Vec<Invalid> {
    let mut cases = Cases(Vec::new());
    header::payload_header(&mut cases);
    header::limits(&mut cases);
    header::matrix_header(&mut cases);
    header::directories(&mut cases);
    side::side_coder(&mut cases);
    side::side_values(&mut cases);
    tables::tables(&mut cases);
    tables::pair_tables(&mut cases);
    tables::identifiers(&mut cases);
    tiles::tiles(&mut cases);
    tiles::pair_tiles(&mut cases);
    tiles::escapes(&mut cases);
    order::payload_headers(&mut cases);
    order::matrix_headers(&mut cases);
    order::side_information(&mut cases);
    order::tiles(&mut cases);
    cases.0
}
