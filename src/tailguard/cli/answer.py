"""Commands that read a decoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from tailguard.risk import RiskLimit

DecoderArgument = Annotated[
    Path, typer.Argument(metavar="DECODER", help="A decoder, or the folder of a run.")
]


def generate(
    decoder: DecoderArgument,
    prompt: Annotated[str | None, typer.Option(help="One prompt.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="A JSONL file of prompts.")] = None,
    measure: Annotated[
        str | None,
        typer.Option(
            help="cvar (the default), mean, mean-cvar, entropic, spectral or another; parameters "
            "stand behind it, as in cvar:tail_mass=0.1, or in the options below."
        ),
    ] = None,
    tail_mass: Annotated[float | None, typer.Option(help="α of CVaR and mean-CVaR.")] = None,
    budget: Annotated[float | None, typer.Option(help="d, the largest risk accepted.")] = None,
    weight: Annotated[float | None, typer.Option(help="κ of mean-CVaR.")] = None,
    theta: Annotated[float | None, typer.Option(help="θ of the entropic measure.")] = None,
    max_candidates: Annotated[int | None, typer.Option(help="K, candidates a block.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Answer prompts at the risk asked for."""
    import json

    from tailguard.data import read_prompts
    from tailguard.errors import InputError

    if (prompt is None) == (prompts is None):
        raise InputError("give exactly one of --prompt and --prompts")
    asked = [prompt] if prompt is not None else read_prompts(prompts or "")
    # What is wrong is said before anything is loaded.
    beside = {"tail_mass": tail_mass, "weight": weight, "theta": theta}
    limit = _asked(measure, budget, beside)
    from tailguard.models.quiet import quiet_libraries
    from tailguard.pipeline.decoder_artifact import load_decoder

    quiet_libraries()
    answers = load_decoder(decoder).generate(
        asked,
        measure=None if limit is None else limit.measure,
        budget=None if limit is None else limit.budget,
        max_candidates=max_candidates,
        seed=seed,
    )
    for answer in answers:
        typer.echo(json.dumps(answer.to_dict()) if as_json else answer.text)


def _asked(
    measure: str | None, budget: float | None, beside: Mapping[str, Any]
) -> RiskLimit | None:
    """The limit that the options ask for; an error names the option at fault."""
    from tailguard.errors import InputError
    from tailguard.risk.spelling import parse_request

    try:
        return parse_request(measure, budget, beside)
    except InputError as error:
        if error.parameter is None:
            raise
        option = error.parameter.replace("_", "-")
        raise InputError(f"--{option}: {error}") from None


def serve(
    decoder: DecoderArgument,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    api_key_file: Annotated[
        Path | None, typer.Option(help="File with one accepted key a line.")
    ] = None,
) -> None:
    """Serve a decoder with OpenAI's API."""
    from tailguard.models.quiet import quiet_libraries
    from tailguard.pipeline.decoder_artifact import check_decoder, load_decoder
    from tailguard.serve import serve_decoder

    check_decoder(decoder)  # what is wrong is said before anything is started
    quiet_libraries()
    serve_decoder(lambda: load_decoder(decoder), host=host, port=port, api_key_file=api_key_file)


def certify(
    decoder: DecoderArgument,
    prompts: Annotated[Path, typer.Option(help="Held-out prompts, JSONL.")],
    tail_mass: Annotated[float, typer.Option(help="α of CVaR.")],
    budget: Annotated[float | None, typer.Option(help="d of the profile; the strictest.")] = None,
    confidence: Annotated[float, typer.Option(help="Of the bound.")] = 0.95,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
) -> None:
    """Bound the tail of what a decoder serves on held-out prompts, as JSON."""
    import json

    from tailguard.data import read_prompts
    from tailguard.models.quiet import quiet_libraries
    from tailguard.pipeline.certify import certify_decoder

    quiet_libraries()
    shown = certify_decoder(
        decoder,
        read_prompts(prompts),
        tail_mass=tail_mass,
        budget=budget,
        confidence=confidence,
        seed=seed,
    )
    typer.echo(json.dumps(shown, indent=1))
