"""What a run ran on: device, hardware, versions, commit, memory."""

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import keras

import labkit

VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2"}  # by the flag of each, the wider first
_BACKEND_PACKAGES = {"tensorflow": ("tensorflow", "tensorflow-cpu"), "jax": ("jax",), "torch": ("torch",)}


def accelerators() -> list[str]:
    """The graphics processors and the like that Keras' backend sees, such as "gpu:0"."""
    if keras.backend.backend() == "torch":
        import torch

        return [f"gpu:{index}" for index in range(torch.cuda.device_count())]
    return [device for device in keras.distribution.list_devices() if not device.startswith("cpu")]


def hardware() -> dict[str, Any]:
    """Names of processor and graphics processor, the number of cores this process may use, their vectors."""
    usable = getattr(os, "sched_getaffinity", None)
    return {
        "cpu": _cpu("model name") or platform.processor() or platform.machine() or "unknown",
        "vectors": _widest(_cpu("flags") or ""),
        "cores": len(usable(0)) if usable else os.cpu_count() or 1,
        "gpu": _gpu_name() if accelerators() else None,
    }


def _cpu(line: str) -> str | None:
    """What the system says of the processor under a name; None where it says nothing."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else ()
    return next((found.split(":", 1)[1].strip() for found in lines if found.startswith(line)), None)


def _widest(flags: str) -> str | None:
    """The widest vectors a processor computes with: two of one name may differ in them, and so in speed."""
    return next((name for flag, name in VECTORS.items() if flag in flags.split()), None)


def _gpu_name() -> str | None:
    match keras.backend.backend():
        case "jax":
            import jax

            return jax.devices()[0].device_kind
        case "torch":
            import torch

            return torch.cuda.get_device_name(0)
    import tensorflow as tf

    details = tf.config.experimental.get_device_details(tf.config.list_physical_devices("GPU")[0])
    return details.get("device_name", "unknown")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages whose change can change a result."""
    found = {"python": platform.python_version(), "keras": keras.__version__}
    for package in _BACKEND_PACKAGES[keras.backend.backend()]:
        try:
            found[keras.backend.backend()] = version(package)
        except PackageNotFoundError:
            continue
    return found | {"numpy": version("numpy"), "labkit": labkit.__version__}


def commit() -> dict[str, Any] | None:
    """The commit of the checkout that the package lies in, and whether tracked files differ from it."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        ask = {"cwd": root, "capture_output": True, "text": True, "check": True, "timeout": 20}
        head = subprocess.run(["git", "rev-parse", "HEAD"], **ask).stdout.strip()
        changes = subprocess.run(["git", "status", "--porcelain", "--untracked-files=no"], **ask).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": head, "changed": bool(changes.strip())}


def peak_memory() -> int | None:
    """Bytes at the highest: of the accelerator where there is one, else of this process."""
    return _accelerator_peak() if accelerators() else _process_peak()


def _process_peak() -> int | None:
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _accelerator_peak() -> int | None:
    match keras.backend.backend():
        case "jax":
            import jax

            return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
        case "torch":
            import torch

            return torch.cuda.max_memory_allocated()
    import tensorflow as tf

    return tf.config.experimental.get_memory_info("GPU:0")["peak"]
