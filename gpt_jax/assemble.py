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
from gpt_jax.data.config import DataConfig
from gpt_jax.data.task import TaskConfig
from gpt_jax.finetune import split
from gpt_jax.finetune.config import TuneConfig
from gpt_jax.launch.config import SweepConfig
from gpt_jax.model import accounting, weights
from gpt_jax.model import loss as losses
from gpt_jax.model.config import ModelConfig, resolve
from gpt_jax.model.experts import ROUTING_LOSSES
from gpt_jax.model.gpt import GPT, check_choices
from gpt_jax.optim import updates
from gpt_jax.optim.config import OptimizerConfig
from gpt_jax.parallel import place
from gpt_jax.parallel.mesh import AUTO, MeshConfig
from gpt_jax.train.config import BenchmarkConfig, TrainConfig
from gpt_jax.train.many import Many, many
from gpt_jax.train.state import State, Weights, create, like_params
from gpt_jax.train.step import AS_STORED, Form, Loss, make_evaluation, make_step


@dataclass(frozen=True)
class Settings:
    """A whole run's config, checked."""

    name: str
    seed: int
    model: ModelConfig
    data: DataConfig
    task: TaskConfig
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
    known = ['name', 'seed', 'model', *SECTIONS]
    for key in config:
        schema.require(key in known, key, f'no such section{schema.nearest(key, known)}')
    for key in known:
        schema.require(key in config, key, 'missing')
    schema.require(isinstance(config['seed'], int) and 0 <= config['seed'] < 2**32, 'seed', 'must be in [0, 2^32)')
    schema.name(config['name'], 'name')
    model = schema.from_dict(ModelConfig, resolve(config['model'], vocab_size), 'model')
    check_choices(model)
    sections: dict[str, Any] = {key: schema.from_dict(cls, config[key], key) for key, cls in SECTIONS.items()}
    checked = Settings(name=config['name'], seed=config['seed'], model=model, **sections)
    updates.make(checked.optimizer, parametrization.NO_FACTORS, checked.steps)
    return checked


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
    whole: state -> the params as the model and `evaluate` take them; its own where all are trained.
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
    boxed = declarations(s.model)
    tuned = tuning.tuning(s.tune, s.optimizer, s.model, boxed, steps=s.steps, seed=s.seed)
    tuning.check(tuned, mesh.shape['pipeline'])
    transformation, rate = tuned.optimizer(None)
    replicated = NamedSharding(mesh, PartitionSpec())
    stored = place.weight_shardings(tuned.abstract, tuned.letters, lie.strategy, mesh)
    abstract = jax.eval_shape(lambda given: create(given, transformation), tuned.abstract)
    shardings = like_params(abstract, stored.trained, replicated).replace(kept=stored.kept)

    placement = layout.placement(lie)
    step = make_step(
        summed_loss(s.model, placement, train=True), transformation, rate,
        layout=layout.of_step(lie, tuned.abstract, tuned.letters), microbatches=lie.microbatches,
        clip_norm=s.optimizer.clip, seed=s.seed, form=form(s.model, placement, tuned.abstract.trained),
        whole=tuned.whole,
    )  # fmt: skip
    read_lies = layout.of_step(lie, *(Weights(whole, None) for whole in tuned.reading))
    evaluate = make_evaluation(summed_loss(s.model, placement, train=False), layout=read_lies)

    def init() -> State:
        key = jax.random.fold_in(jax.random.key(s.seed), 0)
        return create(tuned.divide(weights.unbox(initial(s.model, key))), transformation)

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


def initial(config: ModelConfig, key: jax.Array) -> Any:
    """The declared weights with their first values, as stored."""
    model = GPT(config, place.ANYWHERE, train=False)
    return model.init(key, jnp.zeros((1, 1), jnp.int32))['params']  # no weight depends on the text's length


def declarations(config: ModelConfig) -> Any:
    """The tree of declared weights, abstract: nothing is computed or allocated."""
    return jax.eval_shape(lambda: initial(config, jax.random.key(0)))


def abstract_batch(s: Settings, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes and shardings of what `on_devices` gives for the run's batches."""
    types = {'inputs': jnp.int32, 'targets': jnp.int32}
    if s.data.packing == 'isolate':
        types |= {'segments': jnp.int32, 'positions': jnp.int32, 'weights': jnp.float32}
    if mesh.shape['context'] > 1:
        types['positions'] = jnp.int32
    shape, sharding = (s.train.batch, s.model.context), NamedSharding(mesh, layout.batch_spec(mesh))
    return {name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for name, dtype in types.items()}


def summed_loss(config: ModelConfig, placement: place.Placement, *, train: bool) -> Loss:
    """(params, batch, dropout key) -> (the summed objective, sums by name), as the step wants it.

    'loss' is of the text alone, in nats; the objective also has the losses that keep logits and routing in order, where
    the config has coefficients for them.
    """
    model = GPT(config, placement, train=train)

    def loss(params: Any, batch: dict[str, jax.Array], key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        features: Any = model.apply(
            {'params': params}, batch['inputs'], batch.get('segments'), batch.get('positions'), rngs={'dropout': key}
        )
        team = placement.team('V')
        x_BLD = team.gather(features.x_BLD, 1)
        weights_BL = batch.get('weights', jnp.ones(batch['targets'].shape, jnp.float32))
        weight = jnp.sum(weights_BL)
        found = losses.summed_losses(x_BLD, features.w_VD, batch['targets'], weights_BL, config, team)
        # As means over the devices' own tokens they count alike, however many targets a device has.
        even = placement.team('BL').mean(weight)
        routing = {name: even * jnp.mean(value_N) for name, value_N in features.statistics.items()}
        # The devices that share an expert's width have routed the same tokens: each has its part of these losses.
        objective = found.objective + sum(
            getattr(config, name) * value / team.size for name, value in routing.items() if name in ROUTING_LOSSES
        )
        normalizer = {'z_loss': found.normalizer} if config.z_loss else {}
        return objective, {'loss': found.text, 'weight': weight} | normalizer | routing

    return loss


def form(config: ModelConfig, placement: place.Placement, like: Any = None) -> Form:
    """Stacked layers for a loop that is rolled up, each by itself for one that is written out.

    Args:
      like: what is trained, or its shapes; None: all.
    """
    if config.scan_layers or placement.team('N').size > 1:
        return AS_STORED
    layers = config.layers
    return Form(enter=lambda tree: split.apart(tree, layers), leave=lambda grads: split.together(grads, layers, like))
