//! What was found and done, for a terminal, for a program, and as the page of all knobs.

use std::fmt::Write as _;

use crate::change::{Outcome, Step};
use crate::form::Form;
use crate::judge::{Finding, Verdict};
use crate::knob::{Effect, Family, Hand, Impact, Knob, Persist, Source, Want};
use crate::knobs;

/// The most knobs that a check's last list names.
const MATTERS_MAX: usize = 8;
/// A value on a terminal is cut beyond this many characters.
const VALUE_CHARS_MAX: usize = 40;

/// The findings as a table, family by family, and what matters most at its end.
pub fn table(findings: &[Finding]) -> String {
    let lines = lines(findings);
    let width = lines.iter().map(|line| line.knob.id.len()).max().unwrap_or(0);
    let mut text = String::new();
    let mut family: Option<Family> = None;
    for line in &lines {
        if family != Some(line.knob.family) {
            let gap = if family.is_some() { "\n" } else { "" };
            push(&mut text, format_args!("{gap}{}\n", line.knob.family.title()));
            family = Some(line.knob.family);
        }
        let (word, id) = (word(line.verdict), line.knob.id);
        push(&mut text, format_args!("  {word:7} {id:width$}  {}\n", line.said()));
    }
    text.push('\n');
    text.push_str(&matters_text(findings));
    text
}

/// Findings of one knob that say the same, as one line.
struct Line<'a> {
    knob: &'static Knob,
    verdict: &'a Verdict,
    value: Option<&'a str>,
    form: Form,
    count: usize,
}

impl Line<'_> {
    fn said(&self) -> String {
        let value = match (self.form, self.value) {
            (Form::Text, Some(_)) => "there".to_owned(),
            (Form::Text, None) => "not there".to_owned(),
            (_, Some(value)) => shortened(value.trim()),
            (_, None) => "-".to_owned(),
        };
        let times =
            if self.count > 1 { format!(" (in {} files)", self.count) } else { String::new() };
        match self.verdict {
            Verdict::Ok => format!("{value}{times}"),
            Verdict::Set(_) | Verdict::Named(_) if self.form == Form::Text => {
                format!("{value}: `--apply --only {}` writes it", self.knob.id)
            }
            Verdict::Set(to) => format!("{value} -> {}{times}", shortened(to)),
            Verdict::Named(to) => {
                let id = self.knob.id;
                format!("{value} -> {}{times}, by `--apply --only {id}`", shortened(to))
            }
            Verdict::Yours(to) => format!("{value} -> {to}{times}"),
            Verdict::Moot(why) | Verdict::Unread(why) => format!("{value}{times}: {why}"),
        }
    }
}

fn lines(findings: &[Finding]) -> Vec<Line<'_>> {
    let mut lines: Vec<Line<'_>> = Vec::new();
    for finding in findings {
        let value = finding.value.as_deref();
        let same = lines.iter_mut().find(|line| {
            line.knob.id == finding.knob.id
                && line.value == value
                && *line.verdict == finding.verdict
        });
        match same {
            Some(line) => line.count += 1,
            None => lines.push(Line {
                knob: finding.knob,
                verdict: &finding.verdict,
                value,
                form: finding.form,
                count: 1,
            }),
        }
    }
    lines
}

fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "ok",
        Verdict::Set(_) => "change",
        Verdict::Named(_) => "choose",
        Verdict::Yours(_) => "by hand",
        Verdict::Moot(_) => "-",
        Verdict::Unread(_) => "unread",
    }
}

fn shortened(text: &str) -> String {
    let first = text.lines().next().unwrap_or_default();
    if first.chars().count() <= VALUE_CHARS_MAX && first == text {
        return text.to_owned();
    }
    let head: String = first.chars().take(VALUE_CHARS_MAX).collect();
    format!("{head}…")
}

/// The knobs to turn, the largest expected effect first. Files to be written are no fault of the
/// host, and what is for convenience makes none faster: they stand in the table only.
pub fn matters(findings: &[Finding]) -> Vec<&'static Knob> {
    let counts = |finding: &&Finding| {
        let is_fault = finding.form != Form::Text && finding.knob.impact < Impact::Convenience;
        finding.matters() && is_fault
    };
    let wanted = findings.iter().filter(counts);
    let mut matters: Vec<&'static Knob> = Vec::new();
    for finding in wanted {
        if !matters.iter().any(|knob| knob.id == finding.knob.id) {
            matters.push(finding.knob);
        }
    }
    matters.sort_by_key(|knob| (knob.impact, rank(knob.effect)));
    matters
}

/// What was seen to help comes before what nobody could measure, and that before what did not.
fn rank(effect: Effect) -> u8 {
    match effect {
        Effect::Measured(_) => 0,
        Effect::Unmeasured(_) => 1,
        Effect::Unseen(_) => 2,
    }
}

