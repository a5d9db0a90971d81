"""Runs a command in a pseudo-terminal of 100 columns and 30 rows, as a user would.

Standard input is a JSON list of steps: what to type, and what must then be on the screen before the next step.
What came is printed as it was written to the terminal. Fails if something does not come within 60 seconds.
"""

import fcntl
import json
import os
import pty
import select
import struct
import sys
import termios
import time

steps = json.load(sys.stdin)
child, terminal = pty.fork()
if child == 0:
    os.environ["TERM"] = "xterm"
    os.execvp(sys.argv[1], sys.argv[1:])
fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
seen = b""


def read(seconds):
    """What has come, or nothing if that takes too long or is the end."""
    global seen
    if not select.select([terminal], [], [], seconds)[0]:
        return b""
    try:
        more = os.read(terminal, 1 << 16)
    except OSError:
        more = b""
    seen += more
    return more


def finish(code):
    sys.stdout.buffer.write(seen)
    sys.stdout.flush()
    sys.exit(code)


at = 0
for keys, expected in steps:
    os.write(terminal, keys.encode())
    deadline = time.time() + 60
    while seen.find(expected.encode(), at) < 0:
        if not read(deadline - time.time()):
            sys.stderr.write(f"after {keys!r} there is no {expected!r}\n")
            os.kill(child, 9)
            finish(1)
    at = seen.find(expected.encode(), at) + len(expected)
while read(60):
    pass
_, status = os.waitpid(child, 0)
finish(os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 1)
