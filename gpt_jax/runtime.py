"""How does a process take hold of its devices? CPU devices, processes, compile cache: before the first array."""

import contextlib
import os
import socket
import time
from pathlib import Path

import jax

from gpt_jax import watchdog
from gpt_jax.errors import UserError

HEARTBEAT, MEET = 100.0, 300.0  # seconds: JAX's own, where stall_seconds is longer
SINGLE_PRODUCTS = 'LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT'


def cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def cache_folder() -> Path:
    """Where compiled programs are kept between runs: GPT_JAX_COMPILATION_CACHE, or the user's cache folder."""
    user = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(os.environ.get('GPT_JAX_COMPILATION_CACHE') or Path(user) / 'gpt_jax' / 'compilation')


def start(cpu_devices: int, distributed: str, stall_seconds: float = 0.0, axes: int = 1) -> None:
    """Sets JAX up; call it once, before the first array.

    Args:
      cpu_devices: JAX devices to make of this process's CPU where there is no accelerator; 0: one per core.
      distributed: '' for one process, 'auto' for what the cluster tells (Slurm, TPU pods, Open MPI), or
        'COORDINATOR:PORT,PROCESSES,INDEX'.
      stall_seconds: after which a process that is frozen, or cannot be reached, counts as lost; 0: JAX's own times.
      axes: of the mesh, along which devices wait for each other.

    Raises:
      UserError: `distributed` is none of these, or the processes did not meet.
    """
    devices = cpu_devices or (1 if distributed else cores())
    if 'xla_force_host_platform_device_count' not in os.environ.get('XLA_FLAGS', ''):
        jax.config.update('jax_num_cpu_devices', devices)
    avoid_known_faults(devices, axes)
    jax.config.update('jax_compilation_cache_dir', str(cache_folder()))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)
    if distributed:
        _join(distributed, stall_seconds or float('inf'))


def start_unless_running(cpu_devices: int) -> None:
    """`start` for one process, where its user has not made JAX take hold of its devices already."""
    with contextlib.suppress(RuntimeError):  # what JAX raises where it runs already; then its devices are what there is
        start(cpu_devices, '')


def avoid_known_faults(cpu_devices: int, axes: int = 1) -> None:
    """Turns off what is known to be wrong in XLA's CPU compiler; before the first array.

    jaxlib 0.10's YNNPACK fusions of sums and elementwise operations return wrong numbers: the per-token gradients of
    two packed documents leaked into each other (tests/model/test_gpt.py shows it). Its single products are right, and
    on one device, which writes texts, faster than XLA's own. Later jaxlibs may not know the flag, and would abort on
    it.

    Several CPU devices in one process share one pool of threads, as many as there are cores. Where an operation is cut
    over the pool, a collective may wait inside a thread of it, so two devices on two cores can wait for each other for
    ever. With every operation on its device's own thread they cannot, and a step is faster too. Along several axes of
    a mesh a device waits in several collectives at once, each in a thread: there must be enough of them, though with
    more a step that needs them not is a third slower.
    """
    given = os.environ.get('XLA_FLAGS', '')
    wanted = []
    if jax.__version_info__[:2] == (0, 10) and 'ynn_fusion_type' not in given:
        wanted.append(f'--xla_cpu_experimental_ynn_fusion_type={"" if cpu_devices > 1 else SINGLE_PRODUCTS}')
    if cpu_devices > 1 and 'multi_thread_eigen' not in given:
        wanted.append('--xla_cpu_multi_thread_eigen=false')
    os.environ['XLA_FLAGS'] = ' '.join([given, *wanted]).strip()
    if cpu_devices > 1:
        # XLA's CPU client has so many threads, or as many as devices, and cuts its operations by their number.
        os.environ.setdefault('NPROC', '1' if axes == 1 else str(4 * cpu_devices))


