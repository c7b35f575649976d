//! The network card: which CPUs its interrupts take, and how it gathers them.

use crate::form::{self, Form};
use crate::host::Host;
use crate::knob::{
    BY_HAND, Effect, Family, Hand, Impact, Judgement, Knob, Persist, Seen, Source, WRITES_BACK,
    Want,
};
use crate::system::System;

const NO_CARD: &str = "the load is on loopback, where no card and no interrupt is";
const EVERY_CPU_SERVES: &str = "no CPU is free of executors, so there is none to move them to";

pub const KNOBS: &[Knob] = &[
    Knob {
        id: "nic.irq_affinity",
        family: Family::Nic,
        what: "Which CPUs a card's interrupts go to.",
        why: "An interrupt and the packets that it brings take a hot core from the server for \
              10–100 µs; on a CPU without an executor they cost it nothing.",
        default: "all CPUs, or as irqbalance decides",
        wanted: "the CPUs that no executor is bound to",
        source: Source::NicIrq("smp_affinity_list", Form::Cpus),
        want: Want::By(interrupts),
        hand: Hand::Apply,
        persist: Persist::Not("numbers of interrupts change from boot to boot; apply it again"),
        impact: Impact::Some,
        effect: Effect::Unmeasured(NO_CARD),
        undo: WRITES_BACK,
        risk: "one CPU that takes all packets can be too little; see nic.queues",
    },
    Knob {
        id: "nic.irqbalance",
        family: Family::Nic,
        what: "A service that moves interrupts about every ten seconds.",
        why: "It undoes nic.irq_affinity and moves interrupts onto hot cores.",
        default: "runs on most distributions",
        wanted: "not running, or with the hot CPUs in IRQBALANCE_BANNED_CPULIST",
        source: Source::Fact(irqbalance),
        want: Want::By(|host, seen| match seen.value {
            "not running" => Judgement::Fine,
            _ if host.cool_cpus().is_empty() => Judgement::Moot(EVERY_CPU_SERVES.to_owned()),
            _ => {
                let hot = form::cpu_list(host.hot_cpus());
                Judgement::Set(format!("IRQBALANCE_BANNED_CPULIST={hot}, or no irqbalance"))
            }
        }),
        hand: Hand::Yours("/etc/default/irqbalance and restart it, or systemctl disable --now"),
        persist: Persist::ByItself,
        impact: Impact::Some,
        effect: Effect::Unmeasured(NO_CARD),
        undo: BY_HAND,
        risk: "none, with the interrupts placed",
    },
    Knob {
        id: "nic.queues",
        family: Family::Nic,
        what: "Receive queues of a card (RSS): each has an interrupt of its own.",
        why: "One queue for each CPU that takes packets is enough; more than those spread \
              interrupts over hot cores.",
        default: "one for each CPU",
        wanted: "as many as CPUs without an executor, where executors are bound",
        source: Source::Fact(queues),
        want: Want::By(queue_count),
        hand: Hand::Yours("ethtool -L CARD combined N"),
        persist: Persist::Not("it belongs into the network's configuration"),
        impact: Impact::Little,
        effect: Effect::Unmeasured(NO_CARD),
        undo: BY_HAND,
        risk: "the link is down for a moment while the card is set up anew",
    },
    Knob {
        id: "nic.rps",
        family: Family::Nic,
        what: "CPUs that a queue's packets are handed on to in software.",
        why: "A hop between CPUs costs an interrupt between them; it pays only where one queue's \
              CPU is at its limit.",
        default: "none",
        wanted: "none, or CPUs that no executor is bound to",
        source: Source::NicQueue("rps_cpus", Form::Words),
        want: Want::By(|host, seen| match steered_to(seen.value) {
            None => Judgement::Moot(format!("it holds {:?}, which is no mask", seen.value)),
            Some(cpus) if cpus.iter().any(|cpu| host.served.hot_cpus.contains(cpu)) => {
                Judgement::Set("0".to_owned())
            }
            Some(_) => Judgement::Fine,
        }),
        hand: Hand::Named,
        persist: Persist::Not("it belongs into the network's configuration"),
        impact: Impact::Some,
        effect: Effect::Unmeasured(NO_CARD),
        undo: WRITES_BACK,
        risk: "one CPU may be too little for all packets",
    },
    Knob {
        id: "nic.xps",
        family: Family::Nic,
        what: "Which CPUs send on which queue.",
        why: "The kernel's own map keeps a CPU on one queue already.",
        default: "a queue for each CPU, where the card has as many",
        wanted: "as it is",
        source: Source::Fact(|system, host| {
            let maps = host.nics.iter().map(|nic| {
                let map = format!("sys/class/net/{}/queues/tx-0/xps_cpus", nic.name);
                system.read(&map).map_or("one queue".to_owned(), |mask| mask.trim().to_owned())
            });
            some(maps)
        }),
        want: Want::Leave,
        hand: Hand::Yours("/sys/class/net/CARD/queues/tx-*/xps_cpus"),
        persist: Persist::Not("it belongs into the network's configuration"),
        impact: Impact::Little,
        effect: Effect::Unmeasured(NO_CARD),
        undo: BY_HAND,
        risk: "none",
    },
    Knob {
        id: "nic.coalescing",
        family: Family::Nic,
        what: "How long a card waits for more packets before it interrupts.",
        why: "It is added to each round trip: 50 µs of it are half of a commit. Under load more \
              packets for each interrupt save CPU, which adaptive-rx weighs by itself.",
        default: "by driver: adaptive, or 3 to 100 µs",
        wanted: "adaptive-rx on, or rx-usecs at most 10",
        source: Source::Fact(|_, host| {
            some(host.nics.iter().map(|nic| format!("ethtool -c {} shows it", nic.name)))
        }),
        want: Want::Leave,
        hand: Hand::Yours("ethtool -C CARD adaptive-rx on, or rx-usecs 10"),
        persist: Persist::Not("it belongs into the network's configuration"),
        impact: Impact::High,
        effect: Effect::Unmeasured(NO_CARD),
        undo: BY_HAND,
        risk: "more interrupts, so more CPU for each packet",
    },
    Knob {
        id: "nic.defer_hard_irqs",
        family: Family::Nic,
        what: "How often a card is polled without result before its interrupt is let in again.",
        why: "With gro_flush_timeout it gathers packets in software, at the price of that wait.",
        default: "0",
        wanted: "0",
        source: Source::Nic("napi_defer_hard_irqs", Form::Words),
        want: Want::OneOf(&["0"]),
        hand: Hand::Named,
        persist: Persist::Tmpfiles,
        impact: Impact::Little,
        effect: Effect::Unmeasured(NO_CARD),
        undo: WRITES_BACK,
        risk: "more interrupts at high rates",
    },
    Knob {
        id: "nic.gro_flush_timeout",
        family: Family::Nic,
        what: "Nanoseconds for which packets are held back, to be joined with the next ones.",
        why: "It is added to each round trip.",
        default: "0",
        wanted: "at most 20000",
        source: Source::Nic("gro_flush_timeout", Form::Words),
        want: Want::AtMost(20_000),
        hand: Hand::Named,
        persist: Persist::Tmpfiles,
        impact: Impact::Some,
        effect: Effect::Unmeasured(NO_CARD),
        undo: WRITES_BACK,
        risk: "more interrupts at high rates",
    },
];

