//! Instruction sets.

use crate::status::Status;
use std::ffi::c_char;
use wsic_core::kernels;

/// An instruction set that the kernels are written for. All of them give the same results, bit for bit.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// For wsic_isa_force: the default. Elsewhere: no instruction set.
    Default = -1,
    /// Portable code.
    Scalar = 0,
    /// x86-64 with AVX2, BMI2 and POPCNT.
    Avx2 = 1,
    /// AVX2 with the 256-bit dot products of AVX-VNNI or of AVX-512 VNNI and VL.
    Avx2Vnni = 2,
    /// AVX-512 F, BW, DQ, VL, VBMI, VBMI2, VNNI and BITALG.
    Avx512 = 3,
    /// The same with lookups that suit Intel's processors better.
    Avx512Vpermb = 4,
}

/// Each instruction set as this interface and as the kernels name it, and its name with a zero byte.
const ISAS: [(Isa, kernels::Isa, &str); 5] = [
    (Isa::Scalar, kernels::Isa::Scalar, "scalar\0"),
    (Isa::Avx2, kernels::Isa::Avx2, "avx2\0"),
    (Isa::Avx2Vnni, kernels::Isa::Avx2Vnni, "avx2-vnni\0"),
    (Isa::Avx512, kernels::Isa::Avx512, "avx512\0"),
    (Isa::Avx512Vpermb, kernels::Isa::Avx512Vpermb, "avx512-vpermb\0"),
];

fn from_code(code: i32) -> Option<kernels::Isa> {
    ISAS.into_iter().find(|(isa, ..)| *isa as i32 == code).map(|(_, isa, _)| isa)
}

impl Isa {
    pub(crate) fn of_kernels(isa: kernels::Isa) -> Self {
        ISAS.into_iter().find(|(_, known, _)| *known == isa).map_or(Isa::Default, |(isa, ..)| isa)
    }
}

/// The name of an instruction set, as the environment variable WSIC_ISA takes it. Never null: "unknown" for other
/// numbers.
#[no_mangle]
pub extern "C" fn wsic_isa_name(isa: i32) -> *const c_char {
    let name =
        ISAS.into_iter().find(|(known, ..)| *known as i32 == isa).map_or("unknown\0", |(_, _, name)| name);
    name.as_ptr().cast()
}

/// Whether this machine has an instruction set; false for other numbers.
#[no_mangle]
pub extern "C" fn wsic_isa_available(isa: i32) -> bool {
    from_code(isa).is_some_and(kernels::Isa::available)
}

/// The instruction set that tensors opened from now on use: the one that wsic_isa_force set, else what the environment
/// variable WSIC_ISA names (if this machine has it), else the fastest of this machine.
#[no_mangle]
pub extern "C" fn wsic_isa_selected() -> Isa {
    Isa::of_kernels(kernels::Isa::selected())
}

/// Makes tensors opened from now on, on all threads, use an instruction set; WSIC_ISA_DEFAULT returns to the default.
/// For tests and measurements.
///
/// Returns WSIC_STATUS_UNSUPPORTED_ISA, and changes nothing, if this machine does not have it.
#[no_mangle]
pub extern "C" fn wsic_isa_force(isa: i32) -> Status {
    let done = if isa == Isa::Default as i32 {
        kernels::force(None)
    } else {
        from_code(isa).is_some_and(|isa| kernels::force(Some(isa)))
    };
    if done {
        Status::Ok
    } else {
        Status::UnsupportedIsa
    }
}