def _join(distributed: str, patience: float) -> None:
    """Meets the other processes, or leaves with the code that says: run it again.

    The coordinator, on process 0, listens at the address that the others are told, and nowhere else; where they reach
    it by another address than its own, JAX_COORDINATOR_BIND_ADDRESS says its own.
    """
    jax.config.update('jax_cpu_collectives_implementation', 'gloo')
    address, processes, index = _meeting(distributed)
    who = f'process {index} of {processes}' if processes is not None else 'this process'
    watchdog.catch_abort(who)
    meet = int(max(5.0, min(MEET, patience)))
    if address is not None and index:
        _reach(address, meet, who)
    try:
        jax.distributed.initialize(
            address, processes, index, initialization_timeout=meet,
            coordinator_bind_address=os.environ.get('JAX_COORDINATOR_BIND_ADDRESS') or _bind(address),
            heartbeat_timeout_seconds=int(max(5.0, min(HEARTBEAT, patience))), shutdown_timeout_seconds=meet,
        )  # fmt: skip
    except ValueError as error:
        raise UserError(f'--distributed={distributed}: {error}') from None
    except RuntimeError as error:
        watchdog.leave(f'{who}: the others did not come within {meet} s ({" ".join(str(error).split())[:200]})')


def _meeting(distributed: str) -> tuple[str | None, int | None, int | None]:
    """(address, processes, index); None for what JAX finds out itself.

    Raises:
      UserError: `distributed` is neither 'auto' nor an address and two numbers that fit.
    """
    if distributed == 'auto':
        if 'SLURM_STEP_NODELIST' not in os.environ:
            os.environ.setdefault('JAX_COORDINATOR_PORT', '8476')
            return None, None, None
        first = _first_node(os.environ['SLURM_STEP_NODELIST'])
        # Another port for each job, since several may share a machine.
        port = 61440 + int(os.environ['SLURM_JOB_ID']) % 4096
        return f'{first}:{port}', int(os.environ['SLURM_NTASKS']), int(os.environ['SLURM_PROCID'])
    parts = distributed.rsplit(',', 2)
    host, _, port_given = parts[0].rpartition(':')
    if len(parts) != 3 or not host or not all(part.isascii() and part.isdigit() for part in (port_given, *parts[1:])):
        raise UserError(f"--distributed={distributed}: wants 'auto' or COORDINATOR:PORT,PROCESSES,INDEX")
    processes, index = int(parts[1]), int(parts[2])
    if index >= processes:
        raise UserError(f'--distributed={distributed}: INDEX counts from 0 and must be less than PROCESSES')
    return parts[0], processes, index


def _first_node(nodes: str) -> str:
    """The first of Slurm's list: n1 of n1,n2 and of n[1-2], n01 of n[01,03-05]."""
    prefix, bracket, rest = nodes.partition(',')[0].partition('[')
    return prefix + (rest.partition('-')[0].partition(']')[0] if bracket else '')


def _bind(address: str | None) -> str:
    """Where the coordinator listens: the address that the others know, as a number; of this machine's card if unknown.

    Some systems call themselves 127.0.1.1, where nobody else would find them.
    """
    if address is None:
        return f'{_own_address()}:{os.environ["JAX_COORDINATOR_PORT"]}'
    host, _, port = address.rpartition(':')
    with contextlib.suppress(OSError):
        number = socket.gethostbyname(host.strip('[]'))
        own_name = number.startswith('127.') and number != '127.0.0.1'
        return f'{_own_address() if own_name else number}:{port}'
    return address


def _own_address() -> str:
    """Of the network card that leads outwards; no packet is sent for it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one, contextlib.suppress(OSError):
        one.connect(('10.254.254.254', 9))
        return str(one.getsockname()[0])
    return '127.0.0.1'


def _reach(address: str, seconds: float, who: str) -> None:
    """Returns when somebody listens there; JAX itself would abort where nobody does."""
    host, _, port = address.rpartition(':')
    until = time.monotonic() + seconds
    while True:
        try:
            with socket.create_connection((host.strip('[]'), int(port)), timeout=max(1.0, until - time.monotonic())):
                return
        except OSError as error:
            if time.monotonic() > until:
                watchdog.leave(f'{who}: no coordinator at {address} within {seconds:g} s ({error})')
            time.sleep(0.2)


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
