import static org.apache.zookeeper.CreateMode.*;
import static org.apache.zookeeper.Watcher.Event.EventType.*;
import static org.apache.zookeeper.ZooDefs.Ids.OPEN_ACL_UNSAFE;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.zookeeper.AddWatchMode;
import org.apache.zookeeper.KeeperException;
import org.apache.zookeeper.KeeperException.Code;
import org.apache.zookeeper.Op;
import org.apache.zookeeper.OpResult;
import org.apache.zookeeper.WatchedEvent;
import org.apache.zookeeper.Watcher;
import org.apache.zookeeper.ZooKeeper;
import org.apache.zookeeper.data.ACL;
import org.apache.zookeeper.data.Id;
import org.apache.zookeeper.data.Stat;

/** What Apache's own Java client sees of a server, told as stories. Argument: the server's port on 127.0.0.1. */
public final class Stories {
    private static final int TIMEOUT_MS = 4000;
    private static int port;

    /** A client that keeps its events in the order in which they came. */
    private static final class Client implements Watcher, AutoCloseable {
        final BlockingQueue<WatchedEvent> events = new LinkedBlockingQueue<>();
        final CountDownLatch connected = new CountDownLatch(1);
        final ZooKeeper zk;

        Client(String address) throws Exception {
            zk = new ZooKeeper(address, TIMEOUT_MS, this);
            await();
        }

        Client(String address, long session, byte[] password) throws Exception {
            zk = new ZooKeeper(address, TIMEOUT_MS, this, session, password);
            await();
        }

        private void await() throws Exception {
            check(connected.await(10, TimeUnit.SECONDS), "not connected after 10 s");
        }

        @Override
        public void process(WatchedEvent event) {
            if (event.getType() != None) {
                events.add(event);
            } else if (event.getState() == Event.KeeperState.SyncConnected
                    || event.getState() == Event.KeeperState.Expired) {
                connected.countDown();
            }
        }

        String create(String path, org.apache.zookeeper.CreateMode mode) throws Exception {
            return zk.create(path, bytes("x"), OPEN_ACL_UNSAFE, mode);
        }

        void expect(Event.EventType type, String path) throws Exception {
            WatchedEvent event = events.poll(10, TimeUnit.SECONDS);
            check(event != null, "no event, expected " + type + " " + path);
            equal(type + " " + path, event.getType() + " " + event.getPath());
        }

        /** A round trip: any event of what happened before is here when it returns. */
        void expectNothing() throws Exception {
            zk.exists("/", false);
            check(events.isEmpty(), "an event too many: " + events);
        }

        @Override
        public void close() throws Exception {
            zk.close();
        }
    }

    private interface Story {
        void tell() throws Exception;
    }

    private interface Condition {
        boolean now() throws Exception;
    }

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    private static void check(boolean holds, String otherwise) {
        if (!holds) {
            throw new AssertionError(otherwise);
        }
    }

    private static void equal(Object expected, Object found) {
        check(expected.equals(found), "expected " + expected + ", found " + found);
    }

    private static void fails(Code code, Story story) throws Exception {
        try {
            story.tell();
        } catch (KeeperException failure) {
            equal(code, failure.code());
            return;
        }
        throw new AssertionError("went well, expected " + code);
    }

    private static void until(String what, Condition holds) throws Exception {
        long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(15);
        while (!holds.now()) {
            check(System.nanoTime() < end, what + ": not after 15 s");
            Thread.sleep(20);
        }
    }

    private static String direct() {
        return "127.0.0.1:" + port;
    }

