import os

FILES = [
    "/etc/passwd", "/etc/shadow", "/etc/hostname", "/proc/1/environ", "/proc/self/environ",
    *(os.path.join("/proc/1/root", name) for name in ("etc/passwd", "etc/shadow")),
    "/sys/fs/cgroup/memory/cgroup.procs", "/sys/fs/cgroup/cgroup.procs", "/run/docker.sock", "/var/run/secrets",
    "/oldroot/etc/passwd", "/newroot", "/usr/bin/env", "/bin/sh", "/dev/mem", "/dev/kmsg", "/dev/vda", "/dev/fuse",
]  # fmt: skip
DIRECTORIES = ["/root", "/home", "/proc", "/sys", "/etc", "/usr/bin", "/var/task/..", "/tmp", "/dev/shm"]


def handler(event, context):
    got = []
    for path in [*FILES, event["planted"]]:
        try:
            with open(path, "rb") as file:
                got.append([path, repr(file.read(200))])
        except OSError:
            continue
    seen = {}
    for path in ["/", *DIRECTORIES]:
        try:
            seen[path] = sorted(os.listdir(path))
        except OSError:
            continue
    return {"got": got, "seen": seen}
