"""Commands on a terminal of some width, which a pipe does not have."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import threading


def on_a_terminal(words, columns, **environment):
    """Exit code and what the command writes to a terminal of so many columns, as lines."""
    main, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    env = {key: value for key, value in os.environ.items() if key != "COLUMNS"} | environment
    command = [sys.executable, "-m", "bench", *map(str, words)]
    process = subprocess.Popen(command, stdout=terminal, stderr=subprocess.DEVNULL, stdin=terminal, env=env)
    os.close(terminal)
    parts = []

    def read():
        try:
            while part := os.read(main, 65536):
                parts.append(part)
        except OSError:  # the other end is closed
            pass

    reader = threading.Thread(target=read)
    reader.start()
    code = process.wait()
    reader.join()
    os.close(main)
    return code, b"".join(parts).decode("utf-8").replace("\r\n", "\n").split("\n")
