"""How does a fit read at a terminal? Short lines; every number with its interval and its convention."""

from typing import Any

LEFT_OUT = 12  # dropped rows shown; --json has all


def fit(result: dict[str, Any]) -> list[str]:
    """The lines for what analysis.fit returned."""
    found, about = result['fit'], result['data']
    lines = [
        f'{about["file"]}: {about["runs"]} runs; N: {about["count"]}, C: {about["flops"]}',
        *left_out(result['left_out']),
        '',
        f'law {found["law"]}, sum-Huber objective {found["objective"]:.6e} (delta {found["delta"]:.3g}), '
        f'{found["starts_reached"]} of {found["starts"]} starts reached it',
    ]
    for name, value in found['constants'].items():
        lines.append(f'  {name:8s}{value:#12.5g}{_interval(result["intervals"].get(name))}')
    lines += [f'  {profile["note"]}' for profile in result['profiles'].values() if profile['note']]
    if result['seed_noise']:
        noise = result['seed_noise']
        lines.append(
            f'seed noise: {100 * noise["log_loss_sd"]:.2f}% of the loss, '
            f'{noise["degrees_of_freedom"]} degrees of freedom'
        )
    if result['intervals']:
        first = next(iter(result['intervals'].values()))
        lines.append(
            f'intervals: {100 * first["level"]:g}%, bootstrap over {first["resampled"]}, {first["draws"]} draws'
        )
    lines += ['', *_held_out(result['held_out'])]
    if 'approaches' in result:
        lines += ['', *_approaches(result['approaches']), *result['disagreements']]
    return lines


def left_out(rows: list[dict[str, Any]]) -> list[str]:
    """One line per row that was not fitted, with its reason."""
    lines = [f'  left out: row {one["row"]} ({one["name"]}): {one["reason"]}' for one in rows[:LEFT_OUT]]
    return lines + ([f'  and {len(rows) - LEFT_OUT} rows more; --json lists all'] if len(rows) > LEFT_OUT else [])


def _interval(one: dict[str, Any] | None) -> str:
    return f'   from {one["low"]:#.4g} to {one["high"]:#.4g}' if one else ''


def _held_out(held: dict[str, Any]) -> list[str]:
    if held['note']:
        return [f'held out ({held["condition"]}, {held["runs"]} runs): not predicted: {held["note"]}']
    return [
        f'held out ({held["condition"]}): {held["runs"]} runs predicted from the other {held["fitted_runs"]}',
        f'  mean error {held["mean_absolute_nats"]:.4f} nats ({held["mean_absolute_percent"]:.2f}%), '
        f'bias {held["bias_nats"]:+.4f} ({held["bias_percent"]:+.2f}%), '
        f'worst {held["worst_nats"]:+.4f} ({held["worst_percent"]:+.2f}%)',
    ]


def _approaches(made: dict[str, Any]) -> list[str]:
    titles = {'1': '1 envelope', '2': '2 isoFLOP', '3': '3 parametric'}
    lines = ['compute-optimal split: N* ~ C^a, D* ~ C^b']
    for number, one in made.items():
        if one['note']:
            lines.append(f'  {titles[number]:14s}{one["note"]}')
            continue
        lines.append(f'  {titles[number]:14s}a {one["a"]:.3f}{_interval(one["a_interval"])}   b {one["b"]:.3f}')
        lines.append(
            f'    N* = {one["n_coefficient"]:.4g} C^{one["a"]:.3f}, D* = {one["d_coefficient"]:.4g} C^{one["b"]:.3f}'
        )
        if one.get('points', {}).get('between_runs'):
            lines.append('    no budget was run at enough sizes: its curves are read between the runs of each size')
        lines += [f'    {minimum["flops"]:.3g} FLOPs: {minimum["note"]}' for minimum in one.get('minima', [])
                  if minimum['note']]  # fmt: skip
        for at in one['at']:
            span = f' (from {at["params_low"]:.3g} to {at["params_high"]:.3g})' if 'params_low' in at else ''
            lines.append(
                f'    at {at["flops"]:.3g} FLOPs: N* {at["params"]:.4g}{span}, D* {at["tokens"]:.4g}, '
                f'D/N {at["tokens_per_param"]:.3g}, loss {at["loss"]:.4f}'
            )
        if 'akima' in one:
            other = one['akima']
            sizes = [f', at {at["flops"]:.3g} FLOPs N* {at["params"]:.4g}' for at in other['at']]
            lines.append(f'    by Akima interpolation: a {other["a"]:.3f}{"".join(sizes)}')
    return lines


