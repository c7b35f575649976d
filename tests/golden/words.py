"""Four-letter words: their shape, and what the monitors in the field read out of them.

A shape is the answer with every number, address and date masked, and repeated lines folded. What a JVM says of
itself (`envi`) counts by its keys.
"""

import re

SHAPED = ["ruok", "isro", "srvr", "stat", "cons", "conf", "dump", "wchs", "wchc", "wchp", "dirs", "crst", "srst"]

MASKS = [
    (re.compile(r"version: [^,]+, built on .*"), "version: <version>, built on <date>"),
    (re.compile(r"/\d+\.\d+\.\d+\.\d+:\d+"), "/<address>"),
    (re.compile(r"(?<==)/\S+"), "<directory>"),
    (re.compile(r"expire at .*:$"), "expire at <date>:"),
    (re.compile(r"lop=[A-Z_0-9a-z]+"), "lop=<operation>"),
    (re.compile(r"0x[0-9a-f]+"), "<hex>"),
    (re.compile(r"-?\d+(\.\d+)?"), "<n>"),
]


def shape(answer):
    """The masked lines in order, each once."""
    lines = []
    for line in answer.splitlines():
        for pattern, mask in MASKS:
            line = pattern.sub(mask, line)
        if line not in lines:
            lines.append(line)
    return lines


def keys(answer, separator):
    """The names of lines `name SEPARATOR value`, sorted."""
    return sorted({line.split(separator)[0] for line in answer.splitlines() if separator in line})


SUMMARY = re.compile(r"zk_(avg|min|max|cnt|sum|p50|p95|p99|p999)_(.+)")


def metrics(mntr):
    """The names of mntr, those of one summary on one line: `zk_?_readlatency: avg cnt max min sum`."""
    plain, summaries = [], {}
    for name in keys(mntr, "\t"):
        # Apache adds names by namespace as paths are touched; those of a run are nobody's contract.
        if "_per_namespace" in name:
            continue
        if hit := SUMMARY.fullmatch(name):
            summaries.setdefault(hit[2], []).append(hit[1])
        else:
            plain.append(name)
    return plain + [f"zk_?_{name}: {' '.join(summaries[name])}" for name in sorted(summaries)]


# go-zookeeper's FLWSrvr. Its expression for the version wants MM/DD/YYYY and has failed on Apache since 3.6.
GO_LATENCY = re.compile(r"^Latency min/avg/max: (\d+)/([0-9.]+)/(\d+)", re.M)
GO_NETWORK = re.compile(r"^Received: (\d+).*\nSent: (\d+).*\nConnections: (\d+).*\nOutstanding: (\d+)", re.M)
GO_STATE = re.compile(r"^Zxid: (0x[A-Za-z0-9]+).*\nMode: (\w+).*\nNode count: (\d+)", re.M)
# go-zookeeper's FLWCons, one connection a line.
GO_CONNECTION = re.compile(
    r"^ /(\d+\.\d+\.\d+\.\d+:\d+)\[\d+\]\(queued=(\d+),recved=(\d+),sent=(\d+),sid=(0x[A-Za-z0-9]+),"
    r"lop=(\w+),est=(\d+),to=(\d+),lcxid=(0x[A-Za-z0-9]+),lzxid=(0x[A-Za-z0-9]+),lresp=(\d+),"
    r"llat=(\d+),minlat=(\d+),avglat=(\d+),maxlat=(\d+)\)",
    re.M,
)
# kazoo's server_version.
KAZOO_VERSION = re.compile(r"^Zookeeper version: (\d+\.)+\d+", re.M)
# collectd's zookeeper plugin and the usual Telegraf and Datadog checks: these names, a tab, a number.
MONITORED = """
zk_version zk_avg_latency zk_min_latency zk_max_latency zk_packets_received zk_packets_sent
zk_num_alive_connections zk_outstanding_requests zk_server_state zk_znode_count zk_watch_count
zk_ephemerals_count zk_approximate_data_size zk_open_file_descriptor_count zk_max_file_descriptor_count
""".split()


def check_parsers(srvr, cons, mntr):
    """What a monitor would fail to read, as lines."""
    wrong = []
    for name, pattern, answer in [
        ("go-zookeeper, srvr's latency", GO_LATENCY, srvr),
        ("go-zookeeper, srvr's counters", GO_NETWORK, srvr),
        ("go-zookeeper, srvr's state", GO_STATE, srvr),
        ("kazoo, srvr's version", KAZOO_VERSION, srvr),
        ("go-zookeeper, cons", GO_CONNECTION, cons),
    ]:
        if not pattern.search(answer):
            wrong.append(f"{name}: not found in {answer!r}")
    rows = dict(line.split("\t", 1) for line in mntr.splitlines() if "\t" in line)
    for name in MONITORED:
        value = rows.get(name)
        number = value is not None and re.fullmatch(r"\d+(\.\d+)?", value)
        if not (number or (value and name in ("zk_version", "zk_server_state"))):
            wrong.append(f"mntr: {name} is {value!r}")
    for line in mntr.splitlines():
        if not re.fullmatch(r"zk_[a-z0-9_]+(\{[^}]*\})?\t.*", line):
            wrong.append(f"mntr: not `zk_name<tab>value`: {line!r}")
    return wrong
