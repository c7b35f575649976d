//! Servers on free ports of 127.0.0.1, with their data in a throw-away folder.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::throwaway::{Throwaway, mortal};
use crate::keys::Random;

/// Three JVMs that start at once on a busy machine.
const START: Duration = Duration::from_secs(90);

/// Below the ports that Linux hands out by itself: no connection's own end is ever in the way.
const PORTS: std::ops::Range<u64> = 15_000..32_000;

/// What Debian's ZooKeeper needs of the jars in `/usr/share/java`.
const DEBIAN_JARS: [&str; 8] = [
    "zookeeper",
    "zookeeper-jute",
    "netty-codec",
    "netty-resolver",
    "netty-transport-native-unix-common",
    "slf4j-nop",
    "snappy-java",
    "metrics-core",
];

/// What runs as a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The `ringkeeper` beside this program.
    Ringkeeper,
    /// Apache's, of Debian's package or of `ZOOKEEPER_CLASSPATH`.
    Apache,
    /// A command that takes a zoo.cfg as its last word.
    Command(Vec<String>),
}

impl Kind {
    /// The command without its zoo.cfg.
    pub fn command(&self, heap: &str) -> Result<Vec<String>, String> {
        match self {
            Kind::Ringkeeper => {
                let own = std::env::current_exe().map_err(|error| error.to_string())?;
                let server = own.with_file_name("ringkeeper");
                if !server.is_file() {
                    let place = server.display();
                    return Err(format!("{place} is not there: cargo build --release --workspace"));
                }
                Ok(vec![server.display().to_string(), "server".to_owned()])
            }
            Kind::Apache => {
                let class_path = match std::env::var("ZOOKEEPER_CLASSPATH") {
                    Ok(class_path) => class_path,
                    Err(_) => debian_class_path()?,
                };
                let words = ["java", "-cp", &class_path, &format!("-Xmx{heap}")];
                let words = words.map(str::to_owned).into_iter();
                let main = "org.apache.zookeeper.server.quorum.QuorumPeerMain".to_owned();
                Ok(words.chain([main]).collect())
            }
            Kind::Command(words) => Ok(words.clone()),
        }
    }
}

fn debian_class_path() -> Result<String, String> {
    let jars = DEBIAN_JARS.map(|name| format!("/usr/share/java/{name}.jar"));
    if let Some(missing) = jars.iter().find(|jar| !Path::new(jar).exists()) {
        return Err(format!("{missing} is not there: apt install libzookeeper-java"));
    }
    Ok(jars.join(":"))
}

/// Running servers. Dropping it ends them and removes their data.
pub struct Ensemble {
    pub addresses: Vec<SocketAddr>,
    pub pids: Vec<u32>,
    throwaway: Throwaway,
}

impl Ensemble {
    /// Starts `count` servers with their data below `data`; returns when all of them serve.
    pub fn start(
        command: &[String],
        count: usize,
        data: &Path,
        settings: &[String],
    ) -> Result<Ensemble, String> {
        let io = |error: io::Error| format!("{}: {error}", data.display());
        let throwaway = Throwaway::new(data).map_err(io)?;
        let ports = free_ports(count * 3).map_err(|error| format!("no free port: {error}"))?;
        let mut ensemble = Ensemble { addresses: Vec::new(), pids: Vec::new(), throwaway };
        for (index, own) in ports.chunks(3).enumerate() {
            let folder = ensemble.throwaway.folder.join(format!("server{}", index + 1));
            let config = configure(&folder, index, &ports, settings).map_err(io)?;
            let (program, words) = command.split_first().ok_or("the command is empty")?;
            let log = File::create(folder.join("log")).map_err(io)?;
            let mut process = mortal(Path::new(program));
            process.args(words).arg(&config).stdin(std::process::Stdio::null());
            process.stderr(log.try_clone().map_err(io)?).stdout(log);
            let pid = ensemble.throwaway.start(&mut process);
            ensemble.pids.push(pid.map_err(|error| format!("{program}: {error}"))?);
            ensemble.addresses.push(SocketAddr::from((Ipv4Addr::LOCALHOST, own[0])));
        }
        ensemble.wait()?;
        Ok(ensemble)
    }