def power(result: dict[str, Any], over: str) -> list[str]:
    """The lines for what analysis.power returned."""
    from gpt_jax.scaling import forecast, laws

    law, about = laws.from_dict(result['law']), result['data']
    lines = [
        f'{about["file"]}: {about["runs"]} runs; N: {about["count"]}, C: {about["flops"]}',
        *left_out(result['left_out']),
        '',
        f'loss = {laws.formula(law, over)}, objective {law.objective:.6e}, '
        f'{law.starts_reached} of {law.starts} starts reached it',
    ]
    lines += [f'  {name:12s}{getattr(law, name):#12.5g}{_interval(one)}' for name, one in result['intervals'].items()]
    if law.note:
        lines.append(f'note: {law.note}')
    return lines + (['', *forecast.verdict(result['forecast'])] if 'forecast' in result else [])


def downstream(result: dict[str, Any]) -> list[str]:
    return [
        '',
        f'downstream: error = {result["eps"]:.4g} - {result["k"]:.4g} exp(-{result["gamma"]:.4g} loss), '
        f'rms {result["rms_error"]:.4f} over {result["runs"]} runs',
        *(f'  {name:8s}{result[name]:#12.5g}{_interval(one)}' for name, one in result['intervals'].items()),
    ]


def plan(result: dict[str, Any]) -> list[str]:
    """The lines for what planner.plan returned."""
    shape, count = result['shape'], result['count']
    lines = [
        f'law: {result["law"]["source"]}; N counted as {count}',
        f'budget {result["flops"]:.4g} FLOPs: N* {result["params"]:.4g}{_range(result, "params")}, '
        f'D* {result["tokens"]:.4g}{_range(result, "tokens")}, D/N {result["tokens_per_param"]:.3g}, '
        f'loss {result["loss"]:.4f}{_range(result, "loss")}',
        '',
        f'nearest shape: {shape["layers"]} layers, {shape["width"]} wide, {shape["heads"]} heads of '
        f'{shape["width"] // shape["heads"]}, context {shape["context"]:,}, vocabulary {shape["vocab"]:,}',
    ]
    lines += [f'  parameters {name:22s}{value:>22,}' for name, value in result['shape_params'].items()]
    lines += [f'  FLOPs {name:27s}{value:>22.4e}' for name, value in result['shape_flops'].items()]
    price = f', {result["cost"]:,.0f} at that price' if result['cost'] is not None else ''
    return [
        *lines,
        f'{result["shape_tokens"]:,} tokens in {result["steps"]:,} steps of {result["batch"]} sequences, '
        f'peak rate {result["learning_rate"]:.2e} (DeepSeek-AI 2024); loss {result["shape_loss"]:.4f}',
        f'{result["hours"]:,.1f} hours on {result["devices"]} x {result["device"]} at '
        f'{100 * result["utilization"]:g}% of its peak{price}',
    ]


def isoflop(result: dict[str, Any]) -> list[str]:
    """The lines for what sweeps.isoflop returned."""
    frame, total, new = result['frame'], result['total'], result['new']
    lines = [f'N* from: {result["source"]}', *(f'  passed over: {one}' for one in result['passed_over'])]
    lines += [
        f'N counted as {frame["counted"]}; C is 6 per parameter (positions apart) and token; '
        f'context {frame["context"]:,}, vocabulary {frame["vocab"]:,}',
        *result['rules'],
    ]
    for one in result['budgets']:
        lines += [
            '',
            f'{one["flops"]:.4g} FLOPs: N* {one["params"]:.4g}, D* {one["tokens"]:.4g}: {one["source"]}',
            *([f'  {one["note"]}'] if one['note'] else []),
            f'  {"layers x width":>14s}{"heads":>7s}{"N":>16s}{"tokens":>18s}{"D/N":>10s}{"steps":>11s}{"rate":>10s}',
        ]
        lines += [
            f'  {str(row["layers"]) + " x " + str(row["width"]):>14s}{row["heads"]:>7d}{row["params"]:>16,.0f}'
            f'{row["tokens"]:>18,}{row["tokens_per_param"]:>10.3g}{row["steps"]:>11,}'
            f'{row["learning_rate"] or float("nan"):>10.3g}  '
            + ('new' if row['new'] else f'there, loss {row["loss"]:.4f}')
            for row in one['trials']
        ]
    return [
        *lines,
        '',
        *(f'note: {one}' for one in result['notes']),
        *(_costs(words, one, result) for words, one in (('all', total), ('new', new))),
    ]


def _costs(words: str, one: dict[str, Any], result: dict[str, Any]) -> str:
    price = f', {one["cost"]:,.2f} at that price' if one['cost'] is not None else ''
    hours = f'{_hours(one["hours"])} on {result["device"]}{price}'
    return f'{words}: {one["trials"]} trials, {one["flops"]:.4g} FLOPs, {hours}'


