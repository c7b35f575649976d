//! The rules of our style that a machine can check, over every file of the tree.
//!
//! A rule is a function from a file to what is wrong with it. `rules_refuse_bad_samples` shows each
//! of them a file that breaks it, so a rule cannot quietly stop working.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const LINE_CHARS_MAX: usize = 100;
const FUNCTION_LINES_MAX: usize = 70;
const FILE_LINES_MAX: usize = 800;
const UNSAFE_FILES_MAX: usize = 3;

/// Folders that hold plain values: no clock, no I/O, no await, no lock, no thread.
const CORE: [&str; 4] = ["src/wire/", "src/tree/", "src/pipeline/", "src/zab/"];

/// What the core may not name, and what it does instead.
const CORE_BANS: [(&str, &str); 11] = [
    ("glommio", "executors belong to server/ and io/"),
    ("async", "every await is in the shell"),
    (".await", "every await is in the shell"),
    ("std::fs", "files belong to log/, snapshot/ and io/"),
    ("std::net", "sockets belong to io/; addresses come from core::net"),
    ("std::thread::spawn", "threads are executors, started in server/"),
    ("Mutex", "cores share nothing but messages and immutable values"),
    ("RwLock", "cores share nothing but messages and immutable values"),
    ("Instant", "time is an argument: crate::time::Time"),
    ("SystemTime", "time is an argument: crate::time::WallMs"),
    ("unsafe", "unsafe stands in the durable layer and the shell"),
];

/// What no Rust file may hold, in two parts so that this file is none of them.
const BANS: [(&str, &str, &str); 8] = [
    ("to", "do!", "finish it, or leave it out"),
    ("unimple", "mented!", "finish it, or leave it out"),
    ("FIX", "ME", "fix it, or open an issue"),
    ("XX", "X", "fix it, or open an issue"),
    ("db", "g!", "use tracing"),
    ("#[ig", "nore", "a test runs, or goes"),
    ("#[al", "low", "use #[expect(lint, reason = \"…\")]"),
    ("#![al", "low", "use #[expect(lint, reason = \"…\")]"),
];

/// What no text file may hold: places that exist on one machine only.
const PLACES: [(&str, &str); 2] = [("/wo", "rk/"), ("/var/lib/jen", "kins/")];

/// A file of the tree, with the path from its top.
struct File {
    path: String,
    text: String,
}

impl File {
    fn sample(path: &str, text: &str) -> File {
        File { path: path.to_owned(), text: text.to_owned() }
    }

    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    fn wrong(&self, line_index: usize, what: &str) -> String {
        format!("{}:{}: {what}", self.path, line_index + 1)
    }

    /// The lines with their comments cut off.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text
            .lines()
            .enumerate()
            .map(|(index, line)| (index, line.find("//").map_or(line, |at| &line[..at])))
    }
}

type Rule = fn(&File) -> Vec<String>;

const RULES: [Rule; 7] = [
    lines_are_short,
    functions_fit_a_screen,
    files_are_split,
    core_is_plain,
    nothing_is_left_undone,
    unsafe_is_explained,
    no_machine_is_named,
];

fn lines_are_short(file: &File) -> Vec<String> {
    let long = |(index, line): (usize, &str)| {
        let chars = line.chars().count();
        let what = format!("{chars} characters, {LINE_CHARS_MAX} at most");
        (file.is_rust() && chars > LINE_CHARS_MAX).then(|| file.wrong(index, &what))
    };
    file.text.lines().enumerate().filter_map(long).collect()
}

/// Formatted code closes a function with a brace at the indent of its `fn`.
fn functions_fit_a_screen(file: &File) -> Vec<String> {
    let mut wrong = Vec::new();
    if !file.is_rust() {
        return wrong;
    }
    let lines: Vec<&str> = file.text.lines().collect();
    for (start, line) in lines.iter().enumerate() {
        let body = line.trim_start();
        let words: Vec<&str> = body.split_whitespace().take(5).collect();
        let head = words.iter().take_while(|word| **word != "fn").all(|word| {
            ["pub", "const", "async", "unsafe", "extern"].contains(word)
                || word.starts_with("pub(")
                || word.starts_with('"')
        });
        if !head || !words.contains(&"fn") {
            continue;
        }
        let close = format!("{}}}", &line[..line.len() - body.len()]);
        let length = lines[start..].iter().position(|line| *line == close).map_or(1, |n| n + 1);
        let one_line = line.ends_with('}') || line.ends_with(';');
        if !one_line && length > FUNCTION_LINES_MAX {
            let what = format!("a function of {length} lines, {FUNCTION_LINES_MAX} at most");
            wrong.push(file.wrong(start, &what));
        }
    }
    wrong
}

