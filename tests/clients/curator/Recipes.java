import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.Callable;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.framework.api.transaction.CuratorOp;
import org.apache.curator.framework.api.transaction.CuratorTransactionResult;
import org.apache.curator.framework.recipes.atomic.AtomicValue;
import org.apache.curator.framework.recipes.atomic.DistributedAtomicLong;
import org.apache.curator.framework.recipes.barriers.DistributedDoubleBarrier;
import org.apache.curator.framework.recipes.cache.CuratorCache;
import org.apache.curator.framework.recipes.cache.CuratorCacheListener;
import org.apache.curator.framework.recipes.cache.TreeCache;
import org.apache.curator.framework.recipes.leader.LeaderLatch;
import org.apache.curator.framework.recipes.locks.InterProcessMutex;
import org.apache.curator.framework.recipes.locks.InterProcessReadWriteLock;
import org.apache.curator.framework.recipes.locks.InterProcessSemaphoreV2;
import org.apache.curator.framework.recipes.locks.Lease;
import org.apache.curator.framework.recipes.nodes.GroupMember;
import org.apache.curator.framework.recipes.nodes.PersistentNode;
import org.apache.curator.retry.RetryNTimes;
import org.apache.zookeeper.CreateMode;
import org.apache.zookeeper.KeeperException;
import org.apache.zookeeper.ZooKeeper;

/**
 * What Curator's recipes make of a server. Arguments: where the servers are, and whether a server ends meanwhile:
 * then "calm" or "killed", when the marker "middle" on the output says that it may.
 */
public final class Recipes {
    private static final int SESSION_MS = 6000;
    private static final int PATIENCE_S = 30;
    private static String servers;

    private interface Story {
        void tell() throws Exception;
    }

    private static CuratorFramework client() throws Exception {
        CuratorFramework client = CuratorFrameworkFactory.newClient(servers, SESSION_MS, 10_000, new RetryNTimes(60, 100));
        client.start();
        check(client.blockUntilConnected(PATIENCE_S, TimeUnit.SECONDS), "not connected");
        return client;
    }

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    private static void check(boolean fact, String what) {
        if (!fact) {
            throw new AssertionError(what);
        }
    }

    private static void await(String what, Callable<Boolean> condition) throws Exception {
        long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(PATIENCE_S);
        while (!condition.call()) {
            check(System.nanoTime() < end, "waited in vain until " + what);
            Thread.sleep(5);
        }
    }

    /** Ends a client's session behind its back, as the server does with one that was silent too long. */
    private static void endSession(CuratorFramework client) throws Exception {
        ZooKeeper zk = client.getZookeeperClient().getZooKeeper();
        ZooKeeper other = new ZooKeeper(servers, SESSION_MS, event -> { }, zk.getSessionId(), zk.getSessionPasswd());
        await("the session is taken over", () -> other.getState() == ZooKeeper.States.CONNECTED);
        other.close();
    }

    /** Who leads and loses the session stops leading; another leads, and later the first again. */
    private static void latch() throws Exception {
        try (CuratorFramework one = client(); CuratorFramework two = client()) {
            LeaderLatch first = new LeaderLatch(one, "/latch", "one");
            first.start();
            check(first.await(PATIENCE_S, TimeUnit.SECONDS), "nobody leads");
            LeaderLatch second = new LeaderLatch(two, "/latch", "two");
            second.start();
            await("both are in line", () -> first.getParticipants().size() == 2);
            check(!second.hasLeadership() && second.getLeader().getId().equals("one"), "two lead");
            endSession(one);
            check(second.await(PATIENCE_S, TimeUnit.SECONDS), "nobody takes over");
            await("the first knows that it does not lead", () -> !first.hasLeadership());
            await("the first is in line again", () -> second.getParticipants().size() == 2);
            second.close();
            check(first.await(PATIENCE_S, TimeUnit.SECONDS), "nobody follows");
            first.close();
        }
    }

