"""What a batch script starts on a node: `python -m ddmake.executors.slurm WAVE`."""

import sys
from pathlib import Path

from ddmake.executors.slurm.node import serve

sys.exit(serve(Path(sys.argv[1])))
