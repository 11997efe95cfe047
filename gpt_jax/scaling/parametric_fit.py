"""Fit of a law over parameters and tokens to runs (approach 3 of Hoffmann et al. 2022).

The forms of the laws are in law_forms.py and the search in robust_fit.py. The Huber loss's delta is
HUBER_DELTA there, or the noise between seeds if that is larger (outliers.py). Laws over one
variable (power_law.py) share that search but have another result class, because they are evaluated
in the units of their variable instead of in logarithms, which rounds differently.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from gpt_jax.core.errors import UserError
from gpt_jax.scaling.law_forms import LAW_FORMS, LawForm, LogData, find_law_form
from gpt_jax.scaling.robust_fit import (
    HUBER_DELTA,
    FittedLaw,
    SearchSettings,
    huber_objective,
    search,
    search_all,
)
from gpt_jax.scaling.runs import Runs

BASE_TRIES = 12  # starts of the fit of the base law of 'repeated'
EPOCH_POWER = 1.0  # weight of a run in that fit: one over its number of epochs to this power
EXPANSION_RANGE = 0.1  # of the log of all parameters over the active ones, that 'experts' needs
MAX_LOG_LOSS = 50.0  # of a prediction far from the optimum, whose square is still a number
Search = Callable[..., tuple[np.ndarray, float]]  # with the arguments of robust_fit.search
JOINT_STARTS = 6  # starts of the joint fit of 'repeated' and its base law, the best of the grid


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParametricLaw(FittedLaw):
    """A fitted law over parameters and tokens.

    Attributes:
      law: its form, a key of LAW_FORMS.
      constants: by name, at full precision; E is in units of the loss.
      delta: residual at which the Huber loss turned from quadratic to linear; inf: squares.
      residual: 'log' or 'loss': what the residuals are differences of.
    """

    law: str
    constants: dict[str, float]
    delta: float
    residual: str = 'log'

    def predict(
        self, params: Any, tokens: Any, unique_tokens: Any = None, params_total: Any = None
    ) -> np.ndarray:
        """Return the loss at N and D (all arguments are broadcast against each other).

        Args:
          params: N; the active parameters, where params_total are more.
          tokens: D.
          unique_tokens: of distinct text; None or NaN: no token is repeated.
          params_total: with all experts; None or NaN: N are all.
        """
        given = (params, tokens, unique_tokens, params_total)
        filled = (np.nan if value is None else np.asarray(value, float) for value in given)
        n, d, u, total = np.broadcast_arrays(*(np.log(value) for value in filled))
        u, total = np.fmin(d, u), np.fmax(n, total)
        data = LogData(n.ravel(), d.ravel(), u.ravel(), n.ravel(), total.ravel())
        return np.exp(self.predict_data(data)).reshape(n.shape)

    def predict_data(self, data: LogData) -> np.ndarray:
        """Return the log loss of runs, [runs]."""
        form = find_law_form(self.law)
        return form.predict(form.pack(self.constants), data)[0]


def from_constants(law: str, constants: dict[str, float]) -> ParametricLaw:
    """Make a law from its constants alone, without a fit."""
    return ParametricLaw(
        law=law, constants=constants, delta=0.0, objective=0.0, starts=0, starts_reached=0, points=0
    )


def to_log_data(runs: Runs) -> LogData:
    """Return the logarithms of the runs' columns.

    Without unique_tokens, no token is repeated; without params_total, all parameters are active.
    """
    n, d = np.log(runs.params), np.log(runs.tokens)
    missing = np.full(len(runs), np.nan)
    unique, total = (runs.extra.get(name, missing) for name in ('unique_tokens', 'params_total'))
    u = np.where(np.isnan(unique), d, np.minimum(d, np.log(unique)))
    return LogData(n, d, u, np.log(runs.loss), np.fmax(n, np.log(total)))


def make_settings(runs: int) -> SearchSettings:
    """Return how the laws over N and D are searched; the last term counts for noise-free runs."""
    return SearchSettings(search, same_optimum=1e-4, same_optimum_absolute=1e-13 * runs)


def fit_parametric_law(
    law: str,
    data: LogData,
    *,
    delta: float = HUBER_DELTA,
    tries: int | None = None,
    constants: dict[str, float] | None = None,
    residual: str = 'log',
) -> ParametricLaw:
    """Fit a law to runs.

    Args:
      law: a key of LAW_FORMS.
      data: the runs, in logarithms.
      delta: residual at which the Huber loss turns from quadratic to linear; inf: squares.
      tries: search only from this many of the law's starts, the best ones; None: from all.
      constants: constants of the base law, which 'repeated' then holds fixed, as its authors do;
        None: all constants are fitted together.
      residual: 'log' or 'loss': whether the residuals are those of log loss or of the loss.

    Raises:
      UserError: there are no more runs than constants to fit, or fewer than three sizes or token
        counts.
    """
    jointly = law == 'repeated' and constants is None
    form = _start_jointly(data, delta) if jointly else get_law_form(law, constants)
    _require_enough(law, data, len(form.bounds))
    form, data = with_residual(form, data, residual)
    settings = make_settings(len(data.n))._replace(search=find_search(law, not jointly))
    solution = search_all(form, data, delta, settings, tries=tries)
    return ParametricLaw(
        law=law,
        constants=form.unpack(solution.theta),
        objective=solution.objective,
        delta=delta,
        residual=residual,
        starts=solution.starts,
        starts_reached=len(solution.reached),
        points=len(data.n),
    )


def with_residual(form: LawForm, data: LogData, residual: str) -> tuple[LawForm, LogData]:
    """Return the form and the data with log loss ('log') or the loss itself ('loss') as target."""
    if residual == 'log':
        return form, data

    def predict(theta: np.ndarray, data: LogData) -> tuple[np.ndarray, np.ndarray]:
        log_loss, gradient = form.predict(theta, data)
        loss = np.exp(np.minimum(log_loss, MAX_LOG_LOSS))
        return loss, gradient * loss

    def starts(data: LogData) -> list[np.ndarray]:
        return form.starts(data._replace(log_loss=np.log(data.log_loss)))

    loss_form = form._replace(predict=predict, starts=starts)
    return loss_form, data._replace(log_loss=np.exp(data.log_loss))


def _require_enough(law: str, data: LogData, constants: int) -> None:
    sizes, lengths = np.unique(data.n).size, np.unique(data.d).size
    if law == 'experts' and (data.total is None or np.ptp(data.total - data.n) < EXPANSION_RANGE):
        raise UserError(
            'experts: params_total must be larger than params, in several ratios; count the '
            'active parameters by --count=active, and name the column of all parameters by '
            '--columns=THEIRS=params_total'
        )
    if law == 'experts':  # at one token count it describes N and the experts
        lengths = 3
    if len(data.n) <= constants or sizes < 3 or lengths < 3:
        raise UserError(
            f'{law}: {len(data.n)} runs of {sizes} sizes and {lengths} token counts cannot '
            f'determine {constants} constants; give runs that vary both, or --law=power'
        )


def get_law_form(law: str, constants: dict[str, float] | None) -> LawForm:
    """Return the form to fit; for 'repeated' with base constants, only the half-lives are free."""
    form = find_law_form(law)
    return _fix_base(form, constants) if law == 'repeated' and constants is not None else form


def search_by_epochs(
    start: np.ndarray, form: LawForm, data: LogData, delta: float, weights: np.ndarray | None = None
) -> tuple[np.ndarray, float]:
    """Search as `robust_fit.search`, with each run weighted by one over its number of epochs.

    'repeated' describes a run less well the more often it repeats its tokens, so that with equal
    weights a few runs of hundreds of epochs bend the base law.
    """
    by_epochs = np.exp(EPOCH_POWER * (data.u - data.d))
    return search(start, form, data, delta, by_epochs if weights is None else weights * by_epochs)


def find_search(law: str, fixed_base: bool) -> Search:
    """Return how a law is searched: by epochs where 'repeated' is fitted with its base law."""
    return search_by_epochs if law == 'repeated' and not fixed_base else search


def _start_jointly(data: LogData, delta: float) -> LawForm:
    """Make 'repeated' with a free base law, started from a fit to the runs without repetition.

    Raises:
      UserError: too few of the runs are without repetition.
    """
    form, unrepeated = free_repeated_form(), data.d - data.u < 1e-6
    try:
        base = fit_parametric_law(
            'chinchilla', data.take(unrepeated), delta=delta, tries=BASE_TRIES
        )
    except UserError as error:
        raise UserError(
            f'repeated: the base law is first fitted to the {unrepeated.sum()} runs without '
            f'repetition: {error}; or fix it with --base=...'
        ) from None
    start = LAW_FORMS['chinchilla'].pack(base.constants)

    def starts(data: LogData) -> list[np.ndarray]:
        thetas = [np.concatenate([start, halves]) for halves in form.starts(data)]
        thetas.sort(key=lambda theta: huber_objective(theta, form, data, delta)[0])
        return thetas[:JOINT_STARTS]

    return form._replace(starts=starts)


def free_repeated_form() -> LawForm:
    """Return 'repeated' with all seven constants free."""
    form = LAW_FORMS['repeated']

    def predict(theta: np.ndarray, data: LogData) -> tuple[np.ndarray, np.ndarray]:
        # The optimal size for the unique tokens depends on the base law, so the derivatives by its
        # five constants are central differences.
        loss, by_halves = form.predict(theta, data)
        steps = 1e-6 * np.eye(len(theta))[:5]
        by_base = [
            (form.predict(theta + step, data)[0] - form.predict(theta - step, data)[0]) / 2e-6
            for step in steps
        ]
        return loss, np.concatenate([by_base, by_halves])

    return form._replace(predict=predict, shear=LAW_FORMS['chinchilla'].shear)


def _fix_base(form: LawForm, constants: dict[str, float]) -> LawForm:
    """Fix the base law of `form` at `constants`, so that only the two half-lives are fitted."""
    base = LAW_FORMS['chinchilla'].pack(constants)
    all_constants = constants | {'R_D': 1.0, 'R_N': 1.0}

    def predict(theta: np.ndarray, data: LogData) -> tuple[np.ndarray, np.ndarray]:
        return form.predict(np.concatenate([base, theta]), data)

    return LawForm(
        predict=predict,
        starts=form.starts,
        bounds=form.bounds[5:],
        shear=(),
        pack=lambda named: form.pack(all_constants | named)[5:],
        unpack=lambda theta: form.unpack(np.concatenate([base, theta])),
    )
