import os
import signal
import time


def handler(event, context):
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in range(1024):
                try:
                    os.close(number)
                except OSError:
                    continue
            time.sleep(1000)
        os._exit(0)
    time.sleep(1000)
