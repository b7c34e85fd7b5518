import os

PLACES = ["/", "/var/task", "/opt/python/lib", "/opt/trace_ray", "/dev", "/dev/shm", "/lib64", "/usr", "/etc", "/proc"]
FILES = ["/proc/sys/kernel/core_pattern", "/proc/self/oom_score_adj", "/var/task/main.py", "/opt/trace_ray/init.pyc"]


def handler(event, context):
    written = []
    for path in [f"{place}/mine" for place in PLACES] + FILES:
        try:
            with open(path, "ab") as file:
                file.write(b"x")
            written.append(path)
        except OSError:
            continue
    for change in (os.chmod, os.chown, os.rename, os.link, os.symlink, os.mknod):
        arguments = {os.chmod: (0o777,), os.chown: (0, 0), os.mknod: (0o60666, 0x100)}.get(change, ("/opt/moved",))
        try:
            change("/var/task/main.py" if change is not os.mknod else "/dev/mine", *arguments)
            written.append(change.__name__)
        except OSError:
            continue
    try:
        os.mknod("/tmp/disk", 0o60666, 0x800)
        written.append("device in tmp")
    except OSError:
        pass
    with open("/tmp/allowed", "w") as file:
        file.write("x")
    return written
