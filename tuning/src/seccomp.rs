//! The system call filter of a container: the default ones refuse io_uring.

use crate::host::Host;
use crate::knob::{
    BY_HAND, Effect, Family, Hand, Impact, Judgement, Knob, Persist, REMOVES, Seen, Source, Want,
};
use crate::system::System;

/// Where the profile is written.
const PROFILE: &str = "etc/ringkeeper/seccomp.json";

pub const KNOBS: &[Knob] = &[
    Knob {
        id: "seccomp.filter",
        family: Family::Seccomp,
        what: "The filter of system calls that this process runs under: 0 none, 2 a profile.",
        why: "Docker's, podman's and Kubernetes' default profiles refuse io_uring, and the server \
              does not start in a container that has one.",
        default: "a profile in containers, none elsewhere",
        wanted: "none, or one that allows io_uring, as seccomp.profile does",
        source: Source::Fact(filter),
        want: Want::By(judge),
        hand: Hand::Yours("write seccomp.profile on the host and name it where containers start"),
        persist: Persist::ByItself,
        impact: Impact::Start,
        effect: Effect::Unmeasured("it is whether the server starts, not how fast it is"),
        undo: BY_HAND,
        risk: "see seccomp.profile",
    },
    Knob {
        id: "seccomp.profile",
        family: Family::Seccomp,
        what: "A profile for Docker and podman: /etc/ringkeeper/seccomp.json.",
        why: "It allows what Docker's default allows an unprivileged process, io_uring besides, \
              and leaves out what no server needs. Name it by \
              --security-opt seccomp=/etc/ringkeeper/seccomp.json; for Kubernetes put it below \
              the kubelet's seccomp directory.",
        default: "there is none",
        wanted: "written, where containers are started",
        source: Source::Text(PROFILE, |_| include_str!("../seccomp.json").to_owned()),
        want: Want::Leave,
        hand: Hand::Named,
        persist: Persist::ByItself,
        impact: Impact::Some,
        effect: Effect::Measured(
            "loaded by libseccomp, the server starts and serves under it, and does not start \
             without its first rule; `loadgen get --connections 1`: CPU per get 1.06 (1.02–1.11) \
             of that without a filter, 3 pairs; 32 connections: 0.95 (0.71–1.08), 5 pairs. No \
             container runtime runs here",
        ),
        undo: REMOVES,
        risk: "io_uring does its work past the filter: what a ring may do (open, connect), a \
               container may do; its user and its namespaces still hold",
    },
];

fn filter(system: &dyn System, _: &Host) -> Option<String> {
    let status = system.read("proc/self/status").ok()?;
    let mode = status.lines().find_map(|line| line.strip_prefix("Seccomp:"))?;
    Some(mode.trim().to_owned())
}

fn judge(host: &Host, seen: &Seen<'_>) -> Judgement {
    match (seen.value, &host.served.ring) {
        ("0", _) | (_, Ok(())) => Judgement::Fine,
        (_, Err(error)) => {
            let text = format!("allow io_uring, which it refuses ({error})");
            Judgement::Set(text)
        }
    }
}