def _hours(hours: float) -> str:
    return f'{hours:,.1f} hours' if hours >= 0.1 else f'{hours:.2g} hours'


def cooldowns(result: dict[str, Any]) -> list[str]:
    """The lines for what trunks.cooldowns returned."""
    shape, planned, separate = result['shape'], result['planned'], result['separate']
    lines = [
        f'{shape["layers"]} layers, {shape["width"]} wide, {shape["heads"]} heads, context {shape["context"]:,}, '
        f'vocabulary {shape["vocab"]:,}: {result["shape_params"]["total"]:,} parameters (total)',
        f'steps of {result["batch"]} sequences, {result["warmup_steps"]:,} of warmup, rate {result["learning_rate"]:g}',
        f'trunk: {result["trunk_steps"]:,} steps at that rate',
        f'  {"horizon":>18s}{"steps":>12s}{"branches at":>13s}{"own steps":>12s}{"own tokens":>18s}',
    ]
    lines += [
        f'  {one["horizon"]:>18,}{one["steps"]:>12,}{one["branch_step"]:>13,}{one["own_steps"]:>12,}'
        f'{one["own_tokens"]:>18,}'
        for one in result['branches']
    ]
    for words, one in (('trunk and branches', planned), ('separate runs', separate)):
        price = f', {one["cost"]:,.2f} at that price' if one['cost'] is not None else ''
        lines.append(
            f'{words + ":":20s}{one["tokens"]:,} tokens, {one["flops"]:.4g} FLOPs (6N), '
            f'{_hours(one["hours"])} on {result["device"]}{price}'
        )
    saved = separate['tokens'] - planned['tokens']
    return [
        *lines,
        f'saved: {saved:,} tokens; {result["share"]:.3f} of the cost of separate runs '
        '(Hagele et al. 2024 report .57 to .60 for their own setting)',
    ]


def _range(result: dict[str, Any], name: str) -> str:
    span = result.get(f'{name}_interval')
    return f' (from {span[0]:.4g} to {span[1]:.4g})' if span else ''


def forecast(line: dict[str, Any], path: str) -> list[str]:
    far = line['extrapolation']
    lines = [
        f'{line["name"]}: {line["params"]:.4g} parameters, {line["tokens"]:.4g} tokens: '
        f'loss {line["loss"]:.4f}, {100 * line["level"]:g}% from {line["low"]:.4f} to {line["high"]:.4f}',
        f'  law {line["law"]} through {line["runs"]} runs; {far:.3g} times the compute of the largest of them',
    ]
    if far > 100:
        lines.append('  warning: more than 100 times beyond the runs; the interval holds only if the law does')
    return [*lines, f'  written to {path} on {line["date"]}; verify scores it when the run is done']


def verify(result: dict[str, Any]) -> list[str]:
    lines = []
    for one in result['scores']:
        if one['reached'] is None:
            lines.append(f'{one["name"]}: forecast {one["predicted"]:.4f}; no such run yet')
            continue
        lines.append(
            f'{one["name"]}: forecast {one["predicted"]:.4f} ({one["low"]:.4f} to {one["high"]:.4f}), reached '
            f'{one["reached"]:.4f}: {one["percent"]:+.2f}%, {"inside" if one["inside"] else "outside"} the interval'
        )
    if result['verified']:
        lines.append(
            f'{result["verified"]} of {len(result["scores"])} verified: {result["inside"]} inside their '
            f'{100 * result["level"]:g}% intervals, mean error {result["mean_percent"]:.2f}%, '
            f'bias {result["bias_percent"]:+.2f}%, worst {result["worst_percent"]:+.2f}%'
        )
    return lines or ['the ledger is empty']


def compare(result: dict[str, Any]) -> list[str]:
    """The lines for what comparison.compare returned."""
    names = result['files']
    lines = [f'A: {names[0]}', f'B: {names[1]}']
    for name, law in result['laws'].items():
        lines.append(f'  {name}: loss = {law["E"]:.4g} + {law["K"]:.4g} C^-{law["gamma"]:.4f} along its envelope')
    if result['warning']:
        lines.append(f'warning: {result["warning"]}')
    lines.append('compute that A needs, over what B needs, for the same loss:')
    every = max(1, (len(result['loss']) - 1) // 4)
    for index in range(0, len(result['loss']), every):
        lines.append(
            f'  loss {result["loss"][index]:.4f}: {result["multiplier"][index]:.3g} times '
            f'(from {result["low"][index]:.3g} to {result["high"][index]:.3g})'
        )
    return [*lines, f'intervals: {100 * result["level"]:g}%, bootstrap over {result["resampled"]}']
