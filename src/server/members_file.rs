//! The files that say who the members are, once they have changed: what `zoo.cfg` has had of them
//! moves to a file of its own (`QuorumPeerConfig.java`).
//!
//! ```text
//! zoo.cfg.dynamic.<version, hexadecimal>   server, group and weight lines of what is in force
//! zoo.cfg                                  the same settings, and dynamicConfigFile=…
//! zoo.cfg.bak                              zoo.cfg as it was before members changed first
//! zoo.cfg.dynamic.next                     what is proposed, with its version
//! ```
//!
//! The log has it all too, and is believed where it is ahead. So nothing waits for these files, and
//! a file that cannot be written is a warning: its server begins with older members, and learns.
//! Unlike Apache, comments and the order of `zoo.cfg` are kept, and a configuration that has no
//! line for this server is not written: it could not be started from.

use std::path::{Path, PathBuf};

use crate::server::small_file::{FileError, remove, replace};
use crate::wire::membership::Membership;

/// The files beside one zoo.cfg.
#[derive(Clone, Debug)]
pub struct MembersFiles {
    zoo_cfg: PathBuf,
    /// This server.
    me: i64,
}

impl MembersFiles {
    /// Those of server `me`, whose configuration is `zoo_cfg`.
    pub fn new(zoo_cfg: &Path, me: i64) -> MembersFiles {
        let zoo_cfg = zoo_cfg.canonicalize().unwrap_or_else(|_| zoo_cfg.to_owned());
        MembersFiles { zoo_cfg, me }
    }

    fn beside(&self, end: &str) -> PathBuf {
        let mut name = self.zoo_cfg.as_os_str().to_owned();
        name.push(end);
        name.into()
    }

    /// Keeps the members that are proposed.
    ///
    /// # Errors
    /// The operating system's.
    pub fn save_next(&self, next: &Membership) -> Result<(), FileError> {
        replace(&self.beside(".dynamic.next"), next.text().as_bytes())
    }

    /// Nothing is proposed.
    ///
    /// # Errors
    /// The operating system's.
    pub fn remove_next(&self) -> Result<(), FileError> {
        remove(&self.beside(".dynamic.next"))
    }

    /// Keeps the members in force, and has the next start find them.
    ///
    /// # Errors
    /// The operating system's: the next start finds these members, or those before.
    pub fn save(&self, current: &Membership) -> Result<(), FileError> {
        let Some(own) = current.server(self.me) else {
            tracing::warn!("this server is no member any more: its files stay as they are");
            return Ok(());
        };
        let dynamic = self.beside(&format!(".dynamic.{:x}", current.version));
        replace(&dynamic, current.lines().join("\n").as_bytes())?;
        let text = std::fs::read(&self.zoo_cfg).map_err(|source| FileError {
            op: "read",
            path: self.zoo_cfg.clone(),
            source,
        })?;
        let text = String::from_utf8_lossy(&text);
        let edited = edit(&text, &dynamic, own.client.is_some());
        if !names_dynamic_file(&text) {
            replace(&self.beside(".bak"), text.as_bytes())?;
        }
        replace(&self.zoo_cfg, edited.as_bytes())
    }
}

fn names_dynamic_file(text: &str) -> bool {
    text.lines().any(|line| key_of(line).starts_with("dynamicConfigFile"))
}

/// The key of a line; nothing for a comment.
fn key_of(line: &str) -> &str {
    let line = line.trim_start();
    if line.starts_with(['#', '!']) {
        return "";
    }
    line.split(['=', ':', ' ', '\t']).next().unwrap_or_default()
}

