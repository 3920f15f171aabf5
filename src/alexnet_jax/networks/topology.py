"""Accelerators that need not be here: XLA compiles programs for them all the same."""

import importlib.util
import math
import os
from typing import Any

import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from alexnet_jax.config import BadInput
from alexnet_jax.networks import columns, traffic

# What XLA's compiler asks about an H100 with 80 GB and NVLink (openxla/xla, xla/tools/hlo_opt/gpu_specs/h100_sxm.txtpb)
H100 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 13 }
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  device_memory_size: 84929347584 memory_bandwidth: 3352320000000 l2_cache_size: 52428800
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
}
"""


def chips(name: str) -> int:
    """The number of devices in the name of a topology: 256 of `v5e:16x16`. Raises BadInput."""
    return math.prod(_sizes(name))


def mesh(name: str, devices: traffic.Devices) -> Mesh:
    """A mesh of the devices of a topology: `v5e:16x16` TPU chips, `h100:8` GPUs, `h100:4x8` hosts x GPUs in each.

    Raises BadInput if the name is unknown, its number of devices is another, or the compiler is not installed: libtpu
    for TPUs, JAX's CUDA plugin for GPUs.
    """
    found = _gpus(name) if name.startswith("h100:") else _tpus(name)
    if len(found) != devices.number:
        raise BadInput(
            f"{name} has {len(found)} devices, and {devices.options} uses {devices.number}; give another --mesh"
        )
    return Mesh(np.array(found).reshape(devices.data, devices.columns), (columns.DATA, columns.COLUMN))


def _sizes(name: str) -> list[int]:
    sizes = name.partition(":")[2].split("x")
    if not all(size.isdigit() and int(size) for size in sizes):
        raise BadInput(f"--topology {name} is not a kind of device and its chips, as in v5e:16x16 or h100:8")
    return [int(size) for size in sizes]


def _tpus(name: str) -> list[Any]:
    if not importlib.util.find_spec("libtpu"):
        raise BadInput("--topology needs libtpu for TPUs; install alexnet_jax[topology]")
    # Otherwise libtpu asks the cloud which chips are here, and complains that there are none.
    for variable, value in {"SKIP_MDS_QUERY": "1", "WORKER_HOSTNAMES": "localhost", "ACCELERATOR_TYPE": name}.items():
        os.environ.setdefault(f"TPU_{variable}", value)
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    except Exception as error:  # libtpu raises several kinds
        raise BadInput(f"libtpu has no topology {name}: {str(error).splitlines()[0][:200]}") from error


def _gpus(name: str) -> list[Any]:
    if not any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)):
        raise BadInput("--topology needs JAX's CUDA plugin for GPUs; install alexnet_jax[cuda13]")
    *hosts, gpus = _sizes(name)
    shape = f"1x{math.prod(hosts)}x{gpus}"
    try:
        return topologies.get_topology_desc(platform="cuda", target_config=H100, topology=shape).devices
    except Exception as error:  # the plugin raises several kinds
        raise BadInput(f"JAX's CUDA plugin has no topology {name}: {str(error).splitlines()[0][:200]}") from error
