//! Writing an answer out, on a thread where nobody waits for it: what the cores have told is put
//! in order, what the kernel and the files say is added, and all of it becomes text.

use std::path::Path;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use crate::io::ring::Token;
use crate::server::answer::Answer;
use crate::server::questions::Asker;
use crate::server::report::{Question, ServerReport};
use crate::snapshot;
use crate::tree::Tree;
use crate::tree::acl::AclId;
use crate::wire::acl::Acl;
use crate::zxid::Zxid;

/// An answer to be written out.
pub struct AnswerJob {
    pub asker: Asker,
    pub question: Question,
    pub report: Box<ServerReport>,
    /// The sessions that own something, where the question is for that.
    pub owners: Vec<i64>,
    pub tree: Arc<Tree>,
}

/// An answer to a connection, in chunks that are sent one by one.
#[derive(Debug)]
pub struct Answered {
    pub core: u16,
    pub connection: Token,
    pub chunks: Vec<Vec<u8>>,
}

impl AnswerJob {
    /// Writes the answer out; `None` when it went to the HTTP thread, which does that itself.
    /// Blocks as long as it takes.
    pub fn perform(mut self) -> Option<Answered> {
        let question = self.question;
        put_process(&mut self.report);
        if question.wants_directory_sizes() {
            self.report.data_dir_size = size_below(Path::new(&self.report.conf.data_dir));
            self.report.log_dir_size = size_below(Path::new(&self.report.conf.log_dir));
        }
        if question.wants_root_acl() {
            self.report.root_acl = root_acl(&self.tree);
        }
        if question.is_http {
            self.report.last_snapshot_wall_seconds = snapshot_time(&self.report);
        }
        for session in self.owners {
            // A view for each, so that what is replaced meanwhile can be let go.
            let view = self.tree.view(Zxid::MAX);
            let paths = view.ephemerals(session).iter().map(str::to_owned).collect();
            self.report.ephemerals.push((session, paths));
        }
        for client in &mut self.report.clients {
            client.sort_watches(question);
        }
        match self.asker {
            Asker::Connection { core, connection } => {
                let answer = Answer::new(question.word, &self.report);
                let chunks = answer.map(String::into_bytes).collect();
                Some(Answered { core, connection, chunks })
            }
            Asker::Http(reply) => {
                // Whoever asked may have gone meanwhile.
                reply.send(self.report).ok();
                None
            }
        }
    }
}

/// What the kernel says of the process; left out where it does not say.
fn put_process(report: &mut ServerReport) {
    let open = std::fs::read_dir("/proc/self/fd").map(|entries| entries.count() as u64);
    report.open_file_descriptors = open.ok();
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    report.max_file_descriptors = limit.current;
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    report.resident_bytes = pages.map(|pages| pages * rustix::param::page_size() as u64);
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let cpu_ms = cpu.tv_sec * 1000 + cpu.tv_nsec / 1_000_000;
    report.process_cpu_ms = u64::try_from(cpu_ms).ok();
}

/// Who may do what with the root; `None` where it is open to all.
fn root_acl(tree: &Tree) -> Option<Vec<Acl>> {
    let acl = tree.view(Zxid::MAX).node("/")?.acl();
    (acl != AclId::OPEN).then(|| tree.acls().list(acl).entries.clone())
}

/// When the newest snapshot was finished, in seconds since 1970; `None` where there is none.
fn snapshot_time(report: &ServerReport) -> Option<i64> {
    let name = snapshot::directory::name(report.last_snapshot);
    let metadata = std::fs::metadata(Path::new(&report.conf.data_dir).join(name)).ok()?;
    let since_1970 = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since_1970.as_secs()).ok()
}

/// The bytes of the files in `dir` and in the directories in it.
fn size_below(dir: &Path) -> u64 {
    let mut size = 0;
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        // What is removed meanwhile counts for nothing.
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => dirs.push(entry.path()),
                Ok(metadata) => size += metadata.len(),
                Err(_) => {}
            }
        }
    }
    size
}