fn matters_text(findings: &[Finding]) -> String {
    let all = matters(findings);
    if all.is_empty() {
        return "Nothing is left to turn on this host.\n".to_owned();
    }
    let mut text = "What matters most on this host, by the effect to expect:\n".to_owned();
    for (index, knob) in all.iter().take(MATTERS_MAX).enumerate() {
        let mut said = lines(findings).into_iter().filter(|line| line.knob.id == knob.id);
        let line = said.find(|line| !matches!(line.verdict, Verdict::Ok | Verdict::Moot(_)));
        let change = line.map_or(String::new(), |line| line.said());
        let (number, id, impact) = (index + 1, knob.id, knob.impact.word());
        push(&mut text, format_args!("  {number}. {id} ({impact}): {change}\n     {}\n", knob.why));
        if let Hand::Yours(how) = knob.hand {
            push(&mut text, format_args!("     How: {how}\n"));
        }
    }
    if all.len() > MATTERS_MAX {
        push(&mut text, format_args!("  and {} of less effect\n", all.len() - MATTERS_MAX));
    }
    text
}

/// Whether a finding stands against a start.
pub fn stops(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.matters() && finding.knob.impact == Impact::Start)
}

/// What was done, as a table; `dry_run` says that nothing was.
pub fn steps_table(steps: &[Step]) -> String {
    let width = steps.iter().map(|step| step.knob.len()).max().unwrap_or(0);
    let mut text = String::new();
    for step in steps {
        let spelled = |value: &Option<String>| match (step.form, value) {
            (_, None) => "not there".to_owned(),
            (Form::Text, Some(_)) => "there".to_owned(),
            (_, Some(value)) => shortened(value.trim()),
        };
        let (from, to) = (spelled(&step.from), spelled(&step.to));
        let (word, said) = match &step.outcome {
            Outcome::Done if from == to => ("done", "another text".to_owned()),
            Outcome::Done => ("done", format!("{from} -> {to}")),
            Outcome::Planned if from == to => ("would", "another text".to_owned()),
            Outcome::Planned => ("would", format!("{from} -> {to}")),
            Outcome::Same => ("same", to),
            Outcome::Failed(sentence) => ("FAILED", format!("{from}: {sentence}")),
            Outcome::Skipped(sentence) => ("-", format!("{from}: {sentence}")),
            Outcome::Foreign(_) => (
                "LEFT",
                format!("somebody made it {from} since, it was {to}; `--force` puts that back"),
            ),
            Outcome::Gone => ("gone", "it is not there any more".to_owned()),
        };
        let path = slashed(&step.path, step.form);
        push(&mut text, format_args!("  {word:6} {:width$}  {path}  {said}\n", step.knob));
    }
    text
}

/// The findings as one JSON object: `knobs`, and the ids of `matters` in their order.
pub fn findings_json(findings: &[Finding]) -> String {
    let finding = |it: &Finding| {
        let (verdict, wanted, sentence) = match &it.verdict {
            Verdict::Ok => ("ok", None, None),
            Verdict::Set(to) => ("change", Some(to), None),
            Verdict::Named(to) => ("choose", Some(to), None),
            Verdict::Yours(what) => ("by hand", None, Some(what)),
            Verdict::Moot(why) => ("moot", None, Some(why)),
            Verdict::Unread(why) => ("unread", None, Some(why)),
        };
        object(&[
            ("id", string(it.knob.id)),
            ("family", string(it.knob.family.title())),
            ("path", string(&slashed(&it.path, it.form))),
            ("value", optional(it.value.as_deref())),
            ("verdict", string(verdict)),
            ("wanted", optional(wanted.map(String::as_str))),
            ("sentence", optional(sentence.map(String::as_str))),
            ("impact", string(it.knob.impact.word())),
        ])
    };
    let all: Vec<String> = findings.iter().map(finding).collect();
    let order: Vec<String> = matters(findings).iter().map(|knob| string(knob.id)).collect();
    let object = object(&[("knobs", list(&all)), ("matters", list(&order))]);
    format!("{object}\n")
}

/// The steps as one JSON object.
pub fn steps_json(steps: &[Step]) -> String {
    let step = |it: &Step| {
        let (outcome, sentence) = match &it.outcome {
            Outcome::Done => ("done", None),
            Outcome::Planned => ("planned", None),
            Outcome::Same => ("same", None),
            Outcome::Failed(sentence) => ("failed", Some(sentence)),
            Outcome::Skipped(sentence) => ("skipped", Some(sentence)),
            Outcome::Foreign(_) => ("left", None),
            Outcome::Gone => ("gone", None),
        };
        object(&[
            ("id", string(&it.knob)),
            ("path", string(&slashed(&it.path, it.form))),
            ("from", optional(it.from.as_deref())),
            ("to", optional(it.to.as_deref())),
            ("outcome", string(outcome)),
            ("sentence", optional(sentence.map(String::as_str))),
        ])
    };
    let all: Vec<String> = steps.iter().map(step).collect();
    format!("{}\n", object(&[("steps", list(&all))]))
}

