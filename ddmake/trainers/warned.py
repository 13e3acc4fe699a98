"""Whether a job's time on its machine is nearly over: whoever has started the job says so by a file."""

import os

WARNED = "DDMAKE_WARNED"  # where that file will be


def warned() -> bool:
    """Tell whether this job's time is nearly over."""
    file = os.environ.get(WARNED)
    return file is not None and os.path.exists(file)
