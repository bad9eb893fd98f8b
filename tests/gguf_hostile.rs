//! Hostile files: one named test for each class of bug that container readers have had, and random mutations.
//! Every file here must give an error (or, for mutations, anything but a panic), with bounded memory.

use wsic::gguf::{dequantize, payload_len, GgmlType, GgufError, GgufFile, Limits};

/// Builds files by hand, so that they may lie.
#[derive(Clone, Default)]
struct Raw {
    bytes: Vec<u8>,
}

impl Raw {
    fn header(tensors: u64, entries: u64) -> Self {
        Raw::default().raw(b"GGUF").u32(3).u64(tensors).u64(entries)
    }
    fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }
    fn u32(self, value: u32) -> Self {
        self.raw(&value.to_le_bytes())
    }
    fn u64(self, value: u64) -> Self {
        self.raw(&value.to_le_bytes())
    }
    fn text(self, text: &[u8]) -> Self {
        self.u64(text.len() as u64).raw(text)
    }
    fn key(self, key: &str, kind: u32) -> Self {
        self.text(key.as_bytes()).u32(kind)
    }
    fn tensor(self, name: &str, dims: &[u64], ty: u32, offset: u64) -> Self {
        let raw = self.text(name.as_bytes()).u32(dims.len() as u32);
        dims.iter().fold(raw, |raw, &dim| raw.u64(dim)).u32(ty).u64(offset)
    }
    /// Pads to the data section and appends `count` bytes of data.
    fn data(mut self, count: usize) -> Self {
        self.bytes.resize(self.bytes.len().next_multiple_of(32) + count, 0x11);
        self
    }
    fn open(&self) -> Result<GgufFile, GgufError> {
        GgufFile::from_bytes("hostile.gguf", self.bytes.clone(), &Limits::default())
    }
    /// Opening fails with a message that names the file and contains all `words`.
    #[track_caller]
    fn refused(&self, words: &[&str]) {
        let message = self.open().expect_err("must be refused").to_string();
        for word in ["hostile.gguf"].iter().chain(words) {
            assert!(message.contains(word), "`{word}` missing in: {message}");
        }
    }
}

const F32: u32 = 0;
const Q4_0: u32 = 2;
const WSIC: u32 = 704;

#[test]
fn a_plain_file_is_accepted() {
    let file = Raw::header(1, 0).tensor("t", &[4, 2], F32, 0).data(32).open().unwrap();
    assert_eq!(file.tensor_f32(file.tensor("t").unwrap()).unwrap().len(), 8);
    assert!(Raw::header(0, 0).open().unwrap().tensors().is_empty());
}

/// CVE-2024-21802: more dimensions than the fixed array holds (heap overflow).
#[test]
fn cve_2024_21802_too_many_dimensions() {
    Raw::header(1, 0).tensor("t", &[1; 5], F32, 0).data(32).refused(&[
        "tensor `t`",
        "at most 4 dimensions",
        "found 5",
    ]);
    Raw::header(1, 0).text(b"t").u32(u32::MAX).data(64).refused(&["4294967295"]);
}

/// CVE-2024-21825: the bytes of an array overflow when its length is multiplied by the element size.
#[test]
fn cve_2024_21825_array_length_overflow() {
    for len in [u64::MAX, u64::MAX / 4 + 2, 1 << 61, 1 << 26, 100] {
        for element in [4, 8, 10] {
            Raw::header(0, 1).key("k", 9).u32(element).u64(len).data(64).refused(&["metadata key `k`"]);
        }
    }
}

/// CVE-2024-21836: the tensor count, multiplied by the size of an info, overflows the allocation.
#[test]
fn cve_2024_21836_tensor_count_overflow() {
    for count in [u64::MAX, u64::MAX / 24 + 2, 1 << 32, 1 << 18, 3] {
        Raw::header(count, 0).data(32).refused(&[&count.to_string()]);
    }
}

/// CVE-2024-23605: the same for the metadata count.
#[test]
fn cve_2024_23605_metadata_count_overflow() {
    for count in [u64::MAX, u64::MAX / 14 + 2, 1 << 32, 1 << 14, 3] {
        Raw::header(0, count).data(32).refused(&[&count.to_string()]);
    }
}

/// CVE-2024-23496: a string length whose successor (for the final zero) is 0.
#[test]
fn cve_2024_23496_string_length_overflow() {
    for len in [u64::MAX, u64::MAX - 1, 1 << 63, (1 << 26) + 1, 60] {
        Raw::header(0, 1).key("k", 8).u64(len).data(16).refused(&["metadata key `k`"]);
        Raw::header(0, 1).u64(len).data(16).refused(&["key of metadata entry 0"]);
        Raw::header(1, 0).u64(len).data(24).refused(&["name of tensor 0"]);
    }
}