fn interrupts(host: &Host, seen: &Seen<'_>) -> Judgement {
    let cool = host.cool_cpus();
    if cool.is_empty() {
        let why = if host.served.hot_cpus.is_empty() {
            "executors are not bound to CPUs here, so there is none to keep free"
        } else {
            EVERY_CPU_SERVES
        };
        return Judgement::Moot(why.to_owned());
    }
    match form::cpus(seen.value) {
        Some(cpus) if !cpus.is_empty() && cpus.iter().all(|cpu| cool.contains(cpu)) => {
            Judgement::Fine
        }
        _ => Judgement::Set(form::cpu_list(&cool)),
    }
}

fn irqbalance(system: &dyn System, _: &Host) -> Option<String> {
    let is_process = |name: &String| name.bytes().all(|byte| byte.is_ascii_digit());
    let named = |name: &String| {
        system.read(&format!("proc/{name}/comm")).is_ok_and(|comm| comm.trim() == "irqbalance")
    };
    let runs = system.names("proc").iter().filter(|name| is_process(name)).any(named);
    Some(if runs { "running" } else { "not running" }.to_owned())
}

/// Values of all cards; none where there is no card.
fn some(values: impl Iterator<Item = String>) -> Option<String> {
    let values: Vec<String> = values.collect();
    (!values.is_empty()).then(|| values.join(", "))
}

fn queues(_: &dyn System, host: &Host) -> Option<String> {
    some(host.nics.iter().map(|nic| format!("{} {}", nic.name, nic.queues.len())))
}

fn queue_count(host: &Host, _: &Seen<'_>) -> Judgement {
    let cool = host.cool_cpus().len();
    let over = host.nics.iter().find(|nic| cool > 0 && nic.queues.len() > cool);
    match over {
        Some(nic) => Judgement::Set(format!("{} of {}", cool, nic.name)),
        None => Judgement::Fine,
    }
}

/// The CPUs of a mask as /sys writes it: hexadecimal words of 32 bits, the highest first.
fn steered_to(mask: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for (index, word) in mask.rsplit(',').enumerate() {
        let word = u32::from_str_radix(word, 16).ok()?;
        cpus.extend((0..32).filter(|bit| word >> bit & 1 == 1).map(|bit| index * 32 + bit));
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_name_their_cpus() {
        assert_eq!(steered_to("0"), Some(vec![]));
        assert_eq!(steered_to("00000001,80000003"), Some(vec![0, 1, 31, 32]));
        assert_eq!(steered_to("x"), None);
    }
}