    private static void multiIsAllOrNothing() throws Exception {
        try (Client one = new Client(direct())) {
            List<OpResult> results = one.zk.multi(Arrays.asList(
                    Op.create("/multi", bytes("a"), OPEN_ACL_UNSAFE, PERSISTENT),
                    Op.create("/multi/seq-", null, OPEN_ACL_UNSAFE, PERSISTENT_SEQUENTIAL),
                    Op.setData("/multi", bytes("b"), 0),
                    Op.check("/multi", 1),
                    Op.create("/multi/gone", null, OPEN_ACL_UNSAFE, EPHEMERAL),
                    Op.delete("/multi/gone", -1)));
            equal(6, results.size());
            equal("/multi/seq-0000000000", ((OpResult.CreateResult) results.get(1)).getPath());
            equal(1, ((OpResult.SetDataResult) results.get(2)).getStat().getVersion());
            Stat stat = one.zk.exists("/multi/seq-0000000000", false);
            equal(one.zk.exists("/multi", false).getMzxid(), stat.getCzxid());
            try {
                one.zk.multi(Arrays.asList(
                        Op.setData("/multi", bytes("c"), -1), Op.delete("/multi/nope", -1), Op.check("/multi", 1)));
                throw new AssertionError("a failing multi went well");
            } catch (KeeperException.NoNodeException failure) {
                List<Integer> errors = new ArrayList<>();
                for (OpResult result : failure.getResults()) {
                    errors.add(((OpResult.ErrorResult) result).getErr());
                }
                equal(Arrays.asList(0, Code.NONODE.intValue(), Code.RUNTIMEINCONSISTENCY.intValue()), errors);
            }
            equal("b", new String(one.zk.getData("/multi", false, null), StandardCharsets.UTF_8));
        }
    }

    private static void multiReadAnswersEachOnItsOwn() throws Exception {
        try (Client one = new Client(direct())) {
            one.create("/reads", PERSISTENT);
            one.create("/reads/child", PERSISTENT);
            List<OpResult> results = one.zk.multi(
                    Arrays.asList(Op.getData("/reads"), Op.getData("/none"), Op.getChildren("/reads")));
            equal("x", new String(((OpResult.GetDataResult) results.get(0)).getData(), StandardCharsets.UTF_8));
            equal(Code.NONODE.intValue(), ((OpResult.ErrorResult) results.get(1)).getErr());
            equal(Collections.singletonList("child"), ((OpResult.GetChildrenResult) results.get(2)).getChildren());
        }
    }

    private static void watchesFireOnceAndInOrder() throws Exception {
        try (Client one = new Client(direct()); Client two = new Client(direct())) {
            check(one.zk.exists("/watch", true) == null, "/watch is there");
            two.create("/watch", PERSISTENT);
            one.expect(NodeCreated, "/watch");
            two.zk.setData("/watch", bytes("y"), -1);
            one.expectNothing();
            one.zk.getData("/watch", true, null);
            one.zk.getChildren("/watch", true);
            two.create("/watch/child", PERSISTENT);
            one.expect(NodeChildrenChanged, "/watch");
            two.zk.setData("/watch", bytes("z"), -1);
            one.expect(NodeDataChanged, "/watch");
            one.zk.getChildren("/watch/child", true);
            one.zk.getData("/watch/child", true, null);
            two.zk.delete("/watch/child", -1);
            one.expect(NodeDeleted, "/watch/child");
            one.expectNothing();
        }
    }

    private static void persistentWatchesStay() throws Exception {
        try (Client one = new Client(direct()); Client two = new Client(direct())) {
            one.zk.addWatch("/stay", AddWatchMode.PERSISTENT);
            one.zk.addWatch("/tree", AddWatchMode.PERSISTENT_RECURSIVE);
            two.create("/stay", PERSISTENT);
            two.create("/stay/child", PERSISTENT);
            two.zk.setData("/stay", bytes("y"), -1);
            two.zk.setData("/stay/child", bytes("y"), -1);
            two.zk.delete("/stay/child", -1);
            one.expect(NodeCreated, "/stay");
            one.expect(NodeChildrenChanged, "/stay");
            one.expect(NodeDataChanged, "/stay");
            one.expect(NodeChildrenChanged, "/stay");
            two.create("/tree", PERSISTENT);
            two.create("/tree/a", PERSISTENT);
            two.create("/tree/a/b", PERSISTENT);
            two.zk.setData("/tree/a/b", bytes("y"), -1);
            two.zk.delete("/tree/a/b", -1);
            one.expect(NodeCreated, "/tree");
            one.expect(NodeCreated, "/tree/a");
            one.expect(NodeCreated, "/tree/a/b");
            one.expect(NodeDataChanged, "/tree/a/b");
            one.expect(NodeDeleted, "/tree/a/b");
            one.zk.removeAllWatches("/tree", Watcher.WatcherType.Any, false);
            one.expect(PersistentWatchRemoved, "/tree");
            two.zk.setData("/tree", bytes("z"), -1);
            one.expectNothing();
            fails(Code.NOWATCHER, () -> one.zk.removeAllWatches("/tree", Watcher.WatcherType.Any, false));
        }
    }

