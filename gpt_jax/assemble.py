"""How do config words become functions? The only room that knows both; wiring, no science."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gpt_jax import compiler, layout, parametrization, schema, tuning
from gpt_jax.data import packed
from gpt_jax.data.config import DataConfig
from gpt_jax.data.task import TaskConfig
from gpt_jax.evaluate import metrics
from gpt_jax.evaluate.config import SuiteConfig
from gpt_jax.finetune import head, split
from gpt_jax.finetune.config import TuneConfig
from gpt_jax.launch.config import SweepConfig
from gpt_jax.model import accounting, weights
from gpt_jax.model.config import ModelConfig, resolve
from gpt_jax.model.gpt import GPT, check_choices
from gpt_jax.objective import reading, scoring, summed_loss
from gpt_jax.optim import updates
from gpt_jax.optim.config import OptimizerConfig
from gpt_jax.parallel import place
from gpt_jax.parallel.mesh import AUTO, MeshConfig
from gpt_jax.train.config import BenchmarkConfig, TrainConfig
from gpt_jax.train.many import Many, many
from gpt_jax.train.state import State, Weights, create, like_params
from gpt_jax.train.step import AS_STORED, Form, make_evaluation, make_reading, make_step


@dataclass(frozen=True)
class Settings:
    """A whole run's config, checked."""

    name: str
    seed: int
    init_from: str
    model: ModelConfig
    data: DataConfig
    task: TaskConfig
    suite: SuiteConfig
    tune: TuneConfig
    optimizer: OptimizerConfig
    train: TrainConfig
    mesh: MeshConfig
    benchmark: BenchmarkConfig
    sweep: SweepConfig

    @property
    def steps(self) -> int:
        return self.train.total_steps(self.model.context, accounting.flops_per_token(self.model)['6N'])

    @property
    def tokens_per_step(self) -> int:
        return self.train.batch * self.model.context


SECTIONS = {
    'data': DataConfig,
    'task': TaskConfig,
    'suite': SuiteConfig,
    'tune': TuneConfig,
    'optimizer': OptimizerConfig,
    'train': TrainConfig,
    'mesh': MeshConfig,
    'benchmark': BenchmarkConfig,
    'sweep': SweepConfig,
}


def settings(config: Mapping[str, Any], vocab_size: int) -> Settings:
    """Checks a config to the letter.

    Args:
      config: nested dict, as configs/base.py makes it.
      vocab_size: the tokenizer's; 1 where it is not known yet and only the rest is to be checked.

    Raises:
      UserError: names the field.
    """
    known = ['name', 'seed', 'init_from', 'model', *SECTIONS]
    for key in config:
        schema.require(key in known, key, f'no such section{schema.nearest(key, known)}')
    for key in known:
        schema.require(key in config, key, 'missing')
    schema.require(isinstance(config['seed'], int) and 0 <= config['seed'] < 2**32, 'seed', 'must be in [0, 2^32)')
    schema.name(config['name'], 'name')
    schema.require(isinstance(config['init_from'], str), 'init_from', 'wants the name of a folder')
    model = schema.from_dict(ModelConfig, resolve(config['model'], vocab_size), 'model')
    check_choices(model)
    sections: dict[str, Any] = {key: schema.from_dict(cls, config[key], key) for key, cls in SECTIONS.items()}
    checked = Settings(name=config['name'], seed=config['seed'], init_from=config['init_from'], model=model, **sections)
    metrics.check(checked.task.metrics, checked.task.kind)
    updates.make(checked.optimizer, parametrization.NO_FACTORS, checked.steps)
    return checked


def task_config(config: Mapping[str, Any]) -> TaskConfig:
    """The part of a config that says what is learned."""
    return schema.from_dict(TaskConfig, config['task'], 'task')


def data_config(config: Mapping[str, Any]) -> DataConfig:
    """The part of a config that must be known before the tokenizer's vocabulary is."""
    return schema.from_dict(DataConfig, config['data'], 'data')


