//! Any bytes as a GGUF file: listed, read, dequantized; payloads of our type opened.
#![no_main]

mod guard;

use libfuzzer_sys::fuzz_target;
use wsic::gguf::{GgmlType, GgufFile, Limits};
use wsic::payload::Payload;

const PAYLOAD: wsic::payload::Limits =
    wsic::payload::Limits { rows: 4096, columns: 1024, matrices: 64, rows_and_columns: 16_384 };

fuzz_target!(|bytes: &[u8]| guard::in_time(3000, || read(bytes)));

fn read(bytes: &[u8]) {
    wsic::payload::standard::standard_tables();
    let owned = bytes.to_vec();
    // Every entry of the file costs some bytes there; nothing in memory may be larger by more than this factor.
    let most = (64 << 10) + 64 * bytes.len();
    let Ok(file) = guard::within(most, || GgufFile::from_bytes("fuzz.gguf", owned, &Limits::default()))
    else {
        return;
    };
    for (_, value) in file.metadata().iter() {
        let _ = value.summary();
    }
    for tensor in file.tensors() {
        let Ok(data) = file.tensor_bytes(tensor) else { continue };
        assert!(data.len() <= bytes.len());
        if tensor.ty == GgmlType::Wsic {
            let _ = Payload::open(data, &PAYLOAD).map(|payload| payload.matrices().len());
        } else if tensor.elements() <= 1 << 16 {
            let _ = file.tensor_f32(tensor);
        }
    }
}
