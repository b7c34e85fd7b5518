import sys
from json import decoder


def handler(event, context):
    frame, files = sys._getframe(), []
    while frame is not None:
        files.append(frame.f_code.co_filename)
        frame = frame.f_back
    compiled = [sys.modules["bootstrap"].__cached__, decoder.__cached__]
    return {"files": files, "compiled": [open(path, "rb").read(8)[4:].hex() for path in compiled]}