fn files_are_split(file: &File) -> Vec<String> {
    let count = file.text.lines().count();
    let what = format!("{count} lines, {FILE_LINES_MAX} at most");
    let long = file.is_rust() && count > FILE_LINES_MAX;
    long.then(|| file.wrong(count - 1, &what)).into_iter().collect()
}

fn core_is_plain(file: &File) -> Vec<String> {
    let mut wrong = Vec::new();
    if !CORE.iter().any(|folder| file.path.starts_with(folder)) {
        return wrong;
    }
    for (index, line) in file.code() {
        for (word, instead) in CORE_BANS {
            if has_word(line, word) {
                wrong.push(file.wrong(index, &format!("`{word}` in the core: {instead}")));
            }
        }
    }
    wrong
}

/// Whether `word` stands in `line` and is not a part of a longer name.
fn has_word(line: &str, word: &str) -> bool {
    let of_name = |letter: char| letter.is_alphanumeric() || letter == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back().is_some_and(of_name);
        let after = line[at + word.len()..].chars().next().is_some_and(of_name);
        !(after || before && word.starts_with(of_name))
    })
}

fn nothing_is_left_undone(file: &File) -> Vec<String> {
    let mut wrong = Vec::new();
    for (index, line) in file.text.lines().enumerate().filter(|_| file.is_rust()) {
        for (head, tail, instead) in BANS {
            let word = format!("{head}{tail}");
            if has_word(line, &word) {
                wrong.push(file.wrong(index, &format!("`{word}`: {instead}")));
            }
        }
    }
    wrong
}

/// The keyword before a block, a function or an implementation; not the lint's name.
fn unsafe_lines(file: &File) -> impl Iterator<Item = (usize, &str)> {
    let opens = |line: &str| {
        ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"]
            .iter()
            .any(|form| has_word(line, form) || line.contains(form))
    };
    file.code().filter(move |(_, line)| file.is_rust() && opens(line))
}

fn unsafe_is_explained(file: &File) -> Vec<String> {
    if file.path == "tests/tidy.rs" {
        return Vec::new();
    }
    let lines: Vec<&str> = file.text.lines().collect();
    let explained = |index: usize| {
        let above = lines[..index].iter().rev();
        let comments = above.take_while(|line| {
            let line = line.trim_start();
            line.starts_with("//") || line.starts_with("#[") || !line.ends_with([';', '}'])
        });
        let mut text = comments.take(12).chain([&lines[index]]);
        text.any(|line| line.contains("SAFETY:") || line.contains("# Safety"))
    };
    let bare = unsafe_lines(file).filter(|(index, _)| !explained(*index));
    bare.map(|(index, _)| file.wrong(index, "unsafe without `// SAFETY:`")).collect()
}

fn no_machine_is_named(file: &File) -> Vec<String> {
    let mut wrong = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        for (head, tail) in PLACES {
            let place = format!("{head}{tail}");
            let absolute = |at: usize| {
                let before = line[..at].chars().next_back();
                !before.is_some_and(|letter| letter.is_alphanumeric() || "_-./}".contains(letter))
            };
            if line.match_indices(&place).any(|(at, _)| absolute(at)) {
                wrong.push(file.wrong(index, &format!("`{place}` is a place of one machine")));
            }
        }
    }
    wrong
}