/// `text` of a zoo.cfg without what the file `dynamic` has, and with that named.
fn edit(text: &str, dynamic: &Path, has_client_port: bool) -> String {
    let is_elsewhere = |key: &str| {
        ["server.", "group", "weight", "dynamicConfigFile", "peerType"]
            .iter()
            .any(|start| key.starts_with(start))
            || (has_client_port && key.starts_with("clientPort"))
    };
    let mut edited = String::new();
    let (mut continues, mut is_dropped) = (false, false);
    for line in text.lines() {
        if !continues {
            is_dropped = is_elsewhere(key_of(line));
        }
        continues = (continues || !key_of(line).is_empty()) && line.ends_with('\\');
        if !is_dropped {
            edited.push_str(line);
            edited.push('\n');
        }
    }
    edited.push_str(&format!("dynamicConfigFile={}\n", dynamic.display()));
    edited
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::config::properties::Sources;

    const BEFORE: &str = "\
# the house's settings
tickTime=500
initLimit=10
syncLimit = 5
reconfigEnabled=true
clientPort=2181
peerType=participant
server.1=127.0.0.1:2888:3888
server.2=127.0.0.1:\\
  2889:3889
server.3=127.0.0.1:2890:3890";

    fn members(version: i64) -> Membership {
        let lines = "server.1=127.0.0.1:2888:3888:participant;0.0.0.0:2181,\
                     server.2=127.0.0.1:2889:3889:observer";
        let members = Membership::default().replaced(lines, false).unwrap();
        Membership { version, ..members }
    }

    #[test]
    fn the_next_start_finds_the_members_in_force() {
        let dir = tempfile::tempdir().unwrap();
        let zoo_cfg = dir.path().join("zoo.cfg");
        let data = dir.path().join("data");
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join("myid"), "1").unwrap();
        let before = format!("{BEFORE}\ndataDir={}\n", data.display());
        std::fs::write(&zoo_cfg, &before).unwrap();
        let files = MembersFiles::new(&zoo_cfg, 1);
        files.save_next(&members(0x1_0000_0007)).unwrap();
        let next = dir.path().join("zoo.cfg.dynamic.next");
        let text = std::fs::read_to_string(&next).unwrap();
        assert!(text.ends_with("\nversion=100000007"), "{text}");
        files.save(&members(0x1_0000_0007)).unwrap();
        files.remove_next().unwrap();
        assert!(!next.exists());

        let bak = std::fs::read_to_string(dir.path().join("zoo.cfg.bak")).unwrap();
        assert_eq!(bak, before);
        let dynamic = dir.path().join("zoo.cfg.dynamic.100000007");
        let text = std::fs::read_to_string(&dynamic).unwrap();
        assert_eq!(
            text,
            "server.1=127.0.0.1:2888:3888:participant;0.0.0.0:2181\n\
             server.2=127.0.0.1:2889:3889:observer"
        );
        let text = std::fs::read_to_string(&zoo_cfg).unwrap();
        let kept = "# the house's settings\ntickTime=500\ninitLimit=10\nsyncLimit = 5\n\
                    reconfigEnabled=true\n";
        assert!(text.starts_with(kept), "{text}");
        assert!(!text.contains("server.") && !text.contains("2889"), "{text}");
        assert!(!text.contains("clientPort") && !text.contains("peerType"), "{text}");

        // The second change has a file of its own, and the first zoo.cfg stays kept.
        files.save(&members(0x1_0000_0009)).unwrap();
        let bak = std::fs::read_to_string(dir.path().join("zoo.cfg.bak")).unwrap();
        assert_eq!(bak, before);
        let mut text = std::fs::read_to_string(&zoo_cfg).unwrap();
        text.push_str("standaloneEnabled=false\n");
        let config = Config::parse(&Sources::default(), &zoo_cfg, text.as_bytes()).unwrap();
        assert_eq!(config.ensemble.membership(), members(0x1_0000_0009));
        assert_eq!(config.client_address.port(), 2181);
    }

    #[test]
    fn members_without_this_server_are_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let zoo_cfg = dir.path().join("zoo.cfg");
        std::fs::write(&zoo_cfg, BEFORE).unwrap();
        MembersFiles::new(&zoo_cfg, 3).save(&members(9)).unwrap();
        assert_eq!(std::fs::read_to_string(&zoo_cfg).unwrap(), BEFORE);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
