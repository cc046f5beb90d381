"""Commands that read a decoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tailguard.cli.options import DeviceOption

if TYPE_CHECKING:
    from tailguard.risk import RiskLimit

# Only typer and the standard library are imported here: `tailguard --help` loads this module.

DecoderArgument = Annotated[
    Path, typer.Argument(metavar="DECODER", help="A decoder, or the folder of a run with one.")
]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run code that the decoder's model brings, and the functions and endpoints that it "
        "names as scorers.",
    ),
]


def generate(
    decoder: DecoderArgument,
    prompt: Annotated[str | None, typer.Option(help="A single prompt.")] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="A JSONL file with one prompt per line.")
    ] = None,
    measure: Annotated[
        str | None,
        typer.Option(
            help="cvar (the default), mean, mean-cvar, entropic, spectral or another. Parameters "
            "follow it, as in cvar:tail_mass=0.1, or are given by the options below."
        ),
    ] = None,
    tail_mass: Annotated[
        float | None, typer.Option(help="α of CVaR and mean-CVaR, e.g. 0.1 for the worst tenth.")
    ] = None,
    budget: Annotated[
        float | None, typer.Option(help="d, the largest risk that is accepted.")
    ] = None,
    weight: Annotated[float | None, typer.Option(help="κ of mean-CVaR.")] = None,
    theta: Annotated[float | None, typer.Option(help="θ of the entropic measure.")] = None,
    token_price: Annotated[
        float | None,
        typer.Option(
            help="What one more token may cost, in units of reward; by default as calibrated."
        ),
    ] = None,
    certified: Annotated[
        bool, typer.Option("--certified", help="Serve only what a judge's certificate covers.")
    ] = False,
    raters: Annotated[
        str | None,
        typer.Option(
            help="Whose risk: a group, groups with weights as in carers=0.6,traders=0.4, or worst for "
            "each of them; by default the population's."
        ),
    ] = None,
    max_draws: Annotated[
        int | None, typer.Option(help="The most answers that one is chosen from.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random draws.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per answer.")
    ] = False,
    trust_remote_code: TrustOption = False,
    device: DeviceOption = None,
) -> None:
    """Answer prompts under a limit on risk.

    Without a measure and a budget, the decoder's default answers; `tailguard profiles` shows it.
    """
    import json

    from tailguard.data import read_prompts
    from tailguard.errors import InputError

    if (prompt is None) == (prompts is None):
        raise InputError("give exactly one of --prompt and --prompts")
    asked = [prompt] if prompt is not None else read_prompts(prompts or "")
    # Before a model is loaded, which may take minutes, so that wrong input is refused at once.
    parameters = {"tail_mass": tail_mass, "weight": weight, "theta": theta}
    limit = _asked(measure, budget, parameters)
    whose = None if raters is None else _read_raters(raters)
    from tailguard.models.device import require_device
    from tailguard.models.quiet import quiet_libraries
    from tailguard.pipeline.decoder_artifact import load_decoder

    require_device(device or "auto", "--device")
    quiet_libraries()
    if whose is not None:
        from tailguard.pipeline.decoder_artifact import check_decoder
        from tailguard.pipeline.dial_artifact import DialFile
        from tailguard.portfolio.rater_tails import rater_weights

        directory, _ = check_decoder(decoder, trust_remote_code=trust_remote_code)
        rater_weights(whose, DialFile.read(directory).dial.raters)
    loaded = load_decoder(decoder, trust_remote_code=trust_remote_code, device=device or "auto")
    options: dict[str, Any] = {
        "certified": certified or None,
        "token_price": token_price,
        "max_draws": max_draws,
        "raters": whose,
    }
    given = {name: value for name, value in options.items() if value is not None}
    answers = loaded.generate(
        asked,
        measure=None if limit is None else limit.measure,
        budget=None if limit is None else limit.budget,
        seed=seed,
        **given,
    )
    for answer in answers:
        typer.echo(json.dumps(answer.to_dict()) if as_json else answer.text)


def _asked(
    measure: str | None, budget: float | None, parameters: Mapping[str, float | None]
) -> RiskLimit | None:
    """The limit that the options ask for; an error names the option to change."""
    from tailguard.errors import InputError
    from tailguard.risk.spelling import parse_request

    try:
        return parse_request(measure, budget, parameters)
    except InputError as error:
        if error.parameter is None:
            raise
        option = error.parameter.replace("_", "-")
        raise InputError(f"--{option}: {error}") from None


def _read_raters(written: str) -> str | dict[str, float]:
    """A group's name or `worst`, or groups with weights; an error names the option."""
    from tailguard.errors import InputError

    if "=" not in written:
        return written.strip()
    found: dict[str, float] = {}
    for part in written.split(","):
        name, _, weight = (piece.strip() for piece in part.partition("="))
        try:
            number = float(weight)
        except ValueError:
            raise InputError(
                f"--raters: '{part.strip()}'; write GROUP=WEIGHT, as in carers=0.6,traders=0.4"
            ) from None
        if name in found:
            raise InputError(f"--raters: '{name}' is there twice; leave one out")
        found[name] = number
    return found


