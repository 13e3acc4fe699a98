"""What a batch script starts on a node, `python -m ddmake.executors.slurm WAVE`, and what that starts on a training's others."""

import sys
from pathlib import Path

from ddmake.executors.slurm.node import serve
from ddmake.executors.slurm.several import join

wave, *job = sys.argv[1:]
if job:
    number, told = job
    join(Path(wave), int(number), told)
sys.exit(serve(Path(wave)))
