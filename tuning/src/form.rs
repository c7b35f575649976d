//! How the files of knobs spell their values, and one spelling of each for comparing.

/// How a file spells its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Words apart by blanks.
    Words,
    /// All the choices, the one in force in brackets.
    Choice,
    /// CPUs as a list, as in `0-3,8`.
    Cpus,
    /// A file of text that is replaced as a whole.
    Text,
    /// `BASE_bytes` and `BASE_ratio`, where setting one resets the other.
    Dirty,
}

impl Form {
    const NAMES: [(Form, &str); 5] = [
        (Form::Words, "words"),
        (Form::Choice, "choice"),
        (Form::Cpus, "cpus"),
        (Form::Text, "text"),
        (Form::Dirty, "dirty"),
    ];

    /// Its name in the state file.
    pub fn name(self) -> &'static str {
        Form::NAMES[self as usize].1
    }

    /// The form that has this name.
    pub fn named(name: &str) -> Option<Form> {
        Form::NAMES.iter().find(|(_, it)| *it == name).map(|(form, _)| *form)
    }

    /// The value that `text` holds, in one spelling. `None` where it is none of this form.
    pub fn value(self, text: &str) -> Option<String> {
        match self {
            Form::Words => Some(text.split_whitespace().collect::<Vec<_>>().join(" ")),
            Form::Choice => chosen(text),
            Form::Cpus => cpus(text.trim()).map(|cpus| cpu_list(&cpus)),
            Form::Text | Form::Dirty => Some(text.to_owned()),
        }
    }

    /// The values that `text` says can be chosen.
    pub fn offered(self, text: &str) -> Vec<String> {
        let bare = |word: &str| word.trim_matches(['[', ']']).to_owned();
        match self {
            Form::Choice => text.split_whitespace().map(bare).collect(),
            _ => Vec::new(),
        }
    }
}

fn chosen(text: &str) -> Option<String> {
    let inside = |word: &str| Some(word.strip_prefix('[')?.strip_suffix(']')?.to_owned());
    text.split_whitespace().find_map(inside)
}

/// The largest CPU number that is believed.
const CPU_MAX: usize = 65_535;

/// The CPUs of a list such as `0-3,8`, ascending. `None` where it is no such list.
pub fn cpus(list: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for range in list.split(',').filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if last > CPU_MAX || first > last {
            return None;
        }
        cpus.extend(first..=last);
    }
    cpus.sort_unstable();
    cpus.dedup();
    Some(cpus)
}

/// The inverse of [`cpus`]; `cpus` ascend.
pub fn cpu_list(cpus: &[usize]) -> String {
    let ranges = cpus.chunk_by(|left, right| left + 1 == *right);
    let spelled = ranges.map(|range| match (range[0], range[range.len() - 1]) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    });
    spelled.collect::<Vec<_>>().join(",")
}

/// A number of bytes as a person would say it.
pub fn bytes(count: u64) -> String {
    match count {
        0 => "0".to_owned(),
        count if count.is_multiple_of(1 << 30) => format!("{} GiB", count >> 30),
        count if count.is_multiple_of(1 << 20) => format!("{} MiB", count >> 20),
        count if count.is_multiple_of(1 << 10) => format!("{} KiB", count >> 10),
        count => format!("{count} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_has_one_spelling() {
        let check = |form: Form, text: &str, value: Option<&str>| {
            assert_eq!(form.value(text).as_deref(), value, "{form:?} {text:?}");
        };
        check(Form::Words, "4096\t131072  33554432\n", Some("4096 131072 33554432"));
        check(Form::Choice, "none [mq-deadline] kyber \n", Some("mq-deadline"));
        check(Form::Choice, "none mq-deadline\n", None);
        check(Form::Cpus, "0,1,2-4,7\n", Some("0-4,7"));
        check(Form::Cpus, "\n", Some(""));
        check(Form::Cpus, "3-1", None);
        check(Form::Cpus, "0-99999999999", None);
        check(Form::Text, " as it is\n\n", Some(" as it is\n\n"));
        assert_eq!(Form::Choice.offered("a [b]\n"), ["a", "b"]);
        for (form, name) in Form::NAMES {
            assert_eq!(Form::named(name), Some(form));
            assert_eq!(form.name(), name);
        }
    }

    #[test]
    fn bytes_are_said_in_the_largest_whole_unit() {
        let said = [0, 1 << 30, 3 << 20, 5 << 10, 7].map(bytes);
        assert_eq!(said, ["0", "1 GiB", "3 MiB", "5 KiB", "7 bytes"]);
    }
}
