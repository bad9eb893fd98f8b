//! Which encoding of the 256-bit byte dot product a machine has.

/// The instruction `vpdpbusd` on 256-bit registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vnni {
    /// None: three older instructions do its work.
    None,
    /// The one of AVX-VNNI.
    Avx,
    /// The one of AVX-512 VNNI and VL.
    Avx512,
}

impl Vnni {
    /// What this machine has.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn detect() -> Self {
        if is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512vl") {
            Vnni::Avx512
        } else if is_x86_feature_detected!("avxvnni") {
            Vnni::Avx
        } else {
            Vnni::None
        }
    }
}