/// Rust files that no `mod` line leads to, from the roots that Cargo knows.
fn unreachable(files: &[File]) -> Vec<String> {
    let text_of = |path: &str| files.iter().find(|file| file.path == path).map(|file| &file.text);
    let mut reached = BTreeSet::new();
    let mut open: Vec<String> =
        files.iter().filter(|file| is_root(&file.path)).map(|file| file.path.clone()).collect();
    while let Some(path) = open.pop() {
        let Some(text) = text_of(&path) else { continue };
        if !reached.insert(path.clone()) {
            continue;
        }
        let folder = module_folder(&path);
        for name in module_names(text) {
            open.push(format!("{folder}/{name}.rs"));
            open.push(format!("{folder}/{name}/mod.rs"));
        }
    }
    let dead = files.iter().filter(|file| file.is_rust() && !reached.contains(&file.path));
    dead.map(|file| format!("{}: no `mod` line leads to it", file.path)).collect()
}

fn is_root(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    match parts[..] {
        ["src", "lib.rs" | "main.rs"] | ["loadgen", "src", "lib.rs" | "main.rs"] => true,
        ["tuning", "src", "lib.rs"] => true,
        ["src", "bin", _] | ["fuzz", "fuzz_targets", _] | ["loadgen", "tests", _] => true,
        ["tests" | "benches" | "examples", file] => file.ends_with(".rs"),
        ["tests" | "benches" | "examples", _, file] => file == "main.rs",
        [file] => file == "build.rs",
        _ => false,
    }
}

/// Where the modules of a file are looked for.
fn module_folder(path: &str) -> String {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    if is_root(path) || name == "mod.rs" {
        folder.to_owned()
    } else {
        path.trim_end_matches(".rs").to_owned()
    }
}

fn module_names(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let line = line.trim_start();
        let line = line.strip_prefix("pub(crate) ").or(line.strip_prefix("pub ")).unwrap_or(line);
        line.strip_prefix("mod ")?.split(';').next().filter(|_| line.ends_with(';'))
    })
}

/// Links of a page to files that are not there.
fn broken_links(file: &File, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let mut wrong = Vec::new();
    let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    for (index, line) in file.text.lines().enumerate() {
        for link in line.split("](").skip(1) {
            let target = link.split([')', '#', ' ']).next().unwrap_or_default();
            let elsewhere = target.is_empty() || target.contains("://");
            let path = format!("{folder}/{target}");
            if !elsewhere && !exists(path.trim_start_matches('/')) {
                wrong.push(file.wrong(index, &format!("a link to nothing: {target}")));
            }
        }
    }
    wrong
}

/// Modules of `lib.rs` that the map in the README does not name.
fn unmapped(lib: &str, readme: &str) -> Vec<String> {
    let named =
        |name: &str| readme.contains(&format!("{name}/")) || readme.contains(&format!("{name}.rs"));
    let missing = module_names(lib).filter(|name| !named(name));
    missing.map(|name| format!("README.md: the map of the code lacks {name}")).collect()
}

fn top() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every text file of the tree, without what is built, stored or recorded.
fn tree() -> Vec<File> {
    let mut files = Vec::new();
    let mut folders = vec![top()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the tree can be listed") {
            let path = entry.expect("an entry can be read").path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if path.is_dir() {
                if !["target", ".git", "corpus", "artifacts", "__pycache__"].contains(&name) {
                    folders.push(path);
                }
            } else if let Ok(text) = fs::read_to_string(&path) {
                files.push(File { path: relative(&path), text });
            }
        }
    }
    files.retain(|file| file.path != ".git");
    files.sort_by(|left, right| left.path.cmp(&right.path));
    files
}

fn relative(path: &Path) -> String {
    let path = path.strip_prefix(top()).expect("the walk stays in the tree");
    path.to_str().expect("our names are text").to_owned()
}

fn check(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "{} rules broken:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_file_keeps_the_rules() {
    let files = tree();
    assert!(files.iter().any(|file| file.path == "src/lib.rs"), "the walk misses the tree");
    check(RULES.iter().flat_map(|rule| files.iter().flat_map(rule)).collect());
}

#[test]
fn every_file_is_reached() {
    check(unreachable(&tree()));
}

#[test]
fn unsafe_stands_in_few_files() {
    let files = tree();
    let ours = files.iter().filter(|file| file.path.starts_with("src/"));
    let with: Vec<&str> = ours
        .filter(|file| unsafe_lines(file).next().is_some())
        .map(|file| &file.path[..])
        .collect();
    assert!(with.len() <= UNSAFE_FILES_MAX, "unsafe in more than three files: {with:?}");
}

