//! The systemd unit: limits that a start needs, and walls around the process.

use crate::form;
use crate::host::Host;
use crate::knob::{Effect, Family, Hand, Impact, Knob, Persist, REMOVES, Source, Want};

/// A file with these words is this command's own.
pub const MARK: &str = "written by `ringkeeper tune`";

pub const KNOBS: &[Knob] = &[Knob {
    id: "unit.file",
    family: Family::Unit,
    what: "A unit for systemd: /etc/systemd/system/ringkeeper.service.",
    why: "It gives the limits of locked memory and files that a start needs, starts the server \
          again when it ends with a fault, and lets it see and change nothing but its data.",
    default: "there is none",
    wanted: "written, where systemd starts the server",
    source: Source::Text("etc/systemd/system/ringkeeper.service", unit),
    want: Want::Leave,
    hand: Hand::Named,
    persist: Persist::ByItself,
    impact: Impact::Some,
    effect: Effect::Measured(
        "`systemd-analyze security --offline=true` (252) gives it an exposure of 1.7, and 9.6 \
         without its walls; the server starts and serves under its filter of system calls. It \
         has not been started by systemd itself here",
    ),
    undo: REMOVES,
    risk: "data outside of dataDir and dataLogDir cannot be written; systemctl daemon-reload \
           and a user `ringkeeper` are needed",
}];

/// The unit for what is served. Its directories and limits come from the configuration.
fn unit(host: &Host) -> String {
    let served = &host.served;
    let config =
        served.config_file.as_deref().map_or(String::new(), |file| format!(" {}", quoted(file)));
    let mut directories = vec![quoted(&served.data_directory)];
    if served.log_directory != served.data_directory {
        directories.push(quoted(&served.log_directory));
    }
    let affinity = match &served.hot_cpus[..] {
        [] => String::new(),
        hot => format!("# Executors bind themselves to CPUs {}.\n", form::cpu_list(hot)),
    };
    UNIT.replace("@mark@", MARK)
        .replace("@program@", &quoted(&served.program))
        .replace("@config@", &config)
        .replace("@affinity@", &affinity)
        .replace("@locked@", &served.locked_bytes.max(8 << 20).to_string())
        .replace("@files@", &served.descriptors.max(65_536).to_string())
        .replace("@directories@", &directories.join(" "))
}

/// A path as a unit takes it: blanks and quotes escaped, and no specifier by accident.
fn quoted(path: &str) -> String {
    let escaped = path.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%");
    if escaped == path && !path.contains(char::is_whitespace) {
        escaped
    } else {
        format!("\"{escaped}\"")
    }
}

const UNIT: &str = "\
# @mark@ --apply --only unit.file; `--revert` removes it.
[Unit]
Description=Ringkeeper, a ZooKeeper server
After=network-online.target
Wants=network-online.target
# A server that cannot start says why and is tried again for ever, ten seconds apart.
StartLimitIntervalSec=0

[Service]
ExecStart=@program@ server@config@
User=ringkeeper
Group=ringkeeper
Restart=on-failure
RestartSec=10
# The command line, the configuration and damaged data do not mend by themselves.
RestartPreventExitStatus=2 3 5
# It finishes what it has accepted and syncs it.
TimeoutStopSec=60
KillSignal=SIGTERM
@affinity@
# What a start needs.
LimitMEMLOCK=@locked@
LimitNOFILE=@files@
# The last process to be killed when memory runs out.
OOMScoreAdjust=-800

# Walls. The directories must be there, and belong to the user.
ReadWritePaths=@directories@
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
LockPersonality=yes
MemoryDenyWriteExecute=yes
RemoveIPC=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service @io-event io_uring_setup io_uring_enter io_uring_register
SystemCallErrorNumber=EPERM
UMask=0027

[Install]
WantedBy=multi-user.target
";
