//! Processor features: names as compilers write them, and whether this processor has them.

macro_rules! features {
    ($($name:tt)*) => {
        /// Whether the processor has the feature; `None` for a name not in the table.
        #[cfg(target_arch = "x86_64")]
        fn detect(name: &str) -> Option<bool> {
            match name {
                $($name => Some(std::arch::is_x86_feature_detected!($name)),)*
                _ => None,
            }
        }

        #[cfg(test)]
        const NAMES: &[&str] = &[$($name),*];
    };
}

features! {
    "sse" "sse2" "sse3" "ssse3" "sse4.1" "sse4.2" "sse4a" "popcnt" "lzcnt" "bmi1" "bmi2" "movbe" "cmpxchg16b" "fxsr"
    "aes" "pclmulqdq" "sha" "rdrand" "rdseed" "adx" "gfni" "vaes" "vpclmulqdq" "xsave" "xsavec" "xsaveopt" "xsaves"
    "avx" "avx2" "fma" "f16c" "avxvnni" "avxifma" "avxneconvert" "avxvnniint8" "avxvnniint16"
    "avx512f" "avx512cd" "avx512bw" "avx512dq" "avx512vl" "avx512ifma" "avx512vbmi" "avx512vbmi2" "avx512vnni"
    "avx512bitalg" "avx512vpopcntdq" "avx512bf16" "avx512fp16" "avx512vp2intersect"
}

#[cfg(not(target_arch = "x86_64"))]
fn detect(_: &str) -> Option<bool> {
    None
}

/// Whether this processor has a feature, whichever of its usual spellings is used; `None` for an unknown name.
pub fn has(name: &str) -> Option<bool> {
    let name = name.trim_start_matches('+').to_ascii_lowercase();
    let usual = match name.as_str() {
        "bmi" => "bmi1",
        "cx16" => "cmpxchg16b",
        "pclmul" => "pclmulqdq",
        "rdrnd" => "rdrand",
        "sse4_1" | "sse41" => "sse4.1",
        "sse4_2" | "sse42" => "sse4.2",
        other => other,
    };
    detect(usual).or_else(|| detect(&usual.replace(['_', '-'], "")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn spellings_agree() {
        for name in NAMES {
            assert_eq!(has(name), detect(name), "{name}");
        }
        assert_eq!(has("sse2"), Some(true), "part of the architecture");
        assert_eq!(has("+avx512_vnni"), has("avx512vnni"));
        assert_eq!(has("SSE4_1"), has("sse4.1"));
        assert_eq!(has("avx-vnni"), has("avxvnni"));
        assert_eq!(has("telepathy"), None);
    }
}
