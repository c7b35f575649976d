//! From a knob and a host to findings: what each value is, and what it means here.

use std::io;

use crate::form::Form;
use crate::host::Host;
use crate::knob::{Hand, Judgement, Knob, Seen, Source, Want};
use crate::system::System;
use crate::{knobs, unit};

/// What a finding asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Ok,
    /// `--apply` writes this value.
    Set(String),
    /// `--apply --only ID` writes this value.
    Named(String),
    /// Somebody does what the sentence says.
    Yours(String),
    /// Nothing, since it makes no difference here, as the sentence says.
    Moot(String),
    /// It could not be read, as the sentence says.
    Unread(String),
}

/// One value of one knob. A knob with a file for each CPU has as many findings.
pub struct Finding {
    pub knob: &'static Knob,
    /// The file, without a leading slash; empty for a fact.
    pub path: String,
    /// How the file spells its value.
    pub form: Form,
    /// What it holds, in its canonical form; `None` where it could not be read or is not there.
    pub value: Option<String>,
    pub verdict: Verdict,
}

impl Finding {
    /// Whether something should be done.
    pub fn matters(&self) -> bool {
        matches!(self.verdict, Verdict::Set(_) | Verdict::Named(_) | Verdict::Yours(_))
    }

    /// The value that would be written, whoever writes it.
    pub fn target(&self) -> Option<&str> {
        match &self.verdict {
            Verdict::Set(value) | Verdict::Named(value) => Some(value),
            _ => None,
        }
    }
}

/// Looks at every knob on `host`. Nothing is changed.
pub fn findings(system: &dyn System, host: &Host) -> Vec<Finding> {
    knobs().flat_map(|knob| look(system, host, knob)).collect()
}

/// Looks at one knob: a finding for each of its files, and one that says so where it has none.
pub fn look(system: &dyn System, host: &Host, knob: &'static Knob) -> Vec<Finding> {
    let finding = |path: String, form, value, verdict| Finding { knob, path, form, value, verdict };
    if let Source::Fact(see) = knob.source {
        let value = see(system, host);
        let verdict = match &value {
            Some(value) => judge(host, knob, &Seen { path: "", value, offered: &[] }),
            None => Verdict::Unread("this host does not say".to_owned()),
        };
        return vec![finding(String::new(), Form::Words, value, verdict)];
    }
    if let Source::Text(path, write) = knob.source {
        let (value, verdict) = text(system, path, &write(host));
        return vec![finding(path.to_owned(), Form::Text, value, verdict)];
    }
    let files = files(host, knob.source);
    if files.is_empty() {
        let verdict = Verdict::Moot(nothing_to_look_at(knob.source).to_owned());
        return vec![finding(String::new(), Form::Words, None, verdict)];
    }
    let read = |(path, form): (String, Form)| match read(system, &path, form) {
        Ok((value, offered)) => {
            let seen = Seen { path: &path, value: &value, offered: &offered };
            let verdict = judge(host, knob, &seen);
            finding(path, form, Some(value), verdict)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let sentence = "this kernel or device has no such setting".to_owned();
            finding(path, form, None, Verdict::Moot(sentence))
        }
        Err(error) => finding(path, form, None, Verdict::Unread(refusal(&error))),
    };
    files.into_iter().map(read).collect()
}

/// Reads a value and what it may be, both in one spelling.
///
/// # Errors
/// The file is not there, may not be read, or holds something else.
pub fn read(system: &dyn System, path: &str, form: Form) -> io::Result<(String, Vec<String>)> {
    if form == Form::Dirty {
        return read_dirty(system, path).map(|value| (value, Vec::new()));
    }
    let text = system.read(path)?;
    let strange = || io::Error::new(io::ErrorKind::InvalidData, "it holds something else");
    Ok((form.value(&text).ok_or_else(strange)?, form.offered(&text)))
}

/// Of two limits the one in force: the other one is 0.
fn read_dirty(system: &dyn System, base: &str) -> io::Result<String> {
    let bytes = system.read(&format!("{base}_bytes"))?;
    match bytes.trim() {
        "0" => Ok(format!("{} %", system.read(&format!("{base}_ratio"))?.trim())),
        bytes => Ok(format!("{bytes} bytes")),
    }
}

/// What an error of a knob's file means, in words that a reader can act on.
pub fn refusal(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "not permitted: it takes root, and in a container the host's own".to_owned()
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "read-only here, as in a container: set it on the host".to_owned()
        }
        io::ErrorKind::NotFound => "it is not there".to_owned(),
        io::ErrorKind::InvalidInput => "the kernel does not take this value".to_owned(),
        io::ErrorKind::ResourceBusy => "the kernel says that it is in use".to_owned(),
        io::ErrorKind::StorageFull => "the file system is full".to_owned(),
        _ => error.to_string(),
    }
}

