//! Valid models.

use super::*;

/// Valid models, in the order of the manifest.
pub fn valid(payloads: &[Valid]) -> Vec<Container> {
    let get = |name: &str| payloads.iter().find(|valid| valid.name == name).unwrap();
    let mut all = Vec::new();
    let mut add = |name: &str, file: &File| {
        let files = vec![(format!("{name}.gguf"), file.bytes())];
        all.push(Container { files, decoder: None, verifier: None });
    };
    let (example, experts, odd) = (get("worked-example"), get("experts"), get("odd-k16"));
    let two = file(&[("blk.0.attn_q.weight", example), ("blk.0.ffn_down.weight", odd)], 32);
    add("two-tensors", &two);
    add("experts", &file(&[("blk.0.ffn_up_exps.weight", experts)], 32));
    add("alignment-64", &file(&[("blk.0.attn_q.weight", odd), ("blk.0.attn_k.weight", example)], 64));
    let mut plain = two.clone();
    plain.set("wsic.type_id", None);
    plain.set("general.file_type", None);
    add("optional-keys-absent", &plain);
    let mut last = two.clone();
    last.tensors.pop();
    add("ends-with-payload", &last);
    last.tail = vec![0xAB; 100];
    add("bytes-after-last-tensor", &last);
    let mut flat = file(&[("blk.0.ffn_up_exps.weight", example)], 32);
    flat.tensors[0].dims.push(1);
    add("three-dimensions-one-matrix", &flat);
    let mut older = two.clone();
    older.version = 2;
    add("gguf-version-2", &older);
    let mut kinds = two.clone();
    kinds.metadata.splice(0..0, values_of_all_types());
    add("values-of-all-types", &kinds);
    let mut unknown = two.clone();
    unknown.tensors[1].type_id = UNKNOWN;
    add("type-without-sizes", &unknown);
    let mut absent = two.clone();
    absent.tensors.retain(|tensor| tensor.type_id == F32);
    add("no-wsic-tensor-but-keys", &absent);
    let mut none = two.clone();
    none.tensors.retain(|tensor| tensor.type_id == F32);
    none.metadata.retain(|(key, _)| !key.starts_with("wsic."));
    add("no-wsic-tensor", &none);
    none.set("wsic.type_id", Some(Meta::U32(705)));
    add("no-wsic-tensor-other-type-id", &none);
    // Lengths that are multiples of the alignment: no byte between tensors.
    let whole =
        payloads.iter().find(|v| v.plans.len() == 1 && v.bytes.len() % 32 == 0).expect("such a length");
    let mut touching = file(&[("blk.0.attn_q.weight", whole), ("blk.0.attn_k.weight", example)], 32);
    for tensor in touching.tensors.iter_mut().filter(|tensor| tensor.type_id == F32) {
        (tensor.dims, tensor.bytes) = (vec![8], vec![0x3F; 32]);
    }
    add("touching", &touching);
    let mut before = two.clone();
    before.before = 0xAB;
    add("bytes-before-data-section", &before);
    add("alignment-8", &file(&[("blk.0.attn_q.weight", odd), ("blk.0.attn_k.weight", example)], 8));
    let mut wide = file(&[("blk.0.attn_q.weight", example)], 1 << 16);
    wide.tensors.truncate(1);
    add("alignment-65536", &wide);
    add("types-with-blocks", &types_with_blocks(example));
    for (name, count) in [("split-count-0", 0), ("split-count-1", 1)] {
        let mut single = two.clone();
        single.set("split.count", Some(Meta::U16(count)));
        add(name, &single);
    }
    let second = file(&[("blk.1.ffn_up_exps.weight", experts)], 32);
    let mut first = first_of_two(&two, &second);
    let mut bare = second.clone();
    bare.metadata.clear();
    let mut add = |name: &str, files: [File; 2]| {
        all.push(Container { files: named(name, files), decoder: None, verifier: None });
    };
    add("split", split(&first, &bare, Meta::U16(2)));
    let small = file(&[("blk.0.attn_q.weight", example)], 32);
    let mut plain = bare.clone();
    plain.tensors.remove(0);
    for (name, count) in [
        ("split-count-u8", Meta::U8(2)),
        ("split-count-u32", Meta::U32(2)),
        ("split-count-u64", Meta::U64(2)),
    ] {
        add(name, split(&small, &plain, count));
    }
    // Of the second file only the alignment counts; its other keys contradict the model.
    let mut other = file(&[("blk.1.ffn_up_exps.weight", experts)], 64);
    other.set("wsic.version", Some(Meta::U32(2)));
    other.set("wsic.type_id", Some(Meta::U32(705)));
    first.set("wsic.type_id", None);
    add("split-keys-in-second", split(&first, &other, Meta::U16(2)));
    all
}

/// One key for each type of value.
fn values_of_all_types() -> Vec<(String, Meta)> {
    let sizes = [(0, 1), (1, 1), (2, 2), (3, 2), (4, 4), (5, 4), (6, 4), (7, 1), (10, 8), (11, 8), (12, 8)];
    let mut values: Vec<(String, Meta)> = sizes
        .iter()
        .map(|&(kind, size)| (format!("test.{kind}"), Meta::Other(kind, vec![1; size])))
        .collect();
    let array =
        |kind: u32, count: u64, items: &[u8]| [&kind.to_le_bytes()[..], &count.to_le_bytes(), items].concat();
    values.push(("test.floats".into(), Meta::Other(9, array(12, 1, &[0; 8]))));
    values
}

/// A payload, and a tensor of every type of the list: with alignment 1, so that each offset is the sum of the lengths.
fn types_with_blocks(example: &Valid) -> File {
    let mut file = file(&[("blk.0.attn_q.weight", example)], 1);
    file.tensors.truncate(1);
    for &(type_id, weights, bytes) in reader::BLOCKS {
        // Two dimensions of one block and three rows; none is one weight.
        let (dims, blocks) = if type_id == F32 { (vec![], 1) } else { (vec![weights, 3], 3) };
        let bytes = vec![0x11; bytes as usize * blocks];
        file.tensors.push(Tensor { name: format!("type.{type_id}"), dims, type_id, bytes });
    }
    file.tensors.push(Tensor { name: "end".into(), dims: vec![1], type_id: F32, bytes: vec![0; 4] });
    file
}