/// A file as a shell takes it.
fn slashed(path: &str, form: Form) -> String {
    match (path, form) {
        ("", _) => String::new(),
        (path, Form::Dirty) => format!("/{path}_{{bytes,ratio}}"),
        (path, _) => format!("/{path}"),
    }
}

fn object(fields: &[(&str, String)]) -> String {
    let fields: Vec<String> =
        fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    format!("{{{}}}", fields.join(","))
}

fn list(values: &[String]) -> String {
    format!("[{}]", values.join(","))
}

fn optional(text: Option<&str>) -> String {
    text.map_or("null".to_owned(), string)
}

/// A JSON string (RFC 8259, 7).
fn string(text: &str) -> String {
    let mut spelled = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => spelled.extend(['\\', letter]),
            letter if letter < ' ' => {
                push(&mut spelled, format_args!("\\u{:04x}", u32::from(letter)));
            }
            letter => spelled.push(letter),
        }
    }
    spelled.push('"');
    spelled
}

fn push(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("a string takes it all");
}

/// Everything that is known of the knobs that `only` names, all if it is empty, as Markdown.
pub fn page(only: &[String]) -> String {
    let mut text = if only.is_empty() { overview() } else { String::new() };
    let mut family: Option<Family> = None;
    let named = |knob: &&Knob| {
        only.is_empty() || only.iter().any(|only| crate::change::selects(only, knob))
    };
    for knob in knobs().filter(named) {
        if family != Some(knob.family) {
            let title = knob.family.title();
            let gap = if family.is_some() { "\n" } else { "" };
            push(&mut text, format_args!("{gap}## {}{}\n", title[..1].to_uppercase(), &title[1..]));
            family = Some(knob.family);
        }
        push(&mut text, format_args!("\n### `{}`\n\n", knob.id));
        push(&mut text, format_args!("{} {}\n\n| | |\n|---|---|\n", knob.what, knob.why));
        for (name, said) in rows(knob) {
            push(&mut text, format_args!("| {name} | {} |\n", said.replace('|', "\\|")));
        }
    }
    text
}

/// All knobs in one table.
fn overview() -> String {
    let mut text = "\n## All knobs\n\n".to_owned();
    text.push_str(
        "| knob | recommended | turned by | expected | measured |\n|---|---|---|---|---|\n",
    );
    for knob in knobs() {
        let hand = match knob.hand {
            _ if is_left(knob) => "nobody",
            Hand::Apply => "`--apply`",
            Hand::Named => "`--only`",
            Hand::Yours(_) => "hand",
        };
        let effect = match knob.effect {
            Effect::Measured(_) => "yes",
            Effect::Unseen(_) => "no difference",
            Effect::Unmeasured(_) => "no",
        };
        let (id, wanted, impact) = (knob.id, knob.wanted, knob.impact.word());
        push(&mut text, format_args!("| `{id}` | {wanted} | {hand} | {impact} | {effect} |\n"));
    }
    text.push('\n');
    text
}

/// Whether a knob is looked at and never turned.
fn is_left(knob: &Knob) -> bool {
    let is_by_hand = matches!(knob.hand, Hand::Yours(_));
    matches!(knob.want, Want::Leave) && !is_by_hand && !matches!(knob.source, Source::Text(..))
}

fn rows(knob: &Knob) -> [(&'static str, String); 8] {
    let hand = match knob.hand {
        _ if is_left(knob) => "nobody: it is looked at only".to_owned(),
        Hand::Apply => "`--apply`".to_owned(),
        Hand::Named => format!("`--apply --only {}`, not without being named", knob.id),
        Hand::Yours(how) => format!("by hand: {how}"),
    };
    let persist = match knob.persist {
        Persist::Sysctl => "`--persist`, in /etc/sysctl.d/90-ringkeeper.conf".to_owned(),
        Persist::Tmpfiles => "`--persist`, in /etc/tmpfiles.d/ringkeeper.conf".to_owned(),
        Persist::ByItself => "by itself".to_owned(),
        Persist::Not(why) => format!("no: {why}"),
    };
    let effect = match knob.effect {
        Effect::Measured(said) => said.to_owned(),
        Effect::Unseen(said) => format!("no effect beyond the noise: {said}"),
        Effect::Unmeasured(why) => format!("could not be measured here: {why}"),
    };
    [
        ("default", knob.default.to_owned()),
        ("recommended", knob.wanted.to_owned()),
        ("turned by", hand),
        ("outlives a boot", persist),
        ("expected effect", knob.impact.word().to_owned()),
        ("measured effect", effect),
        ("undone", knob.undo.to_owned()),
        ("risk", knob.risk.to_owned()),
    ]
}
