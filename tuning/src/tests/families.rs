//! Each family's judgements, on values that a host may have.

use super::fake::{Fake, served};
use crate::host::{Host, Served};
use crate::judge::{Finding, Verdict, look};
use crate::{knobs, report};

/// The findings of a knob.
fn findings(fake: &Fake, served: Served, id: &str) -> Vec<Finding> {
    let host = Host::look(fake, served);
    let knob = knobs().find(|knob| knob.id == id).unwrap();
    look(fake, &host, knob)
}

/// What is said of a knob when its file holds a text, as a word and what is wanted.
fn said(fake: &mut Fake, id: &str, file: &str, text: &str) -> String {
    fake.put(file, text);
    let findings = findings(fake, served(), id);
    let finding = findings.iter().find(|it| it.path.is_empty() || it.path == file);
    match &finding.unwrap_or(&findings[0]).verdict {
        Verdict::Ok => "ok".to_owned(),
        Verdict::Set(value) => format!("set {value}"),
        Verdict::Named(value) => format!("named {value}"),
        Verdict::Yours(what) => format!("yours {what}"),
        Verdict::Moot(why) => format!("moot {why}"),
        Verdict::Unread(why) => format!("unread {why}"),
    }
}

/// Checks a table of texts and what is said of them.
fn check(id: &str, file: &str, cases: &[(&str, &str)]) {
    let mut fake = Fake::new();
    for (text, expected) in cases {
        let said = said(&mut fake, id, file, text);
        assert!(said.starts_with(expected), "{id} {text:?}: {said}, not {expected}");
    }
}

#[test]
fn kernel() {
    let sysctl = |id: &str, cases: &[(&str, &str)]| {
        check(id, &crate::judge::sysctl_path(id), cases);
    };
    sysctl("net.core.somaxconn", &[("1023", "set 1024"), ("1024", "ok"), ("x", "set 1024")]);
    sysctl("net.ipv4.tcp_max_syn_backlog", &[("4095", "set 4096"), ("9000", "ok"), ("?", "moot")]);
    sysctl("net.ipv4.tcp_congestion_control", &[("bbr", "set cubic"), ("reno", "ok")]);
    sysctl("net.ipv4.tcp_slow_start_after_idle", &[("1", "set 0"), ("0", "ok")]);
    sysctl(
        "net.ipv4.tcp_rmem",
        &[
            ("4096\t9\t4194303\n", "set 4096 9 4194304"),
            ("1 2 4194304", "ok"),
            ("1 2", "moot"),
            ("1 2 x", "moot"),
        ],
    );
    sysctl("net.core.rmem_max", &[("1", "ok")]);
    sysctl("net.core.busy_poll", &[("50", "named 0"), ("0", "ok")]);
    sysctl("net.netfilter.nf_conntrack_max", &[("39999", "set 40000"), ("40000", "ok")]);
    sysctl("fs.file-max", &[("75791", "set 75792"), ("9223372036854775807", "ok")]);
    sysctl("fs.nr_open", &[("10255", "set 10256"), ("10256", "ok")]);
    sysctl("kernel.numa_balancing", &[("1", "set 0"), ("0", "ok")]);
    sysctl("net.core.netdev_max_backlog", &[("1000", "set 4096"), ("4096", "ok")]);
}

#[test]
fn packets_are_counted_before_their_queue_is_made_longer() {
    let mut fake = Fake::new();
    fake.put("proc/net/softnet_stat", "0001 00000000 0\n");
    let findings = findings(&fake, served(), "net.core.netdev_max_backlog");
    assert_eq!(findings[0].verdict, Verdict::Ok);
}

#[test]
fn io_uring_that_works_is_fine_whatever_the_setting() {
    let mut fake = Fake::new();
    let refused = Served { ring: Err("not permitted".to_owned()), ..served() };
    let mut verdict = |served: &Served, text: &str| {
        fake.put("proc/sys/kernel/io_uring_disabled", text);
        let findings = findings(&fake, served.clone(), "kernel.io_uring_disabled");
        (findings[0].verdict.clone(), report::stops(&findings))
    };
    assert_eq!(verdict(&served(), "1"), (Verdict::Ok, false));
    assert_eq!(verdict(&refused, "2"), (Verdict::Named("0".to_owned()), true));
    assert_eq!(verdict(&refused, "0"), (Verdict::Ok, false));
}

