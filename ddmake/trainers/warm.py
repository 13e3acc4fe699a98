"""A process that trains more than once: each training begins in the state of a new process, and leaves nothing behind."""

import gc
import os
import sys

import torch


class _State:
    computed = False  # whether this process has trained


def computes() -> None:
    """Note that this process trains."""
    _State.computed = True


def untouched() -> bool:
    """Tell whether this process may be forked: threads that compute, and what CUDA holds, wouldn't survive it."""
    return not (torch.cuda.is_available() or _State.computed or "ddmake.backends.local" in sys.modules)


def as_new() -> None:
    """Put back what a training before has set, and free what it and models that were asked hold.

    Seeds are each training's own. What is cached by tokenizers and datasets stays: it changes no result.
    """
    if "ddmake.backends.local" in sys.modules:
        sys.modules["ddmake.backends.local"].let_go()
    torch.set_default_dtype(torch.float32)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 0)) or os.cpu_count() or 1)
    torch.use_deterministic_algorithms(False)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.deterministic = torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = True
    torch.autograd.set_grad_enabled(True)
    torch.autograd.set_detect_anomaly(False)
    if "accelerate.state" in sys.modules:  # which knows the mixed precision and the devices of the first that asked
        state = sys.modules["accelerate.state"]
        for kept in (state.AcceleratorState, state.GradientState, state.PartialState):
            kept._reset_state()
    gc.collect()  # a model and its optimizer hold each other in circles
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