    private static void ephemeralsEndWithTheirSession() throws Exception {
        try (Client two = new Client(direct())) {
            try (Client one = new Client(direct())) {
                one.create("/ephemeral", EPHEMERAL);
                equal(one.zk.getSessionId(), two.zk.exists("/ephemeral", true).getEphemeralOwner());
                fails(Code.NOCHILDRENFOREPHEMERALS, () -> two.create("/ephemeral/child", PERSISTENT));
                equal(Collections.singletonList("/ephemeral"), one.zk.getEphemerals());
            }
            two.expect(NodeDeleted, "/ephemeral");
            try (Proxy proxy = new Proxy(port)) {
                Client lost = new Client(proxy.address());
                lost.create("/ephemeral", EPHEMERAL);
                two.zk.exists("/ephemeral", true);
                proxy.cut();
                two.expect(NodeDeleted, "/ephemeral");
                proxy.mend();
                until("the client learns that its session is gone",
                        () -> lost.zk.getState() == ZooKeeper.States.CLOSED);
            }
        }
    }

    private static void aSessionIsTakenUpAgain() throws Exception {
        try (Client two = new Client(direct()); Proxy proxy = new Proxy(port)) {
            Client one = new Client(proxy.address());
            one.create("/again", EPHEMERAL);
            long session = one.zk.getSessionId();
            proxy.cut();
            try (Client next = new Client(direct(), session, one.zk.getSessionPasswd())) {
                equal(session, next.zk.getSessionId());
                equal(session, next.zk.exists("/again", false).getEphemeralOwner());
                Client thief = new Client(direct(), session, new byte[16]);
                equal(ZooKeeper.States.CLOSED, thief.zk.getState());
                check(two.zk.exists("/again", false) != null, "a wrong password ended the session");
                // Apache drops the owner's connection before it looks at the password.
                until("the session's owner is served again", () -> {
                    try {
                        return next.zk.exists("/again", false) != null;
                    } catch (KeeperException.ConnectionLossException dropped) {
                        return false;
                    }
                });
            }
            check(two.zk.exists("/again", false) == null, "the ephemeral outlived its session");
        }
    }

    private static void watchesSurviveAReconnect() throws Exception {
        try (Client two = new Client(direct()); Proxy proxy = new Proxy(port);
                Client one = new Client(proxy.address())) {
            for (String name : Arrays.asList("data", "deleted", "children", "same", "stays", "below")) {
                two.create("/re-" + name, PERSISTENT);
            }
            one.zk.getData("/re-data", true, null);
            one.zk.getData("/re-deleted", true, null);
            one.zk.getChildren("/re-children", true);
            one.zk.getData("/re-same", true, null);
            one.zk.exists("/re-created", true);
            one.zk.addWatch("/re-stays", AddWatchMode.PERSISTENT);
            one.zk.addWatch("/re-below", AddWatchMode.PERSISTENT_RECURSIVE);
            proxy.cut();
            two.zk.setData("/re-data", bytes("y"), -1);
            two.zk.delete("/re-deleted", -1);
            two.create("/re-children/new", PERSISTENT);
            two.create("/re-created", PERSISTENT);
            until("the client sees the cut", () -> !one.zk.getState().isConnected());
            proxy.mend();
            until("the client is back", () -> one.zk.getState().isConnected());
            List<String> seen = new ArrayList<>();
            for (int count = 0; count < 4; count++) {
                WatchedEvent event = one.events.poll(10, TimeUnit.SECONDS);
                check(event != null, "an event is missing behind " + seen);
                seen.add(event.getType() + " " + event.getPath());
            }
            Collections.sort(seen);
            equal(Arrays.asList("NodeChildrenChanged /re-children", "NodeCreated /re-created",
                    "NodeDataChanged /re-data", "NodeDeleted /re-deleted"), seen);
            two.zk.setData("/re-same", bytes("y"), -1);
            one.expect(NodeDataChanged, "/re-same");
            for (int count = 0; count < 2; count++) {
                two.zk.setData("/re-stays", bytes("y"), -1);
                one.expect(NodeDataChanged, "/re-stays");
            }
            two.create("/re-below/deep", PERSISTENT);
            one.expect(NodeCreated, "/re-below/deep");
            one.expectNothing();
        }
    }

