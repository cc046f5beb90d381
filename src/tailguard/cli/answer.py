"""Commands that read a decoder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DecoderArgument = Annotated[
    Path, typer.Argument(metavar="DECODER", help="A decoder, or the folder of a run.")
]


def generate(
    decoder: DecoderArgument,
    prompt: Annotated[str | None, typer.Option(help="One prompt.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="A JSONL file of prompts.")] = None,
    measure: Annotated[
        str, typer.Option(help="cvar or mean; mean-cvar and entropic are not calibrated yet.")
    ] = "cvar",
    tail_mass: Annotated[float | None, typer.Option(help="α of CVaR; with --budget.")] = None,
    budget: Annotated[
        float | None, typer.Option(help="d, the largest risk accepted; with --tail-mass.")
    ] = None,
    max_candidates: Annotated[int | None, typer.Option(help="K, candidates a block.")] = None,
    token_price: Annotated[
        float, typer.Option(help="Price of a token, in reward; this decoder spends K throughout.")
    ] = 0.0,
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
    if token_price:
        raise InputError(
            "--token-price: decoders of this version draw all their candidates and cannot weigh"
            " tokens yet; leave it out and lower --max-candidates instead"
        )
    from tailguard.models.quiet import quiet_libraries
    from tailguard.pipeline.certify import request_measure
    from tailguard.pipeline.decoder_artifact import load_decoder

    risk = request_measure(measure, tail_mass, budget)  # what is wrong is said before loading
    quiet_libraries()
    answers = load_decoder(decoder).generate(
        asked,
        measure=risk,
        budget=budget,
        max_candidates=max_candidates,
        seed=seed,
    )
    for answer in answers:
        typer.echo(json.dumps(answer.to_dict()) if as_json else answer.text)


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
