"""How does a process take hold of its devices? CPU devices, processes, compile cache: before the first array."""

import contextlib
import os
from pathlib import Path

import jax

from gpt_jax.errors import UserError

SINGLE_PRODUCTS = 'LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT'


def cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def cache_folder() -> Path:
    """Where compiled programs are kept between runs: GPT_JAX_COMPILATION_CACHE, or the user's cache folder."""
    user = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(os.environ.get('GPT_JAX_COMPILATION_CACHE') or Path(user) / 'gpt_jax' / 'compilation')


def start(cpu_devices: int, distributed: str) -> None:
    """Sets JAX up; call it once, before the first array.

    Args:
      cpu_devices: JAX devices to make of this process's CPU where there is no accelerator; 0: one per core.
      distributed: '' for one process, 'auto' for what the cluster tells (Slurm, TPU pods, Open MPI), or
        'COORDINATOR:PORT,PROCESSES,INDEX'.

    Raises:
      UserError: `distributed` is none of these, or the processes did not meet.
    """
    devices = cpu_devices or (1 if distributed else cores())
    if 'xla_force_host_platform_device_count' not in os.environ.get('XLA_FLAGS', ''):
        jax.config.update('jax_num_cpu_devices', devices)
    avoid_known_faults(devices)
    jax.config.update('jax_compilation_cache_dir', str(cache_folder()))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)
    if distributed:
        _join(distributed)


def start_unless_running(cpu_devices: int) -> None:
    """`start` for one process, where its user has not made JAX take hold of its devices already."""
    with contextlib.suppress(RuntimeError):  # what JAX raises where it runs already; then its devices are what there is
        start(cpu_devices, '')


def avoid_known_faults(cpu_devices: int) -> None:
    """Turns off what is known to be wrong in XLA's CPU compiler; before the first array.

    jaxlib 0.10's YNNPACK fusions of sums and elementwise operations return wrong numbers: the per-token gradients of
    two packed documents leaked into each other (tests/model/test_gpt.py shows it). Its single products are right, and
    on one device, which writes texts, faster than XLA's own. Later jaxlibs may not know the flag, and would abort on
    it.

    Several CPU devices in one process share one pool of threads, as many as there are cores. Where an operation is cut
    over the pool, a collective may wait inside a thread of it, so two devices on two cores can wait for each other for
    ever. With every operation on its device's own thread they cannot, and a step is faster too.
    """
    given = os.environ.get('XLA_FLAGS', '')
    wanted = []
    if jax.__version_info__[:2] == (0, 10) and 'ynn_fusion_type' not in given:
        wanted.append(f'--xla_cpu_experimental_ynn_fusion_type={"" if cpu_devices > 1 else SINGLE_PRODUCTS}')
    if cpu_devices > 1 and 'multi_thread_eigen' not in given:
        wanted.append('--xla_cpu_multi_thread_eigen=false')
    os.environ['XLA_FLAGS'] = ' '.join([given, *wanted]).strip()
    if cpu_devices > 1:
        os.environ.setdefault('NPROC', '1')  # what XLA's CPU client cuts its operations by


def _join(distributed: str) -> None:
    jax.config.update('jax_cpu_collectives_implementation', 'gloo')
    try:
        if distributed == 'auto':
            jax.distributed.initialize()
            return
        address, processes, index = distributed.rsplit(',', 2)
        jax.distributed.initialize(address, int(processes), int(index))
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"--distributed={distributed}: wants 'auto' or COORDINATOR:PORT,PROCESSES,INDEX ({error})"
        ) from None


def versions() -> dict[str, str]:
    """What the numbers of this run were made with."""
    import platform
    from importlib import metadata

    import gpt_jax

    packages = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'numpy')
    found = {'python': platform.python_version(), 'gpt_jax': gpt_jax.__version__}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = 'absent'
    return found
