//! The CPU: how fast it runs, how deep it sleeps, and who else uses it.

use crate::form::{self, Form};
use crate::host::Host;
use crate::knob::{
    BY_HAND, Effect, Family, Hand, Impact, Judgement, Knob, Persist, Source, WRITES_BACK, Want,
};
use crate::system::System;

const HYPERVISOR: &str = "a hypervisor decides on that below this virtual machine";

pub const KNOBS: &[Knob] = &[
    // Before the governor: with `performance` in force the kernel takes no other preference, so
    // this one is the later of the two to be put back.
    Knob {
        id: "cpu.epp",
        family: Family::Cpu,
        what: "What the CPU itself is told to prefer, power or speed.",
        why: "As the governor, where the CPU decides on its own.",
        default: "balance_performance",
        wanted: "performance",
        source: Source::HotCpu("cpufreq/energy_performance_preference", Form::Words, &[]),
        want: Want::OneOf(&["performance"]),
        hand: Hand::Apply,
        persist: Persist::Tmpfiles,
        impact: Impact::Some,
        effect: Effect::Unmeasured(HYPERVISOR),
        undo: WRITES_BACK,
        risk: "power and heat",
    },
    Knob {
        id: "cpu.governor",
        family: Family::Cpu,
        what: "Who decides how fast a CPU runs.",
        why: "A server that waits for the disk looks idle, so powersave and schedutil run it \
              slowly just when a reply is due.",
        default: "schedutil or powersave",
        wanted: "performance",
        source: Source::HotCpu(
            "cpufreq/scaling_governor",
            Form::Words,
            &["cpufreq/energy_performance_preference"],
        ),
        want: Want::OneOf(&["performance"]),
        hand: Hand::Apply,
        persist: Persist::Tmpfiles,
        impact: Impact::High,
        effect: Effect::Unmeasured(HYPERVISOR),
        undo: WRITES_BACK,
        risk: "power and heat",
    },
    Knob {
        id: "cpu.turbo_intel",
        family: Family::Cpu,
        what: "Whether Intel's turbo is off.",
        why: "A few hot cores and many idle ones are what turbo is for.",
        default: "0",
        wanted: "0",
        source: Source::File("sys/devices/system/cpu/intel_pstate/no_turbo", Form::Words),
        want: Want::OneOf(&["0"]),
        hand: Hand::Named,
        persist: Persist::Tmpfiles,
        impact: Impact::Some,
        effect: Effect::Unmeasured(HYPERVISOR),
        undo: WRITES_BACK,
        risk: "speed varies with heat; who measures switches it off on purpose",
    },
    Knob {
        id: "cpu.boost",
        family: Family::Cpu,
        what: "Whether the CPU may run faster than its nominal speed (AMD, and others).",
        why: "As Intel's turbo.",
        default: "1",
        wanted: "1",
        source: Source::File("sys/devices/system/cpu/cpufreq/boost", Form::Words),
        want: Want::OneOf(&["1"]),
        hand: Hand::Named,
        persist: Persist::Tmpfiles,
        impact: Impact::Some,
        effect: Effect::Unmeasured(HYPERVISOR),
        undo: WRITES_BACK,
        risk: "as for cpu.turbo_intel",
    },
    Knob {
        id: "cpu.resume_latency",
        family: Family::Cpu,
        what: "The longest time in µs that a serving CPU may take to wake: 0 any, n/a none.",
        why: "Deep sleep takes 50–200 µs to leave, which a request that comes alone pays in full.",
        default: "0",
        wanted: "20 where a single client's latency matters more than power",
        source: Source::HotCpu("power/pm_qos_resume_latency_us", Form::Words, &[]),
        want: Want::By(|host, seen| match (host.virtual_machine, seen.value) {
            (true, _) => Judgement::Moot(HYPERVISOR.to_owned()),
            (false, "0") => Judgement::Set("20".to_owned()),
            (false, _) => Judgement::Fine,
        }),
        hand: Hand::Named,
        persist: Persist::Tmpfiles,
        impact: Impact::High,
        effect: Effect::Unmeasured(HYPERVISOR),
        undo: WRITES_BACK,
        risk: "power and heat, and less room for the other cores' turbo",
    },
    Knob {
        id: "cpu.dma_latency",
        family: Family::Cpu,
        what: "The same for the whole host, for as long as a process holds /dev/cpu_dma_latency.",
        why: "It is what tuned's latency profiles use; cpu.resume_latency does it for serving \
              CPUs alone, and needs no process.",
        default: "held by nobody",
        wanted: "cpu.resume_latency instead",
        source: Source::Fact(|system, _| {
            let there = system.resolved("dev/cpu_dma_latency").is_some();
            there.then(|| "there".to_owned())
        }),
        want: Want::Leave,
        hand: Hand::Yours("tuned-adm profile latency-performance, or a process that holds it"),
        persist: Persist::Not("it lasts as long as the process"),
        impact: Impact::Little,
        effect: Effect::Unmeasured(HYPERVISOR),
        undo: BY_HAND,
        risk: "power and heat of every core",
    },
    Knob {
        id: "cpu.guest_halt_poll",
        family: Family::Cpu,
        what: "Nanoseconds for which a virtual CPU that is idle looks for work before it halts.",
        why: "To halt is to leave to the hypervisor, and each wake of an executor pays the way \
              back; with one client that is most of a commit beyond the disk's own time.",
        default: "200000 with the haltpoll governor, which few virtual machines have",
        wanted: "200000 in a virtual machine whose CPUs are its own",
        source: Source::File("sys/module/haltpoll/parameters/guest_halt_poll_ns", Form::Words),
        want: Want::By(|host, seen| match (host.virtual_machine, seen.number()) {
            (false, _) => Judgement::Moot("there is no hypervisor below".to_owned()),
            (true, Some(0)) => Judgement::Set("200000".to_owned()),
            (true, _) => Judgement::Fine,
        }),
        hand: Hand::Named,
        persist: Persist::Tmpfiles,
        impact: Impact::Some,
        effect: Effect::Unseen(
            "`loadgen set --connections 1`: p50 1.00 (0.73–1.00), p99 0.63 (0.50–1.02); get: p50 \
             1.00 (0.98–1.39), CPU 0.98 (0.82–2.05); 5 pairs each, on CPUs that other work kept \
             awake",
        ),
        undo: WRITES_BACK,
        risk: "CPU that is paid for while nothing is done; neighbours of a shared machine suffer",
    },
    Knob {
        id: "cpu.clocksource",
        family: Family::Cpu,
        what: "What the kernel reads the time from.",
        why: "The server times each stage of each request. tsc and kvm-clock take 20–40 ns \
              without a system call, hpet and acpi_pm a microsecond with one.",
        default: "tsc where it is steady",
        wanted: "tsc, kvm-clock, hyperv_clocksource_tsc_page or arch_sys_counter",
        source: Source::File(CLOCK, Form::Words),
        want: Want::OneOf(&["tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter"]),
        hand: Hand::Yours("ask why the kernel gave tsc up: dmesg | grep -i clocksource"),
        persist: Persist::Not("it is the kernel's choice, by what it found at boot"),
        impact: Impact::High,
        effect: Effect::Unmeasured("tsc is in force, and this machine has no slow one"),
        undo: BY_HAND,
        risk: "a tsc that is not steady makes time jump",
    },
    Knob {
        id: "cpu.isolation",
        family: Family::Cpu,
        what: "CPUs that the scheduler gives to nobody by itself (isolcpus), and without a tick \
               (nohz_full).",
        why: "An executor that is bound to such a CPU is never interrupted by another program; \
              without the tick, hardly by the kernel.",
        default: "none",
        wanted: "the bound CPUs, on hosts that do more than serve",
        source: Source::Fact(|system, _| {
            let read = |name: &str| {
                let path = format!("sys/devices/system/cpu/{name}");
                system.read(&path).map(|list| list.trim().to_owned()).unwrap_or_default()
            };
            let named = |list: String| if list.is_empty() { "none".to_owned() } else { list };
            let (isolated, tickless) = (named(read("isolated")), named(read("nohz_full")));
            Some(format!("isolated {isolated}, nohz_full {tickless}"))
        }),
        want: Want::Leave,
        hand: Hand::Yours("isolcpus=managed_irq,CPUS nohz_full=CPUS rcu_nocbs=CPUS at boot"),
        persist: Persist::Not("it belongs on the kernel's command line"),
        impact: Impact::Some,
        effect: Effect::Unmeasured("it takes a boot, and this machine has two CPUs"),
        undo: BY_HAND,
        risk: "those CPUs are lost to everything else",
    },
    Knob {
        id: "cpu.smt",
        family: Family::Cpu,
        what: "Whether a core runs two threads at once.",
        why: "Two executors on one core take each other's cache and time; a sibling without an \
              executor is a good place for interrupts.",
        default: "on",
        wanted: "executors on CPUs that are no siblings",
        source: Source::Fact(siblings),
        want: Want::By(|_, seen| match seen.value {
            "on, two executors on one core" => {
                Judgement::Set("fewer executors, or SMT off".to_owned())
            }
            _ => Judgement::Fine,
        }),
        hand: Hand::Yours("ringkeeper.cores; echo off > /sys/devices/system/cpu/smt/control"),
        persist: Persist::Not("it belongs on the kernel's command line: nosmt"),
        impact: Impact::Some,
        effect: Effect::Unmeasured("this machine shows no siblings"),
        undo: BY_HAND,
        risk: "half of the threads are gone for everything else",
    },
];

const CLOCK: &str = "sys/devices/system/clocksource/clocksource0/current_clocksource";

/// Whether executors that are bound share a core.
fn siblings(system: &dyn System, host: &Host) -> Option<String> {
    let active = system.read("sys/devices/system/cpu/smt/active").ok()?;
    if active.trim() != "1" {
        return Some("off".to_owned());
    }
    let hot = &host.served.hot_cpus;
    let shares = |cpu: &&usize| {
        let path = format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
        let list = system.read(&path).unwrap_or_default();
        let siblings = form::cpus(list.trim()).unwrap_or_default();
        siblings.iter().any(|sibling| sibling != *cpu && hot.contains(sibling))
    };
    let shared = hot.iter().find(shares).is_some();
    Some(if shared { "on, two executors on one core" } else { "on" }.to_owned())
}
