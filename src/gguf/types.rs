//! The element types of ggml tensors: ids, names, block sizes.

use std::fmt;

macro_rules! ggml_types {
    ($($(#[$doc:meta])* $variant:ident = $id:literal, $name:literal, $elements:literal x $bytes:literal;)*) => {
        /// Element type of a tensor, by ggml's ids 0 to 42, our own, or an id unknown here.
        ///
        /// A type packs its elements along the first dimension in blocks of
        /// [`block_elements`](Self::block_elements) that take [`block_bytes`](Self::block_bytes) each.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(non_camel_case_types)] // ggml's own names
        pub enum GgmlType {
            $($(#[$doc])* $variant,)*
            /// WaterSIC: entropy coded, so the payload's own header states its length.
            Wsic,
            /// An id not known here; such tensors can be listed and copied, not interpreted.
            Unknown(u32),
        }

        impl GgmlType {
            /// All block types of ggml that are known here, in the order of their ids.
            pub const ALL: &'static [GgmlType] = &[$(GgmlType::$variant,)*];

            /// The type with this id; total, because unknown ids stay representable.
            pub const fn from_id(id: u32) -> Self {
                match id {
                    $($id => GgmlType::$variant,)*
                    WSIC_TYPE_ID => GgmlType::Wsic,
                    other => GgmlType::Unknown(other),
                }
            }

            /// The id stored in files.
            pub const fn id(self) -> u32 {
                match self {
                    $(GgmlType::$variant => $id,)*
                    GgmlType::Wsic => WSIC_TYPE_ID,
                    GgmlType::Unknown(id) => id,
                }
            }

            /// Name as ggml's tools print it, in upper case; `None` for unknown ids.
            pub const fn name(self) -> Option<&'static str> {
                match self {
                    $(GgmlType::$variant => Some($name),)*
                    GgmlType::Wsic => Some("WSIC"),
                    GgmlType::Unknown(_) => None,
                }
            }

            /// Elements and bytes of one block; `None` where the length of a tensor does not follow from its
            /// dimensions (WSIC, unknown ids).
            pub const fn block(self) -> Option<Block> {
                match self {
                    $(GgmlType::$variant => Some(Block { elements: $elements, bytes: $bytes }),)*
                    GgmlType::Wsic | GgmlType::Unknown(_) => None,
                }
            }
        }
    };
}

/// Id of our tensor type (spec section "Identification").
pub const WSIC_TYPE_ID: u32 = 704;

/// Size of one block of a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Elements along the first dimension.
    pub elements: usize,
    /// Bytes they take.
    pub bytes: usize,
}

ggml_types! {
    /// IEEE single.
    F32 = 0, "F32", 1 x 4;
    /// IEEE half.
    F16 = 1, "F16", 1 x 2;
    /// 4 bits and a scale per 32.
    Q4_0 = 2, "Q4_0", 32 x 18;
    /// 4 bits, scale and minimum per 32.
    Q4_1 = 3, "Q4_1", 32 x 20;
    /// 5 bits and a scale per 32.
    Q5_0 = 6, "Q5_0", 32 x 22;
    /// 5 bits, scale and minimum per 32.
    Q5_1 = 7, "Q5_1", 32 x 24;
    /// 8 bits and a scale per 32.
    Q8_0 = 8, "Q8_0", 32 x 34;
    /// 8 bits, scale and scaled sum per 32 (activations; 36 bytes as in ggml's C code, gguf-py says 40).
    Q8_1 = 9, "Q8_1", 32 x 36;
    /// 2 bits, 4-bit scales and minima per 16.
    Q2_K = 10, "Q2_K", 256 x 84;
    /// 3 bits, 6-bit scales per 16.
    Q3_K = 11, "Q3_K", 256 x 110;
    /// 4 bits, 6-bit scales and minima per 32.
    Q4_K = 12, "Q4_K", 256 x 144;
    /// 5 bits, 6-bit scales and minima per 32.
    Q5_K = 13, "Q5_K", 256 x 176;
    /// 6 bits, 8-bit scales per 16.
    Q6_K = 14, "Q6_K", 256 x 210;
    /// 8 bits, a single-precision scale and sums (activations).
    Q8_K = 15, "Q8_K", 256 x 292;
    /// Codebook of 256 eight-vectors.
    IQ2_XXS = 16, "IQ2_XXS", 256 x 66;
    /// Codebook of 512 eight-vectors.
    IQ2_XS = 17, "IQ2_XS", 256 x 74;
    /// Codebook of 256 four-vectors.
    IQ3_XXS = 18, "IQ3_XXS", 256 x 98;
    /// Ternary codebook of 2048 eight-vectors.
    IQ1_S = 19, "IQ1_S", 256 x 50;
    /// 16 non-uniform levels, a scale per 32.
    IQ4_NL = 20, "IQ4_NL", 32 x 18;
    /// Codebook of 512 four-vectors.
    IQ3_S = 21, "IQ3_S", 256 x 110;
    /// Codebook of 1024 eight-vectors.
    IQ2_S = 22, "IQ2_S", 256 x 82;
    /// 16 non-uniform levels, 6-bit scales per 32.
    IQ4_XS = 23, "IQ4_XS", 256 x 136;
    /// Signed 8-bit integers.
    I8 = 24, "I8", 1 x 1;
    /// Signed 16-bit integers.
    I16 = 25, "I16", 1 x 2;
    /// Signed 32-bit integers.
    I32 = 26, "I32", 1 x 4;
    /// Signed 64-bit integers.
    I64 = 27, "I64", 1 x 8;
    /// IEEE double.
    F64 = 28, "F64", 1 x 8;
    /// Ternary codebook with 3-bit scales per 16.
    IQ1_M = 29, "IQ1_M", 256 x 56;
    /// The upper half of an IEEE single.
    BF16 = 30, "BF16", 1 x 2;
    /// Ternary, five to a byte.
    TQ1_0 = 34, "TQ1_0", 256 x 54;
    /// Ternary, four to a byte.
    TQ2_0 = 35, "TQ2_0", 256 x 66;
    /// E2M1 with an E8M0 scale per 32.
    MXFP4 = 39, "MXFP4", 32 x 17;
    /// E2M1 with a UE4M3 scale per 16.
    NVFP4 = 40, "NVFP4", 64 x 36;
    /// One bit and a scale per 128.
    Q1_0 = 41, "Q1_0", 128 x 18;
    /// Two bits and a scale per 64.
    Q2_0 = 42, "Q2_0", 64 x 18;
}

impl GgmlType {
    /// Elements of one block; `None` as for [`block`](Self::block).
    pub const fn block_elements(self) -> Option<usize> {
        match self.block() {
            Some(block) => Some(block.elements),
            None => None,
        }
    }

    /// Bytes of one block; `None` as for [`block`](Self::block).
    pub const fn block_bytes(self) -> Option<usize> {
        match self.block() {
            Some(block) => Some(block.bytes),
            None => None,
        }
    }

    /// The type with this name, in any case (`q8_0`, `F16`).
    pub fn from_name(name: &str) -> Option<Self> {
        if name.eq_ignore_ascii_case("WSIC") {
            return Some(GgmlType::Wsic);
        }
        Self::ALL.iter().copied().find(|ty| ty.name().is_some_and(|own| own.eq_ignore_ascii_case(name)))
    }

    /// Bytes of one row of `columns` elements; `None` if the type has no fixed size, the columns are no multiple
    /// of the block, or the product overflows.
    pub fn row_bytes(self, columns: u64) -> Option<u64> {
        let block = self.block()?;
        let elements = block.elements as u64;
        if !columns.is_multiple_of(elements) {
            return None;
        }
        (columns / elements).checked_mul(block.bytes as u64)
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "id {} (unknown)", self.id()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_names_are_inverse() {
        for id in 0..1000 {
            let ty = GgmlType::from_id(id);
            assert_eq!(ty.id(), id);
            match ty.name() {
                Some(name) => assert_eq!(GgmlType::from_name(&name.to_lowercase()), Some(ty)),
                None => assert_eq!(ty, GgmlType::Unknown(id)),
            }
        }
        assert_eq!(GgmlType::from_id(704), GgmlType::Wsic);
        for removed in [4, 5, 31, 32, 33, 36, 37, 38] {
            assert_eq!(GgmlType::from_id(removed), GgmlType::Unknown(removed));
        }
    }

    #[test]
    fn row_bytes_need_whole_blocks() {
        assert_eq!(GgmlType::Q4_1.row_bytes(576), Some(360));
        assert_eq!(GgmlType::Q4_K.row_bytes(576), None);
        assert_eq!(GgmlType::F64.row_bytes(u64::MAX), None);
        assert_eq!(GgmlType::Wsic.row_bytes(64), None);
    }
}
