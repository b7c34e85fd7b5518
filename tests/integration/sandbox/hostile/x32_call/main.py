import ctypes


def handler(event, context):
    return ctypes.CDLL(None).syscall(ctypes.c_long(0x40000000 + 39))
