//! The machine that a run was made on, as far as it says so itself.

use std::fs;

use serde::{Deserialize, Serialize};

/// What a figure cannot be read without. Empty where the machine did not say.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    pub cpu: String,
    /// Cores that this process may run on.
    pub cores: usize,
    pub memory_bytes: u64,
    pub kernel: String,
    pub system: String,
}

impl Machine {
    pub fn here() -> Machine {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let after = |text: &str, key: &str, split: char| {
            let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
            line.split_once(split)
                .map_or("", |(_, value)| value)
                .trim()
                .trim_matches('"')
                .to_owned()
        };
        let memory = after(&read("/proc/meminfo"), "MemTotal", ':');
        let kibibytes = memory.split(' ').next().and_then(|number| number.parse::<u64>().ok());
        Machine {
            cpu: after(&read("/proc/cpuinfo"), "model name", ':'),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: kibibytes.unwrap_or(0) * 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            system: after(&read("/etc/os-release"), "PRETTY_NAME", '='),
        }
    }

    /// One line: `AMD EPYC, 2 cores, 24 GiB, Linux 6.18, Debian 12`.
    pub fn line(&self) -> String {
        let cores =
            if self.cores == 1 { "1 core".to_owned() } else { format!("{} cores", self.cores) };
        let memory = format!("{:.0} GiB", self.memory_bytes as f64 / (1u64 << 30) as f64);
        let kernel = format!("Linux {}", self.kernel);
        let parts = [&self.cpu, &cores, &memory, &kernel, &self.system];
        let parts: Vec<&str> =
            parts.into_iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
        parts.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_cores_memory_and_a_kernel() {
        let machine = Machine::here();
        assert!(machine.cores > 0 && machine.memory_bytes > 1 << 26, "{machine:?}");
        assert!(machine.line().contains("Linux ") && !machine.kernel.is_empty());
    }
}