class Program(NamedTuple):
    """An assembled run.

    why: the mesh is as it is, where it was chosen for this run; else ''.
    rows: how many devices have rows of their own of the batch. microbatches: that a device takes its share in.
    share: () -> (which part of the batch's rows this process reads, of how many parts).
    step: jitted (state, batch) -> (state, metrics); the state is donated.
    evaluate: jitted (params, batch) -> (summed loss in nats, summed weight).
    read: jitted (params, batch) -> what is read at every place (objective.py).
    score: jitted (params, batch) -> (log p of what is asked, whether it is the likeliest) (objective.py).
    whole: state -> the params as the model, `evaluate`, `read` and `score` take them; its own where all are trained.
    init: () -> the state before the first update, on its devices.
    begin: params on their devices -> the state before the first update of them; they are donated.
    kept: params on their devices -> what no update changes of them, for a state that was saved without it.
    abstract_state: shapes, dtypes and shardings of the state. abstract_params: of all the weights of the model.
    on_devices: iterator of this process's rows -> iterator of global arrays.
    """

    mesh: Mesh
    why: str
    rows: int
    microbatches: int
    share: Callable[[], tuple[int, int]]
    step: Any
    evaluate: Callable[[Any, Any], tuple[jax.Array, jax.Array]]
    read: Callable[[Any, Any], jax.Array]
    score: Callable[[Any, Any], tuple[jax.Array, jax.Array]]
    whole: Callable[[State], Any]
    init: Callable[[], State]
    begin: Callable[[Any], State]
    kept: Callable[[Any], Any]
    abstract_state: State
    abstract_params: Any
    on_devices: Callable[[Iterable[dict[str, np.ndarray]]], Iterator[dict[str, jax.Array]]]


def devices(s: Settings, given: Sequence[Any] | None = None) -> layout.Lie:
    """The devices there are, as the run wants them; raises UserError where they cannot be arranged so."""
    parameters = accounting.parameters(s.model)['total'] if s.mesh.strategy == AUTO else 0
    return layout.lie(s.mesh, s.model, s.train, parameters, given)


def build(s: Settings, given: Sequence[Any] | None = None) -> Program:
    """Builds the run over the devices there are, or those `given`, maybe of a machine that is not here. Compiles and
    allocates nothing yet."""
    lie = devices(s, given)
    mesh = lie.mesh
    schema.require(
        mesh.shape['context'] == 1 or s.task.kind in ('none', 'answer'), 'mesh.context',
        f'{mesh.shape["context"]} devices share a text, which task.kind {s.task.kind} reads whole; take another axis',
    )  # fmt: skip
    boxed = declarations(s.model, s.task)
    tuned = tuning.tuning(s.tune, s.optimizer, s.model, boxed, steps=s.steps, seed=s.seed)
    tuning.check(tuned, mesh.shape['pipeline'])
    transformation, rate = tuned.optimizer(None)
    replicated = NamedSharding(mesh, PartitionSpec())
    stored = place.weight_shardings(tuned.abstract, tuned.letters, lie.strategy, mesh)
    abstract = jax.eval_shape(lambda given: create(given, transformation), tuned.abstract)
    shardings = like_params(abstract, stored.trained, replicated).replace(kept=stored.kept)

    placement = layout.placement(lie)
    step = make_step(
        summed_loss(s.model, placement, train=True, task=s.task), transformation, rate,
        layout=layout.of_step(lie, tuned.abstract, tuned.letters), microbatches=lie.microbatches,
        clip_norm=s.optimizer.clip, seed=s.seed, form=form(s.model, placement, tuned.abstract.trained),
        whole=tuned.whole,
    )  # fmt: skip
    read_lies = layout.of_step(lie, *(Weights(whole, None) for whole in tuned.reading))
    evaluate = make_evaluation(summed_loss(s.model, placement, train=False, task=s.task), layout=read_lies)

    def init() -> State:
        key = jax.random.fold_in(jax.random.key(s.seed), 0)
        return create(tuned.divide(weights.unbox(initial(s.model, key, s.task))), transformation)

    begin = lambda params: create(tuned.divide(params), transformation)  # noqa: E731
    options = compiler.options(mesh.devices.flat[0].device_kind)
    return Program(
        mesh=mesh,
        why=lie.why,
        rows=lie.rows,
        microbatches=lie.microbatches,
        share=functools.partial(layout.share, mesh),
        step=jax.jit(step, donate_argnums=0, out_shardings=(shardings, replicated), compiler_options=options),
        evaluate=jax.jit(evaluate),
        read=jax.jit(make_reading(reading(s.model, placement, s.task), layout=read_lies)),
        score=jax.jit(make_reading(scoring(s.model, placement), layout=read_lies)),
        whole=lambda state: tuning.read(state.weights),
        init=jax.jit(init, out_shardings=shardings),
        begin=jax.jit(begin, donate_argnums=0, out_shardings=shardings),
        kept=jax.jit(lambda params: tuned.divide(params).kept, donate_argnums=0, out_shardings=stored.kept),
        abstract_state=_placed(abstract, shardings),
        abstract_params=_placed(
            weights.unbox(boxed),
            place.weight_shardings(weights.unbox(boxed), weights.letters(boxed), lie.strategy, mesh),
        ),
        on_devices=lambda batches: layout.on_devices(batches, mesh, lie.long),
    )