def profiles(
    decoder: DecoderArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False,
) -> None:
    """Show what can be asked of a decoder: limits, and what each costs in reward and tokens.

    Other limits are answered too; these are the default's and those that were certified.
    """
    import json

    from tailguard.cli.show import print_table
    from tailguard.pipeline.decoder_artifact import check_decoder
    from tailguard.pipeline.dial_artifact import DialFile, described_profiles

    # Nothing is loaded or run, so that a folder need not be trusted.
    directory, _ = check_decoder(decoder, trust_remote_code=True)
    rows = described_profiles(DialFile.read(directory))
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    print_table(
        [
            {
                "limit": row["asked"],
                "risk": f"{row['risk']:.3g} ± {row['risk_error']:.2g}",
                "reward": f"{row['reward']:.2f}",
                "tokens": f"{row['tokens']:.1f}",
                "withheld": f"{row['withheld']:.1%}",
                "bounded": "yes" if row["bounded"] else "no",
                "certified": "yes" if row["certified"] else "no",
                "members": ", ".join(f"{k} {v:g}" for k, v in row["weights"].items()),
            }
            for row in rows
        ],
        title="the dial (first the default)",
    )


def serve(
    decoder: DecoderArgument,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    api_key_file: Annotated[
        Path | None,
        typer.Option(help="File with one accepted API key per line; by default none is needed."),
    ] = None,
    trust_remote_code: TrustOption = False,
    device: DeviceOption = None,
) -> None:
    """Serve a decoder through an OpenAI-compatible API."""
    from tailguard.models.device import require_device
    from tailguard.models.quiet import quiet_libraries
    from tailguard.pipeline.decoder_artifact import check_decoder, load_decoder
    from tailguard.serve import serve_decoder

    # The server loads it in the background: too late for a message here.
    require_device(device or "auto", "--device")
    check_decoder(decoder, trust_remote_code=trust_remote_code)
    quiet_libraries()
    serve_decoder(
        lambda: load_decoder(decoder, trust_remote_code=trust_remote_code, device=device or "auto"),
        host=host,
        port=port,
        api_key_file=api_key_file,
    )


def certify(
    decoder: DecoderArgument,
    prompts: Annotated[Path, typer.Option(help="A JSONL file of held-out prompts.")],
    tail_mass: Annotated[float, typer.Option(help="α of the CVaR to bound.")],
    budget: Annotated[
        float | None, typer.Option(help="d; by default the strictest within reach.")
    ] = None,
    confidence: Annotated[float, typer.Option(help="Confidence level of the bound.")] = 0.95,
    judge: Annotated[
        str | None,
        typer.Option(
            help="Who took no part: truth, module:function, a classifier, or keys of a cost_model."
        ),
    ] = None,
    judge_range: Annotated[
        float | None, typer.Option(help="Largest cost that the judge gives; more counts as this.")
    ] = None,
    judge_budget: Annotated[
        float | None, typer.Option(help="d in the judge's units, where they are its own.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random draws.")] = 0,
    trust_remote_code: TrustOption = False,
    device: DeviceOption = None,
) -> None:
    """Bound the tail risk of a decoder's answers to held-out prompts; printed as JSON.

    Every call is recorded beside the decoder, and `tailguard inspect` shows them.
    """
    import json

    from tailguard.data import read_prompts
    from tailguard.errors import InputError
    from tailguard.models.quiet import quiet_libraries
    from tailguard.pipeline.certify import certify_decoder
    from tailguard.pipeline.given_judge import GivenJudge

    quiet_libraries()
    if judge is None and (judge_range is not None or judge_budget is not None):
        raise InputError("--judge: give one, or leave --judge-range and --judge-budget out")
    shown = certify_decoder(
        decoder,
        read_prompts(prompts),
        tail_mass=tail_mass,
        budget=budget,
        confidence=confidence,
        seed=seed,
        trust_remote_code=trust_remote_code,
        device=device or "auto",
        judge=None if judge is None else GivenJudge.read(judge, judge_range, judge_budget),
    )
    typer.echo(json.dumps(shown, indent=1))
