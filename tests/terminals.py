"""What a command draws on a terminal."""

from __future__ import annotations

import os
import subprocess
import sys


def drawn_by(*arguments: str) -> bytes:
    """Run the command with a terminal for its stderr; return what it drew there until it ended well."""
    ours, theirs = os.openpty()
    words = [sys.executable, "-m", "roformer_convert", *arguments]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    drawn = b""
    while True:
        try:
            piece = os.read(ours, 1 << 16)
        except OSError:  # the other side is closed
            break
        if not piece:
            break
        drawn += piece
    os.close(ours)
    process.communicate()
    assert process.returncode == 0
    return drawn