    /** Six clients add to one number under one lock; nobody is inside beside another. */
    private static void mutex(int rounds) throws Exception {
        AtomicInteger inside = new AtomicInteger();
        try (CuratorFramework setter = client()) {
            setter.create().orSetData().forPath("/mutex-number", bytes("0"));
            ExecutorService workers = Executors.newFixedThreadPool(6);
            List<Future<?>> done = new ArrayList<>();
            for (int worker = 0; worker < 6; worker++) {
                done.add(workers.submit(() -> {
                    try (CuratorFramework client = client()) {
                        InterProcessMutex lock = new InterProcessMutex(client, "/mutex");
                        for (int round = 0; round < rounds; round++) {
                            check(lock.acquire(PATIENCE_S, TimeUnit.SECONDS), "the lock is not had");
                            check(inside.incrementAndGet() == 1, "two are inside");
                            byte[] number = client.getData().forPath("/mutex-number");
                            String next = "" + (Integer.parseInt(new String(number, StandardCharsets.UTF_8)) + 1);
                            client.setData().forPath("/mutex-number", bytes(next));
                            inside.decrementAndGet();
                            lock.release();
                        }
                    }
                    return null;
                }));
            }
            System.out.println("middle");
            for (Future<?> one : done) {
                one.get(2 * PATIENCE_S, TimeUnit.SECONDS);
            }
            workers.shutdown();
            String number = new String(setter.getData().forPath("/mutex-number"), StandardCharsets.UTF_8);
            check(number.equals("" + 6 * rounds), number + " after " + 6 * rounds + " rounds");
            // The line is a container: with nobody in it, it goes.
            await("the line is gone", () -> setter.checkExists().forPath("/mutex") == null);
        }
    }

    /** Readers share, a writer does not; a semaphore gives as many leases as it has. */
    private static void sharing() throws Exception {
        try (CuratorFramework one = client(); CuratorFramework two = client()) {
            InterProcessReadWriteLock mine = new InterProcessReadWriteLock(one, "/shared");
            InterProcessReadWriteLock theirs = new InterProcessReadWriteLock(two, "/shared");
            mine.readLock().acquire();
            check(theirs.readLock().acquire(PATIENCE_S, TimeUnit.SECONDS), "readers do not share");
            theirs.readLock().release();
            check(!theirs.writeLock().acquire(200, TimeUnit.MILLISECONDS), "a writer beside a reader");
            mine.readLock().release();
            check(theirs.writeLock().acquire(PATIENCE_S, TimeUnit.SECONDS), "the writer is kept out");
            check(!mine.readLock().acquire(200, TimeUnit.MILLISECONDS), "a reader beside a writer");
            theirs.writeLock().release();
            InterProcessSemaphoreV2 leases = new InterProcessSemaphoreV2(one, "/leases", 2);
            Lease first = leases.acquire();
            Lease second = leases.acquire(PATIENCE_S, TimeUnit.SECONDS);
            InterProcessSemaphoreV2 others = new InterProcessSemaphoreV2(two, "/leases", 2);
            check(others.acquire(200, TimeUnit.MILLISECONDS) == null, "three leases of two");
            leases.returnLease(first);
            Lease third = others.acquire(PATIENCE_S, TimeUnit.SECONDS);
            check(second != null && third != null, "a lease that came back is not given");
        }
    }

    /** Both caches, the one on a persistent recursive watch and the one on watches of its own, end equal to the tree. */
    @SuppressWarnings("deprecation")
    private static void caches() throws Exception {
        try (CuratorFramework writer = client(); CuratorFramework reader = client()) {
            writer.create().creatingParentsIfNeeded().forPath("/cached/before/it", bytes("0"));
            ConcurrentLinkedQueue<String> told = new ConcurrentLinkedQueue<>();
            CuratorCache cache = CuratorCache.build(reader, "/cached");
            cache.listenable().addListener(CuratorCacheListener.builder()
                .forCreates(node -> told.add("+" + node.getPath()))
                .forDeletes(node -> told.add("-" + node.getPath())).build());
            cache.start();
            TreeCache tree = TreeCache.newBuilder(reader, "/cached").build().start();
            await("the caches have what was there", () -> cache.size() == 3 && tree.getCurrentData("/cached/before/it") != null);
            for (int index = 0; index < 100; index++) {
                writer.create().forPath("/cached/n" + index, bytes("a"));
                writer.setData().forPath("/cached/n" + index, bytes("b" + index));
                if (index % 2 == 0) {
                    writer.delete().forPath("/cached/n" + index);
                }
            }
            writer.delete().deletingChildrenIfNeeded().forPath("/cached/before");
            await("the cache is equal", () -> cache.size() == 51
                && cache.stream().filter(it -> new String(it.getData(), StandardCharsets.UTF_8).startsWith("b")).count() == 50);
            await("the tree's cache is equal", () -> tree.getCurrentChildren("/cached").size() == 50
                && new String(tree.getCurrentData("/cached/n99").getData(), StandardCharsets.UTF_8).equals("b99"));
            await("the deletions were told", () -> told.contains("-/cached/before/it") && told.contains("-/cached/n98"));
            cache.close();
            tree.close();
        }
    }