#[test]
fn memory() {
    let limit = |locked: &str| format!("Max locked memory         9 {locked} bytes\n");
    let (least, below) = (limit("3145728"), limit("3145727"));
    check(
        "limit.memlock",
        "proc/self/limits",
        &[
            (&least, "ok"),
            (&below, "yours at least 3 MiB"),
            ("Max locked memory 1 unlimited x", "ok"),
            ("", "unread"),
        ],
    );
    check(
        "limit.nofile",
        "proc/self/limits",
        &[("Max open files 1 10256 f", "ok"), ("Max open files 1 10255 f", "yours at least 10256")],
    );
    let cases = [("0", "ok"), ("1", "ok"), ("2", "named 0")];
    check("vm.overcommit_memory", "proc/sys/vm/overcommit_memory", &cases);
    let enabled = "sys/kernel/mm/transparent_hugepage/enabled";
    check(
        "thp.enabled",
        enabled,
        &[
            ("[always] madvise never", "set madvise"),
            ("always [madvise] never", "ok"),
            ("always madvise [never]", "ok"),
            ("[always] never", "set never"),
            ("[always]", "moot"),
            ("always", "unread"),
        ],
    );
    check("vm.swappiness", "proc/sys/vm/swappiness", &[("60", "set 1"), ("1", "ok"), ("0", "ok")]);
    let mut fake = Fake::new();
    fake.put("proc/swaps", "Filename Type Size Used Priority\n");
    assert!(said(&mut fake, "vm.swappiness", "proc/sys/vm/swappiness", "60").starts_with("moot"));
}

#[test]
fn disks() {
    let scheduler = "sys/block/sda/queue/scheduler";
    check(
        "disk.scheduler",
        scheduler,
        &[
            ("[none] mq-deadline", "ok"),
            ("none [mq-deadline] kyber", "yours none, if"),
            ("none [kyber]", "set none"),
            ("[kyber]", "moot"),
        ],
    );
    let mut fake = Fake::new();
    fake.put("proc/cpuinfo", "flags : fpu hypervisor sse\n");
    let said = said(&mut fake, "disk.scheduler", scheduler, "none [mq-deadline]");
    assert_eq!(said, "set none");
    check(
        "disk.read_ahead",
        "sys/block/sdb/queue/read_ahead_kb",
        &[("64", "set 128"), ("128", "ok")],
    );
    let throttle = "sys/block/sda/queue/wbt_lat_usec";
    check("disk.write_back_throttle", throttle, &[("0", "named 2000"), ("75000", "ok")]);
    let bytes = "proc/sys/vm/dirty_bytes";
    check("vm.dirty", bytes, &[("0", "set 536870912 bytes"), ("1073741824", "ok")]);
    check("vm.dirty", bytes, &[("1073741825", "set 536870912 bytes")]);
}

/// A line of mountinfo for everything, with these options of the file system.
fn mounted(options: &str) -> String {
    format!("22 1 8:1 / / rw - ext4 /dev/sda1 {options}\n")
}

#[test]
fn mounts() {
    let info = "proc/self/mountinfo";
    for (id, bad) in [
        ("mount.barrier", "nobarrier"),
        ("mount.barrier", "rw,barrier=0"),
        ("mount.data", "rw,data=journal"),
        ("mount.atime", "strictatime"),
        ("mount.discard", "rw,discard"),
    ] {
        let good = mounted("rw,noatime,barrier,data=ordered,nodiscard");
        check(
            id,
            info,
            &[(&mounted(bad), "yours"), (&good, "ok"), ("", "unread"), ("a", "unread")],
        );
    }
}

#[test]
fn a_directory_is_on_the_longest_mount_above_it() {
    let host = Fake::new().host();
    let device = |path: &str| host.mount(path).map(|mount| mount.device.clone());
    assert_eq!(device("/log disk/zk").as_deref(), Some("8:16"));
    assert_eq!(device("/log diskette").as_deref(), Some("8:1"));
    assert_eq!(host.disks, ["sda", "sdb"]);
    assert_eq!(host.nics.len(), 1);
    assert_eq!(host.nics[0].interrupts, [40, 41]);
    assert_eq!(host.cool_cpus(), [3]);
    assert_eq!(host.backlog_drops, 3);
    assert_eq!(host.node_count, 2);
    let unbound = Host { served: Served { hot_cpus: vec![], ..served() }, ..host };
    assert!(unbound.cool_cpus().is_empty());
    assert_eq!(unbound.hot_cpus(), [0, 1, 2, 3]);
}

