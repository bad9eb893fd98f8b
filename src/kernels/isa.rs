//! Which instruction set runs: detection, the environment variable `WSIC_ISA`, and a setting for programs.

#[cfg(target_arch = "x86_64")]
use super::vnni::Vnni;
use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};

/// An instruction set that the kernels are written for. All of them give the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Isa {
    /// Portable code without vector instructions of its own.
    Scalar = 0,
    /// x86-64 with AVX2, BMI2 and POPCNT.
    Avx2 = 1,
    /// AVX2 with the 256-bit dot product instructions of AVX-VNNI or of AVX-512 VNNI and VL.
    Avx2Vnni = 2,
    /// AVX-512 F, BW, DQ, VL, VBMI, VBMI2, VNNI and BITALG, and GFNI (Ice Lake, Zen 4 and later).
    Avx512 = 3,
    /// The same, but tables of 128 bytes are looked up half by half: faster where `vpermi2b` is three operations, as on
    /// Intel's processors, and slower where it is one, as on AMD's.
    Avx512Vpermb = 4,
}

/// All instruction sets, slowest first; of the last two either may be the faster one.
pub const ALL: [Isa; 5] = [Isa::Scalar, Isa::Avx2, Isa::Avx2Vnni, Isa::Avx512, Isa::Avx512Vpermb];

impl Isa {
    /// Name used by `WSIC_ISA`, benchmarks and the C ABI.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx2Vnni => "avx2-vnni",
            Isa::Avx512 => "avx512",
            Isa::Avx512Vpermb => "avx512-vpermb",
        }
    }

    /// Name of the family that users choose processors by: variants of one width share it.
    pub const fn family(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 | Isa::Avx2Vnni => "avx2",
            Isa::Avx512 | Isa::Avx512Vpermb => "avx512",
        }
    }

    /// The instruction set of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        ALL.into_iter().find(|isa| isa.name() == name)
    }

    /// Whether this machine can run it.
    pub fn available(self) -> bool {
        match self {
            Isa::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => has_avx2(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2Vnni => has_avx2() && Vnni::detect() != Vnni::None,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Vpermb => {
                has_avx2()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512cd")
                    && is_x86_feature_detected!("avx512vbmi")
                    && is_x86_feature_detected!("avx512vbmi2")
                    && is_x86_feature_detected!("avx512vnni")
                    && is_x86_feature_detected!("avx512bitalg")
                    && is_x86_feature_detected!("gfni")
            }
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// The instruction sets of this machine, slowest first; of the two of AVX-512 either may be the faster one.
    pub fn all_available() -> impl Iterator<Item = Isa> {
        ALL.into_iter().filter(|isa| isa.available())
    }

    /// The fastest instruction set of this machine.
    pub fn fastest() -> Self {
        match Self::all_available().last() {
            Some(Isa::Avx512Vpermb) if !wide_lookups_are_slow() => Isa::Avx512,
            Some(isa) => isa,
            None => Isa::Scalar,
        }
    }

    /// The instruction set that new [`super::PreparedMatrix`]es use: what [`force`] set, else what the environment
    /// variable `WSIC_ISA` names (if the machine has it), else the fastest available one.
    pub fn selected() -> Self {
        let stored = SELECTED.load(Ordering::Relaxed);
        if let Some(isa) = ALL.get(usize::from(stored)) {
            return *isa;
        }
        let named = std::env::var("WSIC_ISA").ok().and_then(|name| Isa::from_name(&name));
        let isa = named.filter(|isa| isa.available()).unwrap_or_else(Isa::fastest);
        SELECTED.store(isa as u8, Ordering::Relaxed);
        isa
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("popcnt")
}

/// Whether `vpermi2b` is several operations: on processors other than AMD's, which alone have SSE4a.
fn wide_lookups_are_slow() -> bool {
    #[cfg(target_arch = "x86_64")]
    return !is_x86_feature_detected!("sse4a");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

const UNDECIDED: u8 = u8::MAX;
static SELECTED: AtomicU8 = AtomicU8::new(UNDECIDED);

/// Makes new [`super::PreparedMatrix`]es use `isa`; `None` returns to the default. False, and no change, if this
/// machine does not have it.
pub fn force(isa: Option<Isa>) -> bool {
    match isa {
        Some(isa) if !isa.available() => false,
        Some(isa) => {
            SELECTED.store(isa as u8, Ordering::Relaxed);
            true
        }
        None => {
            SELECTED.store(UNDECIDED, Ordering::Relaxed);
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for isa in ALL {
            assert_eq!(Isa::from_name(isa.name()), Some(isa));
        }
        assert_eq!(Isa::from_name("sse9"), None);
        assert!(Isa::Scalar.available());
        assert!(Isa::all_available().any(|isa| isa == Isa::selected()));
        assert!(Isa::fastest().available());
    }
}