def _placed(abstract: Any, shardings: Any) -> Any:
    return jax.tree.map(lambda a, d: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=d), abstract, shardings)


def build_many(s: Settings, runs: int) -> Many:
    """The same run `runs` times side by side, which differ in seed and learning rate."""
    tuned = tuning.tuning(s.tune, s.optimizer, s.model, declarations(s.model), steps=s.steps, seed=s.seed)

    def init(seed: jax.Array) -> State:
        key = jax.random.fold_in(jax.random.key(seed), 0)
        return create(tuned.divide(weights.unbox(initial(s.model, key))), tuned.optimizer(None)[0])

    def step(state: State, batch: Any, seed: jax.Array, peak: jax.Array) -> Any:
        transformation, rate = tuned.optimizer(peak)
        one = make_step(
            summed_loss(s.model, place.ANYWHERE, train=True), transformation, rate, layout=None,
            microbatches=s.train.microbatches(1), clip_norm=s.optimizer.clip, seed=seed,
            form=form(s.model, place.ANYWHERE, tuned.abstract.trained), whole=tuned.whole,
        )  # fmt: skip
        return one(state, batch)

    return many(init, step, runs)


def initial(config: ModelConfig, key: jax.Array, task: TaskConfig | None = None) -> Any:
    """The declared weights with their first values, as stored; with a task, its head's too."""
    model = GPT(config, place.ANYWHERE, train=False)
    made = model.init(key, jnp.zeros((1, 1), jnp.int32))['params']  # no weight depends on the text's length
    return made if task is None else {**made, **head.declared(task, config, jax.random.fold_in(key, 1))}


def declarations(config: ModelConfig, task: TaskConfig | None = None) -> Any:
    """The tree of declared weights, abstract: nothing is computed or allocated."""
    return jax.eval_shape(lambda: initial(config, jax.random.key(0), task))


def abstract_batch(s: Settings, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes and shardings of what `on_devices` gives for the run's batches."""
    names = packed.FIELDS.get(s.task.kind) or (packed.TEXT if s.data.packing == 'isolate' else packed.TEXT[:2])
    types = {name: packed.TYPES.get(name, jnp.int32) for name in names}
    if mesh.shape['context'] > 1:
        types['positions'] = jnp.int32
    shape, sharding = (s.train.batch, s.model.context), NamedSharding(mesh, layout.batch_spec(mesh))
    return {name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for name, dtype in types.items()}


def form(config: ModelConfig, placement: place.Placement, like: Any = None) -> Form:
    """Stacked layers for a loop that is rolled up, each by itself for one that is written out.

    Args:
      like: what is trained, or its shapes; None: all.
    """
    if config.scan_layers or placement.team('N').size > 1:
        return AS_STORED
    layers = config.layers
    return Form(enter=lambda tree: split.apart(tree, layers), leave=lambda grads: split.together(grads, layers, like))
