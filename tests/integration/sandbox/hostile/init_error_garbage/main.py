import http.client
import time

client = http.client.HTTPConnection("127.0.0.1", 9001)
client.request("POST", "/2018-06-01/runtime/init/error", body=b"\xff{" + b"[" * 50_000)
client.getresponse()
time.sleep(1000)
