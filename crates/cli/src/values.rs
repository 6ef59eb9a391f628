//! Values as people write them on a command line: `96GB`, `128K`, `1M`.

/// Parses a number of bytes: `96GB` and `96G` are 96·10⁹, `96GiB` is 96·2³⁰.
///
/// Memory is sold in binary gigabytes and called GB, so commands that take the size of a
/// machine use [`memory`] instead.
pub fn bytes(text: &str) -> Result<u64, String> {
    scaled(text, 1000.0, "bytes, such as 500MB, 96GB or 96GiB")
}

/// Parses the memory of a machine: `96GB` means what the vendor means by it, 96·2³⁰ bytes.
pub fn memory(text: &str) -> Result<u64, String> {
    scaled(text, 1024.0, "memory, such as 96GB or 512GB")
}

/// Parses a number of tokens: `128K` is 131,072, `1M` is 1,048,576, `100000` is itself.
pub fn tokens(text: &str) -> Result<u32, String> {
    let tokens = scaled(text, 1024.0, "tokens, such as 4096, 128K or 1M")?;
    u32::try_from(tokens).map_err(|_| format!("`{text}` is more tokens than 4,294,967,295"))
}

/// Parses a number with an optional unit of powers of `base`; a unit with an `i` is binary.
fn scaled(text: &str, base: f64, what: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not an amount of {what}");
    let text = text.trim();
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let unit = unit.trim().to_ascii_lowercase();
    let unit = unit.strip_suffix('b').unwrap_or(&unit);
    let (prefix, base) = match unit.strip_suffix('i') {
        Some(prefix) => (prefix, 1024.0),
        None => (unit, base),
    };
    let power = match prefix {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return Err(wrong()),
    };
    let value = (number * f64::powi(base, power)).round();
    // 2⁵³ is the largest count up to which every whole number is exact.
    if value > f64::powi(2.0, 53) {
        return Err(wrong());
    }
    Ok(value as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse_as_written() {
        assert_eq!(bytes("96GB"), Ok(96_000_000_000));
        assert_eq!(bytes("1.5 GiB"), Ok(3 << 29));
        assert_eq!(memory("96GB"), Ok(96 << 30));
        assert_eq!(memory("96g"), Ok(96 << 30));
        assert_eq!(tokens("128K"), Ok(131_072));
        assert_eq!(tokens("1M"), Ok(1 << 20));
        assert_eq!(tokens("100000"), Ok(100_000));
        for wrong in ["", "GB", "12parsecs", "-1", "1e99T", "99999999T", "1..2", "nan"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
        assert!(tokens("5G").is_err());
    }
}