    private static void containersAndTtlNodesAreReaped() throws Exception {
        try (Client one = new Client(direct())) {
            one.create("/container", CONTAINER);
            one.create("/container/child", PERSISTENT);
            one.zk.create("/ttl", bytes("x"), OPEN_ACL_UNSAFE, PERSISTENT_WITH_TTL, new Stat(), 300);
            one.zk.create("/ttl-parent", bytes("x"), OPEN_ACL_UNSAFE, PERSISTENT_WITH_TTL, new Stat(), 300);
            one.create("/ttl-parent/child", PERSISTENT);
            one.create("/container-new", CONTAINER);
            until("the TTL node is reaped", () -> one.zk.exists("/ttl", false) == null);
            check(one.zk.exists("/container", false) != null, "a container with a child was reaped");
            check(one.zk.exists("/ttl-parent", false) != null, "a TTL node with a child was reaped");
            one.zk.delete("/container/child", -1);
            one.zk.delete("/ttl-parent/child", -1);
            until("the container is reaped", () -> one.zk.exists("/container", false) == null);
            until("the TTL parent is reaped", () -> one.zk.exists("/ttl-parent", false) == null);
            check(one.zk.exists("/container-new", false) != null, "a container that never had a child was reaped");
        }
    }

    private static void aclsAreEnforced() throws Exception {
        try (Client owner = new Client(direct()); Client other = new Client(direct());
                Client root = new Client(direct())) {
            owner.zk.addAuthInfo("digest", bytes("owner:secret"));
            root.zk.addAuthInfo("digest", bytes("super:test"));
            owner.zk.create("/mine", bytes("x"), org.apache.zookeeper.ZooDefs.Ids.CREATOR_ALL_ACL, PERSISTENT);
            fails(Code.NOAUTH, () -> other.zk.getData("/mine", false, null));
            fails(Code.NOAUTH, () -> other.zk.setData("/mine", bytes("y"), -1));
            fails(Code.NOAUTH, () -> other.create("/mine/child", PERSISTENT));
            fails(Code.NOAUTH, () -> other.zk.getACL("/mine", new Stat()));
            owner.create("/mine/child", PERSISTENT);
            fails(Code.NOAUTH, () -> other.zk.delete("/mine/child", -1));
            root.zk.setData("/mine", bytes("z"), -1);
            ACL world = new ACL(org.apache.zookeeper.ZooDefs.Perms.READ, new Id("world", "anyone"));
            ACL digest = owner.zk.getACL("/mine", new Stat()).get(0);
            owner.zk.setACL("/mine", Arrays.asList(world, digest), 0);
            equal("z", new String(other.zk.getData("/mine", false, null), StandardCharsets.UTF_8));
            equal("owner:x", other.zk.getACL("/mine", new Stat()).get(1).getId().getId());
            fails(Code.BADVERSION, () -> owner.zk.setACL("/mine", OPEN_ACL_UNSAFE, 0));
            fails(Code.INVALIDACL, () -> other.zk.create(
                    "/nobody", null, org.apache.zookeeper.ZooDefs.Ids.CREATOR_ALL_ACL, PERSISTENT));
            other.zk.addAuthInfo("digest", bytes("owner:secret"));
            other.zk.setData("/mine", bytes("y"), 1);
        }
    }

    private static void largeNodesGoThrough() throws Exception {
        try (Client one = new Client(direct()); Client two = new Client(direct())) {
            byte[] large = new byte[1_000_235];
            for (int index = 0; index < large.length; index++) {
                large[index] = (byte) (index * 31);
            }
            one.zk.create("/large", large, OPEN_ACL_UNSAFE, PERSISTENT);
            check(Arrays.equals(large, two.zk.getData("/large", true, null)), "1 MB came back changed");
            fails(Code.CONNECTIONLOSS, () -> one.zk.setData("/large", new byte[2 << 20], -1));
            check(Arrays.equals(large, two.zk.getData("/large", false, null)), "a refused write changed the node");
            // The client fails what it is asked for until it has taken notice of its lost connection.
            until("null data is written", () -> {
                try {
                    return one.zk.setData("/large", null, -1) != null;
                } catch (KeeperException.ConnectionLossException lost) {
                    return false;
                }
            });
            check(two.zk.getData("/large", false, null) == null, "null data is not null");
            one.zk.setData("/large", new byte[0], -1);
            equal(0, two.zk.getData("/large", false, null).length);
        }
    }

