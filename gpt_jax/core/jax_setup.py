"""JAX setup before the first array: CPU devices, processes, compilation cache, XLA flags."""

import contextlib
import os
import socket
import time
from pathlib import Path

import jax

from gpt_jax.core import watchdog
from gpt_jax.core.errors import UserError

# JAX's own timeouts, in seconds; stall_seconds shortens them.
HEARTBEAT_SECONDS, CONNECT_SECONDS = 100.0, 300.0
SINGLE_PRODUCTS = 'LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT'


def count_cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def compilation_cache_folder() -> Path:
    """Return GPT_JAX_COMPILATION_CACHE, or a folder in the user's cache folder."""
    user = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(
        os.environ.get('GPT_JAX_COMPILATION_CACHE') or Path(user) / 'gpt_jax' / 'compilation'
    )


def start_jax(
    cpu_devices: int, distributed: str, stall_seconds: float = 0.0, axes: int = 1
) -> None:
    """Set up JAX; call this once, before the first array is made.

    Args:
      cpu_devices: number of JAX devices on the CPU if there is no accelerator; 0: one per core.
      distributed: '' for one process, 'auto' to ask the cluster (Slurm, TPU pods, Open MPI), or
        'COORDINATOR:PORT,PROCESSES,INDEX'.
      stall_seconds: time after which a frozen or unreachable process counts as lost; 0: JAX's
        default.
      axes: number of mesh axes along which devices wait for each other.

    Raises:
      UserError: `distributed` is malformed.
    """
    devices = cpu_devices or (1 if distributed else count_cores())
    if 'xla_force_host_platform_device_count' not in os.environ.get('XLA_FLAGS', ''):
        jax.config.update('jax_num_cpu_devices', devices)
    set_xla_flags(devices, axes)
    jax.config.update('jax_compilation_cache_dir', str(compilation_cache_folder()))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)
    if distributed:
        _join(distributed, stall_seconds or float('inf'))


def start_jax_unless_running(cpu_devices: int) -> None:
    """Call `start_jax` for one process unless the user has already initialized JAX."""
    with contextlib.suppress(RuntimeError):  # raised if JAX already has its devices
        start_jax(cpu_devices, '')


def set_xla_flags(cpu_devices: int, axes: int = 1) -> None:
    """Set XLA flags that avoid known faults of its CPU compiler; call before the first array.

    In jaxlib 0.10, YNNPACK's fusions of sums and elementwise operations return wrong results: the
    per-token gradients of two packed documents leaked into each other (shown by
    tests/model/test_gpt.py). Its unfused matrix products are correct and, on a single device as in
    generation, faster than XLA's own. Later versions may not know the flag and would abort.

    Several CPU devices in one process share a thread pool with one thread per core. If an operation
    is split over the pool, a collective may block one of its threads, and two devices on two cores
    can wait for each other forever. Running every operation on its device's own thread avoids that
    and is faster. With several mesh axes, a device can wait in several collectives at once, each in
    its own thread, so there must be enough threads; with more than needed, a step takes a third
    longer.
    """
    current = os.environ.get('XLA_FLAGS', '')
    flags = []
    if jax.__version_info__[:2] == (0, 10) and 'ynn_fusion_type' not in current:
        flags.append(
            f'--xla_cpu_experimental_ynn_fusion_type={"" if cpu_devices > 1 else SINGLE_PRODUCTS}'
        )
    if cpu_devices > 1 and 'multi_thread_eigen' not in current:
        flags.append('--xla_cpu_multi_thread_eigen=false')
    os.environ['XLA_FLAGS'] = ' '.join([current, *flags]).strip()
    if cpu_devices > 1:
        # The number of threads of XLA's CPU client, which also splits operations by it.
        os.environ.setdefault('NPROC', '1' if axes == 1 else str(4 * cpu_devices))