#[test]
fn pages_link_to_what_exists_and_the_map_is_whole() {
    let files = tree();
    let pages = files.iter().filter(|file| file.path.ends_with(".md"));
    let exists = |path: &str| top().join(path).exists();
    let mut wrong: Vec<String> = pages.flat_map(|page| broken_links(page, exists)).collect();
    let text = |path: &str| files.iter().find(|file| file.path == path).map(|file| &file.text[..]);
    let lib = text("src/lib.rs").expect("the library has its map");
    wrong.extend(unmapped(lib, text("README.md").unwrap_or_default()));
    check(wrong);
}

#[test]
fn code_is_formatted() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let run = Command::new(cargo).args(["fmt", "--all", "--check"]).current_dir(top()).output();
    let run = run.expect("cargo fmt can be run");
    let said = [run.stdout, run.stderr].concat();
    assert!(run.status.success(), "run `cargo fmt`:\n{}", String::from_utf8_lossy(&said));
}

/// Asserts that `rule` refuses the first text and not the second, in a file at `path`.
fn refuses(rule: Rule, path: &str, bad: &str, good: &str) {
    assert!(!rule(&File::sample(path, bad)).is_empty(), "not refused in {path}: {bad}");
    assert_eq!(rule(&File::sample(path, good)), Vec::<String>::new(), "refused in {path}");
}

#[test]
fn rules_refuse_bad_samples() {
    refuses(lines_are_short, "src/a.rs", &"é".repeat(101), &"é".repeat(100));
    let function = |lines: usize| format!("    pub fn a() {{\n{}    }}\n", "x;\n".repeat(lines));
    refuses(functions_fit_a_screen, "src/a.rs", &function(69), &function(68));
    refuses(files_are_split, "src/a.rs", &"\n".repeat(801), &"\n".repeat(800));
    for (bad, good) in [
        ("use glommio::Task;", "// glommio is the shell's"),
        ("async fn a() {}", "fn asynchronous() {}"),
        ("a.await;", "a.awaited();"),
        ("std::fs::read(a)", "std::fmt::Debug"),
        ("Mutex::new(1)", "MutexFree::new(1)"),
        ("std::time::Instant", "InstantCoffee"),
    ] {
        refuses(core_is_plain, "src/zab/a.rs", bad, good);
        refuses(core_is_plain, "src/tree/a.rs", bad, good);
        assert!(core_is_plain(&File::sample("src/server/a.rs", bad)).is_empty());
    }
    for (head, tail, _) in BANS {
        refuses(nothing_is_left_undone, "src/a.rs", &format!("{head}{tail}"), head);
    }
    let bare = "let a = 1;\nlet b = unsafe { c() };\n";
    refuses(
        unsafe_is_explained,
        "src/a.rs",
        bare,
        &bare.replace(";\nlet", ";\n// SAFETY: d.\nlet"),
    );
    for (head, tail) in PLACES {
        let place = format!("see {head}{tail}x");
        refuses(no_machine_is_named, "README.md", &place, &place.replace("see ", "see src"));
    }
}

#[test]
fn dead_files_broken_links_and_holes_in_the_map_are_seen() {
    let files = [
        File::sample("src/lib.rs", "pub mod a;\nmod tests {\n"),
        File::sample("src/a/mod.rs", "mod b;"),
        File::sample("src/a/b.rs", "mod c;"),
        File::sample("src/a/b/c.rs", ""),
        File::sample("src/a/c.rs", ""),
        File::sample("tests/world/main.rs", "mod net;"),
        File::sample("tests/world/net.rs", ""),
        File::sample("tests/world/old.rs", ""),
    ];
    let dead = unreachable(&files);
    assert_eq!(dead.len(), 2, "{dead:?}");
    assert!(dead[0].starts_with("src/a/c.rs") && dead[1].starts_with("tests/world/old.rs"));
    let page = File::sample("docs/a.md", "[b](b.md#c) [c](../c.md) [d](https://d.e/f)");
    assert_eq!(broken_links(&page, |path| path == "docs/b.md").len(), 1);
    assert_eq!(
        unmapped("pub mod a;\npub mod b;", "`a/` and then"),
        ["README.md: the map of the code lacks b"]
    );
}
