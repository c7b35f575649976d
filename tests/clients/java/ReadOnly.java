import java.util.concurrent.TimeUnit;
import org.apache.zookeeper.CreateMode;
import org.apache.zookeeper.KeeperException;
import org.apache.zookeeper.ZooDefs;
import org.apache.zookeeper.ZooKeeper;

/** Apache's client at a server that is read-only and then is not: `ReadOnly SERVERS PATH`. It says how far it is. */
public final class ReadOnly {
    public static void main(String[] arguments) throws Exception {
        String path = arguments[1];
        ZooKeeper client = new ZooKeeper(arguments[0], 10_000, event -> System.out.println("event " + event.getState()), true);
        await(client, ZooKeeper.States.CONNECTEDREADONLY);
        if (!new String(client.getData(path, true, null)).equals("before")) {
            throw new AssertionError("something else was read");
        }
        try {
            client.setData(path, new byte[0], -1);
            throw new AssertionError("a write was taken");
        } catch (KeeperException.NotReadOnlyException expected) {
            System.out.println("refused");
        }
        try {
            client.transaction().delete(path, -1).commit();
            throw new AssertionError("a multi was taken");
        } catch (KeeperException.NotReadOnlyException expected) {
            System.out.println("read-only");
        }
        await(client, ZooKeeper.States.CONNECTED);
        client.create("/java", new byte[0], ZooDefs.Ids.OPEN_ACL_UNSAFE, CreateMode.EPHEMERAL);
        System.out.println("writable");
        client.close();
    }

    /** The client is told of a change by events; a look now and then is simpler and as good. */
    private static void await(ZooKeeper client, ZooKeeper.States wanted) throws InterruptedException {
        long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(60);
        while (client.getState() != wanted) {
            if (System.nanoTime() > end) {
                throw new AssertionError("not " + wanted + " but " + client.getState());
            }
            TimeUnit.MILLISECONDS.sleep(20);
        }
    }
}