    fn wait(&self) -> Result<(), String> {
        let deadline = Instant::now() + START;
        for (index, address) in self.addresses.iter().enumerate() {
            while !serves(*address) {
                let why = if Instant::now() > deadline {
                    Some(format!("server {} does not serve after {} s", index + 1, START.as_secs()))
                } else {
                    self.throwaway.ended()
                };
                if let Some(why) = why {
                    return Err(format!("{why}\n{}", self.log_tail(index)));
                }
                thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }

    /// The last lines of a server's log, for who asks why it did not start.
    fn log_tail(&self, index: usize) -> String {
        let path = self.throwaway.folder.join(format!("server{}/log", index + 1));
        let text = fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }
}

/// Writes one server's folder; gives its zoo.cfg.
fn configure(
    folder: &Path,
    index: usize,
    ports: &[u16],
    settings: &[String],
) -> io::Result<PathBuf> {
    let data = folder.join("data");
    fs::create_dir_all(&data)?;
    fs::write(data.join("myid"), format!("{}\n", index + 1))?;
    let mut lines = vec![
        "tickTime=2000".to_owned(),
        "initLimit=10".to_owned(),
        "syncLimit=5".to_owned(),
        format!("dataDir={}", data.display()),
        format!("clientPort={}", ports[index * 3]),
        "clientPortAddress=127.0.0.1".to_owned(),
        "maxClientCnxns=0".to_owned(),
        "maxCnxns=0".to_owned(),
        "admin.enableServer=false".to_owned(),
        "extendedTypesEnabled=true".to_owned(),
        "4lw.commands.whitelist=*".to_owned(),
    ];
    if ports.len() > 3 {
        for (number, own) in (1..).zip(ports.chunks(3)) {
            lines.push(format!("server.{number}=127.0.0.1:{}:{}", own[1], own[2]));
        }
    }
    lines.extend(settings.iter().cloned());
    lines.push(String::new());
    let config = folder.join("zoo.cfg");
    fs::write(&config, lines.join("\n"))?;
    Ok(config)
}

/// Whether the server says that it serves clients.
fn serves(address: SocketAddr) -> bool {
    let ask = || -> io::Result<String> {
        let mut link = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        link.set_read_timeout(Some(Duration::from_secs(2)))?;
        link.write_all(b"srvr")?;
        let mut answer = String::new();
        link.take(1 << 16).read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.contains("Mode:"))
}

fn free_ports(count: usize) -> io::Result<Vec<u16>> {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let mut random = Random::new(since.as_nanos() as u64 ^ u64::from(std::process::id()) << 40);
    let mut ports = BTreeSet::new();
    let mut last = Ok(());
    for _ in 0..10_000 {
        if ports.len() == count {
            break;
        }
        let port = (PORTS.start + random.below(PORTS.end - PORTS.start)) as u16;
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => drop(ports.insert(port)),
            Err(error) => last = Err(error),
        }
    }
    if ports.len() < count {
        last?;
    }
    Ok(ports.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_ends_at_once_is_one_error_and_leaves_nothing() {
        let data = std::env::temp_dir().join(format!("ensemble-test-{}", std::process::id()));
        let command = ["/bin/sh", "-c", "echo no such luck; exit 3"].map(str::to_owned);
        let Err(said) = Ensemble::start(&command, 1, &data, &[]) else {
            panic!("a shell serves no clients")
        };
        assert!(said.contains("exit status: 3") && said.contains("no such luck"), "{said}");
        assert_eq!(fs::read_dir(&data).unwrap().count(), 0);
        fs::remove_dir(&data).unwrap();
    }

    #[test]
    fn each_server_of_three_knows_the_others() {
        let folder = std::env::temp_dir().join(format!("configure-test-{}", std::process::id()));
        let ports = free_ports(9).unwrap();
        assert_eq!(ports.len(), 9);
        let config = configure(&folder, 1, &ports, &["snapCount=5".to_owned()]).unwrap();
        let text = fs::read_to_string(config).unwrap();
        let third = format!("server.3=127.0.0.1:{}:{}", ports[7], ports[8]);
        assert!(text.contains(&third) && text.contains("snapCount=5"), "{text}");
        assert!(text.contains(&format!("clientPort={}\n", ports[3])));
        assert_eq!(fs::read_to_string(folder.join("data/myid")).unwrap(), "2\n");
        fs::remove_dir_all(&folder).unwrap();
    }
}
