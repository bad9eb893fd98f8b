//! Models that are wrong in two places: the check that comes first in section 2 decides the class.

use super::*;

/// Made from a model with the tensors worked-example, F32, odd-k16, F32.
pub fn invalid(all: &mut Vec<Container>, good: &File) {
    let mut add = |name: &str, class: &'static str, edit: &dyn Fn(&mut File)| {
        let mut file = good.clone();
        edit(&mut file);
        let files = vec![(format!("order-{name}.gguf"), file.bytes())];
        all.push(Container { files, decoder: Some(class), verifier: Some(class) });
    };
    let odd = good.tensors[2].bytes.len() as u64;
    let version = |f: &mut File| f.set("wsic.version", Some(Meta::U32(2)));
    let type_id = |f: &mut File| f.set("wsic.type_id", Some(Meta::U32(705)));
    let listed =
        |f: &mut File, lengths: [u64; 2]| f.set("wsic.tensor_bytes", Some(Meta::U64s(lengths.to_vec())));
    let tile = |f: &mut File| f.tensors[0].bytes[90] = 0;
    add("names-and-version", "metadata-mismatch", &|f| {
        version(f);
        f.set("wsic.tensor_names", Some(Meta::Texts(vec!["a".into(), "b".into()])));
    });
    add("lengths-and-version", "metadata-mismatch", &|f| {
        version(f);
        f.set("wsic.tensor_bytes", None);
    });
    add("version-and-type-id", "unsupported-version", &|f| {
        version(f);
        type_id(f);
    });
    add("type-id-and-dimensions", "unsupported-feature", &|f| {
        type_id(f);
        f.tensors[0].dims = vec![12];
    });
    add("type-id-and-magic", "unsupported-feature", &|f| {
        type_id(f);
        f.tensors[0].bytes[0] = 0;
    });
    add("dimensions-and-offset", "shape-mismatch", &|f| {
        f.tensors[2].dims = vec![12];
        f.moved = Some((2, 8));
    });
    add("dimensions-and-magic", "shape-mismatch", &|f| {
        f.tensors[2].dims.extend([1, 1]);
        f.tensors[2].bytes[0] = 0;
    });
    add("magic-and-length", "bad-magic", &|f| {
        f.tensors[2].bytes[0] = 0;
        f.tensors[2].bytes[15] = 0xFF;
    });
    add("magic-and-listed-length", "bad-magic", &|f| {
        f.tensors[2].bytes[0] = 0;
        listed(f, [223, odd + 1]);
    });
    add("length-and-listed-length", "truncated", &|f| {
        f.tensors.truncate(3);
        f.tensors[2].bytes.pop();
        listed(f, [223, odd - 1]);
    });
    add("listed-length-and-overlap", "metadata-mismatch", &|f| {
        listed(f, [222, odd]);
        f.moved = Some((1, -32));
    });
    add("overlap-and-payload", "bad-container", &|f| {
        f.moved = Some((1, -32));
        f.tensors[0].bytes[20] ^= 1;
    });
    add("payload-and-shape", "bad-checksum", &|f| {
        f.tensors[0].bytes[20] ^= 1;
        f.tensors[0].dims = vec![4, 3];
    });
    add("shape-and-tile", "shape-mismatch", &|f| {
        tile(f);
        f.tensors[0].dims = vec![4, 3];
    });
    // All of one tensor before the next, and keys of all before the first.
    add("keys-and-first-tile", "metadata-mismatch", &|f| {
        tile(f);
        f.set("wsic.tensor_names", Some(Meta::Texts(vec![f.tensors[0].name.clone(), "b".into()])));
    });
    add("first-tile-and-second-dimensions", "corrupt-tile", &|f| {
        tile(f);
        f.tensors[2].dims = vec![12];
    });
    add("first-tile-and-second-shape", "corrupt-tile", &|f| {
        tile(f);
        f.tensors[2].dims.swap(0, 1);
    });
    add("first-tile-and-second-listed-length", "corrupt-tile", &|f| {
        tile(f);
        listed(f, [223, odd + 1]);
    });
}
