"""Real file systems on disks that fail on command, and small ones that fill up.

Everything here needs root, FUSE and loop devices. Where that is missing, `Missing` says what, and the story that
asked for it is skipped aloud.
"""

import ctypes
import errno
import fcntl
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import time

from ensemble import Missing

# What device.py takes in one request. The kernel cuts a longer one, and a loop device calls it done when the first
# pieces were: a fault in a later one would be a lie, which nobody can answer, instead of an error.
REQUEST_KIBIBYTES_MAX = 128
DEVICE = pathlib.Path(__file__).resolve().with_name("device.py")
MKFS = {
    "ext4": ["mkfs.ext4", "-q", "-m", "0", "-E", "nodiscard,lazy_itable_init=0"],
    "xfs": ["mkfs.xfs", "-q", "-K"],
}
# FIEMAP: where on the device a file's bytes are.
FS_IOC_FIEMAP, EXTENTS_MAX = 0xC020660B, 128
FS_IOC_SHUTDOWN, SHUTDOWN_WITHOUT_FLUSH = 0x8004587D, 2
MNT_DETACH = 2


def need(condition, what):
    if not condition:
        raise Missing(what)


def check_host(kind="ext4"):
    """What this machine must allow."""
    need(os.geteuid() == 0, "disks that fail need root")
    need(os.path.exists("/dev/fuse"), "no /dev/fuse: the kernel's FUSE is missing or not passed on")
    need(os.path.exists("/dev/loop-control"), "no loop devices")
    for tool in (MKFS[kind][0], "losetup", "mount", "umount"):
        need(shutil.which(tool), f"no {tool}")


def run(*argv):
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join(map(str, argv))}: {done.stderr.strip() or done.returncode}")
    return done.stdout.strip()


