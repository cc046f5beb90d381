"""How measures and limits are written: in recipes, requests, on the command line, in files, in tables.

A measure is its name and, where it has any, its parameters: ``mean``, ``cvar:tail_mass=0.1``,
``spectral:tail_masses=0.1/0.5,weights=0.3/0.7``. Parameters may also stand beside the name, each
under its own key, as in a recipe's ``{measure: cvar, tail_mass: 0.1}``. This is the only place that
knows names: a new measure is a line in `MEASURES`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import Field, asdict, fields
from typing import Any, cast, get_origin, get_type_hints

from tailguard.errors import InputError
from tailguard.risk.cvar import CVaR
from tailguard.risk.entropic import Entropic
from tailguard.risk.limit import RiskLimit, Scope
from tailguard.risk.mean import Mean
from tailguard.risk.mean_cvar import MeanCVaR
from tailguard.risk.mean_variance import MonotoneMeanVariance
from tailguard.risk.measure import RiskMeasure
from tailguard.risk.spectral import Spectral

MEASURES: dict[str, type[RiskMeasure]] = {
    "mean": Mean,
    "cvar": CVaR,
    "mean-cvar": MeanCVaR,
    "entropic": Entropic,
    "spectral": Spectral,
    "mean-variance": MonotoneMeanVariance,
}

# What a parameter is where nobody says: κ of mean–CVaR and θ of the entropic measure.
_DEFAULTS: dict[str, Any] = {"weight": 0.5, "theta": 1.0}

# An entropic request is matched by θ; the bound is the one that the decoder was calibrated with.
ANY_COST_BOUND = 1e300

# Narrower than what float() reads, which takes digits of any script and 1_0 for ten.
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?inf|nan", re.ASCII | re.IGNORECASE)


def parse_measure(
    text: str,
    given: Mapping[str, Any] | None = None,
    *,
    context: Mapping[str, Any] | None = None,
) -> RiskMeasure:
    """The measure that a name, with or without parameters, stands for.

    Args:
        text: ``name`` or ``name:parameter=value,…``; several numbers are joined by ``/``.
        given: parameters written beside the name. None counts as not given.
        context: parameters that hold where neither says otherwise, as a recipe's ``cost_bound``;
            those that the measure does not have are ignored.

    Raises:
        InputError: an unknown name, a parameter that is missing, not the measure's, given twice, or
            out of range. It names the parameter (``InputError.parameter``).
    """
    name, has_parameters, written = text.partition(":")
    require_measure(name)
    wanted = parameters_of(name)
    found: dict[str, Any] = _split_parameters(text, written) if has_parameters else {}
    for key, value in (given or {}).items():
        if value is None:
            continue
        if key in found:
            raise InputError(f"measure {text}: {key} is given twice; keep one", parameter=key)
        found[key] = value
    for key in found:
        if key not in wanted:
            takes = f"takes {', '.join(wanted)}" if wanted else "takes no parameters"
            raise InputError(
                f"measure {name}: {key} is not its parameter; it {takes}", parameter=key
            )
    usual = {**_DEFAULTS, **(context or {})}
    for key in wanted:
        if key not in found:
            if usual.get(key) is None:
                raise InputError(f"measure {name} needs {key}: write {name}:{key}=…", parameter=key)
            found[key] = usual[key]
    lists = _lists_of(name)
    return MEASURES[name](**{key: _read(name, key, found[key], key in lists) for key in wanted})


def require_measure(name: str) -> None:
    """Raise `InputError` unless there is a measure of that name."""
    if name not in MEASURES:
        raise InputError(f"measure {name}: give one of {', '.join(MEASURES)}", parameter="measure")


def parameters_of(name: str) -> tuple[str, ...]:
    """Names of a measure's parameters, in their order."""
    return tuple(field.name for field in _fields(MEASURES[name]))


def name_of(measure: RiskMeasure) -> str:
    """The name of a measure, without its parameters.

    Raises:
        InputError: a measure that `MEASURES` does not list.
    """
    for name, kind in MEASURES.items():
        if type(measure) is kind:
            return name
    raise InputError(
        f"measure {measure!r}: has no name; add a line to tailguard.risk.spelling.MEASURES"
    )


def spell_measure(measure: RiskMeasure) -> str:
    """The text that `parse_measure` reads back as the same measure."""
    parts = [f"{key}={_spell(value)}" for key, value in _values(measure).items()]
    return ":".join([name_of(measure), *([",".join(parts)] if parts else [])])


