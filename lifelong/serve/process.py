"""`python -m lifelong.serve.process api|trainer CONFIG`: one process of the service."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from lifelong.core.errors import LifelongError


def main(arguments: list[str]) -> int:
    """Run one process until it is told to stop; 1 if it cannot."""
    # Requests are logged at the level INFO, as JSON lines.
    logging.basicConfig(level=os.environ.get("LIFELONG_LOG", "WARNING"), format="%(message)s")
    kind, path = arguments
    try:
        if kind == "api":
            from lifelong.serve import api

            api.run(Path(path))
        else:
            from lifelong.serve import learning

            learning.run(Path(path))
    except (LifelongError, OSError) as error:  # a full disk, for one: it is started again
        print(f"lifelong {kind}: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