    /** A node that is to be there comes back with the next session, and so does a member of a group. */
    private static void nodesThatComeBack() throws Exception {
        try (CuratorFramework owner = client(); CuratorFramework reader = client()) {
            PersistentNode node = new PersistentNode(owner, CreateMode.EPHEMERAL, false, "/comes/back", bytes("here"));
            node.start();
            check(node.waitForInitialCreate(PATIENCE_S, TimeUnit.SECONDS), "the node is not made");
            GroupMember member = new GroupMember(owner, "/group", "me", bytes("1"));
            member.start();
            await("the group has it", () -> reader.checkExists().forPath("/group/me") != null);
            long session = reader.checkExists().forPath("/comes/back").getEphemeralOwner();
            endSession(owner);
            await("the node is there for another session", () -> {
                var stat = reader.checkExists().forPath("/comes/back");
                return stat != null && stat.getEphemeralOwner() != session;
            });
            await("so is the member", () -> reader.checkExists().forPath("/group/me") != null);
            reader.delete().forPath("/comes/back");
            await("it comes back after a deletion", () -> reader.checkExists().forPath("/comes/back") != null);
            member.close();
            node.close();
        }
    }

    /** A transaction happens whole or not at all, and says what each part gave. */
    private static void transactions() throws Exception {
        try (CuratorFramework client = client()) {
            CuratorOp make = client.transactionOp().create().withMode(CreateMode.PERSISTENT_SEQUENTIAL).forPath("/whole/part-", bytes("x"));
            CuratorOp set = client.transactionOp().setData().withVersion(0).forPath("/whole", bytes("y"));
            CuratorOp none = client.transactionOp().delete().forPath("/no-such-node");
            client.create().forPath("/whole", bytes("x"));
            try {
                client.transaction().forOperations(make, set, none);
                throw new AssertionError("a transaction with an impossible part went through");
            } catch (KeeperException.NoNodeException expected) {
                check(expected.getResults().size() == 3, "a result for each part");
            }
            check(client.checkExists().forPath("/whole").getVersion() == 0, "a part of it happened");
            List<CuratorTransactionResult> results = client.transaction().forOperations(make, set);
            check(results.get(0).getResultPath().equals("/whole/part-0000000000"), results.get(0).getResultPath());
            check(results.get(1).getResultStat().getVersion() == 1, "the version that it set");
        }
    }

    /** Nodes with a time to live, containers, numbers that many add to, and a barrier for two. */
    private static void rest() throws Exception {
        try (CuratorFramework one = client(); CuratorFramework two = client()) {
            one.create().withTtl(300).creatingParentContainersIfNeeded().withMode(CreateMode.PERSISTENT_WITH_TTL).forPath("/short/lived");
            await("its time is over, and its container goes", () -> two.checkExists().forPath("/short") == null);
            DistributedAtomicLong mine = new DistributedAtomicLong(one, "/number", new RetryNTimes(100, 2));
            DistributedAtomicLong theirs = new DistributedAtomicLong(two, "/number", new RetryNTimes(100, 2));
            Set<Long> seen = new TreeSet<>();
            for (int round = 0; round < 50; round++) {
                AtomicValue<Long> value = (round % 2 == 0 ? mine : theirs).increment();
                check(value.succeeded() && seen.add(value.postValue()), "an increment was lost");
            }
            check(seen.size() == 50 && seen.contains(50L), "50 increments");
            Thread other = new Thread(() -> {
                try {
                    new DistributedDoubleBarrier(two, "/barrier", 2).enter(PATIENCE_S, TimeUnit.SECONDS);
                } catch (Exception error) {
                    throw new AssertionError(error);
                }
            });
            other.start();
            check(new DistributedDoubleBarrier(one, "/barrier", 2).enter(PATIENCE_S, TimeUnit.SECONDS), "nobody else came");
            other.join();
        }
    }

    private static void tell(String name, Story story) throws Exception {
        long start = System.nanoTime();
        story.tell();
        System.out.printf("%s: %d ms%n", name, (System.nanoTime() - start) / 1_000_000);
    }

    public static void main(String[] arguments) throws Exception {
        servers = arguments[0];
        if (arguments[1].equals("killed")) {
            tell("six clients and a lock", () -> mutex(40));
            return;
        }
        tell("leader latch", Recipes::latch);
        tell("six clients and a lock", () -> mutex(20));
        tell("shared locks and leases", Recipes::sharing);
        tell("caches", Recipes::caches);
        tell("nodes that come back", Recipes::nodesThatComeBack);
        tell("transactions", Recipes::transactions);
        tell("lives, numbers, barriers", Recipes::rest);
    }
}
