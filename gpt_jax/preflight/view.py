"""How is a report read at a terminal?"""

from collections.abc import Iterator
from typing import Any


def size(count: float) -> str:
    """Bytes in a unit that suits: '3.2 GB' (10^9)."""
    for unit, scale in (('TB', 1e12), ('GB', 1e9), ('MB', 1e6), ('kB', 1e3)):
        if count >= scale:
            return f'{count / scale:.3g} {unit}'
    return f'{count:.0f} B'


def lines(report: dict[str, Any]) -> Iterator[str]:
    """The report, a line at a time."""
    r = report
    mesh = ' x '.join(f'{axis} {count}' for axis, count in r['mesh'].items() if count > 1) or 'one device'
    made = 'compiled for it' if r['kind'] == 'compiler' else 'ESTIMATE: compiled for CPU, and closed forms'
    yield f'{r["name"]} on {r["topology"]} ({r["chips"]} chips, {mesh}), {made} in {r["compile_seconds"]:.0f} s'
    if r['chips_used'] < r['chips']:
        yield f'ONLY {r["chips_used"]} of {r["chips"]} chips are used: the batches divide over no more'
    memory = r['memory_bytes']
    kinds = ', '.join(f'{kind} {size(count)}' for kind, count in memory.items() if kind != 'total')
    if not r['fits']:
        yield f'DOES NOT FIT: each device lacks {r["short_bytes"]:,} bytes of {size(r["memory_limit_bytes"])}; {kinds}'
    else:
        yield f'fits: {size(memory["total"])} of {size(r["memory_limit_bytes"])} a device; {kinds}'
    if 'seconds_per_step' not in r:
        return
    yield (
        f'{r["seconds_per_step"] * 1e3:.4g} ms a step ({r["seconds_floor"] * 1e3:.4g} at the peaks alone), '
        f'{r["seconds_waiting_for_links"] * 1e3:.3g} of them waiting for links; {size(r["bytes_moved"])} moved a device'
    )
    yield (
        f'utilization {r["utilization_with_attention"]:.1%} (model FLOPs, all of the scores: PaLM), '
        f'{r["utilization_causal"]:.1%} (visible scores alone)'
    )
    cost = 'no price known: --price=' if r['cost'] is None else f'${r["cost"]:,.0f} at ${r["price_per_chip_hour"]}'
    if r['cost'] is not None:
        cost += f' a chip-hour ({r["price_source"]})'
    yield f'the run: {r["steps"]:,} steps, {r["days"]:.3g} days; {cost}'
    yield (
        f"FLOPs a step: {r['flops_compiled']:.4g} in the program, {r['flops_model']:.4g} the model's; "
        f'{r["flops_unexplained"]:+.1%} away from what these reasons give:'
    )
    for name, value in r['flops_reasons'].items():
        yield f'  {value:+12.4g}  {name}'
    yield 'collectives (one device, one step):'
    for row in r['collectives'][:8]:
        yield (
            f'  {row["seconds"] * 1e3:9.3f} ms  {row["times"]:5d} x {size(row["bytes"]):>8} {row["kind"]} over '
            f'{row["group"]}{", asynchronous" if row["asynchronous"] else ""}  {row["source"]}'
        )
    yield 'the most expensive parts:'
    for part in r['parts'][:3]:
        yield f'  {part["seconds"] * 1e3:9.3f} ms  {part["share"]:6.1%}  {part["name"]}  ({", ".join(part["most"])})'
    if r['counted_as_nothing']:
        yield f'counted as nothing: {", ".join(r["counted_as_nothing"][:8])}'
