"""The process that opens containers: a request a line on its standard input, an answer a line on its standard output, both JSON.

    python -m vbcli.media.reader MEMORY_MB

First it says that it is ready; it ends with its input. What it must not do is bring its caller down: a file that makes it crash, hang or
take too much memory costs its caller a new one.
"""

from __future__ import annotations

import json
import resource
import sys
import traceback
from dataclasses import asdict
from typing import Any

# What PyAV loads only when it opens a file: under the limit of memory there may be no room for it.
import av.subtitles.stream  # noqa: F401

from vbcli.errors import MediaError
from vbcli.media.containers import read_contents, read_info
from vbcli.memory import limit_memory

CALLS = {"info": lambda path: asdict(read_info(path)), "contents": lambda path: [asdict(part) for part in read_contents(path)]}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """What a request gives: a value, what is wrong with the file, or what is wrong with us."""
    try:
        return {"value": CALLS[request["call"]](request["path"])}
    except MediaError as error:
        return {"error": error.message}
    except MemoryError:
        return {"error": f"{request['path']} takes more memory than it may"}
    except Exception:  # noqa: BLE001 - told to the caller, who raises it
        return {"bug": traceback.format_exc()}


def main() -> None:
    limit_memory(int(sys.argv[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _say("ready")
    for line in sys.stdin:
        _say(answer(json.loads(line)))


def _say(value: Any) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
