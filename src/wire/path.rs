//! Paths: what a client may name, and how a path falls into parent and name.

/// Whether `path` may name a znode (`PathUtils.java`, `validatePath`).
///
/// It starts with `/` and does not end with one but for the root; no element is empty, `.` or
/// `..`; no character is a control, a surrogate, a private-use or one of U+FFF0 to U+FFFF.
pub fn is_valid(path: &str) -> bool {
    let bytes = path.as_bytes();
    match bytes {
        [b'/'] => return true,
        [b'/', .., b'/'] | [] => return false,
        [b'/', ..] => {}
        _ => return false,
    }
    // Without an early end, so that many bytes are looked at at once: most paths are plain.
    let is_ascii = bytes.iter().fold(true, |plain, &byte| plain & (byte > 0x1f) & (byte < 0x7f));
    let is_dotted = bytes.windows(2).fold(false, |dotted, pair| {
        dotted | ((pair[0] == b'/') & ((pair[1] == b'/') | (pair[1] == b'.')))
    });
    (!is_dotted || elements_are_valid(path)) && (is_ascii || path.chars().all(is_valid_char))
}

fn elements_are_valid(path: &str) -> bool {
    path[1..].split('/').all(|element| !matches!(element, "" | "." | ".."))
}

/// Whether `path` falls into elements none of which is empty, whatever they hold: what must be true
/// of each path in a tree, or [`split`] names a parent that does not have it.
pub fn is_well_formed(path: &str) -> bool {
    let bytes = path.as_bytes();
    let ends_well = matches!(bytes, [b'/']) || !bytes.ends_with(b"/");
    bytes.starts_with(b"/") && ends_well && !bytes.windows(2).any(|pair| pair == b"//")
}

/// Java walks UTF-16 units: a character beyond U+FFFF is a pair of surrogates and so refused.
const fn is_valid_char(char: char) -> bool {
    !matches!(char,
        '\0'..='\x1f' | '\x7f'..='\u{9f}' | '\u{e000}'..='\u{f8ff}' | '\u{fff0}'..)
}

/// The parent's path and the node's name, or `None` for the root.
///
/// The parent of a node right below the root is `/`.
pub fn split(path: &str) -> Option<(&str, &str)> {
    match path.rsplit_once('/') {
        Some(("", "")) | None => None,
        Some(("", name)) => Some(("/", name)),
        Some((parent, name)) => Some((parent, name)),
    }
}

/// `path`'s ancestors from its parent up to and including the root.
pub fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(split(path).map(|(parent, _)| parent), |path| {
        split(path).map(|(parent, _)| parent)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_and_invalid_paths_as_apache_has_them() {
        for valid in ["/", "/a", "/a/b", "/a..b", "/...", "/a b", "/\u{e9}", "/a/.b"] {
            assert!(is_valid(valid), "{valid:?}");
        }
        for invalid in [
            "",
            "a",
            "a/b",
            "/a/",
            "//",
            "//a",
            "/a//b",
            "/.",
            "/..",
            "/a/./b",
            "/a/../b",
            "/a\0",
            "/\x01",
            "/\x1f",
            "/\x7f",
            "/\u{9f}",
            "/\u{f8ff}",
            "/\u{fff0}",
            "/\u{1f600}",
        ] {
            assert!(!is_valid(invalid), "{invalid:?}");
        }
    }

    #[test]
    fn well_formed_paths_are_those_that_fall_apart() {
        for path in ["/", "/a", "/a/b", "/.", "/\0"] {
            assert!(is_well_formed(path), "{path:?}");
        }
        for path in ["", "a", "a/b", "//", "//a", "/a/", "/a//b", "///"] {
            assert!(!is_well_formed(path), "{path:?}");
        }
    }

    #[test]
    fn paths_fall_into_parent_and_name() {
        assert_eq!(split("/"), None);
        assert_eq!(split("/a"), Some(("/", "a")));
        assert_eq!(split("/a/b"), Some(("/a", "b")));
        assert_eq!(ancestors("/a/b/c").collect::<Vec<_>>(), ["/a/b", "/a", "/"]);
        assert_eq!(ancestors("/").count(), 0);
    }
}
