"""Ends with 0 if pages can be served: asks this container's web server, under a name that it answers to."""

import os
import urllib.request

address = f"http://127.0.0.1:{os.environ['PORT']}/healthz"
name = os.environ.get("ALLOWED_HOSTS", "127.0.0.1").partition(",")[0]
urllib.request.urlopen(urllib.request.Request(address, headers={"Host": name}), timeout=8)
