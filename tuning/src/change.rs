//! Changing and putting back.
//!
//! A change is written down first: the file in the state directory says what was there and what is
//! to be there, and only then the change is made. So at each moment a file holds either what was
//! there, or what the state says may have been left, or what somebody else has put there since;
//! [`revert`] tells the three apart, after a crash between any two steps too, and may be run again.

use std::io;

use crate::form::Form;
use crate::host::Host;
use crate::judge::{self, Finding, Verdict, refusal};
use crate::knob::{Knob, Persist, Source};
use crate::knobs;
use crate::state::{self, Record, State, StateError};
use crate::system::{System, directory_of};
use crate::unit::MARK;

/// Where what `--persist` keeps is written.
const SYSCTL_FILE: &str = "etc/sysctl.d/90-ringkeeper.conf";
const TMPFILES_FILE: &str = "etc/tmpfiles.d/ringkeeper.conf";

/// What became of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It holds this; it was that before, or not there.
    Done,
    /// It would be done.
    Planned,
    /// It held that already.
    Same,
    /// It was not done, as the sentence says.
    Failed(String),
    /// It was not to be done here, as the sentence says.
    Skipped(String),
    /// Somebody has changed it since: what it holds.
    Foreign(String),
    /// It is not there any more: a device that was taken out.
    Gone,
}

/// One file, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The knob, by its id; `persist` for the files that keep changes.
    pub knob: String,
    pub path: String,
    pub form: Form,
    /// What it held, `None` where it was not there.
    pub from: Option<String>,
    /// What it is to hold, `None` where it is to go.
    pub to: Option<String>,
    pub outcome: Outcome,
}

impl Step {
    /// Whether something is left that somebody must look at.
    pub fn is_trouble(&self) -> bool {
        matches!(self.outcome, Outcome::Failed(_) | Outcome::Foreign(_))
    }
}

/// What to apply.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// The ids that are named; empty for all that need no naming. An id may be a prefix that ends
    /// with a dot, or a family's.
    pub only: Vec<String>,
    /// Whether the changes outlive a boot.
    pub persist: bool,
    /// Whether to say only what would be done.
    pub dry_run: bool,
}

impl Wish {
    /// The ids of `only` that no knob has.
    pub fn unknown(&self) -> Vec<&str> {
        let known = |only: &&str| knobs().any(|knob| selects(only, knob));
        self.only.iter().map(String::as_str).filter(|only| !known(only)).collect()
    }

    fn names(&self, knob: &Knob) -> bool {
        self.only.iter().any(|only| selects(only, knob))
    }
}