/// CVE-2024-32878: a file that ends inside an array of strings made the clean-up free uninitialised pointers.
#[test]
fn cve_2024_32878_array_cut_in_the_middle() {
    let whole = Raw::header(0, 1).key("k", 9).u32(8).u64(3).text(b"one").text(b"two").text(b"three");
    assert!(whole.open().is_ok());
    for len in 0..whole.bytes.len() {
        Raw { bytes: whole.bytes[..len].to_vec() }.refused(&["expected", "found"]);
    }
}

/// CVE-2025-53630: the sum of padded tensor sizes wraps around, so a small buffer receives large tensors.
#[test]
fn cve_2025_53630_sum_of_sizes_overflow() {
    let raw = Raw::header(2, 0).tensor("a", &[1 << 60], F32, 0);
    raw.tensor("b", &[1 << 60], F32, 1 << 62).data(64).refused(&["tensor", "hostile.gguf"]);
    Raw::header(1, 0)
        .tensor("t", &[4], F32, u64::MAX - 31)
        .data(64)
        .refused(&["tensor `t`", "inside the file"]);
}

/// CVE-2026-27940: the same sum, with single sizes that each pass their own check.
#[test]
fn cve_2026_27940_sizes_that_pass_one_by_one() {
    let huge = (1u64 << 62) - 32;
    let mut raw = Raw::header(4, 0);
    for (at, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
        raw = raw.tensor(name, &[huge], 24, huge * at as u64);
    }
    raw.data(64).refused(&["tensor"]);
}

/// llama.cpp #27203: the product of the dimensions wraps to a small number.
#[test]
fn llama_cpp_27203_dimension_product_overflow() {
    for dims in [
        &[1 << 32, 1 << 32][..],
        &[1 << 21, 1 << 21, 1 << 21, 2],
        &[3, u64::MAX / 3 + 1],
        &[1 << 63],
        &[u64::MAX, 1],
    ] {
        Raw::header(1, 0).tensor("t", dims, F32, 0).data(64).refused(&["tensor `t`", "product below 2^63"]);
    }
    // The elements fit, the bytes do not.
    Raw::header(1, 0)
        .tensor("t", &[1 << 40, 1 << 22], F32, 0)
        .data(64)
        .refused(&["tensor `t`", "size below 2^63"]);
    Raw::header(1, 0).tensor("t", &[4, 0], F32, 0).data(64).refused(&["tensor `t`", "at least 1"]);
}

/// CVE-2026-7482 (the shape of a converter): a tensor reaches beyond the file, and what lies behind it in memory is
/// quantized into the output.
#[test]
fn cve_2026_7482_tensor_beyond_the_file() {
    Raw::header(1, 0).tensor("t", &[8], F32, 0).data(31).refused(&[
        "tensor `t`",
        "32 bytes",
        "after 31 bytes",
    ]);
    Raw::header(1, 0).tensor("t", &[8], F32, 32).data(32).refused(&[
        "tensor `t`",
        "32 bytes",
        "after 0 bytes",
    ]);
    Raw::header(1, 0).tensor("t", &[8], F32, 4096).data(32).refused(&["tensor `t`", "inside the file"]);
    // The header ends after the file would have to be padded.
    Raw::header(1, 0).tensor("t", &[1], F32, 0).refused(&["tensor `t`"]);
}

/// CVE-2026-53923: 32-bit truncation of sizes, and output tails that nobody wrote.
#[test]
fn cve_2026_53923_truncated_sizes_and_unwritten_tails() {
    // 2^32 + 1 elements must not look like one.
    Raw::header(1, 0)
        .tensor("t", &[(1 << 32) + 1], F32, 0)
        .data(64)
        .refused(&["tensor `t`", "17179869188 bytes"]);
    // An output longer than the blocks is an error, not a partly written buffer.
    let mut out = [0.0; 64];
    assert!(dequantize(GgmlType::Q4_0, &[0; 18], &mut out).is_err());
    let file = Raw::header(1, 0).tensor("t", &[32, 2], Q4_0, 0).data(36).open().unwrap();
    let tensor = file.tensor("t").unwrap();
    assert!(file.dequantize_rows(tensor, 0..1, &mut out).is_err());
    assert!(file.dequantize_rows(tensor, 0..2, &mut out).is_ok());
    let error = file.dequantize_rows(tensor, 1..3, &mut out).unwrap_err().to_string();
    assert!(error.contains("tensor `t`") && error.contains("0..2"), "{error}");
    let reversed = std::ops::Range { start: 2, end: 1 };
    assert!(file.dequantize_rows(tensor, reversed, &mut out).is_err());
    assert!(file.dequantize_rows(tensor, u64::MAX - 1..u64::MAX, &mut out).is_err());
}

