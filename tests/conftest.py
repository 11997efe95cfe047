"""Shared by all tests: eight CPU devices, and one cache of compiled programs per test run."""

import gc
import os
import signal
import tempfile
from pathlib import Path

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['OPENBLAS_NUM_THREADS'] = '1'  # threads of several workers compete
# One folder for all workers of a run and the programs that tests start; not a fixed name, since
# programs of older code must not be reused.
if 'GPT_JAX_TEST_CACHE' not in os.environ:
    os.environ['GPT_JAX_TEST_CACHE'] = tempfile.mkdtemp(prefix='gpt_jax_tests_')
CACHE = Path(os.environ['GPT_JAX_TEST_CACHE'])
os.environ['GPT_JAX_COMPILATION_CACHE'] = str(CACHE / 'compilation')
os.environ['XDG_CACHE_HOME'] = str(CACHE)

import jax
import pytest

from gpt_jax import base_config
from gpt_jax.core import jax_setup
from gpt_jax.core.config import Config, ModelConfig, parse_config, resolve_model, to_raw
from gpt_jax.core.config_fields import from_dict

# Tracing creates so many short-lived objects that the cycle collector takes a tenth of its time.
gc.set_threshold(100_000, 50, 50)
# Nearly all of the tests' time is compiling. Unoptimized machine code from XLA's older emitters
# takes less than half of it, here and in the programs that tests start. Later jaxlibs may not know
# the second flag and would abort.
flags = f'{os.environ.get("XLA_FLAGS", "")} --xla_backend_optimization_level=0'
if jax.__version_info__[:2] == (0, 10):
    flags += ' --xla_cpu_use_fusion_emitters=false'
os.environ['XLA_FLAGS'] = flags
jax_setup.set_xla_flags(8)
jax.config.update('jax_num_cpu_devices', 8)
jax.devices()
os.environ['XLA_FLAGS'] = flags  # without those of eight devices
jax.config.update('jax_compilation_cache_dir', os.environ['GPT_JAX_COMPILATION_CACHE'])
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)


def pytest_collection_finish() -> None:
    """Exclude all that was imported from later collections of cycles, which take time each."""
    gc.freeze()


@pytest.fixture
def model_config():
    """Makes a small ModelConfig; keywords replace fields."""

    def make(**fields) -> ModelConfig:
        small = {
            'layers': 2,
            'width': 32,
            'heads': 4,
            'vocab_size': 97,
            'context': 16,
            'attention_chunk': 0,
        }
        values = to_raw(base_config())['model'] | small | fields
        return from_dict(ModelConfig, resolve_model(values, 1), 'model')

    return make


@pytest.fixture
def settings():
    """Makes Settings of a small run; 'section.field' keys replace fields."""

    def make(fields: dict | None = None) -> Config:
        config = to_raw(base_config())
        small = {
            'model.layers': 2,
            'model.width': 32,
            'model.heads': 4,
            'model.context': 16,
            'model.vocab_size': 97,
            'train.batch_size': 8,
            'train.steps': 20,
            'mesh.data': 1,
        }
        for key, value in (small | (fields or {})).items():
            section, _, field = key.rpartition('.')
            (config[section] if section else config)[field] = value
        return parse_config(config, vocab_size=1)

    return make


@pytest.fixture(scope='session')
def source(tmp_path_factory):
    """The config word of a small corpus."""
    from tests import program

    return f'files:{program.corpus(tmp_path_factory.mktemp("corpus"))}'


@pytest.fixture
def hearing():
    """Lets SIGINT interrupt programs, which a background shell ignores and its children inherit."""
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, old)
