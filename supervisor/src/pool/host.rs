//! What this host tells of its memory. Both files are the kernel's, and read in microseconds.

use session_core::pool::Reading;

/// Now.
pub(super) fn reading() -> Reading {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    parse(&read("/proc/pressure/memory"), &read("/proc/meminfo"))
}

fn parse(pressure: &str, memory: &str) -> Reading {
    let average = |kind: &str| {
        let line = pressure.lines().find(|line| line.starts_with(kind))?;
        let average = line.split_whitespace().nth(1)?.strip_prefix("avg10=")?;
        average.parse().ok()
    };
    let bytes = |name: &str| {
        let line = memory.lines().find_map(|line| line.strip_prefix(name))?;
        let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
        Some(kibibytes.saturating_mul(1024))
    };
    Reading {
        some: average("some"),
        full: average("full"),
        available: bytes("MemAvailable:").unwrap_or(0),
        total: bytes("MemTotal:").unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words() {
        let pressure = "some avg10=12.50 avg60=0.64 avg300=1.98 total=339657761\nfull avg10=3.00 avg60=0.03 avg300=0.29 total=70914912\n";
        let memory = "MemTotal:       24576000 kB\nMemFree:          204800 kB\nMemAvailable:   12288000 kB\n";
        assert_eq!(
            parse(pressure, memory),
            Reading {
                some: Some(12.5),
                full: Some(3.0),
                available: 12_288_000 << 10,
                total: 24_576_000 << 10,
            }
        );
        // A kernel without PSI has no such file.
        assert_eq!(parse("", memory).some, None);
        assert_eq!(parse("", ""), Reading::default());
    }

    #[test]
    fn this_host_tells_something() {
        let reading = reading();
        assert!(reading.total > 0 && reading.available <= reading.total);
    }
}