/// CVE-2025-49847: a vocabulary entry longer than a signed 32-bit length. Here a string can neither exceed the
/// limit nor the file, and getters never narrow a number silently.
#[test]
fn cve_2025_49847_long_vocabulary_entry() {
    Raw::header(0, 1)
        .key("tokenizer.ggml.tokens", 9)
        .u32(8)
        .u64(1)
        .u64((1 << 31) + 1)
        .data(64)
        .refused(&["tokens"]);
    let limits = Limits { max_string_bytes: 3, ..Limits::default() };
    let raw = Raw::header(0, 1).key("k", 9).u32(8).u64(1).text(b"four");
    let error = GgufFile::from_bytes("hostile.gguf", raw.bytes, &limits).unwrap_err().to_string();
    assert!(error.contains("max_string_bytes"), "{error}");
    let file = Raw::header(0, 1).key("k", 10).u64((1 << 32) + 7).open().unwrap();
    assert!(file.metadata().u32("k").is_err());
    assert_eq!(file.metadata().u64("k").unwrap(), (1 << 32) + 7);
}

/// CVE-2025-52566: a negative count taken for an unsigned one.
#[test]
fn cve_2025_52566_negative_numbers_stay_negative() {
    let file = Raw::header(0, 1).key("k", 5).u32(-1i32 as u32).open().unwrap();
    assert!(file.metadata().u32("k").is_err());
    assert!(file.metadata().usize("k").is_err());
    assert_eq!(file.metadata().i64("k").unwrap(), -1);
}

/// safetensors: a header of 100 000 entries as a denial of service (quadratic look-ups, allocation by the entry).
#[test]
fn header_of_100_000_entries() {
    let mut raw = Raw::header(100_000, 0);
    for number in 0..100_000 {
        raw = raw.tensor(&format!("t{number}"), &[1], 24, 32 * number);
    }
    let raw = raw.data(32 * 100_000);
    assert_eq!(raw.open().unwrap().tensors().len(), 100_000);
    let limits = Limits { max_tensors: 99_999, ..Limits::default() };
    let error = GgufFile::from_bytes("hostile.gguf", raw.bytes, &limits).unwrap_err().to_string();
    assert!(error.contains("max_tensors"), "{error}");
    let mut raw = Raw::header(0, 100_000);
    for number in 0..100_000 {
        raw = raw.key(&format!("k{number}"), 0).raw(&[1]);
    }
    raw.refused(&["max_metadata_entries", "100000"]);
}

#[test]
fn whole_metadata_has_a_limit() {
    let raw = Raw::header(0, 2).key("a", 8).text(&[b'x'; 100]).key("b", 8).text(&[b'x'; 100]);
    let limits = Limits { max_metadata_bytes: 200, ..Limits::default() };
    let error = GgufFile::from_bytes("hostile.gguf", raw.bytes, &limits).unwrap_err().to_string();
    assert!(error.contains("max_metadata_bytes") && error.contains("`b`"), "{error}");
}

#[test]
fn other_formats_and_versions() {
    Raw::default().refused(&["magic", "found the end of the file"]);
    Raw::default().raw(b"ggjt").u32(3).data(32).refused(&["begins with", "ggjt", "byte 0"]);
    Raw::default().raw(b"GGUF").u32(1).u32(0).u32(0).data(32).refused(&["version 1"]);
    Raw::default().raw(b"GGUF").raw(&3u32.to_be_bytes()).data(32).refused(&["big-endian", "version 3"]);
    Raw::default().raw(b"GGUF").u32(4).data(32).refused(&["version 4"]);
    Raw::default().raw(b"GGUF").u32(0).data(32).refused(&["version 0"]);
    assert_eq!(Raw::default().raw(b"GGUF").u32(2).u64(0).u64(0).open().unwrap().version(), 2);
}