def _join(distributed: str, patience: float) -> None:
    """Connect to the other processes, or exit with code 75.

    The coordinator, in process 0, listens only on the address that the other processes are given,
    or on JAX_COORDINATOR_BIND_ADDRESS if that is set because its own address differs.
    """
    jax.config.update('jax_cpu_collectives_implementation', 'gloo')
    address, processes, index = _find_rendezvous(distributed)
    name = f'process {index} of {processes}' if processes is not None else 'this process'
    watchdog.catch_abort(name)
    timeout = int(max(5.0, min(CONNECT_SECONDS, patience)))
    if address is not None and index:
        _wait_for_coordinator(address, timeout, name)
    try:
        jax.distributed.initialize(
            address,
            processes,
            index,
            initialization_timeout=timeout,
            coordinator_bind_address=os.environ.get('JAX_COORDINATOR_BIND_ADDRESS')
            or _bind(address),
            heartbeat_timeout_seconds=int(max(5.0, min(HEARTBEAT_SECONDS, patience))),
            shutdown_timeout_seconds=timeout,
        )
    except ValueError as error:
        raise UserError(f'--distributed={distributed}: {error}') from None
    except RuntimeError as error:
        reason = ' '.join(str(error).split())[:200]
        watchdog.exit_resumable(
            f'{name}: the other processes did not connect within {timeout} s ({reason})'
        )


def _find_rendezvous(distributed: str) -> tuple[str | None, int | None, int | None]:
    """Return (address, processes, index), each None if JAX detects it by itself.

    Raises:
      UserError: `distributed` is neither 'auto' nor an address and two valid numbers.
    """
    if distributed == 'auto':
        if 'SLURM_STEP_NODELIST' not in os.environ:
            os.environ.setdefault('JAX_COORDINATOR_PORT', '8476')
            return None, None, None
        first = _first_node(os.environ['SLURM_STEP_NODELIST'])
        # The port depends on the job, since several jobs may share a machine.
        port = 61440 + int(os.environ['SLURM_JOB_ID']) % 4096
        return f'{first}:{port}', int(os.environ['SLURM_NTASKS']), int(os.environ['SLURM_PROCID'])
    parts = distributed.rsplit(',', 2)
    host, _, port_given = parts[0].rpartition(':')
    if (
        len(parts) != 3
        or not host
        or not all(part.isascii() and part.isdigit() for part in (port_given, *parts[1:]))
    ):
        raise UserError(
            f"--distributed={distributed}: must be 'auto' or COORDINATOR:PORT,PROCESSES,INDEX"
        )
    processes, index = int(parts[1]), int(parts[2])
    if index >= processes:
        raise UserError(
            f'--distributed={distributed}: INDEX must be less than PROCESSES; it counts from 0'
        )
    return parts[0], processes, index


def _first_node(nodes: str) -> str:
    """Return the first node of Slurm's node list: n1 of n1,n2 or n[1-2], n01 of n[01,03-05]."""
    prefix, bracket, rest = nodes.partition(',')[0].partition('[')
    return prefix + (rest.partition('-')[0].partition(']')[0] if bracket else '')


def _bind(address: str | None) -> str:
    """Return the numeric address on which the coordinator listens, which is the one others know.

    Some systems resolve their own name to 127.0.1.1, which others cannot reach; in that case it is
    the address of the network card.
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
    """Return the address of the outbound network card, without sending a packet."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(('10.254.254.254', 9))
        return str(probe.getsockname()[0])
    return '127.0.0.1'


def _wait_for_coordinator(address: str, seconds: float, name: str) -> None:
    """Wait until the coordinator listens, or exit with code 75; JAX itself would abort."""
    host, _, port = address.rpartition(':')
    deadline = time.monotonic() + seconds
    while True:
        try:
            with socket.create_connection(
                (host.strip('[]'), int(port)), timeout=max(1.0, deadline - time.monotonic())
            ):
                return
        except OSError as error:
            if time.monotonic() > deadline:
                watchdog.exit_resumable(
                    f'{name}: no coordinator at {address} within {seconds:g} s ({error})'
                )
            time.sleep(0.2)


def find_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that affect a run's results."""
    import platform
    from importlib import metadata

    import gpt_jax

    packages = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'numpy')
    versions = {'python': platform.python_version(), 'gpt_jax': gpt_jax.__version__}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = 'absent'
    return versions