/// Whether a word of `--only` means a knob: its id, or all ids that begin with it and a dot.
pub fn selects(only: &str, knob: &Knob) -> bool {
    let rest = knob.id.strip_prefix(only.trim_end_matches('.'));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Changes what the findings ask for and `wish` allows: writes it down, then does it.
///
/// The steps say what became of each. A change that fails leaves no record.
///
/// # Errors
/// The state cannot be read or written. Nothing has been changed that is not written down.
pub fn apply(
    system: &mut dyn System,
    host: &Host,
    directory: &str,
    wish: &Wish,
) -> Result<Vec<Step>, StateError> {
    let mut state = State::load(system, directory)?;
    let mut steps: Vec<Step> =
        judge::findings(system, host).into_iter().filter_map(|it| step(it, wish)).collect();
    if wish.dry_run {
        if wish.persist {
            steps.extend(persisted(system, &state, &steps));
        }
        return Ok(steps);
    }
    perform(system, directory, &mut state, &mut steps)?;
    if wish.persist {
        let mut kept = persisted(system, &state, &[]);
        perform(system, directory, &mut state, &mut kept)?;
        steps.extend(kept);
    }
    Ok(steps)
}

/// The step that a finding leads to, if any. A knob that was named and cannot be turned says so.
fn step(finding: Finding, wish: &Wish) -> Option<Step> {
    let named = wish.names(finding.knob);
    if !wish.only.is_empty() && !named {
        return None;
    }
    let to = finding.target().map(str::to_owned);
    let id = finding.knob.id;
    let outcome = match finding.verdict {
        Verdict::Set(_) => Outcome::Planned,
        Verdict::Named(_) if named => Outcome::Planned,
        Verdict::Ok if named => Outcome::Same,
        // Who names a family means those of it that this command turns.
        Verdict::Yours(sentence) if named && !wish.only.iter().any(|only| only == id) => {
            Outcome::Skipped(format!("by hand: {sentence}"))
        }
        Verdict::Yours(sentence) | Verdict::Unread(sentence) if named => Outcome::Failed(sentence),
        Verdict::Moot(sentence) if named => Outcome::Skipped(sentence),
        _ => return None,
    };
    let (knob, path, form) = (id.to_owned(), finding.path, finding.form);
    Some(Step { knob, path, form, from: finding.value, to, outcome })
}

/// Writes down and does what is planned.
fn perform(
    system: &mut dyn System,
    directory: &str,
    state: &mut State,
    steps: &mut [Step],
) -> Result<(), StateError> {
    let planned = steps.iter().filter(|step| step.outcome == Outcome::Planned);
    let mut is_new = false;
    for step in planned {
        note(system, state, step);
        is_new = true;
    }
    if !is_new {
        return Ok(());
    }
    state.save(system, directory)?;
    for step in steps.iter_mut().filter(|step| step.outcome == Outcome::Planned) {
        let wanted = step.to.as_deref().expect("what is planned has a value");
        step.outcome = match write(system, &step.path, step.form, Some(wanted)) {
            Ok(()) => landed(system, directory, state, step)?,
            Err(error) => Outcome::Failed(refusal(&error)),
        };
        if matches!(step.outcome, Outcome::Failed(_)) {
            forget(system, state, &step.path);
        }
    }
    state.save(system, directory)
}

/// Adds what a step is about to do to the state.
fn note(system: &dyn System, state: &mut State, step: &Step) {
    if step.form == Form::Text {
        let missing = state::missing_directories(system, directory_of(&step.path));
        let missing = missing.into_iter().filter(|it| !state.made.contains(it));
        state.made.extend(missing.collect::<Vec<_>>());
    }
    let wanted = step.to.clone().expect("what is planned has a value");
    let beside = beside(system, step);
    let known = state.records.iter_mut().find(|record| record.path == step.path);
    match known {
        // What is there is ours: what was there before it stays what is put back.
        Some(record) if step.from.as_ref().is_some_and(|from| record.ours.contains(from)) => {
            record.ours.retain(|value| *value != wanted);
            record.ours.push(wanted);
        }
        // A revert was cut off: what lies beside it is yet to be put back, and was noted then.
        Some(record) if record.begun && record.old == step.from => {
            record.ours = vec![wanted];
            record.begun = false;
        }
        // Somebody has changed it since, or a boot has: that is what is put back.
        Some(record) => {
            record.old = step.from.clone();
            record.ours = vec![wanted];
            (record.beside, record.begun) = (beside, false);
        }
        None => state.records.push(Record {
            knob: step.knob.clone(),
            path: step.path.clone(),
            form: step.form,
            old: step.from.clone(),
            ours: vec![wanted],
            beside,
            begun: false,
        }),
    }
}

/// The files that the kernel changes along with a step's, and what they hold.
fn beside(system: &dyn System, step: &Step) -> Vec<(String, String)> {
    let knob = knobs().find(|knob| knob.id == step.knob);
    let Some(Source::Disk(file, _, along) | Source::HotCpu(file, _, along)) =
        knob.map(|knob| knob.source)
    else {
        return Vec::new();
    };
    let base = step.path.strip_suffix(file).expect("a knob's path ends with its file");
    let paths = along.iter().flat_map(|name| match name.strip_suffix('*') {
        Some(directory) => {
            let names = system.names(&format!("{base}{directory}"));
            names.into_iter().map(|name| format!("{base}{directory}{name}")).collect()
        }
        None => vec![format!("{base}{name}")],
    });
    let held = |path: String| {
        let (value, _) = judge::read(system, &path, Form::Words).ok()?;
        Some((path, value))
    };
    paths.filter_map(held).collect()
}

/// Looks at what a write has left: a kernel may round what it is told.
fn landed(
    system: &mut dyn System,
    directory: &str,
    state: &mut State,
    step: &mut Step,
) -> Result<Outcome, StateError> {
    let value = match judge::read(system, &step.path, step.form) {
        Ok((value, _)) => value,
        Err(error) => return Ok(Outcome::Failed(refusal(&error))),
    };
    if step.to.as_ref() == Some(&value) {
        return Ok(Outcome::Done);
    }
    if step.from.as_ref() == Some(&value) {
        let sentence = "the kernel took the value and stayed as it was";
        return Ok(Outcome::Failed(sentence.to_owned()));
    }
    let record = state.records.iter_mut().find(|record| record.path == step.path);
    record.expect("a step is noted before it is done").ours.push(value.clone());
    state.save(system, directory)?;
    step.to = Some(value);
    Ok(Outcome::Done)
}

/// Drops the record of a change that was not made: the file holds what it held.
fn forget(system: &dyn System, state: &mut State, path: &str) {
    let unchanged = |record: &Record| {
        let value = judge::read(system, path, record.form).ok().map(|(value, _)| value);
        value == record.old
    };
    state.records.retain(|record| record.path != path || !unchanged(record));
}

/// Makes a file hold a value; `None` removes it.
fn write(system: &mut dyn System, path: &str, form: Form, value: Option<&str>) -> io::Result<()> {
    match (form, value) {
        (Form::Text, None) => state::remove(system, path),
        (Form::Text, Some(text)) => {
            state::make_directories(system, directory_of(path))?;
            state::replace(system, path, text)
        }
        (Form::Dirty, Some(value)) => {
            let (number, file) = match value.split_once(' ') {
                Some((number, "bytes")) => (number, "bytes"),
                Some((number, _)) => (number, "ratio"),
                None => return Err(io::ErrorKind::InvalidInput.into()),
            };
            system.set(&format!("{path}_{file}"), number)
        }
        (_, Some(value)) => system.set(path, value),
        (_, None) => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// The files that keep the changes of `state` and those of `planned` over a boot.
fn persisted(system: &dyn System, state: &State, planned: &[Step]) -> Vec<Step> {
    let recorded = state.records.iter().map(|record| {
        (&record.knob, &record.path, record.form, record.ours.last().expect("a record has one"))
    });
    let planned = planned
        .iter()
        .filter(|step| step.outcome == Outcome::Planned)
        .filter_map(|step| Some((&step.knob, &step.path, step.form, step.to.as_ref()?)));
    let mut files = [(SYSCTL_FILE, String::new()), (TMPFILES_FILE, String::new())];
    for (id, path, form, value) in recorded.chain(planned) {
        match knobs().find(|knob| knob.id == id).map(|knob| knob.persist) {
            Some(Persist::Sysctl) => files[0].1.push_str(&sysctl_line(path, form, value)),
            Some(Persist::Tmpfiles) => {
                files[1].1.push_str(&format!("w /{path} - - - - {value}\n"));
            }
            Some(Persist::ByItself | Persist::Not(_)) | None => {}
        }
    }
    let keeps = files.into_iter().filter(|(_, lines)| !lines.is_empty());
    keeps.map(|(path, lines)| kept(system, path, &lines)).collect()
}

fn sysctl_line(path: &str, form: Form, value: &str) -> String {
    let name = path.trim_start_matches("proc/sys/").replace('/', ".");
    match (form, value.split_once(' ')) {
        (Form::Dirty, Some((number, "bytes"))) => format!("{name}_bytes = {number}\n"),
        (Form::Dirty, Some((number, _))) => format!("{name}_ratio = {number}\n"),
        _ => format!("{name} = {value}\n"),
    }
}

/// The step that writes a file of settings; one that somebody else wrote is left alone.
fn kept(system: &dyn System, path: &str, lines: &str) -> Step {
    let text = format!("# {MARK} --apply --persist; `--revert` removes it.\n{lines}");
    let (from, outcome) = match system.read(path) {
        Ok(old) if old == text => (Some(old), Outcome::Same),
        Ok(old) if !old.contains(MARK) => {
            let sentence = "there is one that this command did not write; it is left alone";
            (Some(old), Outcome::Failed(sentence.to_owned()))
        }
        Ok(old) => (Some(old), Outcome::Planned),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (None, Outcome::Planned),
        Err(error) => (None, Outcome::Failed(refusal(&error))),
    };
    let (knob, path) = ("persist".to_owned(), path.to_owned());
    Step { knob, path, form: Form::Text, from, to: Some(text), outcome }
}

/// Puts everything back that the state says was changed, the last change first.
///
/// What somebody has changed since is left, and its record with it, unless `force`. It may be run
/// again at any time: what is back already is left as it is.
///
/// # Errors
/// The state cannot be read or written; what is back by then stays so.
pub fn revert(
    system: &mut dyn System,
    directory: &str,
    force: bool,
    dry_run: bool,
) -> Result<Vec<Step>, StateError> {
    let mut state = State::load(system, directory)?;
    let mut steps = Vec::new();
    let mut kept = Vec::new();
    for index in (0..state.records.len()).rev() {
        let step = put_back(system, directory, &mut state, index, force, dry_run)?;
        if step.is_trouble() {
            kept.push(state.records[index].clone());
        }
        steps.push(step);
    }
    if dry_run {
        return Ok(steps);
    }
    kept.reverse();
    state.records = kept;
    for made in std::mem::take(&mut state.made).into_iter().rev() {
        // Others may have put files there meanwhile: then it stays, and is theirs.
        if system.names(&made).is_empty() && system.resolved(&made).is_some() {
            let removed = system.remove_directory(&made);
            removed.map_err(|source| StateError::Io { path: made.clone(), source })?;
        } else if state.records.iter().any(|record| record.path.starts_with(&made)) {
            state.made.insert(0, made);
        }
    }
    state.save(system, directory)?;
    Ok(steps)
}

/// Puts one file back, and those that the kernel has changed along with it.
fn put_back(
    system: &mut dyn System,
    directory: &str,
    state: &mut State,
    index: usize,
    force: bool,
    dry_run: bool,
) -> Result<Step, StateError> {
    let record = state.records[index].clone();
    let mut step = standing(system, &record, force);
    let is_planned = step.outcome == Outcome::Planned;
    if dry_run || !(is_planned || step.outcome == Outcome::Same) {
        return Ok(step);
    }
    if is_planned && !record.beside.is_empty() {
        state.records[index].begun = true;
        state.save(system, directory)?;
    }
    let written = match (is_planned, record.form) {
        (true, form) => write(system, &record.path, form, record.old.as_deref()),
        // A text that is back may have an unfinished one beside it.
        (false, Form::Text) => state::remove_unfinished(system, &record.path),
        (false, _) => Ok(()),
    };
    let followed = written.and_then(|()| match is_planned || record.begun {
        true => record.beside.iter().try_for_each(|(path, value)| follow(system, path, value)),
        false => Ok(()),
    });
    match followed {
        Err(error) => step.outcome = Outcome::Failed(refusal(&error)),
        Ok(()) if is_planned => step.outcome = Outcome::Done,
        Ok(()) => {}
    }
    Ok(step)
}

/// Puts a file back that has changed along with another one, if it has.
fn follow(system: &mut dyn System, path: &str, value: &str) -> io::Result<()> {
    match judge::read(system, path, Form::Words) {
        Ok((found, _)) if found == value => Ok(()),
        _ => system.set(path, value),
    }
}

/// How a file stands to what its record says: to be put back (`Planned`), back already, or not
/// ours to touch.
fn standing(system: &dyn System, record: &Record, force: bool) -> Step {
    let Record { knob, path, form, old, ours, .. } = record;
    let step = |from, outcome| Step {
        knob: knob.clone(),
        path: path.clone(),
        form: *form,
        from,
        to: old.clone(),
        outcome,
    };
    let value = match judge::read(system, path, *form) {
        Ok((value, _)) => Some(value),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return step(None, Outcome::Failed(refusal(&error))),
    };
    // A text that is gone was removed by somebody; a setting that is gone took its device along.
    let is_ours = value.as_ref().is_some_and(|value| ours.contains(value));
    match value {
        None if *form != Form::Text => step(None, Outcome::Gone),
        value if value == *old => step(value, Outcome::Same),
        value if is_ours || force => step(value, Outcome::Planned),
        value => {
            let holds = value.clone().unwrap_or_else(|| "nothing: it was removed".to_owned());
            step(value, Outcome::Foreign(holds))
        }
    }
}