#[test]
fn bad_metadata() {
    Raw::header(0, 1).key("k", 13).data(32).refused(&["`k`", "type 13"]);
    Raw::header(0, 1).key("", 0).raw(&[1, 0]).refused(&["empty key", "byte 24"]);
    Raw::header(0, 2).key("k", 0).raw(&[1]).key("k", 1).raw(&[1]).refused(&["`k`", "second time"]);
    Raw::header(0, 1).key("k", 7).raw(&[2]).refused(&["`k`", "BOOL", "found 2"]);
    Raw::header(0, 1).key("k", 9).u32(7).u64(3).raw(&[0, 1, 255]).refused(&["`k`", "BOOL", "found 255"]);
    Raw::header(0, 1).key("k", 9).u32(9).u64(1).u32(0).u64(0).refused(&["`k`", "array of arrays"]);
    Raw::header(0, 1).text(&[0xff, 0xfe]).u32(0).raw(&[1]).refused(&["UTF-8"]);
    Raw::header(0, 1).key("a\0b", 0).raw(&[1]).refused(&["zero bytes"]);
}

#[test]
fn bad_alignment() {
    let with = |kind: u32, value: &[u8]| Raw::header(0, 1).key("general.alignment", kind).raw(value);
    with(10, &32u64.to_le_bytes()).refused(&["general.alignment", "UINT32"]);
    with(5, &32u32.to_le_bytes()).refused(&["general.alignment", "UINT32"]);
    with(4, &0u32.to_le_bytes()).refused(&["power of two", "UINT32 0"]);
    with(4, &48u32.to_le_bytes()).refused(&["power of two", "UINT32 48"]);
    with(4, &(1u32 << 31).to_le_bytes()).refused(&["max_alignment"]);
    assert_eq!(with(4, &1u32.to_le_bytes()).open().unwrap().alignment(), 1);
}

#[test]
fn bad_tensors() {
    Raw::header(1, 0)
        .tensor(&"n".repeat(64), &[1], F32, 0)
        .data(32)
        .refused(&["less than 64 bytes", "byte 24"]);
    let twice = Raw::header(2, 0).tensor("t", &[1], F32, 0).tensor("t", &[1], F32, 32);
    twice.data(64).refused(&["tensor `t`", "second time"]);
    Raw::header(1, 0).tensor("t", &[33], Q4_0, 0).data(64).refused(&["tensor `t`", "whole blocks of 32"]);
    Raw::header(1, 0).tensor("t", &[1], F32, 8).data(64).refused(&[
        "tensor `t`",
        "multiple of 32",
        "found 8",
    ]);
    let overlap = Raw::header(2, 0).tensor("a", &[16], F32, 0).tensor("b", &[8], F32, 32);
    overlap.data(64).refused(&["tensor `a`", "64 bytes", "tensor `b`"]);
    let same = Raw::header(2, 0).tensor("a", &[8], F32, 0).tensor("b", &[8], F32, 0);
    same.data(64).refused(&["tensor `"]);
    // Out of order and with a gap is fine.
    let gap = Raw::header(2, 0).tensor("a", &[8], F32, 96).tensor("b", &[8], F32, 0).data(128);
    assert!(gap.open().is_ok());
}

#[test]
fn our_type_states_its_own_length() {
    let payload = |magic: &[u8], len: u64| {
        let raw = Raw::header(2, 0).tensor("p", &[64, 4], WSIC, 0).tensor("q", &[8], F32, 64).data(0);
        let mut raw = raw.raw(magic).raw(&[1, 0, 0, 0]).u64(len);
        raw.bytes.resize(raw.bytes.len() + 80, 0);
        raw
    };
    let file = payload(b"WSIC", 50).open().unwrap();
    let tensor = file.tensor("p").unwrap();
    assert_eq!((tensor.byte_len, tensor.ty), (50, GgmlType::Wsic));
    assert_eq!(payload_len(file.tensor_bytes(tensor).unwrap()), Ok(50));
    assert!(file.row_bytes(tensor, 0..1).is_err());
    payload(b"WSIX", 50).refused(&["tensor `p`", "magic"]);
    payload(b"WSIC", 15).refused(&["tensor `p`", "at least 16"]);
    payload(b"WSIC", 65).refused(&["tensor `p`", "tensor `q`", "after 64 bytes"]);
    payload(b"WSIC", 97).refused(&["tensor `p`", "96 bytes left"]);
    payload(b"WSIC", u64::MAX).refused(&["tensor `p`"]);
    Raw::header(1, 0).tensor("p", &[64], WSIC, 0).data(15).refused(&["tensor `p`", "16 bytes", "15 bytes"]);
}

