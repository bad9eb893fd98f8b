//! Invalid models, at least one for every check of section 2.

use super::*;

/// Invalid models, at least one for every check of section 2.
pub fn invalid(payloads: &[Valid]) -> Vec<Container> {
    let get = |name: &str| payloads.iter().find(|valid| valid.name == name).unwrap();
    let good = file(
        &[("blk.0.attn_q.weight", get("worked-example")), ("blk.0.ffn_down.weight", get("odd-k16"))],
        32,
    );
    let experts = file(&[("blk.0.ffn_up_exps.weight", get("experts"))], 32);
    let odd = get("odd-k16").bytes.len() as u64;
    let mut all = Vec::new();
    let mut add = |name: &str, class: &'static str, start: &File, edit: &dyn Fn(&mut File)| {
        let mut file = start.clone();
        edit(&mut file);
        let files = vec![(format!("{name}.gguf"), file.bytes())];
        let decoder = (!name.starts_with("verifier-")).then_some(class);
        all.push(Container { files, decoder, verifier: Some(class) });
    };
    let metadata = "metadata-mismatch";
    for (name, key) in [
        ("version-missing", "wsic.version"),
        ("names-missing", "wsic.tensor_names"),
        ("bytes-missing", "wsic.tensor_bytes"),
    ] {
        add(name, metadata, &good, &|f| f.set(key, None));
    }
    add("version-of-other-type", metadata, &good, &|f| f.set("wsic.version", Some(Meta::U64(1))));
    add("bytes-of-other-type", metadata, &good, &|f| f.set("wsic.tensor_bytes", Some(Meta::Texts(vec![]))));
    let names = |names: &[&str]| Some(Meta::Texts(names.iter().map(|name| name.to_string()).collect()));
    let (q, down) = ("blk.0.attn_q.weight", "blk.0.ffn_down.weight");
    add("names-in-other-order", metadata, &good, &|f| f.set("wsic.tensor_names", names(&[down, q])));
    add("one-name-less", metadata, &good, &|f| f.set("wsic.tensor_names", names(&[q])));
    add("one-length-more", metadata, &good, &|f| {
        f.set("wsic.tensor_bytes", Some(Meta::U64s(vec![223, odd, 0])))
    });
    add("one-length-less", metadata, &good, &|f| f.set("wsic.tensor_bytes", Some(Meta::U64s(vec![223]))));
    add("one-name-more", metadata, &good, &|f| f.set("wsic.tensor_names", names(&[q, down, "z"])));
    add("one-name-and-length-more", metadata, &good, &|f| {
        f.set("wsic.tensor_names", names(&[q, down, "z"]));
        f.set("wsic.tensor_bytes", Some(Meta::U64s(vec![223, odd, 5])));
    });
    for (name, second) in [
        ("second-name-wrong", "blk.0.ffn_up.weight"),
        ("second-name-in-other-case", "blk.0.ffn_Down.weight"),
        ("second-name-longer", "blk.0.ffn_down.weight2"),
    ] {
        add(name, metadata, &good, &|f| f.set("wsic.tensor_names", names(&[q, second])));
    }
    let signed =
        [&11u32.to_le_bytes()[..], &2u64.to_le_bytes(), &223u64.to_le_bytes(), &odd.to_le_bytes()].concat();
    add("bytes-of-i64", metadata, &good, &|f| {
        f.set("wsic.tensor_bytes", Some(Meta::Other(9, signed.clone())))
    });
    let single = file(&[(q, get("worked-example"))], 32);
    add("names-as-one-string", metadata, &single, &|f| {
        f.set("wsic.tensor_names", Some(Meta::Text(q.into())))
    });
    add("version-2", "unsupported-version", &good, &|f| f.set("wsic.version", Some(Meta::U32(2))));
    add("other-type-id", "unsupported-feature", &good, &|f| f.set("wsic.type_id", Some(Meta::U32(705))));
    add("one-dimension", "shape-mismatch", &good, &|f| f.tensors[0].dims = vec![12]);
    add("four-dimensions", "shape-mismatch", &good, &|f| f.tensors[0].dims = vec![3, 4, 1, 1]);
    add("offset-not-aligned", "bad-container", &good, &|f| f.moved = Some((2, 8)));
    add("offset-beyond-file", "bad-container", &good, &|f| f.moved = Some((2, 1 << 40)));
    add("fifteen-bytes", "truncated", &good, &|f| {
        f.tensors.truncate(3);
        f.tensors[2].bytes.truncate(15);
    });
    add("magic", "bad-magic", &good, &|f| f.tensors[2].bytes[0] = b'w');
    add("magic-and-sixteen-bytes", "bad-magic", &good, &|f| {
        f.tensors.truncate(3);
        f.tensors[2].bytes.truncate(16);
        f.tensors[2].bytes[1] = b's';
    });
    add("payload-cut", "truncated", &good, &|f| {
        f.tensors.truncate(3);
        f.tensors[2].bytes.pop();
    });
    add("length-of-other-payload", metadata, &good, &|f| {
        f.set("wsic.tensor_bytes", Some(Meta::U64s(vec![223, 222])));
    });
    // Lengths whose low 32 bits are right.
    let beyond = Some(Meta::U64s(vec![223, (1 << 32) + odd]));
    add("listed-length-beyond-32-bits", metadata, &good, &|f| f.set("wsic.tensor_bytes", beyond.clone()));
    add("length-beyond-32-bits", "truncated", &good, &|f| {
        f.tensors[2].bytes[12] = 1;
        f.set("wsic.tensor_bytes", beyond.clone());
    });
    add("foreign-tensor", "bad-magic", &good, &|f| {
        f.tensors[2].bytes = vec![0xAA; 64];
        f.set("wsic.tensor_bytes", Some(Meta::U64s(vec![223, 64])));
    });
    add("overlap", "bad-container", &good, &|f| f.moved = Some((1, -32)));
    add("overlap-from-before", "bad-container", &good, &|f| f.tensors[1].dims = vec![16]);
    add("unknown-type-inside", "bad-container", &good, &|f| {
        f.moved = Some((1, -32));
        f.tensors[1].type_id = UNKNOWN;
    });
    add("empty-tensor-inside", "bad-container", &good, &|f| {
        f.moved = Some((1, -32));
        f.tensors[1].dims = vec![0];
    });
    let twice = file(&[(q, get("worked-example")), (down, get("worked-example"))], 32);
    add("two-tensors-at-one-offset", "bad-container", &twice, &|f| {
        f.tensors.remove(1);
        f.moved = Some((1, -224));
    });
    add("offset-wraps", "bad-container", &good, &|f| f.moved = Some((0, -32)));
    add("payload-damaged", "bad-checksum", &good, &|f| f.tensors[2].bytes[20] ^= 1);
    add("tile-damaged", "corrupt-tile", &good, &|f| f.tensors[0].bytes[90] = 0);
    add("other-columns", "shape-mismatch", &good, &|f| f.tensors[0].dims = vec![4, 4]);
    add("other-rows", "shape-mismatch", &good, &|f| f.tensors[0].dims = vec![3, 5]);
    add("transposed", "shape-mismatch", &good, &|f| f.tensors[0].dims = vec![4, 3]);
    add("experts-in-two-dimensions", "shape-mismatch", &experts, &|f| {
        f.tensors[0].dims.pop();
    });
    add("other-experts", "shape-mismatch", &experts, &|f| f.tensors[0].dims[2] = 2);
    add("payload-empty", "truncated", &good, &|f| {
        f.tensors[0].bytes = payload(4, 3, &[])[..16].to_vec();
        f.tensors[0].bytes[8] = 16;
        f.set("wsic.tensor_bytes", Some(Meta::U64s(vec![16, get("odd-k16").bytes.len() as u64])));
    });
    add("verifier-padding", "bad-container", &good, &|f| f.padding = 1);
    add("verifier-gap", "bad-container", &good, &|f| {
        f.moved = Some((3, 32));
        f.tensors[3].bytes.splice(0..0, [0; 32]);
    });
    add("verifier-padding-first-byte", "bad-container", &good, &|f| f.tensors[1].bytes.push(1));
    add("verifier-padding-last-byte", "bad-container", &good, &|f| {
        f.tensors[1].bytes.resize(31, 0);
        f.tensors[1].bytes.push(1);
    });
    add("verifier-gap-after-unknown-type", "bad-container", &good, &|f| {
        f.tensors[1].type_id = UNKNOWN;
        f.moved = Some((3, 32));
        f.tensors[3].bytes.splice(0..0, [0; 32]);
    });
    add("verifier-gap-without-wsic-tensor", "bad-container", &good, &|f| {
        f.tensors.retain(|tensor| tensor.type_id == F32);
        f.metadata.retain(|(key, _)| !key.starts_with("wsic."));
        f.moved = Some((1, 32));
        f.tensors[1].bytes.splice(0..0, [0; 32]);
    });
    add("verifier-tensor-cut", "bad-container", &good, &|f| f.tensors[3].bytes.truncate(11));
    add("verifier-tensor-cut-without-wsic-tensor", "bad-container", &good, &|f| {
        f.tensors.retain(|tensor| tensor.type_id == F32);
        f.metadata.retain(|(key, _)| !key.starts_with("wsic."));
        f.tensors[1].bytes.truncate(11);
    });
    // 2^68 bytes, which a product of 64 bits takes for none.
    add("verifier-tensor-of-a-huge-size", "bad-container", &good, &|f| f.tensors[3].dims = vec![1 << 62, 16]);
    add("type-id-of-other-type", "unsupported-feature", &good, &|f| {
        f.set("wsic.type_id", Some(Meta::U64(704)));
    });
    add("names-of-other-type", metadata, &good, &|f| {
        f.set("wsic.tensor_names", Some(Meta::U64s(vec![1, 2])))
    });
    // The last tensor would begin where the file ends: it lies in the file, and nothing of it is there.
    add("offset-at-the-end", "truncated", &good, &|f| {
        f.tensors.truncate(3);
        f.tensors[2].bytes.clear();
    });
    add("offset-past-the-end", "bad-container", &good, &|f| {
        f.tensors.truncate(3);
        f.tensors[2].bytes.clear();
        f.moved = Some((2, 32));
    });
    // 2^68 bytes, which a product of 64 bits takes for none.
    add("overlap-by-a-huge-size", "bad-container", &good, &|f| f.tensors[1].dims = vec![1 << 62, 16]);
    // All tiles of a tensor are decoded before the next tensor is looked at, and before gaps are.
    add("first-tensor-first", "corrupt-tile", &good, &|f| {
        f.tensors[0].bytes[90] = 0;
        f.tensors[2].bytes[0] = b'w';
    });
    add("gap-and-damaged-tile", "corrupt-tile", &good, &|f| {
        f.tensors[0].bytes[90] = 0;
        f.moved = Some((3, 32));
        f.tensors[3].bytes.splice(0..0, [0; 32]);
    });
    add("verifier-gap-at-the-start", "bad-container", &file(&[(q, get("worked-example"))], 32), &|f| {
        f.tensors.truncate(1);
        f.moved = Some((0, 32));
        f.tensors[0].bytes.splice(0..0, [0; 32]);
    });
    add("verifier-padding-after-the-payload", "bad-container", &good, &|f| f.tensors[0].bytes.push(1));
    let container = "bad-container";
    for (name, version) in [("gguf-version-1", 1), ("gguf-version-4", 4), ("gguf-big-endian", 3 << 24)] {
        add(name, container, &good, &|f| f.version = version);
    }
    add("gguf-five-dimensions", container, &good, &|f| f.tensors[1].dims = vec![3, 1, 1, 1, 1]);
    add("gguf-tensor-name-twice", container, &good, &|f| f.tensors[3].name = f.tensors[1].name.clone());
    add("gguf-key-twice", container, &good, &|f| f.metadata.push(f.metadata[0].clone()));
    for (name, alignment) in [
        ("gguf-alignment-0", Meta::U32(0)),
        ("gguf-alignment-24", Meta::U32(24)),
        ("gguf-alignment-of-other-type", Meta::U64(32)),
    ] {
        add(name, container, &good, &|f| f.set("general.alignment", Some(alignment.clone())));
    }
    let kind = 13u32.to_le_bytes();
    add("gguf-value-type-13", container, &good, &|f| f.set("test", Some(Meta::Other(13, vec![0; 8]))));
    add("gguf-value-type-13-empty", container, &good, &|f| f.set("test", Some(Meta::Other(13, vec![]))));
    add("gguf-element-type-13", container, &good, &|f| {
        f.set("test", Some(Meta::Other(9, [&kind[..], &0u64.to_le_bytes()].concat())));
    });
    let endless = [&4u32.to_le_bytes()[..], &u64::MAX.to_le_bytes()].concat();
    add("gguf-array-beyond", container, &good, &|f| f.set("test", Some(Meta::Other(9, endless.clone()))));
    add("gguf-string-beyond", container, &good, &|f| {
        f.set("test", Some(Meta::Other(8, (1u64 << 40).to_le_bytes().to_vec())));
    });
    // Nothing is read behind them.
    let long = 1000u64.to_le_bytes();
    let array = [&0u32.to_le_bytes()[..], &long].concat();
    for (name, kind, value) in
        [("gguf-last-string-beyond", 8, long.to_vec()), ("gguf-last-array-beyond", 9, array)]
    {
        add(name, container, &good, &|f| {
            f.tensors.clear();
            f.metadata.retain(|(key, _)| !key.starts_with("wsic."));
            f.set("test", Some(Meta::Other(kind, value.clone())));
        });
    }
    let mut raw = |name: &str, edit: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.bytes();
        edit(&mut bytes);
        let files = vec![(format!("{name}.gguf"), bytes)];
        let decoder = (!name.starts_with("verifier-")).then_some(container);
        all.push(Container { files, decoder, verifier: Some(container) });
    };
    // The file ends with the second payload: the tensor behind it, of 12 or no known number of bytes, begins beyond the end.
    let odd_at = good.bytes().windows(4).rposition(|window| window == b"WSIC").unwrap();
    raw("verifier-tensor-absent", &|b| b.truncate(odd_at + odd as usize));
    let unknown =
        good.bytes().windows(12).rposition(|window| window == b"_norm.weight").unwrap() + 12 + 4 + 8;
    raw("verifier-unknown-type-absent", &|b| {
        b[unknown..unknown + 4].copy_from_slice(&UNKNOWN.to_le_bytes());
        b.truncate(odd_at + odd as usize);
    });
    raw("gguf-magic", &|b| b[0] = b'X');
    raw("gguf-magic-last-byte", &|b| b[3] = b'f');
    raw("gguf-empty", &|b| b.clear());
    raw("gguf-23-bytes", &|b| b.truncate(23));
    raw("gguf-cut-in-metadata", &|b| b.truncate(100));
    let infos = good.bytes().windows(18).rposition(|window| window == b"blk.0.ffn_down.wei").unwrap();
    raw("gguf-cut-in-tensor-infos", &|b| b.truncate(infos));
    raw("gguf-endless-tensors", &|b| b[8..16].fill(0xFF));
    raw("gguf-endless-metadata", &|b| b[16..24].fill(0xFF));
    splits(&mut all, &good);
    order::invalid(&mut all, &good);
    // A verifier checks the checksum of the tile before it decodes it.
    all.iter_mut()
        .filter(|container| container.decoder == Some("corrupt-tile"))
        .for_each(|container| container.verifier = Some("bad-checksum"));
    all
}

