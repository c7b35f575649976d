//! What is wrong with a configuration, and where it was written.

use std::fmt;
use std::path::PathBuf;

use thiserror::Error;

use super::secret::{REDACTED, is_secret};

/// Where a setting was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A `-D` flag on the command line.
    CommandLine,
    /// The environment variable of this name: `SERVER_JVMFLAGS` or `JVMFLAGS`.
    Environment(&'static str),
    /// A line of a file, from 1; 0 stands for the file as a whole.
    File {
        /// The file, as it was named.
        path: PathBuf,
        /// The line, from 1, or 0.
        line: u32,
    },
    /// Nowhere: the setting's default.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::CommandLine => f.write_str("command line"),
            Origin::Environment(name) => f.write_str(name),
            Origin::File { path, line: 0 } => write!(f, "{}", path.display()),
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Default => f.write_str("default"),
        }
    }
}

/// A setting that cannot be honoured: where it stands, which it is, what was expected and what was
/// found there. Values of secret settings are not repeated.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{origin}: {key}: expected {expected}, {found}")]
pub struct ConfigError {
    /// Where the setting was written.
    pub origin: Origin,
    /// The key as it was written.
    pub key: String,
    /// What would have been right, to follow the word "expected".
    pub expected: String,
    /// What stands there, as half a sentence.
    pub found: String,
}

impl ConfigError {
    /// A value that is not what its key wants.
    pub(super) fn value(
        origin: &Origin,
        key: &str,
        expected: impl Into<String>,
        found: &str,
    ) -> ConfigError {
        let found = if is_secret(key) { REDACTED.into() } else { format!("found {found:?}") };
        ConfigError { origin: origin.clone(), key: key.into(), expected: expected.into(), found }
    }

    /// A setting that has to be there and is not.
    pub(super) fn missing(origin: &Origin, key: &str, expected: impl Into<String>) -> ConfigError {
        let found = "but it is not set".into();
        ConfigError { origin: origin.clone(), key: key.into(), expected: expected.into(), found }
    }
}