#[test]
fn unknown_types_are_listed_not_read() {
    let raw = Raw::header(2, 0).tensor("u", &[64, 4], 4242, 0).tensor("v", &[10], 31, 96).data(100);
    let file = raw.open().unwrap();
    let (u, v) = (file.tensor("u").unwrap(), file.tensor("v").unwrap());
    assert!(u.is_unknown() && v.is_unknown());
    assert_eq!((u.byte_len, v.byte_len), (96, 4));
    assert_eq!(file.tensor_bytes(v).unwrap(), [0x11; 4]);
    let error = file.tensor_f32(u).unwrap_err().to_string();
    assert!(error.contains("tensor `u`") && error.contains("4242"), "{error}");
}

#[test]
fn a_tensor_of_another_file_is_an_error() {
    let long = Raw::header(1, 0).tensor("t", &[64], F32, 0).data(256).open().unwrap();
    let short = Raw::header(1, 0).tensor("t", &[8], F32, 0).data(32).open().unwrap();
    let error = short.tensor_bytes(long.tensor("t").unwrap()).unwrap_err().to_string();
    assert!(error.contains("tensor `t`"), "{error}");
    assert!(short.tensor_f32(long.tensor("t").unwrap()).is_err());
    assert!(short.tensor("absent").unwrap_err().to_string().contains("absent"));
}

/// A file with every kind of value and several types.
fn varied() -> Vec<u8> {
    let mut raw = Raw::header(4, 15);
    for (kind, size) in
        [(0, 1), (1, 1), (2, 2), (3, 2), (4, 4), (5, 4), (6, 4), (7, 1), (10, 8), (11, 8), (12, 8)]
    {
        raw = raw.key(&format!("scalar.{kind}"), kind).raw(&vec![1; size]);
    }
    raw = raw.key("string", 8).text(b"text").key("strings", 9).u32(8).u64(2).text(b"ab").text(b"");
    raw = raw.key("numbers", 9).u32(5).u64(3).u32(1).u32(2).u32(3);
    raw = raw.key("general.alignment", 4).u32(32);
    raw = raw.tensor("a", &[32, 2], Q4_0, 0).tensor("b", &[256], 10, 64).tensor("c", &[64, 4], WSIC, 160);
    raw.tensor("d", &[2, 1, 2, 1], F32, 192).data(160).raw(b"WSIC").u32(1).u64(20).raw(&[0; 48]).bytes
}

/// Uses everything a file offers; errors are fine, panics are not.
fn use_all(bytes: Vec<u8>) -> bool {
    let Ok(file) = GgufFile::from_bytes("mutated.gguf", bytes, &Limits::default()) else { return false };
    for (key, value) in file.metadata().iter() {
        let _ =
            (value.summary(), file.metadata().u32(key), file.metadata().f32(key), file.metadata().str(key));
        if let Ok(array) = file.metadata().array(key) {
            assert_eq!(array.values().count(), array.len());
            let _ = (array.texts().count(), array.to_f32(), array.to_bool(), array.get(usize::MAX));
        }
    }
    for tensor in file.tensors() {
        assert_eq!(file.tensor_bytes(tensor).unwrap().len() as u64, tensor.byte_len);
        if let Ok(floats) = file.tensor_f32(tensor) {
            assert_eq!(floats.len() as u64, tensor.elements());
        }
    }
    true
}

#[test]
fn random_mutations_never_panic() {
    let original = varied();
    assert!(use_all(original.clone()));
    // A small generator (splitmix64): the same mutations on every machine.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move |bound: usize| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    };
    let mut accepted = 0;
    for round in 0..40_000 {
        let mut bytes = original.clone();
        for _ in 0..=random(3) {
            let at = random(bytes.len());
            match random(4) {
                0 => bytes[at] = random(256) as u8,
                1 => bytes[at] ^= 1 << random(8),
                2 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random(5)],
                _ => {
                    let end = (at + 8).min(bytes.len());
                    let extreme =
                        [u64::MAX, 1 << 63, i64::MAX as u64, 1 << 32, 1 << 31, 0][random(6)].to_le_bytes();
                    bytes[at..end].copy_from_slice(&extreme[..end - at]);
                }
            }
        }
        if round % 8 == 0 {
            bytes.truncate(random(bytes.len()));
        }
        accepted += usize::from(use_all(bytes));
    }
    assert!(accepted > 1000, "mutations that stay readable test the accessors too: {accepted}");
}

#[test]
fn every_truncation_is_refused() {
    let whole = varied();
    for len in 0..whole.len() - 16 {
        let error = GgufFile::from_bytes("cut.gguf", whole[..len].to_vec(), &Limits::default())
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("cut.gguf: "), "{error}");
    }
}