/// Split models, and files that say they are parts of one.
fn splits(all: &mut Vec<Container>, good: &File) {
    let class = Some("bad-container");
    let mut alone = |name: &str, count: Meta| {
        let mut first = good.clone();
        first.set("split.no", Some(Meta::U16(0)));
        first.set("split.count", Some(count));
        first.set("split.tensors.count", Some(Meta::I32(4)));
        all.push(Container {
            files: vec![(format!("{name}.gguf"), first.bytes())],
            decoder: class,
            verifier: class,
        });
    };
    alone("split-without-second-00001-of-00002", Meta::U16(2));
    alone("split-of-another-count-00001-of-00002", Meta::U16(3));
    alone("split-without-number", Meta::U16(2));
    alone("split-second-first-00002-of-00002", Meta::U16(2));
    alone("split-count-of-text-00001-of-00002", Meta::Text("2".into()));
    alone("split-count-of-i32-1", Meta::I32(1));
    let mut plain = good.clone();
    plain.metadata.clear();
    plain.tensors.retain(|tensor| tensor.type_id == F32);
    plain.tensors.iter_mut().for_each(|tensor| tensor.name += ".2");
    let mut add = |name: &str, count: Meta, edit: &dyn Fn(&mut [File; 2])| {
        let mut files = split(good, &plain, count);
        edit(&mut files);
        let decoder = class.filter(|_| !name.starts_with("verifier-"));
        all.push(Container { files: named(name, files), decoder, verifier: class });
    };
    let two = Meta::U16(2);
    add("split-count-of-i32", Meta::I32(2), &|_| ());
    add("split-second-malformed", two.clone(), &|f| f[1].version = 4);
    for (name, key) in [
        ("split-number-missing", "split.no"),
        ("split-second-count-missing", "split.count"),
        ("split-tensors-missing", "split.tensors.count"),
    ] {
        add(name, two.clone(), &|f| f[1].set(key, None));
    }
    add("split-first-number-missing", two.clone(), &|f| f[0].set("split.no", None));
    add("split-first-number-1", two.clone(), &|f| f[0].set("split.no", Some(Meta::U16(1))));
    add("split-numbers-equal", two.clone(), &|f| f[1].set("split.no", Some(Meta::U16(0))));
    add("split-number-of-text", two.clone(), &|f| f[1].set("split.no", Some(Meta::Text("1".into()))));
    add("split-counts-differ", two.clone(), &|f| f[1].set("split.count", Some(Meta::U16(3))));
    add("split-tensors-miscounted", two.clone(), &|f| {
        f.iter_mut().for_each(|file| file.set("split.tensors.count", Some(Meta::I32(7))));
    });
    add("split-tensors-differ", two.clone(), &|f| f[1].set("split.tensors.count", Some(Meta::I32(7))));
    add("split-tensor-name-twice", two.clone(), &|f| f[1].tensors[1].name = f[0].tensors[3].name.clone());
    add("split-first-tensors-differ", two.clone(), &|f| f[0].set("split.tensors.count", Some(Meta::I32(7))));
    for (name, file, tensor) in
        [("verifier-split-gap-in-first", 0, 3), ("verifier-split-gap-in-second", 1, 1)]
    {
        add(name, two.clone(), &|f| {
            f[file].moved = Some((tensor, 32));
            f[file].tensors[tensor].bytes.splice(0..0, [0; 32]);
        });
    }
    // All files are there, by names that say something else than the keys.
    let files = split(good, &plain, two);
    for (name, end) in [
        ("split-short-numbers-", "-of-2.gguf"),
        ("split-short-count-0000", "-of-2.gguf"),
        ("split-of-three-0000", "-of-00003.gguf"),
    ] {
        let named = |index: usize| format!("{name}{}{end}", index + 1);
        let files = files.iter().enumerate().map(|(index, file)| (named(index), file.bytes())).collect();
        all.push(Container { files, decoder: class, verifier: class });
    }
}
