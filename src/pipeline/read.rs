//! Reads: answered on the core that owns the connection, at the version that it serves.
//!
//! Source: `FinalRequestProcessor.java`. A read does not check its path: a path that is not valid
//! names no node.

use crate::pipeline::auth::{self, AuthConfig};
use crate::tree::Tree;
use crate::tree::acl::AclId;
use crate::tree::view::{Node, View};
use crate::tree::watch::{CatchUp, CatchUpList, WatchKind, Watcher, Watches, catch_up};
use crate::wire::acl::{EncodedAcl, Id, Perms};
use crate::wire::error::ErrorCode;
use crate::wire::opcode::OpCode;
use crate::wire::request::{ReadOp, Request, SetWatches};
use crate::wire::response::{self, EventKind, OpResult, ReplyHeader};
use crate::zxid::Zxid;

type Result<T> = std::result::Result<T, ErrorCode>;

/// The state that a read sees, and who reads.
pub struct Reads<'a> {
    pub tree: &'a Tree,
    pub view: &'a View<'a>,
    pub watches: &'a mut Watches,
    pub watcher: Watcher,
    pub session: i64,
    pub ids: &'a [Id],
    pub auth: &'a AuthConfig,
    pub skip_acl: bool,
}

impl Reads<'_> {
    /// Appends the whole reply to a read, with the events that a setWatches makes up for before it.
    /// `version` is what the read sees.
    pub fn put_reply(
        &mut self,
        (xid, version): (i32, Zxid),
        op: OpCode,
        body: &[u8],
        out: &mut Vec<u8>,
    ) {
        let decoded = Request::decode(op, body);
        if let Ok(Request::SetWatches(set)) = &decoded {
            self.set_watches(set, out);
            response::put_header_only(out, &ReplyHeader { xid, zxid: version, error: 0 });
            return;
        }
        let frame = response::begin_frame(out);
        ReplyHeader { xid, zxid: version, error: 0 }.encode(out);
        let body_at = out.len();
        let outcome = match &decoded {
            Ok(request) => self.answer(request, out),
            Err(_) => Err(ErrorCode::MarshallingError),
        };
        if let Err(error) = outcome {
            out.truncate(body_at - ReplyHeader::SIZE);
            ReplyHeader { xid, zxid: version, error: error.raw() }.encode(out);
        }
        response::finish_frame(out, frame);
    }

    /// Appends the body of the answer to `request`.
    ///
    /// # Errors
    /// The error of the reply; what was appended so far is then void.
    pub fn answer(&mut self, request: &Request<'_>, body: &mut Vec<u8>) -> Result<()> {
        match *request {
            Request::GetData { path, watch } => {
                let node = self.readable(path)?;
                response::put_data(body, node.data(), &node.stat());
                self.watch_if(watch, path, WatchKind::Data);
            }
            Request::Exists { path, watch } => self.exists(path, watch, body)?,
            Request::GetChildren { path, watch } => {
                response::put_strings(body, self.readable(path)?.children().iter());
                self.watch_if(watch, path, WatchKind::Child);
            }
            Request::GetChildren2 { path, watch } => {
                let node = self.readable(path)?;
                response::put_children_and_stat(body, node.children().iter(), &node.stat());
                self.watch_if(watch, path, WatchKind::Child);
            }
            Request::GetAcl { path } => self.get_acl(path, body)?,
            Request::MultiRead(ref ops) => self.multi_read(ops, body),
            Request::AddWatch { path, mode } => {
                self.watches.add(path, self.watcher, WatchKind::from(mode));
                response::put_watch_added(body);
            }
            Request::CheckWatches { path, kind } => {
                match self.watches.contains(path, self.watcher, kind) {
                    true => {}
                    false => return Err(ErrorCode::NoWatcher),
                }
            }
            Request::RemoveWatches { path, kind } => {
                match self.watches.remove(path, self.watcher, kind) {
                    true => {}
                    false => return Err(ErrorCode::NoWatcher),
                }
            }
            Request::WhoAmI => response::put_identities(body, auth::identities(self.ids)),
            Request::GetAllChildrenNumber { path } => {
                self.readable(path)?;
                let count = self.view.all_children_count(path).unwrap_or(0);
                response::put_count(body, i32::try_from(count).unwrap_or(i32::MAX));
            }
            Request::GetEphemerals { prefix } => self.get_ephemerals(prefix, body),
            Request::Ping => {}
            _ => return Err(ErrorCode::Unimplemented),
        }
        Ok(())
    }

    /// The node at `path`, where there is one and the reader may read it.
    fn readable(&self, path: &str) -> Result<Node<'_>> {
        let node = self.view.node(path).ok_or(ErrorCode::NoNode)?;
        self.check_acl(node.acl(), Perms::READ)?;
        Ok(node)
    }

    fn check_acl(&self, acl: AclId, wanted: Perms) -> Result<()> {
        match self.may(acl, wanted) {
            true => Ok(()),
            false => Err(ErrorCode::NoAuth),
        }
    }

    fn may(&self, acl: AclId, wanted: Perms) -> bool {
        acl == AclId::OPEN
            || self.skip_acl
            || self.auth.check_acl(&self.tree.acls().list(acl).entries, wanted, self.ids)
    }

    fn watch_if(&mut self, watch: bool, path: &str, kind: WatchKind) {
        if watch {
            self.watches.add(path, self.watcher, kind);
        }
    }

    /// The watch is set even where there is no node: it fires when one is created.
    fn exists(&mut self, path: &str, watch: bool, body: &mut Vec<u8>) -> Result<()> {
        if path.contains('\0') {
            return Err(ErrorCode::BadArguments);
        }
        let stat = match self.view.node(path) {
            Some(node) => {
                self.check_acl(node.acl(), Perms::READ)?;
                Some(node.stat())
            }
            None => None,
        };
        self.watch_if(watch, path, WatchKind::Data);
        response::put_stat(body, &stat.ok_or(ErrorCode::NoNode)?);
        Ok(())
    }

    /// Whoever may only read sees the users of digest entries, and not their hashes.
    fn get_acl(&self, path: &str, body: &mut Vec<u8>) -> Result<()> {
        let node = self.view.node(path).ok_or(ErrorCode::NoNode)?;
        if node.acl() == AclId::OPEN {
            response::put_acl(body, &EncodedAcl::OPEN, &node.stat());
            return Ok(());
        }
        self.check_acl(node.acl(), Perms(Perms::READ.0 | Perms::ADMIN.0))?;
        let list = self.tree.acls().list(node.acl());
        match self.check_acl(node.acl(), Perms::ADMIN) {
            Ok(()) => response::put_acl(body, &list.encoded, &node.stat()),
            Err(_) => {
                response::put_acl(body, &auth::mask_digests(&list.entries), &node.stat());
            }
        }
        Ok(())
    }

    fn multi_read(&self, ops: &[ReadOp<'_>], body: &mut Vec<u8>) {
        for op in ops {
            let outcome = match *op {
                ReadOp::GetData { path } => self.readable(path).map(|node| {
                    let stat = node.stat();
                    let result = OpResult::Data { data: node.data(), stat: &stat };
                    response::put_op_result(body, &result);
                }),
                ReadOp::GetChildren { path } => self
                    .readable(path)
                    .map(|node| response::put_children_result(body, node.children().iter())),
            };
            if let Err(error) = outcome {
                response::put_op_result(body, &OpResult::Error(error.raw()));
            }
        }
        response::put_multi_end(body);
    }

    fn get_ephemerals(&self, prefix: &str, body: &mut Vec<u8>) {
        let is_all = matches!(prefix.trim(), "" | "/");
        let paths = self.view.ephemerals(self.session);
        let wanted = paths.iter().filter(|path| is_all || path.starts_with(prefix));
        response::put_strings(body, wanted);
    }

    /// Sets the watches of a client that has moved here, and appends to `events` what it missed
    /// since the transaction that it names.
    pub fn set_watches(&mut self, set: &SetWatches<'_>, events: &mut Vec<u8>) {
        let lists: [(&[&str], CatchUpList); 3] = [
            (&set.data, CatchUpList::Data),
            (&set.exist, CatchUpList::Exist),
            (&set.child, CatchUpList::Child),
        ];
        for (paths, list) in lists {
            for &path in paths {
                let stat = self.view.node(path).map(|node| node.stat());
                match catch_up(list, stat.as_ref(), set.relative_zxid) {
                    CatchUp::Fire(event) => self.tell(event, path, events),
                    CatchUp::Register(kind) => self.watches.add(path, self.watcher, kind),
                }
            }
        }
        for &path in &set.persistent {
            self.watches.add(path, self.watcher, WatchKind::Persistent);
        }
        for &path in &set.persistent_recursive {
            self.watches.add(path, self.watcher, WatchKind::PersistentRecursive);
        }
    }

    /// Appends a missed event, unless the reader may not read the node that it tells of.
    fn tell(&self, event: EventKind, path: &str, events: &mut Vec<u8>) {
        let acl = self.view.node(path).map_or(AclId::OPEN, |node| node.acl());
        if self.may(acl, Perms::READ) {
            response::put_event(events, event, response::ZXID_REPLAYED, path);
        }
    }
}

/// Whether somebody who has shown `ids` may read what the list `acl` guards.
pub fn may_read(tree: &Tree, acl: AclId, ids: &[Id], auth: &AuthConfig) -> bool {
    acl == AclId::OPEN || auth.check_acl(&tree.acls().list(acl).entries, Perms::READ, ids)
}
