//! Words that never reach a log, an error or a diagnostic page.

use std::fmt;

/// What a secret looks like wherever it would be shown.
pub(super) const REDACTED: &str = "(redacted)";

/// A password or a password's digest. `Debug` and `Display` show a placeholder.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps `word`.
    pub fn new(word: String) -> Secret {
        Secret(word)
    }

    /// The word itself. The caller must not show it, and compares it in constant time.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

/// Whether the value of the property `key` is secret: passwords and digests are, the path of a file
/// that holds a password is not.
pub(super) fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    let names_a_path = key.ends_with("path") || key.ends_with("file");
    let names_a_word = ["password", "passwd", "superdigest", "secret", "token"];
    !names_a_path
        && names_a_word.iter().any(|word| key.contains(word))
        // The connection throttle's tokens are a number of connections.
        && !key.contains("connection_throttle")
}
