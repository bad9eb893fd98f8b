//! Compiles the C decoder of `spec/decoder` for the target `c_decoder`, with coverage counters.

fn main() {
    println!("cargo:rerun-if-changed=c");
    println!("cargo:rerun-if-changed=../spec/decoder");
    // Without the fuzzer's runtime there is nobody to report to.
    let fuzzing = std::env::var_os("CARGO_CFG_FUZZING").is_some();
    let mut decoder = cc::Build::new();
    decoder.file("c/decoder.c").include("../spec/decoder").std("c99").opt_level(2).warnings(true);
    // Undefined behaviour ends the process, without a runtime library.
    decoder.flag("-fsanitize=undefined");
    if decoder.get_compiler().is_like_clang() {
        decoder.flag("-fsanitize-trap=undefined");
        if fuzzing {
            decoder.flag("-fsanitize-coverage=inline-8bit-counters,pc-table,trace-cmp");
        }
    } else {
        decoder.flag("-fsanitize-undefined-trap-on-error");
        if fuzzing {
            // The counters are in decoder.c itself. gcc 12 or later.
            decoder.flag("-fsanitize-coverage=trace-pc,trace-cmp").define("COUNT_PLACES", None);
        }
    }
    decoder.compile("wsic_fuzz_decoder");
}