def describe_measure(measure: RiskMeasure) -> str:
    """For tables: ``cvar at 0.1``; with several parameters each is named."""
    values = {key: _spell(value, short=True) for key, value in _values(measure).items()}
    if not values:
        return name_of(measure)
    if len(values) == 1:
        return f"{name_of(measure)} at {next(iter(values.values()))}"
    return f"{name_of(measure)} at " + ", ".join(
        f"{key.replace('_', ' ')} {value}" for key, value in values.items()
    )


def describe_limit(limit: RiskLimit | None) -> str:
    """For tables: ``cvar at 0.1 ≤ 0.25``; ``unconstrained`` where there is none."""
    if limit is None:
        return "unconstrained"
    return f"{describe_measure(limit.measure)} ≤ {limit.budget:.3g}"


def limit_to_json(limit: RiskLimit | None) -> dict[str, Any] | None:
    """Flat JSON: ``measure``, its parameters, ``budget``, ``scope``; None stays None."""
    if limit is None:
        return None
    return {
        "measure": name_of(limit.measure),
        **_values(limit.measure),
        "budget": limit.budget,
        "scope": limit.scope,
    }


def limit_from_json(content: Mapping[str, Any] | None) -> RiskLimit | None:
    """The limit that `limit_to_json` wrote.

    Raises:
        InputError: not such a limit.
    """
    if content is None:
        return None
    try:
        rest = dict(content)
        name, budget = str(rest.pop("measure")), float(rest.pop("budget"))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"limit {content}: holds no measure with a budget") from error
    scope = cast(Scope, rest.pop("scope", "pooled"))
    return RiskLimit(parse_measure(name, rest), budget, scope)


def parse_request(
    measure: str | None,
    budget: float | None,
    given: Mapping[str, Any],
) -> RiskLimit | None:
    """The limit that somebody asks for; None where nothing is asked and the default holds.

    Args:
        measure: as `parse_measure` reads it; CVaR where only a parameter or the budget is given.
        budget: d.
        given: parameters by name; None counts as not given.

    Raises:
        InputError: half a request, or a bad one; it names the parameter.
    """
    asked = [key for key, value in given.items() if value is not None]
    if measure is None and budget is None and not asked:
        return None
    if budget is None:
        what = f"measure {measure}" if measure is not None else asked[0]
        raise InputError(f"{what} needs a budget beside it, the limit on risk", parameter="budget")
    context = {"cost_bound": ANY_COST_BOUND}
    return RiskLimit(parse_measure(measure or "cvar", given, context=context), budget)


def _fields(kind: type) -> tuple[Field[Any], ...]:
    # Not type[RiskMeasure]: Python refuses issubclass on a protocol that has properties, and so
    # does the run-time type check of the tests.
    return fields(cast(Any, kind))


def _values(measure: RiskMeasure) -> dict[str, Any]:
    return asdict(cast(Any, measure))


def _lists_of(name: str) -> frozenset[str]:
    """Parameters of a measure that are several numbers."""
    hints = get_type_hints(MEASURES[name])
    return frozenset(key for key in parameters_of(name) if get_origin(hints[key]) is Sequence)


def _split_parameters(text: str, written: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in written.split(","):
        key, equals, value = part.partition("=")
        if not (key and equals and value):
            raise InputError(
                f"measure {text}: write parameters as name:parameter=number,…", parameter="measure"
            )
        if key in found:
            raise InputError(f"measure {text}: {key} stands twice; keep one", parameter=key)
        found[key] = value
    return found


def _read(name: str, key: str, value: Any, is_list: bool) -> float | tuple[float, ...]:
    """A parameter as its measure takes it, from text, a number or a list of them."""
    if isinstance(value, str):
        parts: Sequence[Any] = value.split("/")
    else:
        parts = cast("Sequence[Any]", value) if isinstance(value, Sequence) else [value]
    # A measure with one CVaR has one tail mass: a list may hold a single number, never the reverse.
    if not is_list and len(parts) != 1:
        raise InputError(f"measure {name}: {key} is one number, got {value!r}", parameter=key)
    numbers = tuple(_number(name, key, part) for part in parts)
    return numbers if is_list else numbers[0]


def _number(name: str, key: str, part: Any) -> float:
    if isinstance(part, str) and _NUMBER.fullmatch(part.strip()):
        return float(part)
    # True is an int to Python, and a slip to everybody else.
    if isinstance(part, int | float) and not isinstance(part, bool):
        return float(part)
    raise InputError(f"measure {name}: {key} must be a number, got {part!r}", parameter=key)


def _spell(value: Any, *, short: bool = False) -> str:
    if isinstance(value, Sequence):
        return "/".join(_spell(part, short=short) for part in cast("Sequence[Any]", value))
    return f"{value:g}" if short else repr(float(value))
