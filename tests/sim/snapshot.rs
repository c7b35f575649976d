//! Snapshots as the simulator keeps and sends them: the tree at one version, in bytes that check
//! themselves. What a snapshot holds is read through the real tree's views and goes back through
//! its real builder; the files' own formats have tests of their own.

use std::collections::BTreeMap;
use std::sync::Arc;

use ringkeeper::time::Time;
use ringkeeper::tree::Tree;
use ringkeeper::tree::acl::AclId;
use ringkeeper::tree::builder::{Builder, Loaded};
use ringkeeper::tree::record::Meta;
use ringkeeper::tree::view::Node;
use ringkeeper::tree::writer::{TreeConfig, Writer};
use ringkeeper::wire::acl::EncodedAcl;
use ringkeeper::wire::jute::{Reader, Write as _};
use ringkeeper::zxid::Zxid;

/// A state, taken out of a snapshot.
pub struct State {
    pub writer: Writer,
    pub sessions: Vec<(i64, i32)>,
    pub zxid: Zxid,
}

/// The tree at `zxid` and the sessions of then, sealed with a checksum. Where `applied` is set the
/// tree is read at its newest state instead: the mistake that a snapshot must never make.
pub fn encode(tree: &Tree, zxid: Zxid, sessions: &[(i64, i32)], applied: bool) -> Arc<[u8]> {
    let view = tree.view(if applied { Zxid::MAX } else { zxid });
    let mut nodes: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for shard in 0..tree.shard_count() {
        view.for_each_in_shard(shard, |node| {
            let mut bytes = Vec::new();
            encode_node(tree, node, &mut bytes);
            nodes.insert(node.path().to_owned(), bytes);
        });
    }
    let mut out = Vec::new();
    out.put_i64(zxid.raw());
    out.put_length(sessions.len());
    for (session, timeout_ms) in sessions {
        out.put_i64(*session);
        out.put_i32(*timeout_ms);
    }
    out.put_length(nodes.len());
    for (path, node) in nodes {
        out.put_string(&path);
        out.extend_from_slice(&node);
    }
    let checksum = crc32c::crc32c(&out);
    out.put_i32(checksum.cast_signed());
    out.into()
}

fn encode_node(tree: &Tree, node: &Node<'_>, out: &mut Vec<u8>) {
    let meta = node.meta();
    out.put_buffer(node.data());
    for long in [meta.czxid.raw(), meta.mzxid.raw(), meta.pzxid.raw()] {
        out.put_i64(long);
    }
    for long in [meta.ctime_ms, meta.mtime_ms, meta.owner] {
        out.put_i64(long);
    }
    for int in [meta.version, meta.cversion, meta.aversion] {
        out.put_i32(int);
    }
    out.extend_from_slice(tree.acls().list(meta.acl).encoded.as_bytes());
    out.put_length(node.child_count());
    for name in node.children().iter() {
        out.put_string(name);
    }
}

/// The state in a snapshot's bytes; `None` where they are damaged.
pub fn decode(bytes: &[u8], config: TreeConfig, now: Time) -> Option<State> {
    let (body, checksum) = bytes.split_last_chunk::<4>()?;
    if crc32c::crc32c(body).cast_signed() != i32::from_be_bytes(*checksum) {
        return None;
    }
    let mut reader = Reader::new(body);
    let zxid = Zxid::from_raw(reader.i64().ok()?);
    let mut sessions = Vec::new();
    for _ in 0..reader.count(12).ok()? {
        sessions.push((reader.i64().ok()?, reader.i32().ok()?));
    }
    let count = reader.count(8).ok()?;
    let mut builder = Builder::new(config, count, now);
    let mut nodes = Vec::with_capacity(count);
    for _ in 0..count {
        nodes.push(decode_node(&mut reader, &mut builder)?);
    }
    let mut part = builder.part();
    for (path, data, meta, names) in nodes {
        let children = names.into_iter();
        part.add(Loaded { path, data, meta, children }).ok()?;
    }
    let sums = part.finish();
    let writer = builder.finish([sums], zxid, None).ok()?;
    Some(State { writer, sessions, zxid })
}

type Decoded<'a> = (&'a str, Option<&'a [u8]>, Meta, Vec<&'a str>);

fn decode_node<'a>(reader: &mut Reader<'a>, builder: &mut Builder) -> Option<Decoded<'a>> {
    let path = reader.string().ok()?;
    let data = reader.buffer().ok()?;
    let mut zxid = || reader.i64().ok().map(Zxid::from_raw);
    let (czxid, mzxid, pzxid) = (zxid()?, zxid()?, zxid()?);
    let (ctime_ms, mtime_ms) = (reader.i64().ok()?, reader.i64().ok()?);
    let owner = reader.i64().ok()?;
    let (version, cversion) = (reader.i32().ok()?, reader.i32().ok()?);
    let aversion = reader.i32().ok()?;
    let acl: AclId = builder.add_acl(&EncodedAcl::decode(reader).ok()?);
    let names = reader.strings().ok()?;
    let meta = Meta {
        czxid,
        mzxid,
        pzxid,
        ctime_ms,
        mtime_ms,
        owner,
        version,
        cversion,
        aversion,
        acl,
        ..Meta::default()
    };
    Some((path, data, meta, names))
}
