//! A real model file, where the environment variable WSIC_TEST_GGUF names one.
use wsic::gguf::{GgufFile, Limits};

#[test]
fn reads_a_real_file() {
    let Some(path) = std::env::var_os("WSIC_TEST_GGUF") else {
        eprintln!("skipped: set WSIC_TEST_GGUF to a GGUF file to run this test");
        return;
    };
    let file = GgufFile::open(path, &Limits::default()).unwrap();
    assert!(file.metadata().str("general.architecture").is_ok());
    for tensor in file.tensors() {
        assert_eq!(file.tensor_bytes(tensor).unwrap().len() as u64, tensor.byte_len);
        let floats = file.tensor_f32(tensor).unwrap();
        assert_eq!(floats.len() as u64, tensor.elements());
        assert!(floats.iter().all(|v| v.is_finite()), "{}", tensor.name);
    }
}
