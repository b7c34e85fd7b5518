"""A delivery loop in a process of its own, with the settings of its environment, made to be killed.

python -m tests.delivery_process LEASE_SECONDS
"""

import sys
import threading

from actors import senders
from actors.deliver import Deliverer
from state.db import Database
from trace_ray import config, logs
from trace_ray.retry import RetryPolicy


def main() -> None:
    settings = config.read_settings()
    logs.set_up(json=True, secrets=config.secrets(settings))
    database = Database(config.data_url(settings), application_name="trace-deliver")
    loop = Deliverer(
        database, senders.for_settings(settings), policy=RetryPolicy(0.05, 0.2, 12, 12), lease_s=float(sys.argv[1])
    )
    loop.run(threading.Event())


if __name__ == "__main__":
    main()
