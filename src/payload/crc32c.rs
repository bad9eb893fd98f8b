//! CRC-32C (Castagnoli): reflected polynomial 0x82F63B78, initial value and final xor 0xFFFFFFFF
//! (spec section "Checksums").

const POLYNOMIAL: u32 = 0x82F6_3B78;

/// `TABLES[0]` advances the register by one byte, `TABLES[i]` by one byte and then i zero bytes.
static TABLES: [[u32; 256]; 8] = build();

const fn build() -> [[u32; 256]; 8] {
    let mut tables = [[0u32; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut register = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            register = if register & 1 != 0 { (register >> 1) ^ POLYNOMIAL } else { register >> 1 };
            bit += 1;
        }
        tables[0][byte] = register;
        byte += 1;
    }
    let mut level = 1;
    while level < 8 {
        let mut byte = 0;
        while byte < 256 {
            let previous = tables[level - 1][byte];
            tables[level][byte] = (previous >> 8) ^ tables[0][(previous & 255) as usize];
            byte += 1;
        }
        level += 1;
    }
    tables
}

/// Checksum of `bytes`.
pub fn crc32c(bytes: &[u8]) -> u32 {
    let mut register = !0u32;
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let low = register ^ u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        register = TABLES[7][(low & 255) as usize]
            ^ TABLES[6][(low >> 8 & 255) as usize]
            ^ TABLES[5][(low >> 16 & 255) as usize]
            ^ TABLES[4][(low >> 24) as usize]
            ^ TABLES[3][word[4] as usize]
            ^ TABLES[2][word[5] as usize]
            ^ TABLES[1][word[6] as usize]
            ^ TABLES[0][word[7] as usize];
    }
    for &byte in rest {
        register = (register >> 8) ^ TABLES[0][((register ^ u32::from(byte)) & 255) as usize];
    }
    !register
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_values() {
        assert_eq!(crc32c(b""), 0);
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA); // RFC 3720, B.4
        assert_eq!(crc32c(&[0xFF; 32]), 0x62A8_AB43);
    }

    #[test]
    fn words_and_single_bytes_agree() {
        let bytes: Vec<u8> = (0..100u32).map(|i| (i * 37 + 11) as u8).collect();
        for end in 0..bytes.len() {
            let mut register = !0u32;
            for &byte in &bytes[..end] {
                register = (register >> 8) ^ TABLES[0][((register ^ u32::from(byte)) & 255) as usize];
            }
            assert_eq!(crc32c(&bytes[..end]), !register);
        }
    }
}
