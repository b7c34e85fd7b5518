"""The first process of a sandbox, still trusted: opens the listener, hands it out, waits for the word, gives power up.

Arguments: number of the channel's descriptor, language, name and value of each resource limit (`nproc=80` ...). Only
built-in modules are imported, for every module costs a millisecond of each start.
"""

import _socket
import os
import resource
import sys

PORT = 9001
MOST_FILES = 1 << 16  # a supervisor may have many open, and numbers are inherited
NODE = "/opt/node/bin/node"
REFUSED = 98
LIMITS = {
    "as": resource.RLIMIT_AS,
    "core": resource.RLIMIT_CORE,
    "cpu": resource.RLIMIT_CPU,
    "fsize": resource.RLIMIT_FSIZE,
    "memlock": resource.RLIMIT_MEMLOCK,
    "msgqueue": resource.RLIMIT_MSGQUEUE,
    "nofile": resource.RLIMIT_NOFILE,
    "nproc": resource.RLIMIT_NPROC,
}


def main() -> None:
    channel_number, language, *limits = sys.argv[1:]
    sys.argv[1:] = []  # the number is chance, and a handler sees none
    _hand_out(int(channel_number))
    os.closerange(3, MOST_FILES)
    for limit in limits:
        name, _, value = limit.partition("=")
        resource.setrlimit(LIMITS[name], (int(value), int(value)))
    if language == "python":
        sys.path.insert(0, os.path.dirname(__file__))
        import bootstrap

        del sys.path[0]
        bootstrap.main()
    elif language == "node":
        heap = os.environ.pop("TRACE_NODE_HEAP_MIB")
        os.execve(NODE, [NODE, f"--max-old-space-size={heap}", "/opt/trace_ray/bootstrap.cjs"], os.environ)
    else:
        task = os.environ["LAMBDA_TASK_ROOT"]
        os.execve(f"{task}/bootstrap", [f"{task}/bootstrap"], os.environ)


def _hand_out(number: int) -> None:
    """Bind in this empty network, and let the supervisor accept outside: a socket stays where it was made."""
    listener = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", PORT))
    listener.listen(16)
    channel = _socket.socket(fileno=number)
    handle = listener.fileno().to_bytes(4, sys.byteorder)
    channel.sendmsg([b"L"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, handle)])
    if channel.recv(1) != b"G":
        os._exit(REFUSED)
    channel.close()
    listener.close()


main()