#[test]
fn a_volume_is_on_the_disks_that_it_is_made_of() {
    let mut fake = Fake::new();
    let dm = "sys/devices/virtual/block/dm-0";
    fake.put(&format!("{dm}/size"), "1\n");
    fake.link("sys/dev/block/253:0", dm);
    fake.link(&format!("{dm}/slaves/sda1"), "sys/devices/pci/block/sda/sda1");
    fake.link(&format!("{dm}/slaves/sdb"), "sys/devices/pci/block/sdb");
    fake.put("proc/self/mountinfo", "22 1 253:0 / / rw - xfs /dev/dm-0 rw\n");
    assert_eq!(fake.host().disks, ["sda", "sdb"]);
}

#[test]
fn cards() {
    let affinity = "proc/irq/40/smp_affinity_list";
    check("nic.irq_affinity", affinity, &[("0-3", "set 3"), ("3", "ok"), ("", "set 3")]);
    let queue = "sys/class/net/eth0/queues/rx-0/rps_cpus";
    check("nic.rps", queue, &[("f", "named 0"), ("8", "ok"), ("00000000,00000000", "ok")]);
    let timeout = "sys/class/net/eth0/gro_flush_timeout";
    check("nic.gro_flush_timeout", timeout, &[("20001", "named 20000"), ("0", "ok")]);
    check("nic.queues", "dev/x", &[("", "yours 1 of eth0")]);
    check("nic.irqbalance", "proc/7/comm", &[("irqbalance", "yours"), ("bash", "ok")]);
    for hot_cpus in [vec![], vec![0, 1, 2, 3]] {
        let served = Served { hot_cpus, ..served() };
        for id in ["nic.irq_affinity", "nic.irqbalance"] {
            let found = findings(&Fake::new(), served.clone(), id);
            assert!(found.iter().all(|it| matches!(it.verdict, Verdict::Moot(_))), "{id}");
        }
    }
}

#[test]
fn processors() {
    let governor = "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor";
    check("cpu.governor", governor, &[("schedutil", "set performance"), ("performance", "ok")]);
    let resume = "sys/devices/system/cpu/cpu1/power/pm_qos_resume_latency_us";
    check("cpu.resume_latency", resume, &[("0", "named 20"), ("n/a", "ok"), ("5", "ok")]);
    let clock = "sys/devices/system/clocksource/clocksource0/current_clocksource";
    check("cpu.clocksource", clock, &[("hpet", "yours tsc"), ("kvm-clock", "ok")]);
    let polls = "sys/module/haltpoll/parameters/guest_halt_poll_ns";
    check("cpu.guest_halt_poll", polls, &[("0", "moot")]);
    let active = "sys/devices/system/cpu/smt/active";
    check("cpu.smt", active, &[("1", "yours fewer executors"), ("0", "ok")]);
    let mut fake = Fake::new();
    fake.put("proc/cpuinfo", "flags\t: hypervisor\n");
    assert_eq!(said(&mut fake, "cpu.guest_halt_poll", polls, "0"), "named 200000");
    assert_eq!(said(&mut fake, "cpu.guest_halt_poll", polls, "50000"), "ok");
    assert!(said(&mut fake, "cpu.resume_latency", resume, "0").starts_with("moot"));
    // The CPU without an executor is not looked at.
    assert_eq!(findings(&fake, served(), "cpu.governor").len(), 3);
}