/// A file that is written: as it should be, absent, an earlier one of ours, or somebody's.
fn text(system: &dyn System, path: &str, wanted: &str) -> (Option<String>, Verdict) {
    match system.read(path) {
        Ok(text) if text == wanted => (Some(text), Verdict::Ok),
        Ok(text) if text.contains(unit::MARK) => (Some(text), Verdict::Named(wanted.to_owned())),
        Ok(text) => {
            let sentence = "this command did not write it, and leaves it alone";
            (Some(text), Verdict::Yours(sentence.to_owned()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            (None, Verdict::Named(wanted.to_owned()))
        }
        Err(error) => (None, Verdict::Unread(refusal(&error))),
    }
}

/// The files of a knob on this host.
fn files(host: &Host, source: Source) -> Vec<(String, Form)> {
    let each = |form: Form, paths: Vec<String>| {
        paths.into_iter().map(|path| (path, form)).collect::<Vec<_>>()
    };
    match source {
        Source::Sysctl(name) => vec![(sysctl_path(name), Form::Words)],
        Source::Dirty(name) => vec![(sysctl_path(name), Form::Dirty)],
        Source::File(path, form) => vec![(path.to_owned(), form)],
        Source::Disk(file, form, _) => {
            each(form, host.disks.iter().map(|disk| format!("sys/block/{disk}/{file}")).collect())
        }
        Source::Nic(file, form) => {
            let path = |nic: &crate::host::Nic| format!("sys/class/net/{}/{file}", nic.name);
            each(form, host.nics.iter().map(path).collect())
        }
        Source::NicQueue(file, form) => {
            let queues = host.nics.iter().flat_map(|nic| nic.queues.iter().map(move |q| (nic, q)));
            let path = |(nic, queue): (&crate::host::Nic, &String)| {
                format!("sys/class/net/{}/queues/{queue}/{file}", nic.name)
            };
            each(form, queues.map(path).collect())
        }
        Source::NicIrq(file, form) => {
            let numbers = host.nics.iter().flat_map(|nic| &nic.interrupts);
            each(form, numbers.map(|number| format!("proc/irq/{number}/{file}")).collect())
        }
        Source::HotCpu(file, form, _) => {
            let path = |cpu: &usize| format!("sys/devices/system/cpu/cpu{cpu}/{file}");
            each(form, host.hot_cpus().iter().map(path).collect())
        }
        Source::Fact(_) | Source::Text(..) => Vec::new(),
    }
}

/// The file of a sysctl.
pub fn sysctl_path(name: &str) -> String {
    format!("proc/sys/{}", name.replace('.', "/"))
}

fn nothing_to_look_at(source: Source) -> &'static str {
    match source {
        Source::Disk(..) => "the data is on no disk that this host shows",
        Source::Nic(..) | Source::NicQueue(..) | Source::NicIrq(..) => {
            "there is no network card with such a thing"
        }
        _ => "there is no CPU with such a thing",
    }
}

fn judge(host: &Host, knob: &Knob, seen: &Seen<'_>) -> Verdict {
    let judgement = match knob.want {
        Want::Leave => Judgement::Fine,
        Want::AtLeast(least) => number(seen, |number| number >= least.into(), least),
        Want::AtMost(most) => number(seen, |number| number <= most.into(), most),
        Want::OneOf(values) => one_of(values, seen),
        Want::By(judge) => judge(host, seen),
    };
    match (judgement, knob.hand) {
        (Judgement::Fine, _) => Verdict::Ok,
        (Judgement::Moot(why), _) => Verdict::Moot(why),
        (Judgement::Advise(what), _) => Verdict::Yours(what),
        (Judgement::Set(value), Hand::Apply) => Verdict::Set(value),
        (Judgement::Set(value), Hand::Named) => Verdict::Named(value),
        (Judgement::Set(value), Hand::Yours(how)) => Verdict::Yours(format!("{value}: {how}")),
    }
}

fn number(seen: &Seen<'_>, holds: impl Fn(i128) -> bool, wanted: u64) -> Judgement {
    match seen.number() {
        Some(number) if holds(number) => Judgement::Fine,
        Some(_) => Judgement::Set(wanted.to_string()),
        None => Judgement::Moot(format!("it holds {:?}, which is no number", seen.value)),
    }
}

fn one_of(values: &[&str], seen: &Seen<'_>) -> Judgement {
    if values.contains(&seen.value) {
        return Judgement::Fine;
    }
    let offers =
        |value: &&&str| seen.offered.is_empty() || seen.offered.iter().any(|it| it == *value);
    match values.iter().find(offers) {
        Some(value) => Judgement::Set((*value).to_owned()),
        None => Judgement::Moot(format!("this kernel offers none of {}", values.join(", "))),
    }
}
