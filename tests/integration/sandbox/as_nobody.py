"""Answers invocations from standard input, one JSON line each, as uid 65534 without any privilege or control group."""

import codecs
import dataclasses
import json
import os
import sys
from uuid import UUID

from actors.sandbox.slots import Slots
from actors.sandbox.spawner import Spawner
from actors.sandbox.supervisor import BACKENDS, Supervisor
from tests.integration.sandbox.arena import NOBODY, SLOTS, Asker, open_tree
from trace_ray.alerts import Invocation, SandboxLimits


def main() -> None:
    tree = open_tree()  # made by its owner; only read from here on
    for encoding in ("ascii", "latin-1", "idna", "utf-8"):
        codecs.lookup(encoding)  # modules below a home directory cannot be imported any more once the user has changed
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    invoker = Supervisor(BACKENDS[sys.argv[1]](tree, None, Spawner()), Slots(SLOTS))
    for line in sys.stdin:
        order = json.loads(line)
        order["request_id"] = UUID(order["request_id"])
        order["payload"] = order["payload"].encode()
        order["limits"] = SandboxLimits(**order["limits"])
        result = dataclasses.asdict(invoker.invoke(Invocation(**order), Asker(), lambda: False))
        result["response"] = result["response"].decode("latin-1")
        result["events"] = [event.decode("latin-1") for event in result["events"]]
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