    private static void sequentialNamesCount() throws Exception {
        try (Client one = new Client(direct()); Client two = new Client(direct())) {
            one.create("/seq", PERSISTENT);
            List<String> names = new ArrayList<>();
            for (int count = 0; count < 10; count++) {
                names.add((count % 2 == 0 ? one : two).create("/seq/n-", PERSISTENT_SEQUENTIAL));
                one.zk.delete(names.get(count), -1);
            }
            for (int count = 0; count < 10; count++) {
                equal(String.format("/seq/n-%010d", count), names.get(count));
            }
            equal(20, one.zk.exists("/seq", false).getCversion());
        }
    }

    private static void repliesComeInOrderAndReadsSeeEarlierWrites() throws Exception {
        try (Client one = new Client(direct())) {
            one.create("/fifo", PERSISTENT);
            List<Integer> order = Collections.synchronizedList(new ArrayList<>());
            AtomicInteger stale = new AtomicInteger();
            CountDownLatch done = new CountDownLatch(2000);
            for (int count = 0; count < 1000; count++) {
                int number = count;
                one.zk.setData("/fifo", bytes("" + count), -1, (code, path, context, stat) -> {
                    order.add(2 * number);
                    done.countDown();
                }, null);
                one.zk.getData("/fifo", false, (code, path, context, data, stat) -> {
                    order.add(2 * number + 1);
                    if (data == null || !new String(data, StandardCharsets.UTF_8).equals("" + number)) {
                        stale.incrementAndGet();
                    }
                    done.countDown();
                }, null);
            }
            check(done.await(30, TimeUnit.SECONDS), "2000 replies did not come within 30 s");
            for (int index = 0; index < 2000; index++) {
                equal(index, order.get(index));
            }
            equal(0, stale.get());
        }
    }

    private static void syncAndCountersAnswer() throws Exception {
        try (Client one = new Client(direct())) {
            one.create("/sync", PERSISTENT);
            for (int count = 0; count < 20; count++) {
                one.create("/sync/" + count, PERSISTENT);
            }
            CountDownLatch done = new CountDownLatch(1);
            one.zk.sync("/sync", (code, path, context) -> {
                if (code == 0 && path.equals("/sync")) {
                    done.countDown();
                }
            }, null);
            check(done.await(10, TimeUnit.SECONDS), "sync does not answer");
            equal(20, one.zk.getAllChildrenNumber("/sync"));
            equal(20, one.zk.getChildren("/sync", false).size());
            check(one.zk.whoAmI().stream().anyMatch(id -> id.getAuthScheme().equals("ip")), "whoAmI lacks the address");
        }
    }

    private static int failures;

    private static void tell(String name, Story story) {
        long start = System.nanoTime();
        try {
            story.tell();
            System.out.printf("ok      %-45s %5d ms%n", name, (System.nanoTime() - start) / 1_000_000);
        } catch (Throwable failure) {
            failures++;
            System.out.println("FAILED  " + name + ": " + failure);
            for (StackTraceElement at : failure.getStackTrace()) {
                if (at.getClassName().startsWith("Stories")) {
                    System.out.println("        " + at);
                }
            }
        }
    }

    public static void main(String[] arguments) {
        port = Integer.parseInt(arguments[0]);
        tell("multi is all or nothing", Stories::multiIsAllOrNothing);
        tell("multiRead answers each on its own", Stories::multiReadAnswersEachOnItsOwn);
        tell("watches fire once and in order", Stories::watchesFireOnceAndInOrder);
        tell("persistent watches stay", Stories::persistentWatchesStay);
        tell("ephemerals end with their session", Stories::ephemeralsEndWithTheirSession);
        tell("a session is taken up again", Stories::aSessionIsTakenUpAgain);
        tell("watches survive a reconnect", Stories::watchesSurviveAReconnect);
        tell("containers and TTL nodes are reaped", Stories::containersAndTtlNodesAreReaped);
        tell("ACLs are enforced", Stories::aclsAreEnforced);
        tell("large nodes go through", Stories::largeNodesGoThrough);
        tell("sequential names count", Stories::sequentialNamesCount);
        tell("replies in order, reads see earlier writes", Stories::repliesComeInOrderAndReadsSeeEarlierWrites);
        tell("sync and counters answer", Stories::syncAndCountersAnswer);
        System.out.println(failures == 0 ? "all stories hold" : failures + " stories do not hold");
        System.exit(failures == 0 ? 0 : 1);
    }
}