#[test]
fn the_unit_has_the_limits_and_directories_of_the_configuration() {
    let unit = |served: Served| {
        let found = findings(&Fake::new(), served, "unit.file");
        found[0].target().unwrap().to_owned()
    };
    let text = unit(served());
    let has = |line: &str| assert!(text.lines().any(|it| it == line), "{line} in {text}");
    has("ExecStart=/usr/bin/ringkeeper server \"/etc/ring keeper/zoo.cfg\"");
    has("ReadWritePaths=/data \"/log disk/zk\"");
    has("LimitMEMLOCK=8388608");
    has("LimitNOFILE=65536");
    for line in text.lines() {
        let is_setting = line
            .split_once('=')
            .is_some_and(|(key, _)| key.chars().all(|letter| letter.is_ascii_alphanumeric()));
        let is_other = line.is_empty() || line.starts_with(['#', '[']);
        assert!(is_setting || is_other, "{line}");
    }
    assert!(!text.contains('@') || text.matches('@').count() == 2, "a mark is left: {text}");
    let big = Served {
        locked_bytes: 64 << 20,
        descriptors: 200_000,
        log_directory: "/data".to_owned(),
        config_file: None,
        ..served()
    };
    let text = unit(big);
    for line in ["LimitMEMLOCK=67108864", "LimitNOFILE=200000", "ReadWritePaths=/data"] {
        assert!(text.lines().any(|it| it == line), "{line} in {text}");
    }
    assert!(text.contains("ExecStart=/usr/bin/ringkeeper server\n"));
    let odd = Served { data_directory: "/a%b\"c\\d".to_owned(), ..served() };
    assert!(unit(odd).contains("ReadWritePaths=\"/a%%b\\\"c\\\\d\""));
}

#[test]
fn a_filter_that_lets_io_uring_through_is_fine() {
    let mut fake = Fake::new();
    fake.put("proc/self/status", "Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n");
    let verdict = |ring| {
        let found = findings(&fake, Served { ring, ..served() }, "seccomp.filter");
        (found[0].matters(), report::stops(&found))
    };
    assert_eq!(verdict(Ok(())), (false, false));
    assert_eq!(verdict(Err("not permitted".to_owned())), (true, true));
}

#[test]
fn the_profile_is_what_docker_and_podman_read() {
    let found = findings(&Fake::new(), served(), "seccomp.profile");
    let profile: serde_json::Value = serde_json::from_str(found[0].target().unwrap()).unwrap();
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let rules = profile["syscalls"].as_array().unwrap();
    let names = |rule: &serde_json::Value| -> Vec<String> {
        let names = rule["names"].as_array().unwrap();
        names.iter().map(|name| name.as_str().unwrap().to_owned()).collect()
    };
    let free = rules.iter().filter(|it| it["action"] == "SCMP_ACT_ALLOW" && it["args"].is_null());
    let free: Vec<Vec<String>> = free.map(names).collect();
    assert!(free.iter().all(|names| names.is_sorted_by(|left, right| left < right)));
    let allows = |name: &str| free.iter().flatten().any(|it| it == name);
    for name in ["io_uring_setup", "io_uring_enter", "io_uring_register", "membarrier", "execve"] {
        assert!(allows(name), "{name} is refused");
    }
    let dangerous = [
        "mount",
        "umount2",
        "bpf",
        "ptrace",
        "perf_event_open",
        "userfaultfd",
        "keyctl",
        "add_key",
        "unshare",
        "setns",
        "kexec_load",
        "init_module",
        "reboot",
        "clone",
        "clone3",
        "socket",
        "personality",
        "process_vm_writev",
        "open_by_handle_at",
        "mknod",
        "pivot_root",
        "swapon",
    ];
    for name in dangerous {
        assert!(!allows(name), "{name} is allowed as it comes");
    }
    for rule in rules.iter().filter(|rule| rule["args"].is_array()) {
        assert_eq!(names(rule).len(), 1, "{rule}");
    }
}

#[test]
fn who_profiles_asks_for_it() {
    let path = "proc/sys/kernel/perf_event_paranoid";
    check(
        "kernel.perf_event_paranoid",
        path,
        &[("2", "named 1"), ("1", "ok"), ("-1", "ok"), ("?", "moot")],
    );
    let cases = [("1", "named 0"), ("0", "ok")];
    check("kernel.kptr_restrict", "proc/sys/kernel/kptr_restrict", &cases);
    let fake = Fake::new();
    let found = findings(&fake, served(), "kernel.perf_event_paranoid");
    assert!(report::matters(&found).is_empty(), "it makes nothing faster");
}
