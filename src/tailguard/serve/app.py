"""The application: routes, keys, and every failure in OpenAI's shape."""

from __future__ import annotations

import hmac
import logging
import secrets
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response

from tailguard.errors import InfeasibleError, InputError
from tailguard.serve.completion import chat_completion, chat_events, repeated_answer
from tailguard.serve.fail_closed import GuardedDecoder, answer_all
from tailguard.serve.failures import (
    ApiError,
    Json,
    bad_request,
    from_infeasible,
    from_input_error,
    not_ready,
)
from tailguard.serve.request import ChatRequest
from tailguard.serve.worker import Worker

_log = logging.getLogger(__name__)


def create_app(
    decoder: GuardedDecoder | None,
    *,
    model_name: str,
    api_keys: Collection[str] | None = None,
    max_queue: int = 64,
) -> FastAPI:
    """The server over a decoder, as an ASGI application.

    One answer is generated at a time, in a thread of its own; nothing is sent before it is
    accepted, streamed or not. Where the decoder fails, no text is served.

    Args:
        decoder: answers; None if it is still loading, then set ``app.state.worker.decoder``.
        model_name: the one model that requests may name.
        api_keys: the keys accepted as ``Authorization: Bearer``; None for no check.
        max_queue: the most requests that wait before others get 429.

    Raises:
        InputError: an empty collection of keys, an empty key, or a negative ``max_queue``.
    """
    # An empty list would otherwise read as "no check".
    if api_keys is not None and (len(api_keys) == 0 or not all(api_keys)):
        raise InputError("api_keys: empty; give at least one key, or None to check none")
    worker = Worker(decoder, max_queue=max_queue)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        yield
        worker.close()

    app = FastAPI(title="Tailguard", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.worker = worker
    app.state.model_name = model_name
    app.state.api_keys = None if api_keys is None else tuple(key.encode() for key in api_keys)
    app.add_api_route("/health", _health, methods=["GET"])
    keyed: list[Any] = [Depends(_require_key)]
    app.add_api_route("/v1/models", _models, methods=["GET"], dependencies=keyed)
    app.add_api_route("/v1/tailguard/profiles", _profiles, methods=["GET"], dependencies=keyed)
    app.add_api_route("/v1/models/{name:path}", _model, methods=["GET"], dependencies=keyed)
    app.add_api_route(
        "/v1/chat/completions",
        _chat,
        methods=["POST"],
        dependencies=keyed,
        response_model=None,
    )
    _add_error_handlers(app)
    return app


def _require_key(request: Request) -> None:
    keys: tuple[bytes, ...] | None = request.app.state.api_keys
    if keys is None:
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    # Every key is compared, so that the time taken tells nothing.
    matches = [hmac.compare_digest(key, given.strip().encode()) for key in keys]
    if scheme.lower() != "bearer" or not any(matches):
        raise ApiError(
            401,
            "missing or unknown API key; send it as 'Authorization: Bearer KEY'",
            kind="authentication_error",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )


def _health(request: Request) -> dict[str, str]:
    if not request.app.state.worker.ready:
        raise not_ready()
    return {"status": "ready"}


def _models(request: Request) -> Json:
    return {"object": "list", "data": [_card(request.app.state.model_name)]}


def _profiles(request: Request) -> Json:
    """What can be asked for and what it gets; other limits within reach are answered too."""
    worker: Worker = request.app.state.worker
    profiles: Sequence[Any] = getattr(worker.require_decoder(), "profiles", ())
    shown = [profile.to_dict() for profile in profiles if hasattr(profile, "to_dict")]
    return {"object": "list", "data": shown}


def _model(name: str, request: Request) -> Json:
    _require_model(request, name)
    return _card(name)


async def _chat(request: Request, body: ChatRequest) -> Response:
    """A chat completion at the risk asked for."""
    name = body.model
    _require_model(request, name)
    body.check_extras()
    worker: Worker = request.app.state.worker
    decoder = worker.require_decoder()
    # Choices differ by their place in the list, from which their seeds come.
    num_drawn = 1 if body.is_greedy(decoder) else body.num_choices
    prompts = [body.prompt()] * num_drawn
    settings = body.settings(decoder, fresh_seed=secrets.randbits(62))
    try:
        answers = await worker.run(lambda: answer_all(decoder, prompts, settings))
    # These are the caller's to mend and have their own responses.
    except (ApiError, InputError, InfeasibleError):
        raise
    except Exception as error:
        _log.exception("an answer could not be generated; no text was served")
        raise not_ready(
            "the answer could not be generated and scored; nothing is served"
        ) from error
    answers += [repeated_answer(answers[0])] * (body.num_choices - num_drawn)
    if body.stream:
        events = chat_events(name, answers, with_usage=body.streams_usage)
        return StreamingResponse(events, media_type="text/event-stream")
    return JSONResponse(chat_completion(name, answers))


def _require_model(request: Request, name: str) -> None:
    known: str = request.app.state.model_name
    if name != known:
        raise ApiError(
            404, f"no model {name!r}; there is {known!r}", code="model_not_found", param="model"
        )


def _card(name: str) -> Json:
    return {"id": name, "object": "model", "created": 0, "owned_by": "tailguard"}


def _add_error_handlers(app: FastAPI) -> None:
    for kind in (ApiError, InputError, InfeasibleError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _on_exception)


async def _on_exception(_: Request, error: Exception) -> JSONResponse:
    failure = _as_api_error(error)
    return JSONResponse(failure.body(), failure.status, headers=failure.headers)


def _as_api_error(error: Exception) -> ApiError:
    match error:
        case ApiError():
            return error
        case RequestValidationError():
            return _from_validation(error)
        case HTTPException():
            return ApiError(error.status_code, str(error.detail), code="http_error")
        case InfeasibleError():
            return from_infeasible(error)
        case InputError():
            return from_input_error(error)
        case _:
            raise error


def _from_validation(error: RequestValidationError) -> ApiError:
    problems = [cast(Json, problem) for problem in error.errors()]
    # A field of two types has a problem for each. The client meant the type in which something
    # other than the type itself is wrong, or something deeper inside.
    field = _field_of(problems[0])
    same = [problem for problem in problems if _field_of(problem)[:1] == field[:1]]
    first = max(same, key=lambda p: (not p["type"].endswith("_type"), len(_field_of(p))))
    place = ".".join(str(part) for part in _field_of(first))
    return bad_request(f"{place or 'body'}: {_words(first)}", param=place or None)


def _field_of(problem: Json) -> list[str | int]:
    """Where the client wrote it, without the names of types that pydantic adds for unions."""
    types = {"str", "body"}
    return [p for p in problem["loc"] if p not in types and "[" not in str(p)]


def _words(problem: Json) -> str:
    """Pydantic's message, or a plainer one where it speaks of Python's types."""
    if problem["type"] == "too_long":
        return (
            f"at most {problem['ctx']['max_length']}; there are {problem['ctx']['actual_length']}"
        )
    return problem["msg"].removeprefix("Value error, ")