class FaultyDisk:
    """A file system at `path`, on a loop device over a file that obeys commands (see device.py)."""

    def __init__(self, mebibytes=192, kind="ext4", options=""):
        check_host(kind)
        self.kind, self.options = kind, options
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="faults-"))
        self.path, self.below = self.directory / "volume", self.directory / "below"
        self.path.mkdir()
        self.below.mkdir()
        self.loop, self.process = None, None
        try:
            self.process = subprocess.Popen(
                [sys.executable, str(DEVICE), str(self.below), str(mebibytes)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
            need(self.process.stdout.readline(), "FUSE cannot be mounted here")
            self.attach()
            run(*MKFS[kind], self.loop)
            self.mount()
        except BaseException:
            self.remove()
            raise

    def attach(self):
        try:
            self.loop = run("losetup", "--find", "--show", "--direct-io=on", self.below / "disk")
        except OSError as error:
            raise Missing(f"no loop device: {error}") from None
        limit = pathlib.Path("/sys/block", pathlib.Path(self.loop).name, "queue/max_sectors_kb")
        limit.write_text(str(REQUEST_KIBIBYTES_MAX))

    def mount(self):
        arguments = ["-o", self.options] if self.options else []
        run("mount", "-t", self.kind, *arguments, self.loop, self.path)

    def tell(self, name, **named):
        """A command of device.py, and its answer."""
        self.process.stdin.write(json.dumps([name, named]) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def unmount(self, seconds=30):
        """Insists: what dies takes a moment to let go of its files."""
        end = time.monotonic() + seconds
        while os.path.ismount(self.path):
            try:
                run("umount", self.path)
            except OSError as error:
                if time.monotonic() > end:
                    raise AssertionError(f"{self.path} cannot be unmounted: {error}") from None
                time.sleep(0.02)

    def cut(self):
        """The power goes. Processes that use it are to be killed next; `power_on` follows."""
        self.tell("cut")

    def power_on(self, seed=0, keeps=0.5):
        """A mount after a cut, with its journal's replay; gives the number of sectors that lost something."""
        self.unmount()
        run("losetup", "-d", self.loop)
        lost = self.tell("on", seed=seed, keeps=keeps)
        self.attach()
        try:
            self.mount()
        except OSError as error:
            self.repair(error)
            self.mount()
        return lost

    def repair(self, error):
        """What a host does at its start with a file system that cannot be mounted, such as an ext4 whose superblock,
        two sectors, has an old one and a new one."""
        if self.kind != "ext4":
            raise error
        done = subprocess.run(["e2fsck", "-fy", self.loop], capture_output=True, text=True)
        # 1: errors were found, and corrected.
        if done.returncode > 1:
            raise OSError(f"{error}; e2fsck: {done.stdout} {done.stderr}")
        print(f"   {self.loop} had to be repaired: {error}", flush=True)

    def ranges_of(self, path):
        """[start, end) of each piece of a file on the device."""
        with open(path, "rb") as file:
            request = bytearray(struct.pack("<QQIIII", 0, 1 << 62, 1, 0, EXTENTS_MAX, 0))
            request += bytes(56 * EXTENTS_MAX)
            fcntl.ioctl(file, FS_IOC_FIEMAP, request)
        count = struct.unpack_from("<I", request, 20)[0]
        pieces = [struct.unpack_from("<QQQ", request, 32 + 56 * index) for index in range(count)]
        return [[physical, physical + length] for _, physical, length in pieces]

    def remove(self):
        """Whatever still uses it gets errors from here on."""
        libc = ctypes.CDLL(None, use_errno=True)
        if self.process and self.process.poll() is None:
            self.process.stdin.close()
            self.process.wait()
        if os.path.ismount(self.path):
            libc.umount2(os.fsencode(self.path), MNT_DETACH)
        if self.loop:
            subprocess.run(["losetup", "-d", self.loop], capture_output=True)
        libc.umount2(os.fsencode(self.below), MNT_DETACH)
        shutil.rmtree(self.directory, ignore_errors=True)


class SmallDisk:
    """A small file system in memory, on a plain loop device: to be filled, shut down, or made read-only."""

    def __init__(self, mebibytes, kind="ext4"):
        check_host(kind)
        self.kind = kind
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="faults-", dir="/dev/shm"))
        self.path, image = self.directory / "volume", self.directory / "image"
        self.path.mkdir()
        with open(image, "wb") as file:
            file.truncate(mebibytes << 20)
        try:
            run(*MKFS[kind], image)
            self.image = image
            self.mount()
        except OSError as error:
            shutil.rmtree(self.directory, ignore_errors=True)
            raise Missing(f"no small file system: {error}") from None

    def mount(self):
        run("mount", "-o", "loop", self.image, self.path)

    def fill(self, leave=0):
        """Takes all its room but `leave` bytes."""
        with open(self.path / "filler", "ab") as file:
            for size in (1 << 20, 4096):
                while True:
                    status = os.statvfs(self.path)
                    if status.f_bavail * status.f_bsize <= leave + (size if size > 4096 else 0):
                        break
                    try:
                        file.write(b"\1" * size)
                        file.flush()
                    except OSError as error:
                        if error.errno != errno.ENOSPC:
                            raise
                        break
            try:
                os.fsync(file.fileno())
            except OSError:
                pass

    def make_room(self):
        (self.path / "filler").unlink()

    def shut_down(self):
        """What a cut of the power does to a file system: nothing more reaches it, its journal is as it was."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, FS_IOC_SHUTDOWN, struct.pack("<I", SHUTDOWN_WITHOUT_FLUSH))
        finally:
            os.close(descriptor)

    def mount_again(self):
        FaultyDisk.unmount(self)
        self.mount()

    def make_read_only(self):
        """As ext4 does by itself after an error (errors=remount-ro)."""
        libc = ctypes.CDLL(None, use_errno=True)
        # A plain remount is refused while files are open for writing; sysrq would take the host down.
        self.shut_down() if libc.mount(None, os.fsencode(self.path), None, 32 | 1, None) else None

    def remove(self):
        libc = ctypes.CDLL(None, use_errno=True)
        libc.umount2(os.fsencode(self.path), MNT_DETACH)
        shutil.rmtree(self.directory, ignore_errors=True)
